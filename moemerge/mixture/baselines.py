"""The dense models that a mixture is measured against, put together from the sources that its record names.

A source that is gone, or changed since the build, is missing with its reason; the others still count.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moemerge.dense.models import DenseModule
from moemerge.errors import EvalError
from moemerge.families import DENSE_FAMILIES, DenseConfig, Projection, language_config
from moemerge.kept import joined
from moemerge.mixture.content import checkpoint_content
from moemerge.mixture.folder import BuiltFolder, MoeFolder, load_pretrained
from moemerge.mixture.placement import Placement
from moemerge.record.schema import Record
from moemerge.sources import Checkpoint, stored
from moemerge.sources.wrapped import is_wrapper, running_config
from moemerge.verify.config import check_config
from moemerge.verify.origins import Origins, as_mixed, open_origins
from moemerge.verify.vocabulary import Aligned, align

LINEAR = "linear merge"
SAME = 2.0**-6
"""Largest relative difference of two FFN matrices that are the same up to rounding to 8 bits of mantissa."""


class Baselines:
    """Base, specialists and linear merge of a folder, one in memory at a time.

    Each call may put other weights into one module, so a model is valid until the next call.

    Args:
        folder: the mixture.
        placement: where the models run, with a dtype (`MoeFolder.settled`); a dense checkpoint that is whole goes where
            the mixture's `device_map` says, one that must be put together (adapter, GGUF, mean) goes through memory.
        online: whether sources that are not in the hub's cache may be downloaded.
        allow_pickle: whether sources in `.bin` files may be read, tensors only.

    Attributes:
        missing: why a baseline cannot be had, by what it is in words.
    """

    def __init__(
        self, folder: MoeFolder, placement: Placement, *, online: bool = False, allow_pickle: bool = False
    ) -> None:
        self._folder, self._placement = folder, placement
        self._module: DenseModule | None = None
        self._config: dict[str, Any] = {}
        self._loaded: str | None = None  # the source whose values the module has
        self._digests: dict[Path, str] = {}
        self.missing: dict[str, str] = {}
        if not isinstance(folder, BuiltFolder):
            self._origins, self._keys = Origins(), {}
            why = "moemerge did not build this folder, so it does not say what it was made of"
            self.missing = {"base": why, "specialists": why, LINEAR: why}
            return
        record = folder.record
        self._origins = open_origins(record, folder.root, online=online, allow_pickle=allow_pickle)
        mixed = as_mixed(record, self._origins)
        self._keys = {expert.name: expert.source for expert in record.experts}
        self._aligned = align(record, self._origins.models)
        if not self._aligned.complete:
            why = "the rows of added tokens come from sources of which one is not at hand"
            self._origins.absent |= dict.fromkeys(self._origins.models, why)
            self._origins.models = {}
        else:
            self._origins.models = dict(self._aligned.models)
        self._together, self._unsure = align(record, mixed.models), mixed.unsure
        if (why_base := self._why(record, "base")) is not None:
            self.missing["base"] = why_base
        for name, key in self._keys.items():
            if (why_expert := self._why(record, key)) is not None:
                self.missing[f"specialist of `{name}`"] = why_expert
        gone = [name for name, key in self._keys.items() if key not in self._origins.models]
        if gone:
            self.missing[LINEAR] = f"it needs {', '.join(f'`{name}`' for name in gone)}"

    def _why(self, record: Record, key: str) -> str | None:
        """Why a source is missing, None where it is not."""
        if key in self._origins.models:
            return None
        why = self._origins.absent[key]
        place = f"`{record.sources[key].model}`" if key in record.sources else f"`{key}`"
        return f"{place}: {why}"

    @property
    def has_base(self) -> bool:
        """Whether the base is at hand."""
        return "base" in self._origins.models

    @property
    def has_linear_merge(self) -> bool:
        """Whether every expert's model is at hand."""
        return bool(self._keys) and LINEAR not in self.missing

    def has_specialist(self, name: str) -> bool:
        """Whether an expert's model is at hand."""
        return self._keys.get(name) in self._origins.models

    @property
    def aligned(self) -> bool:
        """Whether a source has other rows of tokens than the mixture."""
        return any(isinstance(model, Aligned) for model in self._origins.models.values())

    def source(self, key: str) -> Checkpoint | None:
        """`base`, or an expert's model, where it is at hand."""
        return self._origins.models.get("base" if key == "base" else self._keys.get(key, ""))

    def averaged(self) -> list[Checkpoint]:
        """The distinct models listed as experts, as the linear merge has them."""
        return [self._together.models[key] for key in dict.fromkeys(self._keys.values())]

    def base(self) -> Any:
        """The base model."""
        return self._load("base")

    def specialist(self, name: str) -> Any:
        """An expert's own dense model."""
        return self._load(self._keys[name])

    def linear_merge(self) -> Any:
        """The dense mean of the distinct models listed as experts, FFNs too."""
        models = self.averaged()
        module = self._module_for(max(models, key=_width))
        self._loaded = None
        return module.load_mean(models)

    def base_parameters(self) -> int | None:
        """Parameters of the base; None where it is missing."""
        if not self.has_base:
            return None
        return sum(math.prod(info.shape) for info in self._origins.models["base"].tensors.values())

    def content(self, key: str) -> str:
        """The content digest of `base`, of the specialist of an expert, or of the linear merge."""
        if key == LINEAR:
            return joined(["mean", *map(self._content, self.averaged())])
        return self._content(self._origins.models["base" if key == "base" else self._keys[key]])

    def _content(self, checkpoint: Checkpoint) -> str:
        if not isinstance(checkpoint, Aligned):
            return checkpoint_content(checkpoint, self._digests)
        return joined([checkpoint.table(), *(checkpoint_content(m, self._digests) for m in checkpoint.made_of())])

    def _load(self, key: str) -> Any:
        checkpoint = self._origins.models[key]
        whole = checkpoint.kind in ("folder", "hub") and not isinstance(checkpoint, Aligned)
        whole = whole and not is_wrapper(stored(checkpoint))
        # transformers would quantise plain weights anew whose config speaks of it
        plain = all(warning.code != "quantisation-left-behind" for warning in checkpoint.warnings)
        if self._placement.device_map is not None and whole and plain:
            return load_pretrained(checkpoint.location, self._placement)
        module = self._module_for(checkpoint)
        if self._loaded != key:
            self._loaded = None  # until all of it is in
            module.load(checkpoint)
            self._loaded = key
        return module.model()

    def _module_for(self, checkpoint: Checkpoint) -> DenseModule:
        """A module of this model's architecture; the last one where it is the same."""
        model = checkpoint.source if isinstance(checkpoint, Aligned) else checkpoint
        config = running_config(checkpoint.config, model)
        if self._module is None or config != self._config:
            self._module = self._loaded = None  # the old one's memory goes first
            if config.get("model_type") not in DENSE_FAMILIES:
                raise EvalError(f"`{checkpoint.spec}` is of a family that cannot be put together here")
            dense = DenseConfig.resolve(config)
            dtype = getattr(torch, self._placement.dtype)
            self._module = DenseModule(config, dense, dtype, self._placement.device)
            self._config = config
        return self._module

    def strangers(self) -> list[str]:
        """Experts whose FFN in the folder is not their source's: the source or the folder changed since the build.

        One layer's matrices are compared, up to rounding. Experts that the recipe changes on purpose (noise, scale,
        padding), all where training changed them, and those whose source is missing are left out.
        """
        folder = self._folder
        if not isinstance(folder, BuiltFolder) or "experts" in folder.record.trained:
            return []
        record, found = folder.record, []
        for number, (built, asked) in enumerate(zip(record.experts, record.recipe.experts, strict=True)):
            changed = asked.noise_scale or asked.reinitialise or asked.residual_scale != 1.0
            if not changed and self.has_specialist(built.name) and not self._same(folder, number, built.source):
                found.append(built.name)
        return found

    def other_config(self) -> list[str]:
        """What in the base's config is not what the folder was built from, a sentence each."""
        folder = self._folder
        if not isinstance(folder, BuiltFolder) or not self.has_base:
            return []
        found = check_config(
            language_config(folder.checkpoint.config), folder.record, self._together.config(), self._unsure
        )
        return [difference.message for difference in found]

    def _same(self, folder: BuiltFolder, expert: int, key: str) -> bool:
        source = self._origins.models[key]
        dense = DenseConfig.resolve(source.config)
        middle = folder.moe_layers[len(folder.moe_layers) // 2]
        for projection in dense.projections:
            theirs = source.read(dense.ffn(middle, projection)).float()
            ours = _stored(folder, middle, expert, projection)
            if ours.shape != theirs.shape:
                if ours.numel() > theirs.numel():  # padded
                    ours = ours[: theirs.shape[0], : theirs.shape[1]]
                else:
                    return False
            if float((ours - theirs).abs().max()) > SAME * float(theirs.abs().max()):
                return False
        return True


def _stored(folder: BuiltFolder, layer: int, expert: int, projection: Projection) -> Tensor:
    """One matrix of one expert as the folder holds it, fp32."""
    checkpoint, host = folder.checkpoint, folder.host
    if host.layout(folder.record.recipe.output.layout) == "per_expert":
        return checkpoint.read(host.expert_name(layer, expert, projection)).float()
    fused = checkpoint.read(
        host.fused["down" if projection == "down" else "gate_up"].format(layer=layer), slice(expert, expert + 1)
    )[0].float()
    fused = fused.T if host.transposed else fused
    if projection == "down" or len(host.projections) == 2:
        return fused
    half = fused.shape[0] // 2
    return fused[:half] if projection == "gate" else fused[half:]


def _width(checkpoint: Checkpoint) -> int:
    """The FFN's width."""
    width: int = checkpoint.config["intermediate_size"]
    return width
