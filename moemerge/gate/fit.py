"""Fits the gate: texts → passages (and what the specialists add) → statistics → rows, judged on what was held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moemerge.console import Progress, Silent
from moemerge.errors import GateError, Problem
from moemerge.execute.thread_map import ThreadMap
from moemerge.gate import held_out
from moemerge.gate.advantage import with_advantages
from moemerge.gate.blank import blank_gate
from moemerge.gate.capture import Captured, Domain, capture
from moemerge.gate.closed_forms import REGULARISED
from moemerge.gate.expand import Expansion, expand
from moemerge.gate.layer_rows import CHOOSING_FOLDS, LayerRows, fit_layer
from moemerge.gate.mergekit import mergekit_gate
from moemerge.gate.notices import few_tokens, inseparable, rounding, same_texts, too_few_groups
from moemerge.gate.passages import Passage, assign_folds, document_passages, prompt_passages
from moemerge.gate.pool import pool_domains
from moemerge.gate.request import FITTED, MERGEKIT, DenseModels, GateFit, GateRequest, GateStatistics
from moemerge.gate.shift import centred

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT_BYTES = 512 << 20
"""The most that the tokens of layers take which wait for λ, counted in fp32, and the matrices of those that are then
fitted at once."""

ROOM = 7
"""Matrices in fp64 that fitting a layer holds beside its folds' moments."""

SIDE_BY_SIDE = 4
"""Layers that are fitted at once."""


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
        return _unjudged(request, torch.from_numpy(blank_gate(request).weights))
    if models is None or tokenizer is None:
        raise ValueError(f"gate `{request.init}` needs models and a tokenizer")
    if request.init in MERGEKIT:
        weights = mergekit_gate(request, models, tokenizer, progress)
        if request.rule.sees_shifts:
            weights = centred(weights)
        return _unjudged(request, weights, same_texts(request.experts))
    return _fit(request, models, tokenizer, progress)


def _unjudged(request: GateRequest, weights: Tensor, warnings: Sequence[Problem] = ()) -> GateFit:
    return GateFit(weights, (0,) * len(request.experts), (None,) * len(request.layers), warnings=tuple(warnings))


def _fit(request: GateRequest, models: DenseModels, tokenizer: PreTrainedTokenizerBase, progress: Progress) -> GateFit:
    domains, folds, expansion, warnings = _domains(request, models, tokenizer, progress)
    progress.stage(
        "Fitting the gate", len(request.layers), "layers", "fewer texts, or `--set gate.max_tokens=N` of `data`"
    )
    gate = _Gate(request, folds, sum(d.tokens + d.negative_tokens for d in domains), progress)
    for captured in capture(models, domains, request.layers, folds):
        gate.add(captured)
    strength, rows = gate.result()
    tokens = tuple(d.tokens for d in domains)
    names = [d.name for d in domains]
    warnings += few_tokens(names, tokens, request)
    warnings += too_few_groups(names, domains, folds, CHOOSING_FOLDS, request)
    warnings += inseparable(names, [layer.judgement for layer in rows])
    warnings += rounding([layer.agreement for layer in rows], request.layers, request.init)
    mean = held_out.mean_of([layer.judgement for layer in rows])
    return GateFit(
        weights=torch.stack([layer.weights for layer in rows]),
        tokens=tokens,
        separation=tuple(layer.judgement.accuracy if folds > 1 else None for layer in rows),
        confusion=tuple(tuple(row) for row in mean.confusion.tolist()) if folds > 1 else None,
        ridge=strength if request.init in REGULARISED else None,
        scale=tuple(layer.scale for layer in rows),
        samples=expansion.samples,
        warnings=tuple(warnings),
        statistics=gate.statistics(domains) if request.keep_statistics else None,
    )


