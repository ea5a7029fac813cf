"""`.bin` weights: read only where the user allows pickle, and then by torch's unpickler for weights alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemerge.errors import SourceError, cause_of
from moemerge.sources.checkpoint import ByteRange, TensorInfo
from moemerge.sources.regular import HEAD, check_downloaded, regular_size
from moemerge.sources.safetensors_file import read_bytes
from moemerge.sources.store import TORCH_NAMES, place, row_bounds
from moemerge.sources.weights import PICKLE_INDEX, PICKLE_SINGLE, Folder, shard_map

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class PickleStore:
    """Tensors of pickled files, mapped into memory where their format allows it."""

    tensors: Mapping[str, TensorInfo]
    values: Mapping[str, torch.Tensor] = field(repr=False)
    sizes: Mapping[str, int]
    """Bytes of each file, by name; pickles have no header to take a digest of."""

    def bytes_of(self, name: str) -> ByteRange | None:
        return None

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        info, value = self.tensors[name], self.values[name]
        start, stop = row_bounds(info, rows)
        block = value[start:stop] if info.shape else value
        return block.contiguous().clone()

    def places(self) -> Iterator[str]:
        files = ",".join(f"{name}:{size}" for name, size in sorted(self.sizes.items()))
        for info in self.tensors.values():
            yield place(info, files)


REFUSED = "pickled"
"""The code of the error for pickled weights that were not allowed."""


def refuse_pickle(what: str, hint: str | None = None) -> SourceError:
    """The error for pickled weights that were not allowed."""
    return SourceError(
        f"{what} has its weights in pickled `.bin` files only, which can run code when they are read",
        hint=hint
        or "convert it to safetensors (`save_pretrained` does), or set `allow_pickle: true` if you trust its author: "
        "only tensors are then unpickled",
        code=REFUSED,
    )


def open_pickle(folder: Folder, *, allow: bool) -> PickleStore:
    """Opens `pytorch_model.bin` or the shards of its index.

    Raises:
        SourceError: not allowed, or a file that holds anything but tensors by name.
    """
    if not allow:
        raise refuse_pickle(f"Model `{folder.spec}`")
    if folder.has(PICKLE_SINGLE):
        return load_pickles([folder.file(PICKLE_SINGLE)])
    weight_map = shard_map(folder, PICKLE_INDEX, ".bin")
    store = load_pickles([folder.file(name) for name in dict.fromkeys(weight_map.values())])
    absent = sorted(weight_map.keys() - store.tensors.keys())
    if absent:
        raise SourceError(
            f"Model `{folder.spec}` is inconsistent: `{PICKLE_INDEX}` names tensors that its shards do not hold: "
            f"{', '.join(absent[:8])}",
            hint="download or copy the model again",
        )
    return store


def load_pickles(paths: list[Path]) -> PickleStore:
    """Unpickles state dicts, tensors only.

    Raises:
        SourceError: corrupt, or anything but a map from names to tensors.
    """
    tensors: dict[str, TensorInfo] = {}
    values: dict[str, torch.Tensor] = {}
    for path in paths:
        for name, value in _load(path).items():
            tensors[name], values[name] = _info(name, value, path), value
    return PickleStore(tensors, values, {path.name: regular_size(path) for path in paths})


_STATES = ("module", "model", "state_dict", "model_state_dict", "weights")
"""Where checkpoints of trainings keep the model's own weights."""


def _load(path: Path) -> dict[str, torch.Tensor]:
    import torch

    regular_size(path)
    try:
        try:
            state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format of torch before 1.6 cannot be mapped
            state = torch.load(path, map_location="cpu", weights_only=True)
    # torch raises whatever a corrupt file happens to trip over; all of it means the same here
    except Exception as error:
        check_downloaded(bytes(read_bytes(ByteRange(path, 0, min(regular_size(path), HEAD)))), str(path))
        raise SourceError(
            f"`{path}` cannot be unpickled as plain tensors: {cause_of(error)}",
            hint="convert the model to safetensors where it was made",
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        inside = [name for name in _STATES if isinstance(state, dict) and isinstance(state.get(name), dict)]
        raise SourceError(
            f"`{path}` holds something else than a map from names to tensors",
            hint=f"it is a training's checkpoint: save what is in its `{inside[0]}` as safetensors" if inside else None,
        )
    return state


def _info(name: str, value: torch.Tensor, path: Path) -> TensorInfo:
    known = {torch_name: ours for ours, torch_name in TORCH_NAMES.items()}
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in known:
        raise SourceError(f"`{path}` holds tensor `{name}` of dtype `{dtype}`, which is not supported")
    return TensorInfo(name, known[dtype], tuple(value.shape), "unpickled")
