"""A PEFT LoRA adapter on a base: a checkpoint whose tensors are folded one at a time, when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemerge.errors import Problem, SourceError
from moemerge.sources.adapter_config import LoraConfig, parse_adapter_config
from moemerge.sources.adapter_fit import EMBEDDING, HEAD, Change, Fit, Fold, fit, is_same_base
from moemerge.sources.beside import files_beside, overlay
from moemerge.sources.card import stated_in
from moemerge.sources.checkpoint import ITEM_SIZE, ByteRange, Checkpoint, TensorInfo
from moemerge.sources.folder import ADAPTER_CONFIG, ADAPTER_PICKLE, ADAPTER_WEIGHTS, other_sets
from moemerge.sources.safetensors_file import SafetensorsStore, read_file_header
from moemerge.sources.saved import other_weights, wrapper_of
from moemerge.sources.store import Store, digest_of, row_bounds, torch_dtype
from moemerge.sources.strict_json import read_object
from moemerge.sources.weights import Folder
from moemerge.sources.wrapped import is_wrapper
from moemerge.sources.zero import is_zero

if TYPE_CHECKING:
    import torch


TALL = 1024
"""Rows below which a block is computed within a taller one. Matrix products of a few rows a thread take another path
in the CPU's library, with other rounding: measured with MKL, blocks of up to 3 rows on one thread and up to 9 on two
differ from the whole in the last bit, taller ones do not."""


class AdapterCheckpoint(Checkpoint):
    """The model that peft's `merge_and_unload` would give, without loading the base.

    Untouched tensors are the base's own, bytes and all. A folded one is computed from the base's tensor in its stored
    dtype (F32 for a dequantised base), as described in `fold`.
    """

    kind = "adapter"

    def __init__(
        self, folder: Folder, base: Checkpoint, store: Store, lora: LoraConfig, fitted: Fit, revision: str | None
    ) -> None:
        self.spec, self.location, self.revision = folder.spec, folder.path, revision
        self.base: Checkpoint = base
        self._store, self._lora, self._changes = store, lora, fitted.changes
        self._factors: dict[str, torch.Tensor] = {}
        self.vocabulary_from = None if {EMBEDDING, HEAD} & fitted.changes.keys() else base
        changed: dict[str, Any] = {"tie_word_embeddings": False} if fitted.untied else {}
        changed |= {"vocab_size": fitted.rows} if fitted.rows is not None else {}
        self.config: Mapping[str, Any] = {**base.config, **changed}
        self.tensors: Mapping[str, TensorInfo] = self._tensors(fitted)
        self.files: Mapping[str, Path] = overlay(base.files, files_beside(folder))
        self.stated = stated_in(folder).over(base.stated)
        self.adapter: Mapping[str, Any] = {
            "name": folder.path.name,
            "rank": lora.rank,
            "alpha": lora.alpha,
            "rslora": lora.rslora,
            "dora": lora.dora,
            "targets": fitted.targets,
            "modules_to_save": list(lora.modules_to_save),
            "base": lora.base,
        }
        self.warnings = (
            *lora.warnings,
            *_other_base(folder, lora, base),
            *fitted.warnings,
            *_without_effect(folder, store, fitted),
            *other_sets(folder, (ADAPTER_WEIGHTS, ADAPTER_PICKLE), "Adapter"),
        )

    def bytes_of(self, name: str) -> ByteRange | None:
        info = self.tensors[name]
        change = self._changes.get(name)
        if change is None:
            return self.base.bytes_of(self._name_in_base(name))
        if info.origin == "stored" and change.replaced is not None:
            return self._store.bytes_of(change.replaced)
        return None

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        change = self._changes.get(name)
        if change is None:
            return self.base.read(self._name_in_base(name), rows)
        info = self.tensors[name]
        start, stop = row_bounds(info, rows)
        if rows is None or not change.folds or stop - start >= TALL:
            return self._changed(name, change, rows, len(change.folds))
        low = max(0, min(start, info.shape[0] - TALL))
        block = self._changed(name, change, slice(low, min(low + TALL, info.shape[0])), len(change.folds))
        return block[start - low : stop - low].clone()

    def digest(self) -> str:
        return digest_of(self._places())

    def _places(self) -> Iterator[str]:
        yield f"base\t{self.base.digest()}"
        yield f"lora\t{self._lora}"
        for line in self._store.places():
            yield f"adapter\t{line}"

    def _name_in_base(self, name: str) -> str:
        # a head that the adapter unties is the base's embedding
        return EMBEDDING if name == HEAD and HEAD not in self.base.tensors else name

    def _tensors(self, fitted: Fit) -> dict[str, TensorInfo]:
        tensors = dict(self.base.tensors)
        if fitted.untied:
            tensors[HEAD] = replace(tensors[EMBEDDING], name=HEAD)
        for name, change in fitted.changes.items():
            shape = self._store.tensors[change.replaced].shape if change.replaced else tensors[name].shape
            tensors[name] = replace(tensors[name], shape=shape, origin=self._origin(tensors[name], change))
        return tensors

    def _origin(self, info: TensorInfo, change: Change) -> Any:
        if change.replaced is None or change.folds or change.biases:
            return "folded"
        same = self._store.tensors[change.replaced].dtype == info.dtype
        return "stored" if same and self._store.bytes_of(change.replaced) else "folded"

    def _changed(self, name: str, change: Change, rows: slice | None, folds: int) -> torch.Tensor:
        """The tensor's rows after its replacement and the first so many folds."""
        from moemerge.sources.fold import delta, factor_dtype, fold, rescale

        if change.replaced is None:
            value = self.base.read(self._name_in_base(name), rows)
        else:
            value = self._store.read(change.replaced, rows).to(torch_dtype(self.tensors[name].dtype))
        for index, lora in enumerate(change.folds[:folds]):
            kind = factor_dtype(value)
            a, b = self._store.read(lora.a).to(kind), self._store.read(lora.b).to(kind)
            if rows is not None:
                a, b = (a[:, rows], b) if lora.layout == "embedding" else (a, b[rows])
            if lora.magnitude is None:
                value = fold(value, a, b, lora.scaling, lora.layout)
            else:
                moved = delta(a, b, lora.scaling, lora.layout)
                value = rescale(value, moved, self._factor(name, change, index, value, moved, rows))
        for key, scaling in change.biases:
            moved = self._store.read(key, rows).to(factor_dtype(value)) * scaling
            value = (moved + value).to(value.dtype)
        return value

    def _factor(
        self, name: str, change: Change, index: int, value: torch.Tensor, moved: torch.Tensor, rows: slice | None
    ) -> torch.Tensor:
        """DoRA's factor for the rows at hand; an embedding's needs every row, so it is kept (`[1, width]`)."""
        from moemerge.sources.fold import magnitude_factor

        fold = change.folds[index]
        assert fold.magnitude is not None
        magnitude = self._store.read(fold.magnitude).to(moved.dtype)
        if fold.layout == "linear":
            return magnitude_factor(value, moved, magnitude if rows is None else magnitude[rows], "linear")
        if fold.magnitude not in self._factors:
            whole, change_of_all = (value, moved) if rows is None else self._whole(name, change, index, fold)
            self._factors[fold.magnitude] = magnitude_factor(whole, change_of_all, magnitude, "embedding")
        return self._factors[fold.magnitude]

    def _whole(self, name: str, change: Change, index: int, fold: Fold) -> tuple[torch.Tensor, torch.Tensor]:
        from moemerge.sources.fold import delta, factor_dtype

        value = self._changed(name, change, None, index)
        kind = factor_dtype(value)
        moved = delta(self._store.read(fold.a).to(kind), self._store.read(fold.b).to(kind), fold.scaling, fold.layout)
        return value, moved