def _domains(
    request: GateRequest, models: DenseModels, tokenizer: PreTrainedTokenizerBase, progress: Progress
) -> tuple[list[Domain], int, Expansion, list[Problem]]:
    """Every expert's passages with their folds, the number of folds, what was written, and warnings."""
    request = replace(request, context=min(request.context, tokenizer.model_max_length))
    if request.pool:
        domains, folds, warnings = pool_domains(request, models, tokenizer, progress)
        return domains, folds, Expansion(), warnings
    warnings = list(same_texts(request.experts))
    own: list[list[Passage]] = []
    prompt_tokens = []
    for texts in request.experts:
        prompts = prompt_passages(texts.prompts, texts, tokenizer, request)
        prompt_tokens.append(sum(p.tokens for p in prompts))
        documents, left_out = document_passages(
            texts.documents, texts.whose, tokenizer, request, first_group=len(texts.prompts)
        )
        own.append(prompts + documents)
        warnings += [left_out] if left_out is not None else []
    own_tokens = [sum(p.tokens for p in passages) for passages in own]
    empty = [t.name for t, count in zip(request.experts, own_tokens, strict=True) if not count and not t.general]
    if empty:
        raise GateError(
            f"No token to fit the gate from for {', '.join(f'`{name}`' for name in empty)}: the texts are empty",
            hint="give `prompts` of several words or `data`, or use `gate.init: random`",
        )
    expansion = expand(request, models, tokenizer, prompt_tokens, progress)
    warnings += expansion.warnings
    silent = [t.name for number, t in enumerate(request.experts) if t.general and not expansion.passages.get(number)]
    if silent:
        raise GateError(
            f"No token to fit the gate from for {', '.join(f'`{name}`' for name in silent)}: there are no texts, "
            "and the specialist writes none",
            hint="give `prompts` or `data`",
        )
    passages = []
    for number, mine in enumerate(own):
        written = expansion.passages.get(number, [])
        continued = {p.group for p in written}
        passages.append(written + [p for p in mine if p.group not in continued])
    folded, folds = assign_folds(passages)
    negatives = [[p for p in prompt_passages(t.negative, t, tokenizer, request) if p.tokens] for t in request.experts]
    domains = [Domain(t.name, mine, no) for t, mine, no in zip(request.experts, folded, negatives, strict=True)]
    if request.init == "advantage":
        domains = with_advantages(domains, models, progress)
    return domains, folds, expansion, warnings


class _Gate:
    """Collects the rows layer by layer.

    λ is known only when all layers were read that choose it. Where tokens are few, all wait for the end, and layers are
    fitted side by side. Where they are many, a layer is fitted at every λ at once: little beside running its tokens.
    """

    def __init__(self, request: GateRequest, folds: int, tokens: int, progress: Progress) -> None:
        self._request, self._progress = request, progress
        self._choosing = held_out.choosing_layers(len(request.layers))
        self._keeps = tokens * len(request.layers) * request.hidden_size * 4 <= KEPT_BYTES
        self._strengths = _strengths(request, folds)
        matrices = (folds + ROOM) * min(tokens, request.hidden_size) ** 2 * 8
        self._most = min(max(KEPT_BYTES // matrices, 1), SIDE_BY_SIDE)
        self._waiting: dict[int, Captured] = {}
        self._fitted: dict[int, dict[float, LayerRows]] = {}
        self._kept: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def add(self, captured: Captured) -> None:
        """Takes the next layer, which is half of its work."""
        layer = len(self._waiting) + len(self._fitted)
        self._progress.advance(0.5)
        if self._keeps:
            self._waiting[layer] = captured
        else:
            self._fitted[layer] = self._fit(layer, captured, self._strengths)

    def _fit(self, layer: int, captured: Captured, strengths: Sequence[float]) -> dict[float, LayerRows]:
        found, moments = fit_layer(captured, self._request, strengths)
        self._progress.advance(0.5)
        if self._request.keep_statistics:
            negative = moments.negative / moments.negative_mass.clamp(min=1)[:, None]
            means = moments.first / moments.mass[:, None]
            self._kept[layer] = (moments.second.cpu(), means.cpu(), negative.cpu())
        return found

    def _fit_waiting(self, layers: Sequence[int], strengths: Sequence[float]) -> None:
        """Fits those of some layers that wait, several at a time on the CPU."""
        layers = [layer for layer in layers if layer in self._waiting]
        most = self._most if all(self._waiting[layer].tokens.device.type == "cpu" for layer in layers) else 1
        found = ThreadMap(most).map(lambda layer: self._fit(layer, self._waiting.pop(layer), strengths), layers)
        self._fitted.update(zip(layers, found, strict=True))

    def result(self) -> tuple[float, list[LayerRows]]:
        """λ, and every layer's rows."""
        best = self._strengths[0]
        if len(self._strengths) > 1:
            self._fit_waiting(self._choosing, self._strengths)
            chosen = [self._fitted[layer] for layer in self._choosing]
            losses = {strength: sum(found[strength].loss for found in chosen) for strength in self._strengths}
            best = min(losses, key=lambda strength: losses[strength])
        layers = range(len(self._request.layers))
        self._fit_waiting(layers, (best,))
        return best, [self._fitted[layer][best] for layer in layers]

    def statistics(self, domains: Sequence[Domain]) -> GateStatistics:
        """The sufficient statistics of all layers."""
        second, means, negative = (
            torch.stack([self._kept[layer][part] for layer in range(len(self._request.layers))]) for part in range(3)
        )
        return GateStatistics(
            second, means, negative, tuple(d.tokens for d in domains), tuple(d.negative_tokens for d in domains)
        )


def _strengths(request: GateRequest, folds: int) -> tuple[float, ...]:
    """Every λ that the layers are fitted at."""
    if request.ridge is not None or request.init not in REGULARISED:
        return (request.ridge or 0.0,)
    return held_out.GRID if folds >= CHOOSING_FOLDS else (held_out.FEW_RIDGE,)
