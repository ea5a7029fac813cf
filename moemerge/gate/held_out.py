"""Judges a closed form on tokens that it was not fitted to: λ, and how well experts part.

In-sample logits are far too sure of themselves (a scale of 17-24 where held-out tokens want 2-3), so everything here
comes from rows that were fitted without the token's fold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moemerge.gate.capture import BLOCK, Captured
from moemerge.gate.closed_forms import METHODS
from moemerge.gate.moments import Moments

GRID: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""λ that are tried."""

GRID_LAYERS = 8
"""The λ is chosen on so many layers at most, evenly spread."""

CLOSE = 1e-6
"""The scale is found when it changes by no more than this share of itself."""

NEWTON, HALVINGS = 20, 12
"""Steps that find it: Newton's first, then halvings of what range is left."""

FEW_RIDGE = 0.3
"""λ where too little can be held out to choose one."""

SPREAD = 1.0
"""Spread of the logits (see `spread`) that the scale gives: by the loss of the mixture's texts, measured in
docs/decisions/gate-fixed-spread.md. The likelihood of the tokens' domains wants 5 or so, which leaves next to nothing
to the second expert."""

SPREAD_RANGE = (0.05, 50.0)
"""The scale is sought where it gives the logits a spread between these."""


def judged(captured: Captured) -> tuple[Tensor, Tensor]:
    """The tokens that experts are judged on, `[n, d]`, and their labels: all but the negative prompts'."""
    own = len(captured.labels) - captured.sizes[-1]
    return captured.tokens[:own], captured.labels[:own]


def judging_logits(
    captured: Captured, whole: Moments, parts: Sequence[Moments], init: str, strengths: Sequence[float]
) -> Tensor:
    """Logits `[len(strengths), n, E]` of the judged tokens, each from rows fitted without its fold; with one fold, in
    sample."""
    method = METHODS[init]
    found = []
    for fold in range(captured.folds):
        rest = whole - parts[fold] if captured.folds > 1 else whole
        rows = torch.stack([method(rest, strength) for strength in strengths])  # [λ, E, d]
        tokens = captured.tokens[captured.places(fold)]
        found.append(torch.cat([block.double() @ rows.mT for block in tokens.split(BLOCK)], dim=1).cpu())
    return torch.cat(found, dim=1)


def balanced(labels: Tensor) -> Tensor:
    """Weights `[n]` that sum to one, every expert's tokens to the same share."""
    counts = torch.bincount(labels).double()
    return 1 / counts[labels] / (counts > 0).sum()


def spread(logits: Tensor, labels: Tensor) -> float:
    """Root mean square of the logits about each token's mean, balanced over the experts."""
    centred = logits - logits.mean(1, keepdim=True)
    return float((balanced(labels) @ centred.square().mean(1)).sqrt())


def nll(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the expert labels in nats, balanced over the experts."""
    return float(balanced(labels) @ torch.nn.functional.cross_entropy(logits, labels, reduction="none"))


def regret(logits: Tensor, advantages: Tensor, labels: Tensor) -> float:
    """Mean of what the best expert would save more than the one with the largest logit, in nats, balanced over the
    experts' texts. Shapes `[n, E]`, `[n, E]`, `[n]`."""
    chosen = advantages.gather(1, logits.argmax(1, keepdim=True))[:, 0]
    return float(balanced(labels) @ (advantages.amax(1) - chosen).double())


def best_scale(logits: Tensor, labels: Tensor) -> float:
    """The positive factor on the logits that minimises `nll`, which is convex in it: Newton's steps, where they stay
    between the nearest factors that were too small and too large, and halvings of that range's logarithm elsewhere."""
    size = spread(logits, labels)
    if size == 0.0:
        return 1.0
    weights = balanced(labels)
    right = logits.gather(1, labels[:, None])[:, 0]
    logits = logits.T.contiguous()  # [E, n]: sums over a few numbers in a row are slow
    low, high = (bound / size for bound in SPREAD_RANGE)
    scale = math.sqrt(low * high)
    for step in range(NEWTON + HALVINGS):
        weighted = torch.softmax(scale * logits, 0) * logits
        expected = weighted.sum(0)
        slope = float(weights @ (expected - right))
        curvature = float(weights @ ((weighted * logits).sum(0) - expected.square()))
        low, high = (low, scale) if slope > 0 else (scale, high)
        tried = scale - slope / curvature if step < NEWTON and curvature > 0 else 0.0
        before, scale = scale, tried if low < tried < high else math.sqrt(low * high)
        if abs(scale - before) <= CLOSE * scale:
            break
    return scale


def choosing_layers(layers: int) -> range:
    """The layers whose held-out loss chooses λ."""
    step = -(-layers // GRID_LAYERS)
    return range(step // 2, layers, step)


@dataclass(frozen=True)
class Judgement:
    """How the experts part at one layer.

    Attributes:
        confusion: share of expert i's tokens whose largest logit is expert j's, `[E, E]`.
        pairs: accuracy where only experts i and j compete for their tokens, `[E, E]`, symmetric.
    """

    confusion: Tensor
    pairs: Tensor

    @property
    def accuracy(self) -> float:
        """Share of tokens that go to their own expert, balanced over the experts that have some."""
        have = self.confusion.sum(1) > 0
        return float(self.confusion.diagonal()[have].mean())


def judge(logits: Tensor, labels: Tensor) -> Judgement:
    """The confusion at one layer, from logits `[n, E]` and labels `[n]`."""
    experts = logits.shape[1]
    confusion = torch.zeros(experts, experts, dtype=torch.float64)
    wins = torch.full((experts, experts), 0.5, dtype=torch.float64)
    for expert in range(experts):
        own = logits[labels == expert]
        confusion[expert] = torch.bincount(own.argmax(1), minlength=experts) / max(len(own), 1)
        wins[expert] = (own[:, expert, None] > own).double().mean(0) + (own[:, expert, None] == own).double().mean(
            0
        ) / 2
    return Judgement(confusion, (wins + wins.T) / 2)


def bf16_agreement(tokens: Tensor, gates: Tensor, labels: Tensor) -> list[float]:
    """For each gate of `[n, E, d]` the share of tokens whose largest logit is the same with rows and inputs in bf16,
    balanced over the experts."""
    count, experts, width = gates.shape
    rows = gates.float().reshape(-1, width).to(tokens.device)
    exact, rounded = ((tokens.to(kind) @ rows.to(kind).T).float() for kind in (torch.float32, torch.bfloat16))
    same = exact.view(-1, count, experts).argmax(2) == rounded.view(-1, count, experts).argmax(2)
    shares: list[float] = (balanced(labels) @ same.double().cpu()).tolist()
    return shares


def mean_of(judgements: Sequence[Judgement]) -> Judgement:
    """The mean over layers."""
    return Judgement(
        torch.stack([j.confusion for j in judgements]).mean(0), torch.stack([j.pairs for j in judgements]).mean(0)
    )
