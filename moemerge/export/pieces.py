"""One tensor of a GGUF file: the stored rows that it is made of, and what is done to them.

They are read and converted in blocks of rows, so memory does not grow with a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import gguf
import numpy as np
from gguf.quants import quantize
from numpy.typing import NDArray

from moemerge.errors import ExportError
from moemerge.options import GgufType
from moemerge.sources.checkpoint import ITEM_SIZE, ByteRange, TensorInfo
from moemerge.sources.safetensors_file import read_columns, read_rows

BLOCK = 8 << 20
"""Numbers that are converted at once."""

Kind = gguf.GGMLQuantizationType
Numbers = NDArray[np.float32]

TYPES: Mapping[GgufType, Kind] = {"f32": Kind.F32, "f16": Kind.F16, "bf16": Kind.BF16, "q8_0": Kind.Q8_0}
STORED: Mapping[str, Kind] = {"F32": Kind.F32, "F16": Kind.F16, "BF16": Kind.BF16}
"""The types that a folder's tensors may have, by safetensors' names."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of a stored tensor.

    Attributes:
        info: the tensor, as a vector or a matrix.
        place: where all of it lies.
        rows: which of its rows.
        turned: which columns of these, transposed, are the piece's rows; None where the rows are.
    """

    info: TensorInfo
    place: ByteRange
    rows: range
    turned: range | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and numbers a row."""
        if self.turned is not None:
            return len(self.turned), len(self.rows)
        return len(self.rows), math.prod(self.info.shape[1:])

    def blocks(self, unit: int = 1) -> Iterator[bytes | bytearray]:
        """Its bytes in the stored type, a few rows at a time, a multiple of `unit`."""
        own, step = self.turned or self.rows, max(BLOCK // self.shape[1] // unit, 1) * unit
        for start in range(own.start, own.stop, step):
            stop = min(start + step, own.stop)
            if self.turned is None:
                yield read_rows(self.place, self.info, slice(start, stop))
            else:
                data = read_columns(self.place, self.info, self.rows, range(start, stop))
                words = np.frombuffer(data, np.dtype(f"u{ITEM_SIZE[self.info.dtype]}"))
                yield words.reshape(len(self.rows), -1).T.tobytes()

    def numbers(self, unit: int = 1) -> Iterator[Numbers]:
        """The same as matrices."""
        return (_floats(data, self.info.dtype).reshape(-1, self.shape[1]) for data in self.blocks(unit))


@dataclass(frozen=True, slots=True)
class OutTensor:
    """One tensor of the GGUF file.

    Attributes:
        name: llama.cpp's.
        shape: in torch's order.
        kind: ggml's type.
        pieces: the rows that it is made of, in their order.
        unit: how many rows `turn` needs at once.
        turn: what is done to them, `[rows, columns]`; None for nothing.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    pieces: tuple[Piece, ...]
    unit: int = 1
    turn: Callable[[Numbers], Numbers] | None = None

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * size

    def blocks(self) -> Iterator[bytes | bytearray]:
        """Its bytes, block after block.

        Raises:
            ExportError: a number is too large for F16.
            SourceError: a file cannot be read.
        """
        for piece in self.pieces:
            if self.turn is not None:
                yield from (self._packed(self.turn(rows)) for rows in piece.numbers(self.unit))
            elif STORED[piece.info.dtype] == self.kind:
                yield from piece.blocks()
            else:
                yield from map(self._packed, piece.numbers())

    def _packed(self, values: Numbers) -> bytes:
        if self.kind == Kind.F32:
            return values.tobytes()
        if self.kind == Kind.F16:
            with np.errstate(over="ignore"):
                half = values.astype(np.float16)
            if not np.isfinite(half).all():
                raise ExportError(f"`{self.name}` has numbers that `f16` cannot hold", hint="use `--type bf16`")
            return half.tobytes()
        return quantize(np.ascontiguousarray(values), self.kind).tobytes()


def kind_of(columns: int, wanted: GgufType) -> Kind:
    """The type of a matrix; rows that are no whole blocks of a quantised one are F16."""
    block, _ = gguf.GGML_QUANT_SIZES[TYPES[wanted]]
    return TYPES[wanted] if columns % block == 0 else Kind.F16


def _floats(data: bytes | bytearray, dtype: str) -> Numbers:
    if dtype == "BF16":  # the upper half of an F32
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, np.float32 if dtype == "F32" else np.float16).astype(np.float32, copy=False)
