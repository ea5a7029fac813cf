"""Reads the tensor that enters the MoE block, on the merged model with each text's own expert in the FFN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moemerge.console import Progress
from moemerge.errors import GateError
from moemerge.gate.moments import Moments
from moemerge.gate.passages import Passage
from moemerge.gate.request import DenseModels

BATCH_TOKENS = 4096
"""Positions in a batch, padding too."""

STATISTICS_BYTES = 4 << 30
"""Second moments held at once; more layers than fit are read in several passes."""

SAMPLE_BYTES = 512 << 20
"""Tokens held to judge the gate on, over all layers of a pass."""


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
    """What was read at some layers.

    Attributes:
        layers: the layers' numbers.
        second: `Σ w hhᵀ`, `[folds + 1, len(layers), d, d]`; the last slot is the negative prompts', never left out.
        first: `Σ w h`, `[folds + 1, len(layers), 2 E, d]`; the second half of the classes are the negative prompts'.
        mass: `Σ w`, `[folds + 1, 2 E]`.
        sample: at each layer, an even sample of the counted tokens, `[n, d]`, in the model's dtype.
        labels: the expert of each sampled token, `[n]`.
        folds: the fold of each sampled token, `[n]`.
    """

    layers: tuple[int, ...]
    second: Tensor
    first: Tensor
    mass: Tensor
    sample: tuple[Tensor, ...]
    labels: Tensor
    folds: Tensor

    def moments(self, index: int, without: int | None = None) -> Moments:
        """The moments at `layers[index]`, fold `without` left out."""
        everything = self._slot(self.second[:, index].sum(0), self.first[:, index].sum(0), self.mass.sum(0))
        if without is None:
            return everything
        return everything - self._slot(self.second[without, index], self.first[without, index], self.mass[without])

    @staticmethod
    def _slot(second: Tensor, first: Tensor, mass: Tensor) -> Moments:
        experts = mass.shape[0] // 2
        return Moments(second, first[:experts], mass[:experts], first[experts:], mass[experts:])


def layer_passes(layers: int, hidden_size: int, folds: int, memory: int = STATISTICS_BYTES) -> list[tuple[int, ...]]:
    """Splits the layers into passes whose statistics fit in `memory`.

    Each pass takes layers from the whole depth, so that the first one shows what λ suits them all.
    """
    each = (folds + 1) * hidden_size**2 * 8
    passes = -(-layers // max(memory // each, 1))
    return [tuple(range(start, layers, passes)) for start in range(passes)]


def capture(
    models: DenseModels,
    domains: Sequence[Domain],
    layers: tuple[int, ...],
    hidden_size: int,
    folds: int,
    progress: Progress,
) -> Captured:
    """Runs every passage once and gathers the statistics of `layers`.

    Raises:
        GateError: a hidden state is not finite.
    """
    collector: _Collector | None = None
    for number, domain in enumerate(domains):
        model: Any = models.merged(number)
        if collector is None:
            device = model.device if model.device.type == "cuda" else torch.device("cpu")
            collector = _Collector(len(domains), len(layers), hidden_size, folds, device)
        with _hooks(model, layers, collector):
            for passages, label, weight in (
                (domain.passages, number, 1 / max(domain.tokens, 1)),
                (domain.negative, number + len(domains), 1 / max(domain.negative_tokens, 1)),
            ):
                cap = SAMPLE_BYTES // (len(layers) * hidden_size * 4 * len(domains)) if label < len(domains) else 0
                for batch in _batches(passages, cap, model.device):
                    collector.begin(batch, label, weight, folds if label >= len(domains) else batch.fold)
                    with torch.inference_mode():
                        model.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
                    progress.advance(int(batch.counted.sum()))
        collector.check(domain.name, layers)
    assert collector is not None
    return collector.result(layers)


@dataclass(frozen=True)
class _Batch:
    """Passages of one fold, padded on the right: all tensors are `[B, S]`."""

    ids: Tensor
    mask: Tensor
    counted: Tensor
    kept: Tensor
    fold: int


def _batches(passages: Sequence[Passage], cap: int, device: torch.device) -> Iterator[_Batch]:
    """Batches of one fold and similar lengths; about `cap` counted tokens, evenly spread, are marked to be kept."""
    total = max(sum(p.tokens for p in passages), 1)
    cap, seen = min(cap, total), 0
    for rows in _rows(sorted(passages, key=lambda p: (p.fold, len(p.ids)))):
        width = max(len(p.ids) for p in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        counted = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, passage in enumerate(rows):
            ids[row, : len(passage.ids)] = torch.tensor(passage.ids)
            mask[row, : len(passage.ids)] = 1
            counted[row, : len(passage.ids)] = torch.tensor(passage.counted)
        places = torch.arange(seen, seen + int(counted.sum()))
        seen += len(places)
        kept = torch.zeros_like(counted)
        kept[counted] = (places + 1) * cap // total > places * cap // total
        yield _Batch(ids.to(device), mask.to(device), counted.to(device), kept.to(device), rows[0].fold)


def _rows(passages: Sequence[Passage]) -> Iterator[list[Passage]]:
    rows: list[Passage] = []
    for passage in passages:
        if rows and (passage.fold != rows[0].fold or (len(rows) + 1) * len(passage.ids) > BATCH_TOKENS):
            yield rows
            rows = []
        rows.append(passage)
    if rows:
        yield rows


class _Collector:
    """Adds up what the hooks see."""

    def __init__(self, experts: int, layers: int, hidden_size: int, folds: int, device: torch.device) -> None:
        self._device = device
        self._second = torch.zeros(folds + 1, layers, hidden_size, hidden_size, dtype=torch.float64, device=device)
        self._first = torch.zeros(folds + 1, layers, 2 * experts, hidden_size, dtype=torch.float64, device=device)
        self._mass = torch.zeros(folds + 1, 2 * experts, dtype=torch.float64, device=device)
        self._sample: list[list[Tensor]] = [[] for _ in range(layers)]
        self._labels: list[Tensor] = []
        self._folds: list[Tensor] = []

    def begin(self, batch: _Batch, label: int, weight: float, slot: int) -> None:
        """What the next forward pass holds."""
        self._batch, self._label, self._weight, self._slot = batch, label, weight, slot
        self._mass[slot, label] += weight * int(batch.counted.sum())
        kept = int(batch.kept.sum())
        self._labels.append(torch.full((kept,), label))
        self._folds.append(torch.full((kept,), slot))

    def add(self, index: int, hidden: Tensor) -> None:
        """Adds the tensor `[B, S, d]` that enters the block at the layer of place `index`."""
        tokens = hidden[self._batch.counted].to(self._device).double()
        self._second[self._slot, index].addmm_(tokens.T, tokens, alpha=self._weight)
        self._first[self._slot, index, self._label].add_(tokens.sum(0), alpha=self._weight)
        if self._labels[-1].numel():
            self._sample[index].append(hidden[self._batch.kept].cpu())

    def check(self, name: str, layers: tuple[int, ...]) -> None:
        """Refuses what is not finite, as it would spoil every expert's rows."""
        for index, layer in enumerate(layers):
            if not torch.isfinite(self._first[:, index]).all():
                raise GateError(
                    f"The hidden states at layer {layer} are not finite on the texts of expert `{name}`",
                    hint="look for NaN or infinite values in its weights, or build in `dtype: float32`",
                )

    def result(self, layers: tuple[int, ...]) -> Captured:
        """The sums, on the CPU or on the model's cuda device; the sample on the CPU."""
        return Captured(
            layers,
            self._second,
            self._first,
            self._mass,
            tuple(torch.cat(parts) for parts in self._sample),
            torch.cat(self._labels),
            torch.cat(self._folds),
        )


@contextmanager
def _hooks(model: Any, layers: tuple[int, ...], collector: _Collector) -> Iterator[None]:
    def reader(index: int) -> Callable[[Any, tuple[Tensor, ...]], None]:
        return lambda _module, inputs: collector.add(index, inputs[0])

    handles = [
        model.model.layers[layer].mlp.register_forward_pre_hook(reader(index)) for index, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
