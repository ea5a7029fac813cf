"""Fits the rows of one layer, at one λ or several at once, and judges them on tokens that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from torch import Tensor

from moemerge.gate import held_out
from moemerge.gate.capture import Captured
from moemerge.gate.closed_forms import METHODS
from moemerge.gate.moments import Moments
from moemerge.gate.request import GateRequest

CHOOSING_FOLDS = 3
"""λ and the scale are chosen out of fold with at least so many folds."""


@dataclass(frozen=True)
class LayerRows:
    """The gate of one layer at one λ.

    Attributes:
        weights: the router's rows times the scale, `[E, d]`, fp32.
        scale: see docs/gates.md.
        judgement: how the experts part.
        agreement: see `held_out.bf16_agreement`.
        loss: NLL of the held-out tokens' experts, at the best scale; 0 where λ is not chosen.
    """

    weights: Tensor
    scale: float
    judgement: held_out.Judgement
    agreement: float
    loss: float


def fit_layer(
    captured: Captured, request: GateRequest, strengths: Sequence[float]
) -> tuple[dict[float, LayerRows], Moments]:
    """The rows at each λ of `strengths`, and the moments of all tokens."""
    parts = captured.moments()
    whole = reduce(add, parts)
    method = METHODS[request.init]
    logits = held_out.judging_logits(captured, whole, parts, request.init, strengths)
    tokens, labels = held_out.judged(captured)
    one_wins = request.experts_per_token == 1 or captured.experts == 1  # then no scale changes anything
    choosing = len(strengths) > 1
    found = {}
    for strength, own in zip(strengths, logits, strict=True):
        rows = method(whole, strength).cpu()
        fitted = choosing or (not one_wins and captured.folds >= CHOOSING_FOLDS)
        best = held_out.best_scale(own, labels) if fitted else 1.0
        scale = 1.0 if one_wins else best if fitted else _fixed_scale(tokens, rows, labels)
        weights = (scale * rows).float()
        found[strength] = LayerRows(
            weights,
            scale,
            held_out.judge(own, labels),
            held_out.bf16_agreement(tokens, weights, labels),
            held_out.nll(best * own, labels) if choosing else 0.0,
        )
    return found, whole


def _fixed_scale(tokens: Tensor, rows: Tensor, labels: Tensor) -> float:
    """The scale that gives the logits a fixed spread."""
    size = held_out.spread((tokens.double() @ rows.to(tokens.device).T).cpu(), labels)
    return held_out.FIXED_SPREAD / size if size else 1.0
