"""Granite 4 into `granitemoehybrid`, its own class with experts: layers with Mamba 2, and attention without rope.

The experts lie beside its FFN, which is made exactly silent. The router is given what that one is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.gguf_form import ELSEWHERE, OUTPUT, PAIRED, QKV, GgufForm, Value, halves
from moemerge.families.gguf_mamba import mamba2_keys, mamba2_made
from moemerge.families.gguf_rope import Config
from moemerge.families.host import Constant, Host, bias_problems
from moemerge.families.hosts.granitemoe import multipliers
from moemerge.families.mamba import MAMBA, kinds_as_published, kinds_by_todays_names
from moemerge.families.shared_expert import silent_width


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "attention_bias": dense.qkv_bias,
        "intermediate_size": dense.intermediate_size,
        "layer_types": kinds_as_published(dense.kinds),
        "num_local_experts": experts,
        "shared_intermediate_size": silent_width(dense),
        **dense.extra,
        # as it is published: transformers takes anything but `rope` for none, and mlx-lm anything but this for rope
        "position_embedding_type": dense.extra["position_embedding_type"] or "nope",
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "granitemoehybrid", qkv=True, output=True)


def _silent(dense: DenseConfig, experts: int, layer: int) -> Iterator[Constant]:
    width, block = silent_width(dense), f"model.layers.{layer}.shared_mlp"
    yield Constant(f"{block}.input_linear.weight", (2 * width, dense.hidden_size), 0.0)
    yield Constant(f"{block}.output_linear.weight", (dense.hidden_size, width), 0.0)


def _keys(config: Config) -> Mapping[str, Value]:
    inner, kinds = config["mamba_expand"] * config["hidden_size"], kinds_by_todays_names(config["layer_types"])
    return {
        **multipliers(config),
        **mamba2_keys(
            {**config, "layer_types": kinds}, inner,
            "layer_types", "mamba_n_heads", "mamba_n_groups", "mamba_d_state", "mamba_d_conv",
        ),
        "expert_shared_feed_forward_length": config["shared_intermediate_size"],
        "rope.scaling.finetuned": config["position_embedding_type"] == "rope",
    }  # fmt: skip


def _no_place(config: Config) -> Iterator[Problem]:
    if MAMBA not in kinds_by_todays_names(config["layer_types"]):
        message = "llama.cpp's `granitehybrid` needs a layer with Mamba, and this one has none"
        yield Problem("mamba", message, "`architecture: granitemoe` holds it where it has rope")
    elif config["mamba_expand"] != 2:
        message = f"llama.cpp's Mamba is twice as wide as the model, and this one {config['mamba_expand']} times"
        yield Problem("mamba", message, ELSEWHERE)


_GGUF = GgufForm(
    "granitehybrid",
    names={"block_sparse_moe.router.layer": "ffn_gate_inp", "shared_mlp.output_linear": "ffn_down_shexp"},
    made={
        **PAIRED,
        **mamba2_made("mamba", "mamba_n_groups"),
        **halves("shared_mlp.input_linear.weight", "ffn_gate_shexp.weight", "ffn_up_shexp.weight"),
    },
    biases=QKV | OUTPUT,
    shared=True,
    keys=_keys,
    refuse=_no_place,
)

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
    gguf=_GGUF,
)
