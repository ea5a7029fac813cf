"""Nemotron-H by the keys that other families have, and by other names of what lies outside its layers."""

from __future__ import annotations

from typing import Any

from moemerge.families.dense_family import Values
from moemerge.families.mamba import kinds_by_todays_names
from moemerge.families.translation import Part, Translation

_LETTERS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}
"""How `hybrid_override_pattern` writes layers."""

_OLD_KEYS = {"mamba_n_groups": "n_groups", "mamba_d_conv": "conv_kernel", "mamba_dt_min": "time_step_min",
             "mamba_conv_bias": "use_conv_bias", "mamba_chunk_size": "chunk_size"}  # fmt: skip
"""Keys that transformers reads under another name."""


def _kinds(raw: Values) -> Any:
    given = raw.get("layers_block_type") or raw.get("layer_types")
    pattern = raw.get("hybrid_override_pattern")
    if given is None and isinstance(pattern, str):
        return [_LETTERS.get(letter, letter) for letter in pattern]
    return kinds_by_todays_names(given)


def _config(raw: Values) -> Values:
    found: dict[str, Any] = {_OLD_KEYS.get(key, key): value for key, value in raw.items()}
    kinds = _kinds(raw)
    if kinds is not None:
        found["layers_block_type"] = kinds
    if isinstance(kinds, list) and kinds:
        found["num_hidden_layers"] = len(kinds)
    for key in ("hybrid_override_pattern", "layer_types", "time_step_limit", "mamba_dt_limit"):
        found.pop(key, None)
    return {**found, "hidden_act": raw["mlp_hidden_act"], "rms_norm_eps": raw["layer_norm_epsilon"]}


TRANSLATION = Translation(
    model_type="nemotron_h",
    title="NVIDIA Nemotron-H, Nemotron Nano 2",
    becomes="nemotron_h",
    defaults={"mlp_hidden_act": "relu2", "layer_norm_epsilon": 1e-5, "num_hidden_layers": 4},
    layer={},
    once={
        "model.embeddings.weight": (Part("model.embed_tokens.weight"),),
        "model.norm_f.weight": (Part("model.norm.weight"),),
    },
    config=_config,
)  # fmt: skip
