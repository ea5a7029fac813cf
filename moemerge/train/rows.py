"""Documents packed into rows of one length, without attention across them; domains balanced, everything seeded.

A row's documents are told apart by their position ids, which begin again at 0: transformers then masks across them
(`find_packed_sequence_indices`), in every attention that it ships. A mixed row holds documents that are put together of
two domains and change from one to the other midway: there attention does go across, as in a text that does so.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moemerge.texts import Document
from moemerge.texts import tokenise as tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST = 8
"""A document is not cut where fewer tokens would fit."""


@dataclass(frozen=True)
class Tokens:
    """A piece of a document: ids, which of them are the text's own, which are predicted, and the domain's expert."""

    ids: tuple[int, ...]
    own: tuple[bool, ...]
    wanted: tuple[bool, ...]
    expert: int

    def part(self, start: int, stop: int | None = None) -> Tokens:
        """Some of it."""
        return Tokens(self.ids[start:stop], self.own[start:stop], self.wanted[start:stop], self.expert)


@dataclass(frozen=True)
class Rows:
    """A batch of packed rows; all tensors are `[B, S]`.

    Attributes:
        ids: token ids.
        positions: position ids, 0 where a document begins. Padding is documents of one token.
        scored: the tokens that are predicted, from the one before in the same document: a text's own, or its replies.
        counted: the tokens whose routes count: a text's own.
        labels: the domain's expert, -1 where nothing counts.
        begins: the first token of each document, or of what follows of a long one: all others attend to it.
    """

    ids: Tensor
    positions: Tensor
    scored: Tensor
    counted: Tensor
    labels: Tensor
    begins: Tensor

    def to(self, device: torch.device) -> Rows:
        """The same on a device."""
        parts = (self.ids, self.positions, self.scored, self.counted, self.labels, self.begins)
        return Rows(*(part.to(device) for part in parts))


def tokenise(texts: Sequence[Document], expert: int, tokenizer: PreTrainedTokenizerBase) -> list[Tokens]:
    """Documents as tokens; those of which nothing can be predicted are left out."""
    found = []
    for text in texts:
        read = tokens_of(text, tokenizer)
        if any(read.scored[1:]):
            found.append(Tokens(read.ids, read.words, read.scored, expert))
    return found


class Sampler:
    """An endless stream of rows, the same for the same arguments: its position is how many were taken.

    Args:
        domains: each domain's documents, none of them empty.
        context: positions of a row.
        mixed: share of mixed rows.
        seed: of the order.
        alone: one document a row: for models that carry a state along it.
    """

    def __init__(
        self, domains: Sequence[Sequence[Tokens]], context: int, mixed: float, seed: int, *, alone: bool = False
    ) -> None:
        self._alone = alone
        self._context, self._mixed = context, mixed if len(domains) > 1 else 0.0
        self._streams = [_Stream(documents, f"{seed} {number}") for number, documents in enumerate(domains)]
        self._turn = _turns(len(domains), seed)
        self.taken = 0

    def take(self, count: int) -> Rows:
        """The next rows."""
        return _batch([self._row() for _ in range(count)], self._context)

    def skip(self, count: int) -> None:
        """Passes over rows, as if they had been taken."""
        for _ in range(count):
            self._row()

    def _row(self) -> list[list[Tokens]]:
        """Documents, each in pieces, of `context` tokens at most."""
        mixed = int((self.taken + 1) * self._mixed) > int(self.taken * self._mixed)
        self.taken += 1
        stream = next(self._turn)
        row: list[list[Tokens]] = []
        left = self._context
        while left >= LEAST and not (row and self._alone):
            if mixed:
                pieces = self._two_domains(stream, left)
                stream = next(self._turn)
            else:
                pieces = [self._streams[stream].take(left)]
            row.append(pieces)
            left -= sum(len(piece.ids) for piece in pieces)
        return row

    def _two_domains(self, first: int, left: int) -> list[Tokens]:
        half = max(left // 2, 2)
        second = next(number for number in self._turn if number != first)
        follows = self._streams[second].take(left - half)
        head = next((place for place, own in enumerate(follows.own) if own), 0)
        return [self._streams[first].take(half), follows.part(head)]


def _turns(count: int, seed: int) -> Iterator[int]:
    """Every domain once in each round, the rounds in different orders."""
    draw = random.Random(f"{seed} turns")
    while True:
        order = list(range(count))
        draw.shuffle(order)
        yield from order


class _Stream:
    """One domain's documents, over and over, in a new order each time; a long one comes in several pieces."""

    def __init__(self, documents: Sequence[Tokens], seed: str) -> None:
        self._documents, self._draw = documents, random.Random(seed)
        self._order: list[int] = []
        self._rest: Tokens | None = None

    def take(self, most: int) -> Tokens:
        """The next piece, of `most` tokens at most."""
        document = self._rest
        if document is None:
            if not self._order:
                self._order = list(range(len(self._documents)))
                self._draw.shuffle(self._order)
            document = self._documents[self._order.pop()]
        rest = document.part(most)
        self._rest = rest if len(rest.ids) > 1 else None
        return document.part(0, most)


def _batch(rows: Sequence[Sequence[Sequence[Tokens]]], context: int) -> Rows:
    ids, positions, labels = (torch.zeros(len(rows), context, dtype=torch.long) for _ in range(3))
    scored, counted, begins = (torch.zeros(len(rows), context, dtype=torch.bool) for _ in range(3))
    labels.fill_(-1)
    for number, row in enumerate(rows):
        start = 0
        for document in row:
            begin = start
            begins[number, begin] = True
            for piece in document:
                stop = start + len(piece.ids)
                own = torch.tensor(piece.own)
                scored[number, start:stop] = torch.tensor(piece.wanted)
                ids[number, start:stop] = torch.tensor(piece.ids)
                counted[number, start:stop] = own
                labels[number, start:stop] = torch.where(own, piece.expert, -1)
                start = stop
            positions[number, begin:start] = torch.arange(start - begin)
            scored[number, begin] = False  # nothing comes before it
    return Rows(ids, positions, scored, counted, labels, begins)
