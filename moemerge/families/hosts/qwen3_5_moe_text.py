"""Qwen3.5's language model into `qwen3_5_moe_text`: softmax over all experts, top-k, always divided by their sum.

The class always has a gated shared expert, which is made exactly silent where the recipe names none.
"""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.host import EXPERT, FUSED, Host, bias_problems
from moemerge.families.shared_expert import SHARED, SHARED_GATE, silent, silent_width


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "attention_bias": dense.qkv_bias,
        "layer_types": list(dense.kinds),
        "moe_intermediate_size": dense.intermediate_size,
        "num_experts": experts,
        "shared_expert_intermediate_size": silent_width(dense),
        **dense.extra,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "qwen3_5_moe_text", qkv=True, output=True)


HOST = Host(
    model_type="qwen3_5_moe_text",
    architecture="Qwen3_5MoeForCausalLM",
    holds="linear and full attention, rope on a part of each head, attention biases, tied embeddings; its shared "
    "expert is made exactly silent, or is a real one (`shared_experts`)",
    fits=("qwen3_5_text",),
    gate="model.layers.{layer}.mlp.gate.weight",
    expert=EXPERT,
    fused=FUSED,
    config=_config,
    refuse=_refuse,
    shared_expert=SHARED,
    shared_gate=SHARED_GATE,
    shared_config=lambda dense: {"shared_expert_intermediate_size": dense.intermediate_size},
    silent=silent,
    anatomy=Anatomy(recurrent="linear_attn"),
)
