"""Fits the gate: texts → passages (and what the specialists add) → statistics → rows, judged on what was held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moemerge.console import Progress, Silent
from moemerge.errors import GateError, Problem
from moemerge.gate import held_out
from moemerge.gate.capture import Captured, Domain, capture, layer_passes
from moemerge.gate.closed_forms import METHODS, REGULARISED
from moemerge.gate.expand import Expansion, expand
from moemerge.gate.mergekit import mergekit_gate, random_gate, uniform_gate
from moemerge.gate.notices import few_tokens, inseparable, rounding, same_texts, too_few_groups
from moemerge.gate.passages import Passage, assign_folds, document_passages, prompt_passages
from moemerge.gate.request import FITTED, MERGEKIT, DenseModels, GateFit, GateRequest, GateStatistics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHOOSING_FOLDS = 3
"""λ and the scale are chosen out of fold with at least so many folds."""


def fit_gate(
    request: GateRequest,
    models: DenseModels | None,
    tokenizer: PreTrainedTokenizerBase | None,
    progress: Progress | None = None,
) -> GateFit:
    """Makes the router's weights.

    Args:
        request: what is wanted.
        models: the dense models; None is enough for `random` and `uniform`.
        tokenizer: the merged model's, likewise; it is not changed.
        progress: how the work reports itself.

    Returns:
        The gate, with what is known of it. The same request on the same machine gives the same gate, bit for bit.

    Raises:
        GateError: an expert gives no token to fit from, a hidden state is not finite, the chat template is of no use.
        ValueError: models or tokenizer missing where they are needed.
    """
    progress = progress if progress is not None else Silent()
    if request.init not in FITTED | MERGEKIT:
        make = random_gate if request.init == "random" else uniform_gate
        return _unjudged(request, make(request))
    if models is None or tokenizer is None:
        raise ValueError(f"gate `{request.init}` needs models and a tokenizer")
    if request.init in MERGEKIT:
        return _unjudged(
            request, mergekit_gate(request, models.base(), tokenizer, progress), same_texts(request.experts)
        )
    context = min(request.context, tokenizer.model_max_length)
    return _fit(replace(request, context=context), models, tokenizer, progress)


def _unjudged(request: GateRequest, weights: Tensor, warnings: Sequence[Problem] = ()) -> GateFit:
    return GateFit(weights, (0,) * len(request.experts), (None,) * request.layers, warnings=tuple(warnings))


def _fit(request: GateRequest, models: DenseModels, tokenizer: PreTrainedTokenizerBase, progress: Progress) -> GateFit:
    domains, folds, expansion, warnings = _domains(request, models, tokenizer, progress)
    passes = layer_passes(request.layers, request.hidden_size, folds)
    progress.stage(
        "Reading the gate's inputs", len(passes) * sum(d.tokens + d.negative_tokens for d in domains), "tokens"
    )
    rows = _Rows(request, folds)
    for layers in passes:
        rows.add(capture(models, domains, layers, request.hidden_size, folds, progress))
    tokens = tuple(d.tokens for d in domains)
    names = [d.name for d in domains]
    warnings += few_tokens(names, tokens, request.hidden_size)
    warnings += too_few_groups(names, domains, folds, CHOOSING_FOLDS, request)
    warnings += inseparable(names, rows.judgements)
    warnings += rounding(rows.agreements)
    mean = held_out.mean_of([rows.judgements[layer] for layer in range(request.layers)])
    return GateFit(
        weights=torch.stack([rows.weights[layer] for layer in range(request.layers)]),
        tokens=tokens,
        separation=tuple(rows.judgements[layer].accuracy if folds > 1 else None for layer in range(request.layers)),
        confusion=tuple(tuple(row) for row in mean.confusion.tolist()) if folds > 1 else None,
        ridge=rows.strength if request.init in REGULARISED else None,
        scale=tuple(rows.scales[layer] for layer in range(request.layers)),
        samples=expansion.samples,
        warnings=tuple(warnings),
        statistics=rows.statistics(domains) if request.keep_statistics else None,
    )


def _domains(
    request: GateRequest, models: DenseModels, tokenizer: PreTrainedTokenizerBase, progress: Progress
) -> tuple[list[Domain], int, Expansion, list[Problem]]:
    """Every expert's passages with their folds, the number of folds, what was written, and warnings."""
    warnings = list(same_texts(request.experts))
    own: list[list[Passage]] = []
    for texts in request.experts:
        documents, left_out = document_passages(texts, tokenizer, request)
        own.append(prompt_passages(texts.prompts, texts, tokenizer, request) + documents)
        warnings += [left_out] if left_out is not None else []
    own_tokens = [sum(p.tokens for p in passages) for passages in own]
    empty = [t.name for t, count in zip(request.experts, own_tokens, strict=True) if not count]
    if empty:
        raise GateError(
            f"No token to fit the gate from for {', '.join(f'`{name}`' for name in empty)}: the texts are empty",
            hint="give `prompts` of several words or `data`, or use `gate.init: random`",
        )
    expansion = expand(request, models, tokenizer, own_tokens, progress)
    warnings += expansion.warnings
    passages = []
    for number, mine in enumerate(own):
        written = expansion.passages.get(number, [])
        continued = {p.group for p in written}
        passages.append(written + [p for p in mine if p.group not in continued])
    folded, folds = assign_folds(passages)
    negatives = [[p for p in prompt_passages(t.negative, t, tokenizer, request) if p.tokens] for t in request.experts]
    domains = [Domain(t.name, mine, no) for t, mine, no in zip(request.experts, folded, negatives, strict=True)]
    return domains, folds, expansion, warnings


