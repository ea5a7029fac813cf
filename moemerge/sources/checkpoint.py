"""What every source of weights looks like to the rest of the package: a `Checkpoint`.

A checkpoint is a config, a tokenizer's files and an index of tensors that are read lazily. The rooms after
`sources` never ask where a tensor lies; they ask whether its bytes can be copied (`bytes_of`) or must be
computed (`read`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moemerge.errors import Problem
from moemerge.sources.card import Stated

if TYPE_CHECKING:
    import torch

Origin = Literal["stored", "rearranged", "folded", "dequantised", "unpickled", "united"]
Kind = Literal["folder", "hub", "adapter", "gguf", "pickle"]

ITEM_SIZE: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes an element, by the names that safetensors headers use."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a checkpoint, known without reading its values.

    Attributes:
        name: the tensor's name in the checkpoint, such as `model.layers.0.mlp.up_proj.weight`.
        dtype: safetensors' name of the dtype that `read` returns, such as `BF16`.
        shape: its shape.
        origin: `stored` where the bytes lie in a file as they are; otherwise how `read` computes them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    origin: Origin = "stored"

    @property
    def nbytes(self) -> int:
        """Size in bytes when written in `dtype`."""
        return math.prod(self.shape) * ITEM_SIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Where a tensor's bytes lie: `length` bytes from `offset` in `path` (a resolved, regular file)."""

    path: Path
    offset: int
    length: int


class Checkpoint(ABC):
    """One model that can be read lazily.

    Attributes:
        spec: the model as the user typed it, for messages.
        kind: what sort of source it is.
        config: the parsed `config.json` (for an adapter its base's; for GGUF one made from the metadata).
        tensors: every tensor by name; empty when only the config is at hand (`has_weights` is then False).
        files: files that belong next to the weights (tokenizer, chat templates, generation config, licence), by
            the relative POSIX path that they have in a checkpoint folder; never weights, config or an index.
        revision: the commit hash of a hub model, else None.
        stated: what its model card's metadata (or the GGUF's) say of licence, languages and data.
        location: the folder or file that was opened, for the record in `moemerge.yaml`.
        base: for kind `adapter`, the model that it is folded into.
        adapter: likewise, a JSON-able summary (name, rank, target count, base name in its config).
        beside: names of tensors beside those of the language model, of what sees or hears.
        warnings: what a user should know about this source though it can be used.
        vocabulary_from: the model whose tokens it has, whatever tokenizer lies beside it: an adapter's that changes
            neither embedding nor head. None where they are its own.
    """

    spec: str
    kind: Kind
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    files: Mapping[str, Path]
    revision: str | None
    stated: Stated
    location: Path
    base: Checkpoint | None = None
    adapter: Mapping[str, Any] | None = None
    beside: frozenset[str] = frozenset()
    warnings: tuple[Problem, ...] = ()
    vocabulary_from: Checkpoint | None = None

    @property
    def licence(self) -> str | None:
        """Its licence in a word, or None where it states none."""
        return self.stated.licence

    @property
    def has_weights(self) -> bool:
        """Whether tensor headers were found, so that shapes come from the files and not from the config."""
        return bool(self.tensors)

    @abstractmethod
    def bytes_of(self, name: str) -> ByteRange | None:
        """Where the bytes of a stored tensor lie, or None when `read` must compute it."""

    @abstractmethod
    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """Reads a tensor, or a block of its first dimension, into memory of its own.

        Args:
            name: a key of `tensors`.
            rows: which rows (slice of the first dimension, step 1); None for all.

        Returns:
            A contiguous CPU tensor of dtype `tensors[name].dtype`, shape `[rows, *shape[1:]]`.

        Raises:
            SourceError: the file is shorter than its header says, or cannot be read.
        """

    @abstractmethod
    def digest(self) -> str:
        """xxh3-128 (hex) over the names, dtypes, shapes and places of all tensors: cheap, reads headers only."""
