"""Documents as windows of token ids: every token that losses are taken of is predicted exactly once.

A document longer than the context is read in windows that overlap: each begins `stride` tokens after the one before,
and only the tokens that no earlier window has seen are scored, each with at least `context - stride` tokens before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
import xxhash
from torch import Tensor

from moemerge.texts import Document, Tokens, tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOGITS = 1 << 27
"""Elements of a batch's logits: with a vocabulary of 49,152, about 2,700 positions."""


@dataclass(frozen=True)
class Window:
    """A part of a document.

    Attributes:
        document: number of the document.
        ids: token ids; the position here is the position in the model.
        own: for each, whether it is the text's own, not one that the tokenizer or a chat template adds.
        wanted: for each, whether losses are taken of it.
        new: the first position that no earlier window has.
    """

    document: int
    ids: tuple[int, ...]
    own: tuple[bool, ...]
    wanted: tuple[bool, ...]
    new: int

    @property
    def scored(self) -> tuple[bool, ...]:
        """Which tokens are predicted here: the new ones, but the very first, which nothing comes before."""
        return tuple(wanted and place >= max(self.new, 1) for place, wanted in enumerate(self.wanted))


class Scorable(Protocol):
    """Documents of a domain, ready to be scored; see `Encoded` for what its attributes are."""

    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def bytes(self) -> Sequence[int]: ...
    @property
    def texts(self) -> Sequence[object]: ...
    def digest(self) -> str: ...
    def batches(self, positions: int) -> Sequence[Batch]: ...


@dataclass(frozen=True)
class Encoded:
    """The documents of a domain, ready to be scored by a model with this tokenizer.

    Attributes:
        windows: all windows, in the order of the documents.
        tokens: scored tokens of each document.
        bytes: bytes of UTF-8 that these tokens stand for.
        texts: the documents.
    """

    windows: tuple[Window, ...]
    tokens: tuple[int, ...]
    bytes: tuple[int, ...]
    texts: tuple[Document, ...]

    def digest(self) -> str:
        """xxh3-128 (hex) of what is scored: ids, windows and which tokens count."""
        state = xxhash.xxh3_128()
        for window in self.windows:
            state.update(f"{window.document} {window.new} {window.ids} {window.own} {window.wanted}\n".encode())
        return state.hexdigest()

    def batches(self, positions: int) -> Sequence[Batch]:
        """Batches of at most `positions` positions, or of one window; the same whatever process asks."""
        return batches(self.windows, positions)


def encode(texts: Sequence[Document], tokenizer: PreTrainedTokenizerBase, context: int, stride: int) -> Encoded:
    """Turns documents into windows.

    Args:
        texts: the documents.
        tokenizer: the model's own.
        context: the longest window in tokens.
        stride: tokens from the beginning of a window to that of the next, less than `context`.
    """
    windows: list[Window] = []
    tokens, sizes = [], []
    for number, text in enumerate(texts):
        read = tokenise(text, tokenizer)
        mine = list(_windows(number, read, context, stride))
        windows += mine
        tokens.append(sum(sum(window.scored) for window in mine))
        sizes.append(read.bytes)
    return Encoded(tuple(windows), tuple(tokens), tuple(sizes), tuple(texts))


def _windows(number: int, tokens: Tokens, context: int, stride: int) -> Iterator[Window]:
    read, ids = 0, tokens.ids
    for start in range(0, max(len(ids), 1), stride):
        part = slice(start, start + context)
        if ids[part]:
            yield Window(number, ids[part], tokens.words[part], tokens.scored[part], read - start)
        read = start + len(ids[part])
        if read >= len(ids):
            return


@dataclass(frozen=True)
class Batch:
    """Windows of similar length, padded on the right; all tensors are `[B, S]`.

    Attributes:
        documents: the document of each row.
        ids: token ids.
        real: where there is a token and not padding.
        scored: which tokens are predicted.
        new: which tokens are the text's own and in no earlier window: those whose routes count.
        follows: which of these come after a token of the text.
        more: makes what else a model is given, such as a picture.
    """

    documents: tuple[int, ...]
    ids: Tensor
    real: Tensor
    scored: Tensor
    new: Tensor
    follows: Tensor
    more: Callable[[], Mapping[str, Tensor]] = dict

    @property
    def mask(self) -> Tensor | None:
        """The attention mask, None where nothing is padded."""
        return None if bool(self.real.all()) else self.real.long()

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        ids, real, scored, new, follows = (
            part.to(device) for part in (self.ids, self.real, self.scored, self.new, self.follows)
        )
        return Batch(self.documents, ids, real, scored, new, follows, self.more)


def batches(windows: Sequence[Window], positions: int) -> list[Batch]:
    """Batches of at most `positions` positions, or of one window; the same whatever process asks."""
    groups: list[list[Window]] = []
    for window in sorted(windows, key=lambda window: (len(window.ids), window.document, window.new)):
        if groups and (len(groups[-1]) + 1) * len(window.ids) <= positions:
            groups[-1].append(window)
        else:
            groups.append([window])
    return [_batch(group) for group in groups]


def _batch(rows: Sequence[Window]) -> Batch:
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    real, scored, new, own = (torch.zeros(len(rows), width, dtype=torch.bool) for _ in range(4))
    for number, row in enumerate(rows):
        length = len(row.ids)
        ids[number, :length] = torch.tensor(row.ids)
        real[number, :length] = True
        scored[number, :length] = torch.tensor(row.scored)
        own[number, :length] = torch.tensor(row.own)
        new[number, row.new : length] = own[number, row.new : length]
    follows = new.clone()
    follows[:, 0] = False
    follows[:, 1:] &= own[:, :-1]
    return Batch(tuple(row.document for row in rows), ids, real, scored, new, follows)
