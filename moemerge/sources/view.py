"""A checkpoint seen otherwise: under another config, with tensors renamed, cut out of larger ones or rearranged."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moemerge.sources.checkpoint import ITEM_SIZE, ByteRange, Checkpoint, TensorInfo
from moemerge.sources.store import row_bounds

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a tensor comes from.

    Attributes:
        of: the tensor under the view.
        start: its first row.
        stop: the row after its last one; None for all.
        order: where each row of an attention head, in the order that is wanted, is stored among the head's; empty where
            rows stay as they are.
        plus: is added to every element, in fp32.
    """

    of: str
    start: int = 0
    stop: int | None = None
    order: tuple[int, ...] = ()
    plus: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether its bytes are stored bytes, one after the other."""
        return not self.order and not self.plus


class View(Checkpoint):
    """A checkpoint seen otherwise. What lies in its files is what it was, and so is its digest.

    Attributes:
        under: the checkpoint itself.
    """

    def __init__(
        self,
        under: Checkpoint,
        config: Mapping[str, Any],
        pieces: Mapping[str, Piece] | None = None,
        gone: Collection[str] = (),
    ) -> None:
        """Looks at `under`.

        Args:
            under: the checkpoint.
            config: takes the place of its own.
            pieces: tensors that it gets, by name. A piece of a tensor that is not there is not there either.
            gone: tensors of its own that are not seen, unless a piece has the name.
        """
        self.under, self.config = under, config
        self.spec, self.kind, self.location = under.spec, under.kind, under.location
        self.files, self.revision, self.stated = under.files, under.revision, under.stated
        self.adapter, self.base, self.warnings = under.adapter, under.base, under.warnings
        self.vocabulary_from, self.beside = under.vocabulary_from, under.beside
        self._pieces = {name: piece for name, piece in (pieces or {}).items() if piece.of in under.tensors}
        rest = {name: info for name, info in under.tensors.items() if name not in gone}
        self.tensors: Mapping[str, TensorInfo] = {
            **rest, **{name: self._info(name, piece) for name, piece in self._pieces.items()},
        }  # fmt: skip

    def _info(self, name: str, piece: Piece) -> TensorInfo:
        info = self.under.tensors[piece.of]
        start, stop = row_bounds(info, slice(piece.start, piece.stop)) if info.shape else (0, 1)
        origin = info.origin if piece.plain or info.origin != "stored" else "rearranged"
        dtype = "F32" if piece.plus else info.dtype
        return TensorInfo(name, dtype, (stop - start, *info.shape[1:]) if info.shape else (), origin)

    def bytes_of(self, name: str) -> ByteRange | None:
        piece = self._pieces.get(name)
        if piece is None:
            return self.under.bytes_of(name)
        place = self.under.bytes_of(piece.of) if piece.plain else None
        if place is None:
            return None
        info = self.tensors[name]
        row = math.prod(info.shape[1:]) * ITEM_SIZE[info.dtype]
        return ByteRange(place.path, place.offset + piece.start * row, math.prod(info.shape[:1]) * row)

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        piece = self._pieces.get(name)
        if piece is None:
            return self.under.read(name, rows)
        if piece == Piece(piece.of):
            return self.under.read(piece.of, rows)
        start, stop = row_bounds(self.tensors[name], rows)
        if not piece.order:
            value = self.under.read(piece.of, slice(piece.start + start, piece.start + stop))
            return value.float() + piece.plus if piece.plus else value
        size = len(piece.order)
        first = start // size * size  # whole heads
        last = -(-stop // size) * size
        value = self.under.read(piece.of, slice(piece.start + first, piece.start + last))
        return _ordered(value, piece.order)[start - first : stop - first].contiguous()

    def digest(self) -> str:
        return self.under.digest()


def stored(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint under all views of it."""
    while isinstance(checkpoint, View):
        checkpoint = checkpoint.under
    return checkpoint


def _ordered(value: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """`[n, ...]` with the rows of every head in another order."""
    import torch

    result: torch.Tensor = value.unflatten(0, (-1, len(order))).index_select(1, torch.tensor(order)).flatten(0, 1)
    return result
