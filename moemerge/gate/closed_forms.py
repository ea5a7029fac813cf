"""The gate's closed forms: from the moments of one layer to the router's rows `[E, d]`, in fp64.

`λ` is in units of the mean eigenvalue tr/d, so that it means the same in every layer and width. The systems are solved
in the primal: with λ > 0 the condition number is at most 1 + d/λ, about 1e5, of which fp64 leaves eleven digits, also
where there are fewer tokens than dimensions (a test compares with the n × n dual). All rows are sums of tokens, so
where these span fewer than d dimensions, coordinates in their span will do.

A matrix is factorised in fp32, which takes half as long, and the solution corrected by its fp64 residual until it is
that of fp64 (mixed-precision iterative refinement, as LAPACK's `dsposv`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from moemerge.gate.moments import Moments

FOLD_EPSILON = 1e-3
"""ε of `bias_vector`, in units of the mean eigenvalue."""

CORRECTIONS = 4
"""Corrections of an fp32 solution that are worth an fp64 factorisation."""

EXACT = 1e-12
"""The share of itself by which a corrected solution may still be off: what is left to fp64 in practice."""


def ridge(moments: Moments, strength: float) -> Tensor:
    """Least squares to one-hot domain labels (DUME, arXiv 2603.29765), rows divided by their norms.

    `W = [(G + λ tr(G)/d I)^-1 M]ᵀ`, where column e of M is `μ_e − η_e`: the token of a domain has the target 1 for its
    own expert and 0 for the others, the token of a negative prompt has −1 for the expert that must not win it.
    """
    targets = moments.first - moments.negative  # [E, d]
    return _unit(_solve(moments.second, strength, targets, moments.width))


def lda(moments: Moments, strength: float) -> Tensor:
    """Linear discriminant analysis with a shrunken pooled covariance, its bias folded into the rows.

    `W_i = Σ_w^-1 (μ_i − μ̄)`, `b_i = −½ μ_iᵀ Σ_w^-1 μ_i + ½ μ̄ᵀ Σ_w^-1 μ̄`. The prior is the same for all domains, as they
    are balanced, so log π_i is a constant that no softmax sees.
    """
    means, masses = _classes(moments)  # [C, d], [C]
    grand = moments.mean
    within = (moments.second - (means * masses[:, None]).T @ means) / moments.total
    solved = _solve(within, strength, means, moments.width)  # rows Σ_w^-1 μ_c
    solved_grand = _solve(within, strength, grand[None], moments.width)[0]
    rows = solved - solved_grand
    bias = -0.5 * (means * solved).sum(1) + 0.5 * (grand * solved_grand).sum()
    return _without_negatives(moments, rows, bias)


def centroid(moments: Moments, _: float) -> Tensor:
    """The mean of each domain, divided by its norm."""
    means, _masses = _classes(moments)
    rows = _unit(means)
    experts = moments.first.shape[0]
    if rows.shape[0] == experts:
        return rows
    return _unit(_contrast(moments, rows))


def centred(moments: Moments, _: float) -> Tensor:
    """The nearest mean: `W_i = μ_i`, `b_i = −½ |μ_i|²`, folded."""
    means, _masses = _classes(moments)
    return _without_negatives(moments, means, -0.5 * (means * means).sum(1))


METHODS: Mapping[str, Callable[[Moments, float], Tensor]] = {
    "discriminant": ridge,
    "lda": lda,
    "centroid": centroid,
    "centred": centred,
}
"""The fitted methods by name. Each takes the moments of a layer and λ, and gives `[E, d]`."""

REGULARISED: frozenset[str] = frozenset({"discriminant", "lda"})
"""Methods that have a λ."""


def bias_vector(moments: Moments) -> Tensor:
    """`a = (E[hhᵀ] + εI)^-1 E[h]`, shape `[d]`: `a·h` is close to 1 on every token, so `b_i a` acts as the bias b_i."""
    return _solve(moments.second / moments.total, FOLD_EPSILON, moments.mean[None], moments.width)[0]


def _without_negatives(moments: Moments, rows: Tensor, bias: Tensor) -> Tensor:
    """Folds the bias and takes the negative classes out of their experts' rows.

    What all experts have in common is taken away: no softmax over the experts sees it, and bf16 does.
    """
    folded = _contrast(moments, rows + bias[:, None] * bias_vector(moments))
    return folded - folded.mean(0)


def _contrast(moments: Moments, rows: Tensor) -> Tensor:
    """`δ_e − (δ_η − δ̄)` for an expert with negative prompts η, where δ̄ is the experts' mean discriminant.

    Shapes `[C, d] -> [E, d]`. Measured against δ̄, since that is near zero on tokens that are neither e nor η.
    """
    experts = moments.first.shape[0]
    result = rows[:experts].clone()
    with_negatives = moments.negative_mass.nonzero().flatten()
    result[with_negatives] -= rows[experts:] - rows[:experts].mean(0)
    return result


def _classes(moments: Moments) -> tuple[Tensor, Tensor]:
    """Means `[C, d]` and masses `[C]` of the experts' domains, then of the negative prompts that there are."""
    there = moments.negative_mass > 0
    masses = torch.cat([moments.mass, moments.negative_mass[there]])
    return torch.cat([moments.first, moments.negative[there]]) / masses[:, None], masses


def _solve(matrix: Tensor, strength: float, rows: Tensor, width: int | None) -> Tensor:
    """Rows of `(matrix + λ tr/d I)^-1` applied to `rows` `[C, d]`, by Cholesky."""
    unit = (matrix.diagonal().sum() / (width or matrix.shape[0])).clamp(min=torch.finfo(matrix.dtype).tiny)
    regularised = matrix / unit  # which fp32 holds, however large or small the hidden states are
    regularised.diagonal().add_(max(strength, torch.finfo(matrix.dtype).tiny))
    wanted = (rows / unit).T
    solution = _refined(regularised, wanted)
    if solution is None:
        solution = torch.cholesky_solve(wanted, torch.linalg.cholesky(regularised))
    return solution.T


def _refined(matrix: Tensor, wanted: Tensor) -> Tensor | None:
    """The solution `[d, C]` from a factor in fp32; None where that is too far off.

    The first correction tells the relative error of a solve by the factor, and each correction leaves that share of
    the error before it.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix.float())
    if failed:
        return None
    solution = torch.cholesky_solve(wanted.float(), factor).double()
    share = 0.0
    for corrections in range(1, CORRECTIONS + 1):
        correction = torch.cholesky_solve((wanted - matrix @ solution).float(), factor).double()
        solution += correction
        if corrections == 1:
            share = float(correction.norm() / solution.norm().clamp(min=torch.finfo(matrix.dtype).tiny))
        if share ** (corrections + 1) <= EXACT:
            return solution
    return None


def _unit(rows: Tensor) -> Tensor:
    norms: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / norms.clamp(min=torch.finfo(rows.dtype).tiny)
