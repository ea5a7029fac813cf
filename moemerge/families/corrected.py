"""Routing as DeepSeek-V3 has it: sigmoids, top-k of a score to which a correction is added, divided by their sum.

Several classes have taken it over, with its names. All experts are one group here, and the correction is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from moemerge.families.architecture import DenseConfig
from moemerge.families.host import Constant
from moemerge.families.routing import Routing

CORRECTION = "e_score_correction_bias"
"""The correction's name below the router."""

SIGMOIDS = Routing(score="sigmoid", correction=CORRECTION)


def deepseek_config(dense: DenseConfig, experts: int) -> dict[str, Any]:
    """Keys of the config that say so, with one shared expert, which is silent or the recipe's."""
    return {
        "intermediate_size": dense.intermediate_size,
        "moe_intermediate_size": dense.intermediate_size,
        "n_group": 1,
        "n_routed_experts": experts,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_local_experts": experts,
        "num_nextn_predict_layers": 0,
        "routed_scaling_factor": 1.0,
        "topk_group": 1,
    }


def zero_correction(name: str, *, rows: int | None = None) -> Callable[[DenseConfig, int, int], Iterator[Constant]]:
    """The correction of a layer's router, zeros in fp32: `[E]`, or `[rows, E]`; `name` has `{layer}`."""

    def constants(dense: DenseConfig, experts: int, layer: int) -> Iterator[Constant]:
        shape = (experts,) if rows is None else (rows, experts)
        yield Constant(name.format(layer=layer), shape, 0.0, "F32", "router")

    return constants
