"""Granite 4 without mixture as its class stores it: gate and up in one matrix, the width under another key."""

from __future__ import annotations

from moemerge.families.dense_family import Values
from moemerge.families.mamba import head_size, kinds_by_todays_names, limit_problems, without_limit
from moemerge.families.translation import Part, Translation


def _config(raw: Values) -> Values:
    return {
        **without_limit(raw),
        "layer_types": kinds_by_todays_names(raw["layer_types"] or raw.get("layers_block_type")),
        "intermediate_size": raw["shared_intermediate_size"],
        "mamba_d_head": head_size(raw),
        "position_embedding_type": "rope" if raw["position_embedding_type"] == "rope" else None,
    }


TRANSLATION = Translation(
    model_type="granitemoehybrid",
    title="IBM Granite 4 (350M, 1B, Micro; those with an `H` too)",
    becomes="granitemoehybrid",
    defaults={"shared_intermediate_size": 1024, "position_embedding_type": None, "layer_types": None,
              "hidden_size": 4096, "mamba_d_head": "auto", "mamba_n_heads": 128, "mamba_expand": 2},
    layer={
        "shared_mlp.input_linear.weight": (Part("mlp.gate_proj.weight", "ffn"), Part("mlp.up_proj.weight", "ffn")),
        "shared_mlp.output_linear.weight": (Part("mlp.down_proj.weight"),),
    },
    config=_config,
    refuse=limit_problems,
)  # fmt: skip
