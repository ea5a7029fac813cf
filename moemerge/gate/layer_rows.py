"""Fits the rows of one layer, at one λ or several at once, and judges them on tokens that were held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moemerge.gate import held_out, shift
from moemerge.gate.capture import Captured
from moemerge.gate.closed_forms import METHODS, bias_vector
from moemerge.gate.moments import Moments, together
from moemerge.gate.request import GateRequest

CHOOSING_FOLDS = 3
"""λ is chosen out of fold with at least so many folds, and what shifts the logits of sigmoids."""

FIRST_SHARE: Mapping[str, float] = {"discriminant": 0.1}
"""By method, the share of an expert's weight that the first tokens of its texts have at least, all together; by the
other methods they have no more than other tokens. Measured in docs/decisions/gate-first-token.md."""


@dataclass(frozen=True)
class LayerRows:
    """The gate of one layer at one λ.

    Attributes:
        weights: the router's rows times the scale, `[E, d]`, fp32; for sigmoids see `shift`.
        scale: see docs/gates.md.
        judgement: how the experts part.
        agreement: see `held_out.bf16_agreement`.
        loss: what chooses λ, on held-out tokens: the regret of `advantage`, otherwise the NLL of the tokens' experts at
            the best scale; 0 where λ is not chosen.
    """

    weights: Tensor
    scale: float
    judgement: held_out.Judgement
    agreement: float
    loss: float


def fit_layer(
    captured: Captured, request: GateRequest, strengths: Sequence[float]
) -> tuple[dict[float, LayerRows], Moments]:
    """The rows at each λ of `strengths`, and the moments of all tokens, in all dimensions where they are to be kept.

    Where there are fewer tokens than dimensions, as with a few prompts for a wide model, all is computed in the span
    of the tokens: the same numbers from smaller systems.
    """
    basis, inside = _span(captured)
    moments = inside.moments(FIRST_SHARE.get(request.init, 0.0))
    parts = [replace(part, width=captured.tokens.shape[1]) for part in moments]
    whole = together(parts)
    method = METHODS[request.init]
    logits = held_out.judging_logits(inside, whole, parts, request.init, strengths)
    tokens, labels = held_out.judged(captured)
    advantages = None if captured.advantages is None else captured.advantages[: len(labels)]
    one_wins = request.experts_per_token == 1 or captured.experts == 1  # then no scale changes anything
    sigmoids = request.rule.sees_shifts
    sought = sigmoids and not one_wins and captured.folds >= CHOOSING_FOLDS
    along = shift.common(inside, whole, parts) if sought else None
    vector = None if along is None else _outside(bias_vector(whole)[None], basis).cpu()
    scales, weights, losses = [], [], []
    for strength, own in zip(strengths, logits, strict=True):
        rows = _outside(method(whole, strength), basis).cpu()
        rows = shift.centred(rows) if sigmoids else rows
        # with one expert per token only the scores of sigmoids, which must not all be 1, see the scale
        scales.append(1.0 if one_wins and not sigmoids else _scale(tokens, rows, labels))
        if along is not None and vector is not None:
            by = shift.best_shift(scales[-1] * shift.centred(own.mT).mT, along, labels)
            rows = rows - by / scales[-1] * vector
        weights.append((scales[-1] * rows).float())
        losses.append(_loss(own, labels, advantages) if len(strengths) > 1 else 0.0)
    judgements = [held_out.judge(own, labels) for own in logits]
    agreements = held_out.bf16_agreement(tokens, torch.stack(weights), labels)
    found = map(LayerRows, weights, scales, judgements, agreements, losses)
    if basis is not None and request.keep_statistics:
        whole = replace(
            whole,
            second=basis @ whole.second @ basis.T,
            first=_outside(whole.first, basis),
            negative=_outside(whole.negative, basis),
        )
    return dict(zip(strengths, found, strict=True)), whole


def _span(captured: Captured) -> tuple[Tensor | None, Captured]:
    """An orthonormal basis `[d, n]` of fewer tokens than dimensions, and the tokens in its coordinates."""
    tokens, width = captured.tokens.shape
    if tokens >= width:
        return None, captured
    basis: Tensor = torch.linalg.qr(captured.tokens.double().T).Q
    return basis, replace(captured, tokens=captured.tokens.double() @ basis)


def _outside(rows: Tensor, basis: Tensor | None) -> Tensor:
    return rows if basis is None else rows @ basis.T


def _loss(logits: Tensor, labels: Tensor, advantages: Tensor | None) -> float:
    """What chooses λ, from logits of held-out tokens."""
    if advantages is not None:
        return held_out.regret(logits, advantages, labels)
    return held_out.nll(held_out.best_scale(logits, labels) * logits, labels)


def _scale(tokens: Tensor, rows: Tensor, labels: Tensor) -> float:
    """The scale that gives the logits a fixed spread."""
    size = held_out.spread((tokens.double() @ rows.to(tokens.device).T).cpu(), labels)
    return held_out.SPREAD / size if size else 1.0