def open_adapter(
    folder: Folder, base: Checkpoint | None, *, revision: str | None = None, allow_pickle: bool = False
) -> AdapterCheckpoint:
    """Opens an adapter folder on its base.

    Raises:
        SourceError: no base, a malformed or unsupported adapter, pickled weights without `allow_pickle`, tensors that
            do not fit the base.
    """
    lora = parse_adapter_config(
        read_object(folder.file(ADAPTER_CONFIG), str(folder.path / ADAPTER_CONFIG)), folder.spec
    )
    if base is None:
        raise SourceError(
            f"Model `{folder.spec}` is an adapter and needs a base",
            hint=f"write `{lora.base or 'MODEL'}+{folder.spec}`, or make it an expert of a recipe with a `base_model`",
        )
    store = _open_weights(folder, allow_pickle=allow_pickle)
    # a base that a wrapper was left in is refused for that, and not for what then misses it
    within = is_wrapper(base)
    whole = base.has_weights and not any(wrapper_of(name, more_than_text=within) for name in base.tensors)
    fitted = fit(folder.spec, lora, store.tensors, base) if whole else Fit()
    return AdapterCheckpoint(folder, base, store, lora, fitted, revision)


def _open_weights(folder: Folder, *, allow_pickle: bool) -> Store:
    if folder.has(ADAPTER_WEIGHTS):
        store: SafetensorsStore = read_file_header(folder.file(ADAPTER_WEIGHTS))
        return store
    if not folder.has(ADAPTER_PICKLE):
        raise SourceError(
            f"Adapter `{folder.spec}` is incomplete: `{folder.path}` holds no `{ADAPTER_WEIGHTS}`",
            hint=other_weights(folder.path) or "copy or download the adapter again",
        )
    from moemerge.sources.pickle import load_pickles, refuse_pickle

    if not allow_pickle:
        raise refuse_pickle(f"Adapter `{folder.spec}`")
    return load_pickles([folder.file(ADAPTER_PICKLE)])


def _other_base(folder: Folder, lora: LoraConfig, base: Checkpoint) -> tuple[Problem, ...]:
    """A differing name alone is only a warning: models are moved and renamed."""
    if lora.base is None or is_same_base(lora.base, base):
        return ()
    return (
        Problem(
            "adapter-base-differs",
            f"Adapter `{folder.spec}` was trained on `{lora.base}` and is used on `{base.spec}`",
        ),
    )


def _is_zero(store: Store, name: str) -> bool:
    place = store.bytes_of(name)
    return is_zero(place, ITEM_SIZE[store.tensors[name].dtype]) if place is not None else not store.read(name).any()


def _without_effect(folder: Folder, store: Store, fitted: Fit) -> Iterator[Problem]:
    """A warning where every LoRA adds nothing: the one look at an adapter's numbers, which mostly ends at the first."""
    folds = [fold for change in fitted.changes.values() for fold in change.folds]
    changes = fitted.changes.values()
    if not folds or any(fold.magnitude for fold in folds) or any(change.biases for change in changes):
        return
    if any(fold.scaling != 0.0 and not _is_zero(store, fold.b) for fold in folds):
        return
    rest = any(change.replaced for change in changes)
    message = (
        f"Adapter `{folder.spec}` changes nothing: "
        if not rest
        else f"Adapter `{folder.spec}` has a LoRA of no effect: "
    )
    scaled = "`lora_alpha` is 0" if all(fold.scaling == 0.0 for fold in folds) else "each of its `lora_B` is all zero"
    hint = "it was saved before its training, or the training did not reach it: save it again"
    yield Problem("adapter-without-effect", message + scaled, hint)
