"""The gate's closed forms: from the moments of one layer to the router's rows `[E, d]`, in fp64.

`λ` is in units of the mean eigenvalue tr/d, so that it means the same in every layer and width. The systems are solved
in the primal: with λ > 0 the condition number is at most 1 + d/λ, about 1e5, of which fp64 leaves eleven digits, also
where there are fewer tokens than dimensions (a test compares with the n × n dual). All rows are sums of tokens, so
where these span fewer than d dimensions, coordinates in their span will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from moemerge.gate.moments import Moments

FOLD_EPSILON = 1e-3
"""ε of `bias_vector`, in units of the mean eigenvalue."""


def ridge(moments: Moments, strength: float) -> Tensor:
    """Least squares to one-hot domain labels (DUME, arXiv 2603.29765, which gives each row the norm 1), rows centred.

    `W = [(G + λ tr(G)/d I)^-1 M]ᵀ`, where column e of M is `μ_e − η_e`: the token of a domain has the target 1 for its
    own expert and 0 for the others, the token of a negative prompt has −1 for the expert that must not win it. All rows
    are divided by one number, so that their mean square norm is 1: rows of one norm each would order logits that are
    nearly alike, as those of first tokens are, by the rows' norms (docs/decisions/gate-first-token.md).
    """
    targets = moments.first - moments.negative  # [E, d]
    rows = moments.everything.solve(strength, targets)
    rows = rows - rows.mean(0)
    size = rows.square().sum(1).mean().sqrt()
    return rows / size.clamp(min=torch.finfo(rows.dtype).tiny)


def advantage(moments: Moments, strength: float) -> Tensor:
    """Least squares to targets that are made of what each expert saves (`gate.advantage.targets`), with a penalty; rows
    centred, then divided by their norms.

    `W = [(G + λ tr(G)/d I)^-1 B]ᵀ`, where column e of B is `Σ w t_e h` with the expert's targets t_e. But for
    negative prompts a token's targets sum to zero, so centring changes rounding alone.
    """
    assert moments.aims is not None, "passages without advantages"
    rows = moments.everything.solve(strength, moments.aims)
    return _unit(rows - rows.mean(0))


def lda(moments: Moments, strength: float) -> Tensor:
    """Linear discriminant analysis with a shrunken pooled covariance, its bias folded into the rows.

    `W_i = Σ_w^-1 (μ_i − μ̄)`, `b_i = −½ μ_iᵀ Σ_w^-1 μ_i + ½ μ̄ᵀ Σ_w^-1 μ̄`. The prior is the same for all domains, as they
    are balanced, so log π_i is a constant that no softmax sees.
    """
    means, _masses = moments.classes  # [C, d]
    grand = moments.mean
    solved = moments.within.solve(strength, torch.cat([means, grand[None]]))  # rows Σ_w^-1 μ_c, then Σ_w^-1 μ̄
    solved, solved_grand = solved[:-1], solved[-1]
    rows = solved - solved_grand
    bias = -0.5 * (means * solved).sum(1) + 0.5 * (grand * solved_grand).sum()
    return _without_negatives(moments, rows, bias)


def centroid(moments: Moments, _: float) -> Tensor:
    """The mean of each domain, divided by its norm."""
    means, _masses = moments.classes
    rows = _unit(means)
    experts = moments.first.shape[0]
    if rows.shape[0] == experts:
        return rows
    return _unit(_contrast(moments, rows))


def centred(moments: Moments, _: float) -> Tensor:
    """The nearest mean: `W_i = μ_i`, `b_i = −½ |μ_i|²`, folded."""
    means, _masses = moments.classes
    return _without_negatives(moments, means, -0.5 * (means * means).sum(1))


METHODS: Mapping[str, Callable[[Moments, float], Tensor]] = {
    "discriminant": ridge,
    "advantage": advantage,
    "lda": lda,
    "centroid": centroid,
    "centred": centred,
}
"""The fitted methods by name. Each takes the moments of a layer and λ, and gives `[E, d]`."""

REGULARISED: frozenset[str] = frozenset({"discriminant", "advantage", "lda"})
"""Methods that have a λ."""


def bias_vector(moments: Moments) -> Tensor:
    """`a = (E[hhᵀ] + εI)^-1 E[h]`, shape `[d]`: `a·h` is close to 1 on every token, so `b_i a` acts as the bias b_i."""
    return moments.everything.solve(FOLD_EPSILON, moments.mean[None] * moments.total)[0]


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


def _unit(rows: Tensor) -> Tensor:
    norms: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / norms.clamp(min=torch.finfo(rows.dtype).tiny)
