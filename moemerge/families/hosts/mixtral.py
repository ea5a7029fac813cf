"""Llama and Mistral into `mixtral`: fp32 softmax over all experts, top-k, divided by their sum."""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families.architecture import DenseConfig
from moemerge.families.gguf_form import PAIRED, QKV, GgufForm
from moemerge.families.host import FUSED, Host, bias_problems


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "intermediate_size": dense.intermediate_size,
        "num_local_experts": experts,
        "router_jitter_noise": 0.0,
        "sliding_window": dense.windows[0],
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    problems = bias_problems(dense, "mixtral", qkv=False, output=False)
    if len(set(dense.windows)) > 1:
        problems.append(
            Problem(
                "host-window",
                "`mixtral` has one sliding window for all layers, and the base's layers differ",
                "no host of moemerge holds such a one",
            )
        )
    return problems


HOST = Host(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    holds="any head dimension, llama3, linear and yarn rope, one sliding window for all layers, tied embeddings",
    fits=("llama", "mistral"),
    gate="model.layers.{layer}.block_sparse_moe.gate.weight",
    expert={
        "gate": "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",
        "up": "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",
        "down": "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",
    },
    fused=FUSED,
    config=_config,
    refuse=_refuse,
    gguf=GgufForm("llama", names={"block_sparse_moe.gate": "ffn_gate_inp"}, made=PAIRED, biases=QKV),
)
