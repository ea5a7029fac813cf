"""A model seen with another vocabulary: rows of its embedding and head in another order, and rows that others lend."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from moemerge.families.dense_family import Names
from moemerge.sources.checkpoint import ByteRange, Checkpoint, TensorInfo
from moemerge.sources.store import row_bounds, torch_dtype
from moemerge.sources.view import View

if TYPE_CHECKING:
    import torch

ENDS = (Names().embedding, Names().head)
"""The tensors that have a row a token."""
_BLOCK = 4096
"""Rows that are read at once for the mean of all."""


@dataclass(frozen=True, slots=True)
class Lender:
    """One row of another model, or the mean of all its rows where `row` is None."""

    model: Checkpoint
    row: int | None


@dataclass(frozen=True)
class Rows:
    """Where each row of a vocabulary comes from.

    Attributes:
        own: the model's own row for each, -1 where it has none.
        lent: for each of these, the rows whose mean stands in.
    """

    own: tuple[int, ...]
    lent: Mapping[int, tuple[Lender, ...]]

    @cached_property
    def borrowed(self) -> list[int]:
        """The rows that others lend, ascending."""
        return sorted(self.lent)

    @cached_property
    def runs(self) -> tuple[tuple[int, int, int], ...]:
        """First row, first own row and length of every stretch that the model has in one piece."""
        numbered = ((index, own) for index, own in enumerate(self.own) if own >= 0)
        found = []
        for _, run in groupby(numbered, key=lambda pair: pair[1] - pair[0]):
            pieces = list(_stretches([index for index, _ in run]))
            found += [(first, self.own[first], count) for first, count in pieces]
        return tuple(found)


class UnitedCheckpoint(View):
    """A model whose embedding and head have the rows of another vocabulary; all else is the model's, bytes and all.

    Args:
        model: the model as it was opened.
        rows: the new rows; None leaves them as they are.
        settings: keys of the config that follow the vocabulary.
    """

    def __init__(self, model: Checkpoint, rows: Rows | None, settings: Mapping[str, Any]) -> None:
        super().__init__(model, {**model.config, **settings})
        self.rows = rows
        ends = [name for name in ENDS if rows is not None and name in model.tensors]
        self.tensors = {**model.tensors, **{name: self._united(name) for name in ends}}
        self._means: dict[str, torch.Tensor] = {}

    def bytes_of(self, name: str) -> ByteRange | None:
        return None if self._is_united(name) else self.under.bytes_of(name)

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        if self.rows is None or not self._is_united(name):
            return self.under.read(name, rows)
        import torch

        info = self.tensors[name]
        start, stop = row_bounds(info, rows)
        value = torch.empty(stop - start, *info.shape[1:], dtype=torch_dtype(info.dtype))
        for first, own, count in self.rows.runs:
            low, high = max(first, start), min(first + count, stop)
            if low < high:
                value[low - start : high - start] = self.under.read(name, slice(own + low - first, own + high - first))
        low, high = bisect_left(self.rows.borrowed, start), bisect_left(self.rows.borrowed, stop)
        if low < high:
            wanted = self.rows.borrowed[low:high]
            value[[row - start for row in wanted]] = self._loan(name, wanted).to(value.dtype)
        return value

    def _is_united(self, name: str) -> bool:
        return self.rows is not None and name in ENDS

    def _united(self, name: str) -> TensorInfo:
        """The dtype is the model's, but where a mean of lenders would be rounded to it: then fp32."""
        assert self.rows is not None
        info = self.under.tensors[name]
        exact = all(
            len(lenders) == 1 and lenders[0].row is not None and _dtype(lenders[0], name) == info.dtype
            for lenders in self.rows.lent.values()
        )
        return replace(
            info,
            dtype=info.dtype if exact or info.dtype == "F64" else "F32",
            shape=(len(self.rows.own), *info.shape[1:]),
            origin="united" if info.origin == "stored" else info.origin,
        )

    def _loan(self, name: str, rows: Sequence[int]) -> torch.Tensor:
        """What others lend for some rows, in fp64, `[n, width]`."""
        import torch

        assert self.rows is not None
        total = torch.zeros(len(rows), self.tensors[name].shape[1], dtype=torch.float64)
        wanted: dict[int, tuple[Checkpoint, dict[int, list[int]]]] = {}
        for place, row in enumerate(rows):
            for lender in self.rows.lent[row]:
                if lender.row is None:
                    total[place] += self._mean(lender.model, name)
                else:
                    _, places = wanted.setdefault(id(lender.model), (lender.model, {}))
                    places.setdefault(lender.row, []).append(place)
        for model, places in wanted.values():
            for first, count in _stretches(sorted(places)):
                block = model.read(name, slice(first, first + count)).double()
                for row in range(first, first + count):
                    total[places[row]] += block[row - first]
        counts = [len(self.rows.lent[row]) for row in rows]
        return total / torch.tensor(counts, dtype=torch.float64)[:, None]

    def _mean(self, model: Checkpoint, name: str) -> torch.Tensor:
        """The mean of all rows of a lender, of which there is one, in fp64."""
        if name not in self._means:
            height = model.tensors[name].shape[0]
            blocks = (slice(first, min(first + _BLOCK, height)) for first in range(0, height, _BLOCK))
            first, *others = (model.read(name, block).double().sum(0) for block in blocks)
            self._means[name] = sum(others, first) / height
        return self._means[name]


def _dtype(lender: Lender, name: str) -> str | None:
    info = lender.model.tensors.get(name)
    return info.dtype if info is not None else None


def _stretches(rows: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and length of every run of consecutive numbers in ascending ones."""
    for _, run in groupby(enumerate(rows), key=lambda pair: pair[1] - pair[0]):
        found = [row for _, row in run]
        yield found[0], len(found)
