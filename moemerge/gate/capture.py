"""Reads the tensor that enters the MoE block, on the merged model with each text's own expert in the FFN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moemerge.errors import GateError
from moemerge.gate.advantage import targets
from moemerge.gate.moments import Moments
from moemerge.gate.packed import packed_attention
from moemerge.gate.passages import Passage
from moemerge.gate.request import DenseModels, ReadsTokens
from moemerge.gate.walk import Batch, Walk

BATCH_TOKENS = 4096
"""Positions in a packed row, padding too."""

PADDING = 0.1
"""At most this share of a run's positions is padding."""

BLOCK = 4096
"""Tokens whose second moment is taken in one product in fp32; the products are added in fp64."""

STRIPS = 4
"""A second moment is symmetric: its lower half is taken in so many strips, which costs 5/8 of the whole."""


@dataclass(frozen=True)
class Domain:
    """The passages that one expert should win, and those that it must not."""

    name: str
    passages: Sequence[Passage]
    negative: Sequence[Passage]

    @property
    def tokens(self) -> int:
        """Counted tokens of the expert's own domain."""
        return sum(p.tokens for p in self.passages)

    @property
    def negative_tokens(self) -> int:
        """Counted tokens of the negative prompts."""
        return sum(p.tokens for p in self.negative)


@dataclass(frozen=True)
class Captured:
    """The counted tokens at one layer, fold by fold, those of negative prompts last.

    Attributes:
        tokens: what enters the MoE block, `[n, d]`, in the model's dtype and on its device.
        labels: the expert of each token, `[n]`; its number plus E where the expert must not win the token.
        sizes: tokens of each fold, then of the negative prompts, which are never left out.
        experts: E.
        advantages: what each expert saves on each token, `[n, E]`, where that is what the gate is fitted to.
        first: which tokens begin a passage, `[n]`; None where that is not known.
    """

    tokens: Tensor
    labels: Tensor
    sizes: tuple[int, ...]
    experts: int
    advantages: Tensor | None = None
    first: Tensor | None = None

    @property
    def folds(self) -> int:
        """The number of folds."""
        return len(self.sizes) - 1

    def places(self, part: int) -> slice:
        """Where the tokens of a fold are; those of the negative prompts follow the last one."""
        start = sum(self.sizes[:part])
        return slice(start, start + self.sizes[part])

    def moments(self, first_share: float = 0.0) -> list[Moments]:
        """The moments of each fold, then those of the negative prompts: their sum is that of all tokens.

        Products are taken in fp32 over blocks of tokens, sums in fp64: that is as exact as fp32 numbers are, and takes
        half as long as fp64 throughout.

        Args:
            first_share: see `weights`.
        """
        weights = self.weights(first_share)
        wanted = None if self.advantages is None else targets(self.advantages, weights)
        return [self._moments(self.places(part), weights, wanted) for part in range(len(self.sizes))]

    def weights(self, first_share: float) -> Tensor:
        """The tokens' weights, `[n]`, fp64: they sum to 1 for each class, and are even but for its first tokens.

        Args:
            first_share: the share of a class's weight that its first tokens have at least, all of them together.
        """
        counts = torch.bincount(self.labels, minlength=2 * self.experts).double()
        if self.first is None or not first_share:
            return (1 / counts)[self.labels]
        firsts = torch.bincount(self.labels[self.first], minlength=2 * self.experts).double()
        each = torch.maximum(1 / counts, first_share / firsts.clamp(min=1))
        other = (1 - firsts * each) / (counts - firsts).clamp(min=1)
        return torch.where(self.first, each[self.labels], other[self.labels])

    def _moments(self, places: slice, weights: Tensor, wanted: Tensor | None) -> Moments:
        width, classes, device = self.tokens.shape[1], 2 * self.experts, self.tokens.device
        second: Tensor | None = None
        first = torch.zeros(classes, width, dtype=torch.float64, device=device)
        aims = None if wanted is None else torch.zeros(self.experts, width, dtype=torch.float64, device=device)
        mass = torch.zeros(classes, dtype=torch.float64)
        mass.index_add_(0, self.labels[places], weights[places])
        wanted = self.tokens.new_zeros(len(weights), 0) if wanted is None else wanted
        for tokens, labels, each, sought in zip(
            *(of[places].split(BLOCK) for of in (self.tokens, self.labels, weights, wanted)), strict=True
        ):
            member = torch.zeros(classes, len(labels)).scatter_(0, labels[None], each.float()[None])
            block = tokens.to(torch.float32, copy=True)
            first += member.to(device) @ block
            if aims is not None:
                aims += (sought * each[:, None]).T.float().to(device) @ block
            product = _gram(block.mul_(each.sqrt().float().to(device)[:, None]))
            second = product.double() if second is None else second.add_(product)
        assert second is not None, "no tokens are one empty block"
        mass = mass.to(device)
        own, negative = slice(self.experts), slice(self.experts, None)
        return Moments(second, first[own], mass[own], first[negative], mass[negative], aims=aims)


def _gram(block: Tensor) -> Tensor:
    """`blockᵀ block` in fp32: its lower half in strips, the upper one copied from it."""
    width = block.shape[1]
    product = block.new_empty(width, width)
    for strip in _strips(width):
        torch.mm(block[:, strip].T, block[:, : strip.stop], out=product[strip, : strip.stop])
        product[: strip.start, strip] = product[strip, : strip.start].T
    return product


