"""Granite into `granitemoe`: softmax over the k chosen logits, which is that over all, divided by the chosen's sum.

Llama, Qwen2 and Seed-OSS too, with multipliers that do nothing. Its biases are on all four of the attention's maps:
those that the dense model has not are zero.

On disk the experts are fused and have the names that IBM's own mixtures have (`input_linear`, `output_linear`), which
transformers 4 and 5, vLLM and llama.cpp know; in memory transformers 5 calls them otherwise (`conversion_mapping.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.dense.granite import MULTIPLIERS
from moemerge.families.gguf_form import OUTPUT, PAIRED, QKV, GgufForm
from moemerge.families.host import Host, bias_problems, window_problems
from moemerge.families.mamba import MAMBA
from moemerge.families.neutral import plain_multipliers, zero_biases


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "attention_bias": dense.qkv_bias or dense.output_bias,
        "intermediate_size": dense.intermediate_size,
        "num_local_experts": experts,
        **plain_multipliers(dense),
        **{key: dense.extra[key] for key in MULTIPLIERS if key in dense.extra},
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    problems = bias_problems(dense, "granitemoe", qkv=True, output=True) + window_problems(dense, "granitemoe")
    hint = "set `architecture: auto`, which takes a host that has them"
    if MAMBA in dense.kinds:
        problems.append(Problem("host-mamba", "`granitemoe` has no layers with Mamba, and the base has", hint))
    if dense.extra.get("position_embedding_type", "rope") != "rope":
        message = "`granitemoe` has rope, and the base has none (`position_embedding_type`)"
        problems.append(
            Problem("host-rope", message, "set `architecture: auto`, which takes a host that may do without")
        )
    return problems


def multipliers(config: Mapping[str, Any]) -> Mapping[str, float]:
    """What llama.cpp calls Granite's multipliers."""
    return {
        "attention.scale": float(config["attention_multiplier"]),
        "embedding_scale": float(config["embedding_multiplier"]),
        "residual_scale": float(config["residual_multiplier"]),
        "logit_scale": float(config["logits_scaling"]),
    }


HOST = Host(
    model_type="granitemoe",
    architecture="GraniteMoeForCausalLM",
    holds="Granite's multipliers, rope, attention biases, tied embeddings",
    fits=("granitemoehybrid", "granite", "llama", "qwen2", "seed_oss"),
    gate="model.layers.{layer}.block_sparse_moe.router.layer.weight",
    expert=None,
    fused={
        "gate_up": "model.layers.{layer}.block_sparse_moe.input_linear.weight",
        "down": "model.layers.{layer}.block_sparse_moe.output_linear.weight",
    },
    config=_config,
    refuse=_refuse,
    constants=zero_biases,
    gguf=GgufForm(
        "granitemoe",
        names={"block_sparse_moe.router.layer": "ffn_gate_inp"},
        made=PAIRED,
        biases=QKV | OUTPUT,
        keys=multipliers,
    ),
    anatomy=Anatomy(block="block_sparse_moe", router="router", logits_divisor="logits_scaling"),
)
