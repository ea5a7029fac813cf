"""ERNIE 4.5 into `ernie4_5_moe`: softmax over all experts, top-k, divided by their sum.

A correction is added to the probabilities for the choice: zeros. On disk it has the name of Baidu's own mixtures.
"""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.corrected import CORRECTION, zero_correction
from moemerge.families.dense_layers import first_layers
from moemerge.families.gguf_form import GgufForm, correction
from moemerge.families.gguf_rope import LINEAR_ROPES
from moemerge.families.host import EXPERT, FUSED, Host, bias_problems
from moemerge.families.routing import Routing
from moemerge.families.shared_expert import UNGATED


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "intermediate_size": dense.intermediate_size,
        "moe_intermediate_size": dense.intermediate_size,
        "moe_k": experts_per_token,
        "moe_layer_end_index": dense.layers - 1,
        "moe_layer_interval": 1,
        "moe_layer_start_index": 0,
        "moe_norm_min": 1e-12,
        "moe_num_experts": experts,
        "moe_num_shared_experts": 0,
        "num_experts": experts,
        "use_bias": False,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "ernie4_5_moe", qkv=False, output=False)


HOST = Host(
    model_type="ernie4_5_moe",
    architecture="Ernie4_5_MoeForCausalLM",
    holds="rope that rotates neighbouring dimensions, any head dimension, tied embeddings, first layers "
    "that stay dense; a shared expert (`shared_experts`)",
    fits=("ernie4_5",),
    gate="model.layers.{layer}.mlp.gate.weight",
    expert=EXPERT,
    fused=FUSED,
    config=_config,
    refuse=_refuse,
    shared_expert=UNGATED,
    shared_config=lambda dense: {"moe_num_shared_experts": 1},
    constants=zero_correction(f"model.layers.{{layer}}.mlp.moe_statics.{CORRECTION}", rows=1),
    anatomy=Anatomy(shared="shared_experts"),
    routing=Routing(correction=f"moe_statics.{CORRECTION}"),
    dense_layers=first_layers("moe_layer_start_index"),
    gguf=GgufForm(
        "ernie4_5-moe",
        made=correction(f"mlp.moe_statics.{CORRECTION}"),
        ropes=LINEAR_ROPES,
        dense="first",
        keys=lambda config: {"interleave_moe_layer_step": config["moe_layer_interval"]},
    ),
)
