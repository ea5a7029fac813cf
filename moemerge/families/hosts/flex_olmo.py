"""OLMo 2 into `flex_olmo`: softmax over all experts, top-k, divided by their sum (`norm_topk_prob: true`).

Its layers have no norm before the FFN, so the router reads the residual stream, as the dense FFN does.
"""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families.architecture import DenseConfig
from moemerge.families.host import EXPERT, FUSED, Host, bias_problems
from moemerge.families.routing import Routing


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "attention_bias": dense.qkv_bias,
        "intermediate_size": dense.intermediate_size,
        "norm_topk_prob": True,
        "num_experts": experts,
        "num_local_experts": experts,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "flex_olmo", qkv=True, output=True)


HOST = Host(
    model_type="flex_olmo",
    architecture="FlexOlmoForCausalLM",
    holds="rope, attention biases, tied embeddings",
    fits=("olmo2",),
    gate="model.layers.{layer}.mlp.gate.weight",
    expert=EXPERT,
    fused=FUSED,
    config=_config,
    refuse=_refuse,
    routing=Routing(reads="residual"),
)
