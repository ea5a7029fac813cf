"""How leads for the gate are fitted: ridges on other targets and weights, and what is no plain ridge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hard_reading import Read
from torch import Tensor

LAMBDA = 0.1
NEIGHBOURS = 3
"""Layers whose moments are pooled in one of the leads."""


def solve(inputs: Tensor, targets: Tensor, weights: Tensor, ridge: float = LAMBDA) -> Tensor:
    """Weighted least squares with a penalty, `[E, d]`, fp64; λ in units of the mean eigenvalue."""
    inputs = inputs.double()
    weighted = inputs * weights[:, None]
    second = weighted.T @ inputs
    second.diagonal().add_(ridge * second.diagonal().mean())
    rows: Tensor = torch.linalg.solve(second, weighted.T @ targets).T
    return rows


def unit(rows: Tensor) -> Tensor:
    """Rows of norm 1."""
    norms: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / norms


def spread_out(rows: Tensor, inputs: Tensor, weights: Tensor, spread: float = 1.0) -> Tensor:
    """Rows whose logits have a spread about each token's mean."""
    logits = inputs.double() @ rows.T
    centred = logits - logits.mean(1, keepdim=True)
    return rows * (spread / float((weights @ centred.square().mean(1)).sqrt()))


def gate(
    read: Read, targets: Tensor, weights: Tensor | None = None, ridge: float = LAMBDA, spreads: Sequence[float] = ()
) -> Tensor:
    """Ridge on targets `[n, E]` in every layer, `[L, E, d]`."""
    weights = read.even if weights is None else weights / weights.sum()
    rows = []
    for layer, inputs in enumerate(read.inputs):
        own = unit(solve(inputs, targets, weights, ridge))
        rows.append(spread_out(own, inputs, read.even, spreads[layer] if spreads else 1.0))
    return torch.stack(rows).float()


def by_owner(read: Read, amounts: Tensor) -> Tensor:
    """Sums of `[n]` over each expert's tokens, given to each of these: `[n]`."""
    sums = torch.zeros(read.saved.shape[1], dtype=torch.float64).index_add_(0, read.owners, amounts)
    return sums[read.owners]


def shared_out(read: Read, weights: Tensor) -> Tensor:
    """Weights `[n]` of which every expert's tokens have the same share."""
    return weights / by_owner(read, weights)


def by_expert(read: Read, weights: Tensor) -> Tensor:
    """Weights `[n]` that are alike for all tokens of an expert, with the totals that `weights` give."""
    return by_owner(read, weights * read.even) * read.even


def pooled(read: Read) -> Tensor:
    """Ridge on labels with the second moments of neighbouring layers added up."""
    rows, weights = [], read.even
    inputs = [one.double() / one.double().square().mean().sqrt() for one in read.inputs]
    seconds = [(one * weights[:, None]).T @ one for one in inputs]
    for layer, own in enumerate(inputs):
        near = range(max(layer - NEIGHBOURS // 2, 0), min(layer + NEIGHBOURS // 2 + 1, len(inputs)))
        second = torch.stack([seconds[one] for one in near]).sum(0)
        second.diagonal().add_(LAMBDA * second.diagonal().mean())
        found = torch.linalg.solve(second, (own * weights[:, None]).T @ read.labels).T
        rows.append(spread_out(unit(found), read.inputs[layer], weights))
    return torch.stack(rows).float()


def evened(read: Read) -> Tensor:
    """Ridge on labels from what a token's input tells of the mean of its text."""
    rows = []
    for inputs in read.inputs:
        own = inputs.double()
        count = int(read.texts.max()) + 1
        sums = torch.zeros(count, own.shape[1], dtype=torch.float64).index_add_(0, read.texts, own)
        means = (sums / torch.bincount(read.texts, minlength=count).clamp(min=1)[:, None])[read.texts]
        to_mean = solve(own, means, read.even)  # [d, d]
        rows.append(spread_out(unit(solve(means, read.labels, read.even) @ to_mean), inputs, read.even))
    return torch.stack(rows).float()


def logistic(read: Read, *, steps: int = 3) -> Tensor:
    """Newton's steps of softmax regression from the ridge on labels: least squares that the Hessian weighs."""
    rows = []
    labels, even = read.labels.float(), read.even.float()
    for own in read.inputs:
        second = (own * even[:, None]).T @ own
        penalty = LAMBDA * float(second.diagonal().mean())
        found = spread_out(unit(solve(own, read.labels, read.even)), own, read.even, 2.0).float()
        for _ in range(steps):
            chances = (own @ found.T).softmax(1)
            slope = ((chances - labels) * even[:, None]).T @ own
            for expert in range(len(found)):  # each row by its own curvature: the blocks on the diagonal
                curved = even * chances[:, expert] * (1 - chances[:, expert])
                hessian = (own * curved[:, None]).T @ own
                hessian.diagonal().add_(penalty * float(curved.sum()))
                found[expert] -= torch.linalg.solve(hessian, slope[expert])
        rows.append(spread_out(found.double(), own, read.even))
    return torch.stack(rows).float()


def to_scale(read: Read) -> Tensor:
    """What is saved, `[n, E]`, for every expert's tokens to one scale."""
    squares = by_owner(read, read.even * read.saved.square().mean(1)) / by_owner(read, read.even)
    return read.saved / squares.sqrt()[:, None]


def best(read: Read) -> Tensor:
    """One-hot of the expert that saves the most around each token, `[n, E]`: labels that nobody gave."""
    return torch.nn.functional.one_hot(read.saved.argmax(1), read.saved.shape[1]).double()


def beside(labels: Tensor, saved: Tensor, share: float) -> Tensor:
    """Labels, and a share of what is saved, each to the same spread."""
    return (1 - share) * labels / labels.std() + share * saved / saved.std()
