"""The dense models of a mixture that sees: whole, with what sees, and not the language model within alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moemerge.dense.models import padded
from moemerge.families import WRAPPERS, DenseConfig
from moemerge.mixture.baselines import LINEAR, Baselines
from moemerge.mixture.folder import load_pretrained
from moemerge.mixture.placement import Placement
from moemerge.sources import Checkpoint, stored
from moemerge.sources.wrapped import is_wrapper


class WholeBaselines:
    """Base, specialists and linear merge with their towers, one in memory at a time.

    A specialist that is a language model alone sees nothing, and has no such model.

    Args:
        baselines: those of the language model within.
        placement: where they run.
    """

    def __init__(self, baselines: Baselines, placement: Placement) -> None:
        self._baselines, self._placement = baselines, placement

    def why_not(self, key: str) -> str | None:
        """Why there is no whole model of `base`, an expert's name or `LINEAR`, as a clause; None where there is."""
        baselines = self._baselines
        if key == LINEAR and not baselines.has_linear_merge:
            return "not all of its models are at hand"
        model = baselines.source("base" if key == LINEAR else key)
        if model is None:
            return "it is not at hand"
        if baselines.aligned:
            return "the models' tokens are not all those of the mixture"
        under = stored(model)
        if not is_wrapper(under):
            return "it is a language model alone, which sees nothing"
        if not _placed(under):
            return "it lies in no folder that transformers loads"
        together = key == LINEAR or under.kind == "adapter"
        return "`--device-map` puts no model together" if together and self._placement.device_map else None

    def load(self, key: str) -> Any:
        """The model of `base`, of an expert's name, or the linear merge: the base that has the mean of the experts'
        language models."""
        model = self._baselines.source("base" if key == LINEAR else key)
        assert model is not None
        whole = self._load(stored(model))
        if key == LINEAR:
            path, models = WRAPPERS[str(stored(model).config["model_type"])].path, self._baselines.averaged()
            for name, shape in DenseConfig.resolve(models[0].config).tensors():
                inner = f"{path}.{name.removeprefix('model.')}" if name.startswith("model.") else name
                _put(whole, inner, torch.stack([_padded(model, name, shape) for model in models]).mean(0))
        return whole

    def _load(self, model: Checkpoint) -> Any:
        base = model.base
        if model.kind != "adapter" or base is None:
            auto_class = WRAPPERS[str(model.config["model_type"])].auto_class
            return load_pretrained(model.location, self._placement, auto_class)
        whole = self._load(stored(base))
        for name in model.tensors:
            place = model.bytes_of(name)
            if place is None or name not in base.tensors or place != base.bytes_of(name):
                _put(whole, name, model.read(name))
        return whole


def _placed(model: Checkpoint) -> bool:
    """Whether it is a folder of transformers, or an adapter on one."""
    if model.kind == "adapter":
        return model.base is not None and _placed(stored(model.base))
    return model.kind in ("folder", "hub")


def _padded(model: Checkpoint, name: str, shape: tuple[int, ...]) -> Tensor:
    return padded(model.read(name), shape).double()


def _put(model: Any, name: str, value: Tensor) -> None:
    """Puts a tensor in; where the module shares that one with another, it gets one of its own."""
    held = dict(model.named_parameters()).get(name)
    with torch.no_grad():
        if held is not None:
            held.copy_(value)
            return
        parent, _, attribute = name.rpartition(".")
        old = getattr(model.get_submodule(parent), attribute)
        setattr(model.get_submodule(parent), attribute, nn.Parameter(value.to(old), requires_grad=False))
