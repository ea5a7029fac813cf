"""Gemma 3 into `beam`, nearly: norms before and after both blocks, a rope for each type of layer, sigmoid routing.

Beam divides what it adds up by the square root of n at its n-th addition, so its stream is the dense model's over
sqrt(n), and a norm before a block feels its epsilon n times. With M the mean of the stream's squares that changes the
norm's output by (n − 1) ε / 2M. A factor s on all that is added would make it |n / s² − 1| ε / 2M. It was tried from
0.5 to 1024 (docs/decisions/host-beam-epsilon.md): where embeddings are small the first norm is the one that counts,
which s = 1 leaves exact, and where they are large nothing counts.

Of the rest all is exact: its norms have the 1 in their weights, its queries' norm has what scales the scores otherwise,
the gate on attention is open (sigmoid(30) is 1 in fp32), and the embedding, which Gemma multiplies, lies apart from the
head. Where weights are rounded to bf16, a norm's weight plus 1 is rounded too: that is in the error that is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.dense_layers import listed_layers
from moemerge.families.host import EXPERT, FUSED, Constant, Host, Made, bias_problems
from moemerge.families.routing import Routing

_PREFIX = "model.layers.{layer}"
_OPEN = 30.0


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "attention_bias": dense.qkv_bias,
        "final_logit_softcapping": dense.extra["final_logit_softcapping"],
        "intermediate_size": dense.intermediate_size,
        "layer_types": dense.attention_types,
        "mlp_layer_types": ["sparse"] * dense.layers,
        "moe_intermediate_size": dense.intermediate_size,
        "n_group": 1,
        "norm_topk_prob": True,
        "num_experts": experts,
        "routed_scaling_factor": 1.0,
        "sliding_window": next((window for window in dense.windows if window is not None), None),
        "tie_word_embeddings": False,
        "topk_group": 1,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "beam", qkv=True, output=True)


def _made(dense: DenseConfig, name: str) -> tuple[Made, ...]:
    names = dense.row.names
    if name == names.embedding:
        embedding = Made(name, math.sqrt(dense.hidden_size), rounded=True)
        return (embedding, Made(names.head)) if dense.tied else (embedding,)
    if name.endswith("q_norm.weight"):
        return (Made(name, math.sqrt(dense.head_dim / dense.extra["query_pre_attn_scalar"]), plus=1.0),)
    return (Made(name, plus=1.0 if name.endswith("norm.weight") else 0.0),)


def _constants(dense: DenseConfig, experts: int, layer: int) -> Iterator[Constant]:
    prefix = _PREFIX.format(layer=layer)
    yield Constant(f"{prefix}.self_attn.gate_proj.weight", (dense.heads * dense.head_dim, dense.hidden_size), 0.0)
    yield Constant(f"{prefix}.self_attn.gate_bias", (dense.heads,), _OPEN)
    yield Constant(f"{prefix}.mlp.gate.e_score_correction_bias", (experts,), 0.0, "F32", "router")


HOST = Host(
    model_type="beam",
    architecture="BeamForCausalLM",
    holds="windows and a rope for each type of layer, norms before and after both blocks, softcapped logits, "
    "layers that stay dense",
    fits=("gemma3_text",),
    gate=f"{_PREFIX}.mlp.gate.weight",
    expert=EXPERT,
    fused=FUSED,
    config=_config,
    refuse=_refuse,
    made=_made,
    constants=_constants,
    lacks=("rope_theta", "rope_scaling"),
    dense_layers=listed_layers("mlp_layer_types", "dense", "sparse"),
    anatomy=Anatomy(softcap="final_logit_softcapping"),
    routing=Routing(score="sigmoid", correction="e_score_correction_bias"),
    near="the norm before a block feels its epsilon n times, n being one more than the blocks before it: that moves "
    "its output by half of what is too much over the mean square of the residual stream. And `1 + weight` of every "
    "norm is rounded to the dtype, which in bfloat16 is the larger part: `dtype: float32` avoids it",
)