def _strips(width: int) -> Iterator[slice]:
    step = -(-width // STRIPS)
    return (slice(start, min(start + step, width)) for start in range(0, width, step))


def capture(models: DenseModels, domains: Sequence[Domain], layers: Sequence[int], folds: int) -> Iterator[Captured]:
    """Runs every passage once, all of them layer by layer, and yields what enters the MoE blocks.

    Args:
        models: gives the model that an expert's passages run through.
        domains: the passages.
        layers: those that are read, ascending.
        folds: the number of folds.

    Raises:
        GateError: a hidden state is not finite.
    """
    groups = [
        [*_groups(d.passages, number, None), *_groups(d.negative, number + len(domains), folds)]
        for number, d in enumerate(domains)
    ]
    every = [group for own in groups for group in own]
    if isinstance(models, ReadsTokens):
        models.expect(torch.cat([group.batch.ids.flatten() for group in every]).unique())
    order = torch.cat([group.parts for group in every]).sort(stable=True)
    labels = torch.cat([torch.full((len(group.parts),), group.label) for group in every])[order.indices]
    first = torch.cat([group.first for group in every])[order.indices]
    sizes = tuple(torch.bincount(order.values, minlength=folds + 1).tolist())
    advantages = None
    if all(group.advantages is not None for group in every):
        advantages = torch.cat([group.advantages for group in every])[order.indices]  # type: ignore[misc]  # none is None
    found: list[Tensor] = []

    def read(number: int, place: int, entered: Tensor) -> None:
        found.append(entered[groups[number][place].counted])

    with packed_attention() as packed:
        walk = Walk(lambda number: packed(models.merged(number)), [[group.batch for group in own] for own in groups])
        for layer in range(layers[-1] + 1):
            if layer not in layers:
                walk.advance(layer)
                continue
            walk.advance(layer, read, last=layer == layers[-1])
            tokens = torch.cat(found)
            found.clear()
            tokens = tokens[order.indices.to(tokens.device)]
            captured = Captured(tokens, labels, sizes, len(domains), advantages, first)
            _check(captured, layer, domains)
            yield captured


def _check(captured: Captured, layer: int, domains: Sequence[Domain]) -> None:
    """Refuses what is not finite, as it would spoil every expert's rows."""
    finite = captured.tokens.sum(1, dtype=torch.float32).isfinite().cpu()
    if not finite.all():
        name = domains[int(captured.labels[~finite].min()) % len(domains)].name
        raise GateError(
            f"The hidden states at layer {layer} are not finite on the texts of expert `{name}`",
            hint="they overflow: build in `dtype: float32`, or set `gate.dtype: float32`",
            code="not-finite",
        )


@dataclass(frozen=True)
class _Group:
    """Passages of one class in a packed row.

    Attributes:
        batch: their ids, `[1, S]`.
        counted: which places count, `[1, S]`.
        label: the class of their tokens.
        parts: the fold of each counted token.
        first: which counted tokens begin a passage.
        advantages: what each expert saves on each counted token, `[n, E]`.
    """

    batch: Batch
    counted: Tensor
    label: int
    parts: Tensor
    first: Tensor
    advantages: Tensor | None


def _groups(passages: Sequence[Passage], label: int, part: int | None) -> Iterator[_Group]:
    """Passages in packed rows, shortest first; `part` takes the place of their folds."""
    row: list[list[Passage]] = []
    for run in _runs(sorted(passages, key=lambda p: len(p.ids))):
        if row and sum(map(_positions, [*row, run])) > BATCH_TOKENS:
            yield _packed(row, label, part)
            row = []
        row.append(run)
    if row:
        yield _packed(row, label, part)


def _packed(row: Sequence[Sequence[Passage]], label: int, part: int | None) -> _Group:
    """One packed row of runs; the passages of a run are padded on the right to its longest."""
    ids, counted, folds, first = [], [], [], []
    for run in row:
        length = len(run[-1].ids)
        for passage in run:
            padding = length - len(passage.ids)
            ids += [*passage.ids, *[0] * padding]
            counted += [*passage.counted, *[False] * padding]
            folds += [passage.fold if part is None else part] * passage.tokens
            first += [place == 0 for place, counts in enumerate(passage.counted) if counts]
    runs = tuple((len(run), len(run[-1].ids)) for run in row)
    batch = Batch(torch.tensor([ids]), runs=runs)
    given = [passage.advantages for run in row for passage in run if passage.advantages is not None]
    advantages = torch.cat(given) if given else None
    return _Group(batch, torch.tensor([counted]), label, torch.tensor(folds), torch.tensor(first), advantages)


def _positions(run: Sequence[Passage]) -> int:
    return len(run) * len(run[-1].ids)


def _runs(passages: Sequence[Passage]) -> Iterator[list[Passage]]:
    """Splits passages that are sorted by length into runs that attention takes together."""
    run: list[Passage] = []
    filled = 0
    for passage in passages:
        length = len(passage.ids)
        positions = (len(run) + 1) * length
        if run and (positions > BATCH_TOKENS or positions - filled - length > PADDING * positions):
            yield run
            run, filled = [], 0
        run.append(passage)
        filled += length
    if run:
        yield run
