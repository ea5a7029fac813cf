"""What makes a gate right for a router that scores by sigmoids.

A number that is added to all logits of a token changes nothing in a softmax, and much in sigmoids: where all logits are
large, all scores are 1 and the weights even. But `σ(l - b) = e^(l - b) / (1 + e^(l - b))`, and `e^-b` goes out of
weights that are divided by their sum: below b, sigmoids weigh as a softmax of the same logits does, to a factor between
1 and `1 + e^(l - b)`. So a gate loses what its rows have in common, and where tokens are held out, `b a` is taken from
every row: `a·h` is close to 1 on every token (`closed_forms.bias_vector`). b is the one with the lowest negative
log-likelihood of the held-out tokens' experts, whose probability is their share of the scores.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from moemerge.gate.capture import BLOCK, Captured
from moemerge.gate.closed_forms import bias_vector
from moemerge.gate.held_out import balanced
from moemerge.gate.moments import Moments

ENOUGH = 16384
"""Tokens that b is chosen on, evenly spread."""

MARGINS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0)
"""How far b is tried above the largest logit, of which 95 tokens in 100 have none larger."""

LEAST = 6e-5
"""llama.cpp divides by no smaller sum of scores, so a shift that makes it so small is charged for it."""


def centred(rows: Tensor) -> Tensor:
    """Gates `[..., E, d]` without what all rows have in common."""
    return rows - rows.mean(dim=-2, keepdim=True)


def common(captured: Captured, whole: Moments, parts: list[Moments]) -> Tensor:
    """`a·h` of the judged tokens, `[n]`, each with the `a` of the other folds."""
    found = []
    for fold in range(captured.folds):
        vector = bias_vector(whole - parts[fold] if captured.folds > 1 else whole)
        tokens = captured.tokens[captured.places(fold)]
        found.append(torch.cat([block.double() @ vector for block in tokens.split(BLOCK)]).cpu())
    return torch.cat(found)


def loss(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the experts by their shares of the sigmoids, balanced over the experts, nats."""
    logs = functional.logsigmoid(logits)
    sums = logs.logsumexp(dim=1).clamp(min=torch.tensor(LEAST).log().item())
    return float(balanced(labels) @ (sums - logs.gather(1, labels[:, None])[:, 0]))


def best_shift(logits: Tensor, along: Tensor, labels: Tensor) -> float:
    """The b of `b · along` with the lowest loss where it is taken from centred logits `[n, E]`."""
    every = -(-len(logits) // ENOUGH)
    logits, along, labels = logits[::every], along[::every], labels[::every]
    top = float(logits.amax(dim=1).sort().values[round(0.95 * (len(logits) - 1))])
    tried = [b for b in (0.0, *(top + margin for margin in MARGINS)) if b >= 0]
    return min(tried, key=lambda b: loss(logits - b * along[:, None], labels))
