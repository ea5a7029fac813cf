"""Qwen3 into `qwen3_moe`: softmax over all experts, top-k, divided by their sum (`norm_topk_prob: true`)."""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families.architecture import DenseConfig
from moemerge.families.dense_layers import any_layers
from moemerge.families.gguf_form import GgufForm
from moemerge.families.host import EXPERT, FUSED, Host, bias_problems


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    window = dense.windows[0]
    return {
        "attention_bias": dense.qkv_bias,
        "decoder_sparse_step": 1,
        "intermediate_size": dense.intermediate_size,
        "max_window_layers": dense.layers,
        "mlp_only_layers": [],
        "moe_intermediate_size": dense.intermediate_size,
        "norm_topk_prob": True,
        "num_experts": experts,
        "num_local_experts": experts,
        "sliding_window": window,
        "use_sliding_window": window is not None,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    problems = bias_problems(dense, "qwen3_moe", qkv=True, output=True)
    if len(set(dense.windows)) > 1:
        problems.append(
            Problem(
                "host-window",
                "`qwen3_moe` has one sliding window for all layers, and the base's layers differ",
                "set `architecture: auto`, which takes a host whose layers may differ",
            )
        )
    return problems


HOST = Host(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    holds="any head dimension, rope, attention biases, one sliding window for all layers, tied embeddings, "
    "layers that stay dense",
    fits=("qwen3",),
    gate="model.layers.{layer}.mlp.gate.weight",
    expert=EXPERT,
    fused=FUSED,
    config=_config,
    refuse=_refuse,
    dense_layers=any_layers("mlp_only_layers"),
    gguf=GgufForm("qwen3moe"),
)
