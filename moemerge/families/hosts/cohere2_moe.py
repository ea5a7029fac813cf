"""Cohere 2 into `cohere2_moe`: softmax over the k chosen logits, which is that over all, divided by the chosen's sum.

Attention and experts stand side by side behind one norm, which is a LayerNorm where `rms_norm_eps` is null: the router
reads what the dense FFN reads. Layers with a window have rope, and the others none, as in the dense model. The class
gives rope to every layer that stays dense where `prefix_dense_sliding_window_pattern` is 1, and to those with a window
alone where it is not; `layer_types` says which these are, so it says nothing else.
"""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.dense_layers import listed_layers
from moemerge.families.gguf_form import QKV, GgufForm, window_keys
from moemerge.families.host import EXPERT, FUSED, Host, bias_problems
from moemerge.families.shared_expert import UNGATED


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "attention_bias": dense.qkv_bias,
        "expert_selection_fn": "softmax",
        "intermediate_size": dense.intermediate_size,
        "layer_norm_eps": dense.norm_eps,
        "layer_types": dense.attention_types,
        "mlp_layer_types": ["sparse"] * dense.layers,
        "norm_topk_prob": True,
        "num_experts": experts,
        "num_shared_experts": 0,
        "prefix_dense_intermediate_size": dense.intermediate_size,
        "prefix_dense_sliding_window_pattern": 2,
        "rms_norm_eps": None,
        "shared_expert_combination_strategy": "sum",
        "sliding_window": next(
            (window for window in dense.windows if window is not None), dense.max_position_embeddings
        ),
        **dense.extra,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "cohere2_moe", qkv=True, output=True)


HOST = Host(
    model_type="cohere2_moe",
    architecture="Cohere2MoeForCausalLM",
    holds="LayerNorm, attention beside the FFN, windows with rope and full attention without, attention biases, a "
    "factor on the logits, tied embeddings, layers that stay dense; a shared expert "
    "(`shared_experts`)",
    fits=("cohere2",),
    gate="model.layers.{layer}.mlp.gate.weight",
    expert=EXPERT,
    fused=FUSED,
    config=_config,
    refuse=_refuse,
    shared_expert=UNGATED,
    shared_config=lambda dense: {"num_shared_experts": 1},
    anatomy=Anatomy(logits_multiplier="logit_scale", shared="shared_experts"),
    dense_layers=listed_layers("mlp_layer_types", "dense", "sparse"),
    gguf=GgufForm(
        "cohere2moe",
        biases=QKV,
        windows=True,
        epsilon="layer_norm_eps",
        dense="first",
        keys=lambda config: {
            **window_keys(config),
            "attention.layer_norm_rms_epsilon": None,
            "attention.layer_norm_epsilon": float(config["layer_norm_eps"]),
            "logit_scale": float(config["logit_scale"]),
        },
    ),
)
