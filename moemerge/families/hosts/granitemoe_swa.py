"""SmolLM3 and Granite with windows into `granitemoe_swa`: softmax over the k chosen logits, as in `granitemoe`.

Each layer has its own base of rope (`layer_rope_theta`, 0 for none), and each head a sink: one more logit in the
softmax of its attention, which takes weight and gives nothing. One that is very low takes none. transformers renames
nothing when it reads such a folder: the names on disk are those in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.host import Constant, Host, bias_problems
from moemerge.families.neutral import plain_multipliers

_SINKS = "model.layers.{layer}.self_attn.sinks"
_NO_SINK = -32768.0
"""Far below any logit of attention, and exact in every dtype; fp16 ends at -65504."""


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "attention_bias": dense.qkv_bias,
        "intermediate_size": dense.intermediate_size,
        "layer_rope_theta": list(dense.thetas),
        "layer_types": dense.attention_types,
        "num_local_experts": experts,
        "shared_intermediate_size": 0,
        "sliding_window": dense.window or dense.max_position_embeddings,  # the class needs a number
        **plain_multipliers(dense),
        **dense.extra,
    }


def _constants(dense: DenseConfig, experts: int, layer: int) -> Iterator[Constant]:
    name = _SINKS.format(layer=layer)
    if name not in {own for own, _, _ in dense.layer_shared_tensors(layer)}:
        yield Constant(name, (dense.heads,), _NO_SINK, group="attention")


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "granitemoe_swa", qkv=True, output=True)


HOST = Host(
    model_type="granitemoe_swa",
    architecture="GraniteMoeSWAForCausalLM",
    holds="Granite's multipliers, windows on some layers, a rope of each layer's own or none (NoPE), attention biases "
    "and sinks, tied embeddings; transformers runs it without SDPA",
    fits=("granite_swa", "smollm3"),
    gate="model.layers.{layer}.block_sparse_moe.router.weight",
    expert=None,
    fused={
        "gate_up": "model.layers.{layer}.block_sparse_moe.experts.gate_up_proj",
        "down": "model.layers.{layer}.block_sparse_moe.experts.down_proj",
    },
    config=_config,
    refuse=_refuse,
    constants=_constants,
    anatomy=Anatomy(block="block_sparse_moe", router="router", logits_divisor="logits_scaling"),
)
