"""llama.cpp's names of dense models' tensors, and transformers' names of its architectures."""

from __future__ import annotations

import re
from collections.abc import Mapping

CLASSES: Mapping[str, tuple[str, str]] = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
}
"""model_type and class of each GGUF architecture that is read; mistral is written as `llama`."""

TOP: Mapping[str, str] = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
"""Names outside the layers, theirs and transformers'."""
LAYER: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names below a layer, likewise."""
_PERMUTED = {"llama": {".self_attn.q_proj.": "num_attention_heads", ".self_attn.k_proj.": "num_key_value_heads"}}
"""Maps whose rows llama.cpp permutes within each head, by architecture, and the config's number of these heads."""


def model_name(name: str) -> str | None:
    """transformers' name of a GGUF tensor; None where it has none."""
    stem, _, suffix = name.rpartition(".")
    if suffix not in ("weight", "bias"):
        return None
    if stem in TOP:
        return f"{TOP[stem]}.{suffix}"
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if found is None or found[2] not in LAYER:
        return None
    return f"model.layers.{int(found[1])}.{LAYER[found[2]]}.{suffix}"


def permuted_heads(architecture: str, name: str) -> str | None:
    """The config's key of the number of heads within which a tensor's rows are permuted; None where they are not."""
    return next((key for part, key in _PERMUTED.get(architecture, {}).items() if part in name), None)
