"""Qwen3.5's language model into `qwen3_5_moe_text`: softmax over all experts, top-k, always divided by their sum.

The class always has a gated shared expert, which is made exactly silent where the recipe names none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families import gguf_delta
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.gguf_form import ELSEWHERE, GgufForm, Stored, Value, added, always_on
from moemerge.families.gguf_rope import LINEAR_ROPES, Config, head_dim, sections
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


def _keys(config: Config) -> Mapping[str, Value]:
    share = config["rope_parameters"].get("partial_rotary_factor", 1.0)
    return {
        **gguf_delta.keys(config),
        "expert_shared_feed_forward_length": config["shared_expert_intermediate_size"],
        "rope.dimension_sections": sections(config, int(head_dim(config) * share) // 2),
    }


def _no_place(config: Config) -> Iterator[Problem]:
    keys, values = config["linear_key_head_dim"], config["linear_value_head_dim"]
    if keys != values:
        message = (
            f"llama.cpp's `qwen35moe` has heads of one size in linear attention, and these are {keys} and {values}"
        )
        yield Problem("head-dim", message, ELSEWHERE)


def _one_more(name: str, stored: str) -> Mapping[str, tuple[Stored, ...]]:
    return {f"{name}.weight": (Stored(f"{stored}.weight", turn=added(1.0)),)}


_GGUF = GgufForm(
    "qwen35moe",
    names={**gguf_delta.NAMES, **always_on(SHARED)},
    made={
        **gguf_delta.MADE,
        **_one_more("input_layernorm", "attn_norm"),
        **_one_more("post_attention_layernorm", "post_attention_norm"),
        **_one_more("self_attn.q_norm", "attn_q_norm"),
        **_one_more("self_attn.k_norm", "attn_k_norm"),
        **_one_more("model.norm", "output_norm"),
        "mlp.shared_expert_gate.weight": (Stored("ffn_gate_inp_shexp.weight", shape=lambda config, shape: shape[1:]),),
    },
    ropes=LINEAR_ROPES,
    partial=True,
    shared=True,
    keys=_keys,
    refuse=_no_place,
)

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
    gguf=_GGUF,
)
