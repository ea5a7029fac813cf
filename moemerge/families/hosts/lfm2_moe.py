"""LFM2 into `lfm2_moe`, nearly: sigmoid routing, whose weights are divided by their sum plus 1e-6."""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families.architecture import DenseConfig
from moemerge.families.dense.lfm2 import ANATOMY
from moemerge.families.dense_layers import first_layers
from moemerge.families.host import Host
from moemerge.families.routing import Routing

_BLOCK = "model.layers.{layer}.feed_forward"


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "intermediate_size": dense.intermediate_size,
        "layer_types": list(dense.kinds),
        "moe_intermediate_size": dense.intermediate_size,
        "norm_eps": dense.norm_eps,
        "norm_topk_prob": True,
        "num_dense_layers": 0,
        "num_experts": experts,
        "routed_scaling_factor": 1.0,
        "use_expert_bias": False,
        **dense.extra,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return []


HOST = Host(
    model_type="lfm2_moe",
    architecture="Lfm2MoeForCausalLM",
    holds="short convolutions and attention, rope, biases of convolutions, tied embeddings, first layers "
    "that stay dense",
    fits=("lfm2",),
    gate=f"{_BLOCK}.gate.weight",
    expert={
        "gate": f"{_BLOCK}.experts.{{expert}}.w1.weight",
        "up": f"{_BLOCK}.experts.{{expert}}.w3.weight",
        "down": f"{_BLOCK}.experts.{{expert}}.w2.weight",
    },
    fused={"gate_up": f"{_BLOCK}.experts.gate_up_proj", "down": f"{_BLOCK}.experts.down_proj"},
    config=_config,
    refuse=_refuse,
    anatomy=ANATOMY,
    routing=Routing(score="sigmoid"),
    dense_layers=first_layers("num_dense_layers"),
    near="it divides the chosen weights by their sum plus 1e-6, so an FFN's output is 1e-6 over that sum too small: "
    "5e-7 where two experts are chosen for sure, and more where the gate gives all experts very small scores",
)
