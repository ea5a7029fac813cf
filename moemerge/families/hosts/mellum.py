"""Qwen3 with windows on some layers into `mellum`: softmax over all experts, top-k, divided by their sum.

The class has what `qwen3_moe` has, with a window and a rope for each kind of layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families.architecture import DenseConfig
from moemerge.families.dense_layers import listed_layers
from moemerge.families.gguf_form import ELSEWHERE, GgufForm, Value, window_keys
from moemerge.families.gguf_rope import LINEAR_ROPES, Config
from moemerge.families.host import EXPERT, FUSED, Host, bias_problems


def _rope(dense: DenseConfig) -> dict[str, Any]:
    """The same in both kinds of layers. The class heeds a `partial_rotary_factor`, which `qwen3` does not."""
    rope = {key: value for key, value in dense.rope.items() if key != "partial_rotary_factor"}
    return {"full_attention": rope, "sliding_attention": rope}


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "attention_bias": dense.qkv_bias,
        "intermediate_size": dense.intermediate_size,
        "layer_types": dense.attention_types,
        "mlp_layer_types": ["sparse"] * dense.layers,
        "moe_intermediate_size": dense.intermediate_size,
        "norm_topk_prob": True,
        "num_experts": experts,
        "num_local_experts": experts,
        "sliding_window": next((window for window in dense.windows if window is not None), None),
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "mellum", qkv=True, output=True)


def _keys(config: Config) -> Mapping[str, Value]:
    return window_keys(config) if config["sliding_window"] else {}


def _no_place(config: Config) -> Iterator[Problem]:
    kind = config["rope_parameters"]["sliding_attention"]["rope_type"]
    if config["sliding_window"] and kind != "default":
        message = f"llama.cpp's `mellum` has rope of the type `default` in layers with a window, not `{kind}`"
        yield Problem("rope", message, ELSEWHERE)


HOST = Host(
    model_type="mellum",
    architecture="MellumForCausalLM",
    holds="any head dimension and rope, attention biases, windows on some layers, tied embeddings, layers "
    "that stay dense",
    fits=("qwen3",),
    gate="model.layers.{layer}.mlp.gate.weight",
    expert=EXPERT,
    fused=FUSED,
    config=_config,
    refuse=_refuse,
    rope=_rope,
    lacks=("rope_theta", "rope_scaling"),
    dense_layers=listed_layers("mlp_layer_types", "dense", "sparse"),
    gguf=GgufForm(
        "mellum",
        ropes=LINEAR_ROPES,
        rope=lambda config: config["rope_parameters"]["full_attention"],
        windows=True,
        head=True,
        keys=_keys,
        refuse=_no_place,
    ),
)
