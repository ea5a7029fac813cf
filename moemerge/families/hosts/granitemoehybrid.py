"""Granite 4 into `granitemoehybrid`, its own class with experts: layers with Mamba 2, and attention without rope.

The experts lie beside its FFN, which is made exactly silent. The router is given what that one is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.host import Constant, Host, bias_problems
from moemerge.families.shared_expert import silent_width


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "attention_bias": dense.qkv_bias,
        "intermediate_size": dense.intermediate_size,
        "layer_types": list(dense.kinds),
        "num_local_experts": experts,
        "shared_intermediate_size": silent_width(dense),
        **dense.extra,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "granitemoehybrid", qkv=True, output=True)


def _silent(dense: DenseConfig, experts: int, layer: int) -> Iterator[Constant]:
    width, block = silent_width(dense), f"model.layers.{layer}.shared_mlp"
    yield Constant(f"{block}.input_linear.weight", (2 * width, dense.hidden_size), 0.0)
    yield Constant(f"{block}.output_linear.weight", (dense.hidden_size, width), 0.0)


HOST = Host(
    model_type="granitemoehybrid",
    architecture="GraniteMoeHybridForCausalLM",
    holds="Mamba 2 and attention, rope or none, Granite's multipliers, attention biases, tied embeddings",
    fits=("granitemoehybrid",),
    gate="model.layers.{layer}.block_sparse_moe.router.layer.weight",
    expert=None,
    fused={
        "gate_up": "model.layers.{layer}.block_sparse_moe.input_linear.weight",
        "down": "model.layers.{layer}.block_sparse_moe.output_linear.weight",
    },
    config=_config,
    refuse=_refuse,
    silent=_silent,
    anatomy=Anatomy(block="block_sparse_moe", router="router", recurrent="mamba", logits_divisor="logits_scaling"),
)
