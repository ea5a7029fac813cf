"""The mixture of a plan with all experts alike, one layer in memory at a time: what shows how near a host is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moemerge.dense.layerwise import Layerwise
from moemerge.dense.models import MergedTensors, empty_mixture
from moemerge.execute.stream import BLOCK_ELEMENTS, Values
from moemerge.families import HOSTS, language_config
from moemerge.plan.model import OutputTensor, Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EXPERT = 0
"""Whose FFN all experts have."""


class AlikeTensors:
    """The tensors of a plan's mixture by their names in memory, every expert being the first one.

    Args:
        plan: a plan without problems.
        gates: the routers' weights, `[L, E, d]`, of the layers that route.
        dtype: that experts are given in.
    """

    def __init__(self, plan: Plan, gates: Tensor, dtype: torch.dtype) -> None:
        self._plan, self._gates, self._dtype = plan, gates, dtype
        self._values, self._merged = Values(plan, BLOCK_ELEMENTS), MergedTensors(plan)
        self._tensors = {tensor.name: tensor for tensor in plan.tensors}
        anatomy = HOSTS[plan.host.model_type].anatomy
        down, gate_up = anatomy.expert_weights
        routed = plan.dense.routed_layers
        self._routers = {f"{anatomy.layers}.{i}.{anatomy.router_weight}": place for place, i in enumerate(routed)}
        self._gate_up = {f"{anatomy.layers}.{i}.{gate_up}": i for i in routed}
        self._down = {f"{anatomy.layers}.{i}.{down}": i for i in routed}

    def read(self, name: str) -> Tensor:
        """A tensor; all experts' are one expert's, seen E times."""
        if name in self._routers:
            return self._gates[self._routers[name]]
        if name in self._down:
            return self._all(self._ffn(self._down[name], "down"))
        if name in self._gate_up:
            *wide, _ = self._plan.dense.projections
            return self._all(torch.cat([self._ffn(self._gate_up[name], part) for part in wide]))
        return self._values.whole(self._named(name))

    def rows(self, name: str, rows: Tensor) -> Tensor:
        """Some rows `[n]`, ascending."""
        return self._values.picked(self._named(name), rows)

    def _ffn(self, layer: int, part: Any) -> Tensor:
        return self._merged.read(self._plan.dense.ffn(layer, part), EXPERT).to(self._dtype)

    def _all(self, value: Tensor) -> Tensor:
        return value.expand(len(self._plan.experts), *value.shape)

    def _named(self, name: str) -> OutputTensor:
        return self._tensors[self._plan.host.stored(name)]


def alike_mixture(plan: Plan, tensors: AlikeTensors, ids: Tensor, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """The language model of the mixture; only what enters its layers and its last norm have a meaning.

    Args:
        plan: a plan without problems.
        tensors: what its modules hold.
        ids: the token ids `[n]`, ascending, that will be looked up.
        device: a torch device.
        dtype: that it runs in.
    """
    model = empty_mixture(language_config(plan.config), dtype, device)
    module = Layerwise(model, device, ids, lambda name: (name,))
    module.show(lambda name: "mixture", tensors.read, tensors.rows)
    return model
