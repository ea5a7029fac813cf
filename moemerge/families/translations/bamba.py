"""IBM's Bamba where it rotates whole heads: a Granite 4 without multipliers, with other names of its norms and FFN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families.dense_family import Values
from moemerge.families.mamba import head_size, limit_problems, without_limit
from moemerge.families.translation import Part, Translation
from moemerge.families.values import is_whole


def _config(raw: Values) -> Values:
    attention, layers = raw["attn_layer_indices"] or [], raw["num_hidden_layers"]
    found: dict[str, Any] = without_limit(raw)
    if isinstance(attention, list) and is_whole(layers):
        found["layer_types"] = ["full_attention" if n in attention else "linear_attention" for n in range(layers)]
    if is_whole(raw["num_attention_heads"]) and is_whole(raw["hidden_size"]) and raw["num_attention_heads"] > 0:
        size = raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]
        found["attention_multiplier"] = size**-0.5
    rope = raw.get("rope_parameters")
    if isinstance(rope, Mapping):
        found["rope_parameters"] = {key: value for key, value in rope.items() if key != "partial_rotary_factor"}
    found.pop("partial_rotary_factor", None)
    return {
        **found,
        "mamba_d_head": head_size(raw),
        "num_local_experts": 0,
        "position_embedding_type": "rope",
        "shared_intermediate_size": raw["intermediate_size"],
    }


def _refuse(raw: Values) -> list[Problem]:
    problems = limit_problems(raw)
    rope = raw.get("rope_parameters")
    share = rope.get("partial_rotary_factor", 0.5) if isinstance(rope, Mapping) else 0.5  # its class takes no other
    if share != 1.0:
        message = f"a `bamba` that rotates `{share}` of each head (`partial_rotary_factor`) has no host here"
        problems.append(Problem("partial-rotary", message, "one that rotates all of it (`1.0`) builds"))
    if raw["mlp_bias"]:
        message = "a `bamba` with biases in its FFN (`mlp_bias`) has no host here"
        problems.append(Problem("host-bias", message, "dropping them would change the model"))
    return problems


TRANSLATION = Translation(
    model_type="bamba",
    title="IBM Bamba",
    becomes="granitemoehybrid",
    defaults={"vocab_size": 128000, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
              "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "pad_token_id": 0,
              "max_position_embeddings": 262144, "attn_layer_indices": None, "mamba_n_heads": 128,
              "mamba_d_head": "auto", "mamba_expand": 2, "mlp_bias": False},
    layer={
        "pre_ff_layernorm.weight": (Part("post_attention_layernorm.weight"),),
        "feed_forward.gate_proj.weight": (Part("mlp.gate_proj.weight"),),
        "feed_forward.up_proj.weight": (Part("mlp.up_proj.weight"),),
        "feed_forward.down_proj.weight": (Part("mlp.down_proj.weight"),),
    },
    once={"model.final_layernorm.weight": (Part("model.norm.weight"),)},
    config=_config,
    refuse=_refuse,
)  # fmt: skip
