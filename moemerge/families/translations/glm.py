"""GLM-4 of 2024: one with neighbouring dimensions rotated in a part of each head, and gate and up in one matrix."""

from __future__ import annotations

from typing import Any

from moemerge.families.dense_family import Values
from moemerge.families.translation import Part, Translation, from_pairs


def _config(raw: Values) -> dict[str, Any]:
    ends = raw["eos_token_id"]
    usual = [151329, 151336, 151338]
    return {
        **raw,
        "eos_token_id": usual if ends is None else ends,
        "first_k_dense_replace": raw["num_hidden_layers"],
    }


TRANSLATION = Translation(
    model_type="glm",
    title="GLM-4 (`THUDM/glm-4-9b-chat-hf`), GLM-Edge",
    becomes="glm4_moe",
    defaults={"hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 32,
              "num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1.5625e-7, "pad_token_id": 151329,
              "eos_token_id": None, "attention_bias": True},
    layer={
        "self_attn.q_proj.weight": (Part("self_attn.q_proj.weight", order=from_pairs),),
        "self_attn.q_proj.bias": (Part("self_attn.q_proj.bias", order=from_pairs),),
        "self_attn.k_proj.weight": (Part("self_attn.k_proj.weight", order=from_pairs),),
        "self_attn.k_proj.bias": (Part("self_attn.k_proj.bias", order=from_pairs),),
        "mlp.gate_up_proj.weight": (Part("mlp.gate_proj.weight", "ffn"), Part("mlp.up_proj.weight", "ffn")),
    },
    config=_config,
)  # fmt: skip
