"""Hunyuan into `hunyuan_v1_moe`: softmax over all experts, top-k, divided by their sum.

The class always has a shared expert without a gate, as wide as an expert: zeros, where the recipe names none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.dense_family import Projection
from moemerge.families.gguf_form import QKV, GgufForm, always_on
from moemerge.families.gguf_rope import Config, head_dim
from moemerge.families.host import EXPERT, FUSED, Host, bias_problems
from moemerge.families.shared_expert import zeros

_SHARED: Mapping[Projection, str] = {
    "gate": "model.layers.{layer}.mlp.shared_mlp.gate_proj.weight",
    "up": "model.layers.{layer}.mlp.shared_mlp.up_proj.weight",
    "down": "model.layers.{layer}.mlp.shared_mlp.down_proj.weight",
}


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "attention_bias": dense.qkv_bias,
        "intermediate_size": dense.intermediate_size,
        "moe_topk": experts_per_token,
        "num_experts": experts,
        "num_local_experts": experts,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "hunyuan_v1_moe", qkv=True, output=True)


def _rope(config: Config) -> Mapping[str, Any]:
    """`dynamic` with an `alpha` is another base of rope, whatever the length of the text."""
    rope: Mapping[str, Any] = config["rope_parameters"]
    if rope["rope_type"] != "dynamic" or not rope.get("alpha"):
        return rope
    size = head_dim(config)
    return {"rope_type": "default", "rope_theta": rope["rope_theta"] * rope["alpha"] ** (size / (size - 2))}


HOST = Host(
    model_type="hunyuan_v1_moe",
    architecture="HunYuanMoEV1ForCausalLM",
    holds="any head dimension and rope, attention biases, tied embeddings; its shared expert is made exactly silent, "
    "or is a real one (`shared_experts`)",
    fits=("hunyuan_v1_dense",),
    gate="model.layers.{layer}.mlp.gate.wg.weight",
    expert=EXPERT,
    fused=FUSED,
    config=_config,
    refuse=_refuse,
    shared_expert=_SHARED,
    silent=zeros(_SHARED),
    anatomy=Anatomy(router_matrix="wg.weight", shared="shared_mlp"),
    gguf=GgufForm(
        "hunyuan-moe",
        names={
            "self_attn.query_layernorm": "attn_q_norm",
            "self_attn.key_layernorm": "attn_k_norm",
            "mlp.gate.wg": "ffn_gate_inp",
            **always_on(_SHARED),
        },
        biases=QKV,
        rope=_rope,
        shared=True,
        keys=lambda config: {"expert_shared_feed_forward_length": config["intermediate_size"]},
    ),
)
