"""Dense models of a plan that hold one layer at a time: those that the gate is fitted on, however large they are.

They are transformers' own classes on the meta device. A layer's tensors are read just before it runs and dropped when
another one runs; of the embedding only the rows of expected tokens are read; the head never is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moemerge.dense.models import MergedTensors, PlannedModels, empty_module, padded
from moemerge.execute.stream import PICK_ELEMENTS, TORCH_DTYPES, pick_rows, row_blocks
from moemerge.execute.thread_map import ThreadMap
from moemerge.families import anatomy_of
from moemerge.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


READERS = 2
"""Tensors of a layer that are read and merged at once, where one of them has `LARGE` elements."""

LARGE = 1 << 24
"""Smaller tensors are read and merged one after the other, each by all of torch's threads: handing them over costs
more than it gains."""


class LayerwiseModels:
    """The dense models of a plan: whole ones that write, and those whose layers load themselves.

    Each call may drop what the call before gave.

    Args:
        plan: what is built.
        device: a torch device, such as `cpu` or `cuda`.
        dtype: that they run in; the plan's when None. Their values are the written ones all the same.
    """

    def __init__(self, plan: Plan, device: str = "cpu", dtype: torch.dtype | None = None) -> None:
        self._plan, self._device, self._dtype = plan, device, dtype or TORCH_DTYPES[plan.dtype]
        self._shapes = dict(plan.dense.tensors())
        self._tensors = MergedTensors(plan)
        self._whole: PlannedModels | None = None
        self._module: Layerwise | None = None
        self._ids: Tensor | None = None

    def expect(self, ids: Tensor) -> None:
        """Says which token ids `[n]` will be looked up."""
        self._ids = ids.unique()
        self._module = None

    def merged(self, expert: int) -> PreTrainedModel:
        """The merged shared weights with one expert's FFNs; only what enters its layers has a meaning."""
        read, ffn = partial(self._tensors.read, expert=expert), frozenset(self._tensors.ffn)
        return self._show(lambda name: expert if name in ffn else "merged", read, self._tensors.rows)

    def base(self) -> PreTrainedModel:
        """The base model, likewise."""
        base = self._plan.models["base"]

        def rows(name: str, wanted: Tensor) -> Tensor:
            blocks = row_blocks(base.tensors[name].shape, PICK_ELEMENTS)
            return pick_rows(((block, partial(base.read, name, block)) for block in blocks), wanted)

        return self._show(lambda _: "base", lambda name: padded(base.read(name), self._shapes[name]), rows)

    def specialist(self, expert: int) -> PreTrainedModel:
        """The specialist as a user would run it, whole: writing needs all layers for every token."""
        return self._held().specialist(expert)

    def whole_merged(self, expert: int) -> PreTrainedModel:
        """The merged shared weights with one expert's FFNs, whole, head and all."""
        return self._held().merged(expert)

    def _held(self) -> PlannedModels:
        """Models that are held whole, in place of those that load themselves."""
        self._module = None
        self._whole = self._whole or PlannedModels(self._plan, self._device, self._dtype)
        return self._whole

    def _show(
        self, key: Callable[[str], object], read: Callable[[str], Tensor], rows: Callable[[str, Tensor], Tensor]
    ) -> PreTrainedModel:
        self._whole = None
        if self._module is None:
            config = self._plan.models["base"].config
            empty = empty_module(config, self._plan.dense, self._dtype, self._device)
            self._module = Layerwise(empty, self._device, self._ids, self._plan.dense.held_by)
        self._module.show(key, read, rows)
        model: PreTrainedModel = self._module.model
        return model


class Layerwise:
    """A module of transformers whose layers load themselves.

    Args:
        model: its parameters are on the meta device, its buffers on `device`.
        device: where it runs.
        ids: the token ids `[n]`, ascending, that will be looked up; None for all.
        held_by: the names, for `show`, of what a parameter holds, one after the other.
    """

    def __init__(self, model: Any, device: str, ids: Tensor | None, held_by: Callable[[str], tuple[str, ...]]) -> None:
        self.model, self._device, self._ids, self._held_by = model, device, ids, held_by
        self._dtype: torch.dtype = model.dtype
        self._layer: nn.Module | None = None
        self._held: dict[str, object] = {}
        self._names = {module: name for name, module in model.named_modules()}
        anatomy = anatomy_of(model)
        decoder, layers = anatomy.decoder_of(model), anatomy.layers_of(model)
        inner = {p for layer in layers for p in layer.parameters()}
        self._readers = ThreadMap(READERS if max(p.numel() for p in inner) >= LARGE else 1)
        embeddings: list[Any] = [module for module in decoder.modules() if isinstance(module, nn.Embedding)]
        self._embeddings = [f"{self._names[embedding]}.weight" for embedding in embeddings]
        # what belongs to the decoder itself, such as the last norm
        self._outside = [
            f"{self._names[decoder]}.{name}"
            for name, parameter in decoder.named_parameters()
            if parameter not in inner and all(parameter is not embedding.weight for embedding in embeddings)
        ]
        for layer in layers:
            layer.forward = partial(self._run, layer, layer.forward)
        for embedding in embeddings:
            embedding.padding_idx = None  # it makes a difference to gradients alone, and must lie within the rows
            embedding.forward = partial(self._look_up, embedding.forward)

    def show(
        self, key: Callable[[str], object], read: Callable[[str], Tensor], rows: Callable[[str, Tensor], Tensor]
    ) -> None:
        """From now on the module is the model that these read.

        Args:
            key: what a tensor of a name belongs to: with an equal key it need not be read again.
            read: gives a tensor by its name.
            rows: gives some of its rows.
        """
        self._key, self._read = key, read
        self._fill(self._outside)
        for parameter in self._embeddings:
            if self._held.get(parameter) != self._key_of(parameter):
                (name,) = self._held_by(parameter)
                self._put(parameter, read(name) if self._ids is None else rows(name, self._ids))

    def _look_up(self, forward: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        return forward(ids if self._ids is None else torch.searchsorted(self._ids.to(ids.device), ids))

    def _run(self, layer: nn.Module, forward: Callable[..., Any], *inputs: Any, **others: Any) -> Any:
        prefix = self._names[layer]
        if self._layer is not layer:
            self._drop()
            self._layer = layer
        self._fill(f"{prefix}.{name}" for name in layer.state_dict())
        return forward(*inputs, **others)

    def _fill(self, names: Iterable[str]) -> None:
        wanted = [name for name in names if self._held.get(name) != self._key_of(name)]
        for name in wanted:
            self._put(name, torch.empty(0))  # the old ones go before the new ones come
        for name, value in zip(wanted, self._readers.map(self._whole, wanted), strict=True):
            self._put(name, value)

    def _drop(self) -> None:
        if self._layer is None:
            return
        prefix = self._names[self._layer]
        for name in list(self._layer.state_dict()):
            self._put(f"{prefix}.{name}", torch.empty(0))
            del self._held[f"{prefix}.{name}"]

    def _put(self, name: str, value: Tensor) -> None:
        owner, _, leaf = name.rpartition(".")
        value = value.to(self._dtype).to(self._device)
        module = self.model.get_submodule(owner)
        setattr(module, leaf, value if leaf in module._buffers else nn.Parameter(value, requires_grad=False))
        self._held[name] = self._key_of(name)

    def _key_of(self, parameter: str) -> object:
        return self._key(self._held_by(parameter)[0])

    def _whole(self, parameter: str) -> Tensor:
        parts = [self._read(name) for name in self._held_by(parameter)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
