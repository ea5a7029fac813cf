"""Where tensors lie: a `Store` knows them by name and reads them; a `StoredCheckpoint` is a model on top of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from moemerge.errors import Problem
from moemerge.sources.card import NOTHING, Stated
from moemerge.sources.checkpoint import ByteRange, Checkpoint, Kind, TensorInfo

if TYPE_CHECKING:
    import torch

TORCH_NAMES: Mapping[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""torch's names of the dtypes in `ITEM_SIZE`."""


class Store(Protocol):
    """A set of tensors that are read lazily."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name."""

    def bytes_of(self, name: str) -> ByteRange | None:
        """As `Checkpoint.bytes_of`."""

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """As `Checkpoint.read`."""

    def places(self) -> Iterator[str]:
        """One line a tensor for the digest: name, dtype, shape and place."""


@dataclass(frozen=True)
class StoredCheckpoint(Checkpoint):
    """A model whose tensors all lie in one store: a folder, a hub snapshot, a GGUF file."""

    spec: str
    kind: Kind
    config: Mapping[str, Any]
    store: Store
    files: Mapping[str, Path]
    location: Path
    revision: str | None = None
    stated: Stated = NOTHING
    base: Checkpoint | None = None
    adapter: Mapping[str, Any] | None = None
    beside: frozenset[str] = frozenset()
    warnings: tuple[Problem, ...] = ()
    tensors: Mapping[str, TensorInfo] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", self.store.tensors)

    def bytes_of(self, name: str) -> ByteRange | None:
        return self.store.bytes_of(name)

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        return self.store.read(name, rows)

    def digest(self) -> str:
        return digest_of(self.store.places())


def digest_of(lines: Iterator[str]) -> str:
    """xxh3-128 (hex) of the lines, sorted, so that the order of headers does not matter."""
    import xxhash

    state = xxhash.xxh3_128()
    for line in sorted(lines):
        state.update(line.encode("utf-8", "surrogatepass"))
        state.update(b"\n")
    return state.hexdigest()


def place(info: TensorInfo, *where: object) -> str:
    """A tensor's line in a digest."""
    return "\t".join((info.name, info.dtype, "x".join(map(str, info.shape)), info.origin, *map(str, where)))


def row_bounds(info: TensorInfo, rows: slice | None) -> tuple[int, int]:
    """The first row and the one after the last, of a tensor's first dimension (a scalar has one row).

    Raises:
        ValueError: a step other than 1, or rows of a scalar; both are mistakes of the caller.
    """
    height = info.shape[0] if info.shape else 1
    if rows is None:
        return 0, height
    start, stop, step = rows.indices(height)
    if step != 1 or not info.shape:
        raise ValueError(f"cannot read rows {rows} of `{info.name}` of shape {info.shape}")
    return start, max(start, stop)


def torch_dtype(name: str) -> torch.dtype:
    """torch's dtype for a safetensors dtype name."""
    import torch

    dtype = getattr(torch, TORCH_NAMES[name])
    assert isinstance(dtype, torch.dtype)
    return dtype