@dataclass
class _Rows:
    """Collects the rows layer by layer, pass by pass."""

    request: GateRequest
    folds: int
    strength: float | None = None
    weights: dict[int, Tensor] = field(default_factory=dict)
    scales: dict[int, float] = field(default_factory=dict)
    judgements: dict[int, held_out.Judgement] = field(default_factory=dict)
    agreements: dict[int, float] = field(default_factory=dict)
    kept: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def add(self, captured: Captured) -> None:
        """Fits the rows of the captured layers; the first call chooses λ for all."""
        if self.strength is None:
            self.strength = self._choose(captured)
        for index, layer in enumerate(captured.layers):
            self._add(captured, index, layer, self.strength)

    def _choose(self, captured: Captured) -> float:
        if self.request.ridge is not None or self.request.init not in REGULARISED:
            return self.request.ridge or 0.0
        if self.folds < CHOOSING_FOLDS:
            return held_out.FEW_RIDGE
        return held_out.choose_ridge(captured, self.request.init, self.folds)

    def _add(self, captured: Captured, index: int, layer: int, strength: float) -> None:
        moments = captured.moments(index)
        rows = METHODS[self.request.init](moments, strength).cpu()
        logits = held_out.judging_logits(captured, index, self.request.init, strength, self.folds)
        self.judgements[layer] = held_out.judge(logits, captured.labels)
        self.scales[layer] = self._scale(rows, logits, captured, index)
        self.weights[layer] = (self.scales[layer] * rows).float()
        self.agreements[layer] = held_out.bf16_agreement(captured.sample[index], self.weights[layer], captured.labels)
        if self.request.keep_statistics:
            negative = moments.negative / moments.negative_mass.clamp(min=1)[:, None]
            self.kept[layer] = (moments.second.cpu(), (moments.first / moments.mass[:, None]).cpu(), negative.cpu())

    def _scale(self, rows: Tensor, logits: Tensor, captured: Captured, index: int) -> float:
        """1 for top-1, which no scale changes; fitted out of fold; or the one that gives a fixed spread."""
        if self.request.experts_per_token == 1 or len(rows) == 1:
            return 1.0
        if self.folds >= CHOOSING_FOLDS:
            return held_out.best_scale(logits, captured.labels)
        size = held_out.spread(captured.sample[index].double() @ rows.T, captured.labels)
        return held_out.FIXED_SPREAD / size if size else 1.0

    def statistics(self, domains: Sequence[Domain]) -> GateStatistics:
        """The sufficient statistics of all layers."""
        second, means, negative = (
            torch.stack([self.kept[layer][part] for layer in range(self.request.layers)]) for part in range(3)
        )
        return GateStatistics(
            second, means, negative, tuple(d.tokens for d in domains), tuple(d.negative_tokens for d in domains)
        )
