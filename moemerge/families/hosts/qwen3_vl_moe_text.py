"""The language model of Qwen3-VL into that of `qwen3_vl_moe`: softmax over all experts, top-k, divided by their sum.

Its loader takes the fused experts as they lie in memory and transposed, and tells them apart by their shape. Those
written here are as in memory, which is right whatever the shapes are.
"""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families.architecture import DenseConfig
from moemerge.families.dense_layers import any_layers
from moemerge.families.host import FUSED, Host, bias_problems


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "attention_bias": dense.qkv_bias,
        "decoder_sparse_step": 1,
        "intermediate_size": dense.intermediate_size,
        "mlp_only_layers": [],
        "moe_intermediate_size": dense.intermediate_size,
        "num_experts": experts,
        "num_local_experts": experts,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "qwen3_vl_moe_text", qkv=True, output=True)


HOST = Host(
    model_type="qwen3_vl_moe_text",
    architecture="Qwen3VLMoeForConditionalGeneration",
    holds="the language model of Qwen3-VL, within `qwen3_vl` alone: rope with places in pictures, attention biases, "
    "tied embeddings, layers that stay dense",
    fits=("qwen3",),
    gate="model.layers.{layer}.mlp.gate.weight",
    expert=None,
    fused=FUSED,
    config=_config,
    refuse=_refuse,
    alone=False,
    dense_layers=any_layers("mlp_only_layers"),
)
