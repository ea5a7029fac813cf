"""The arithmetic that makes one shared tensor out of several. It knows tensors, not files.

Everything is computed in fp64 and rounded once to fp32 (at most twice, by the writer, to the stored dtype). Each
formula adds weighted *differences* to one of its inputs, so merging identical tensors returns them bit for bit,
whatever the weights.

Sources of the formulas: task arithmetic, arXiv 2212.04089; TIES, arXiv 2306.01708; DARE, arXiv 2311.03099;
SLERP, Shoemake 1985.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean(sources: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted mean: x₀ + Σ wᵢ (xᵢ − x₀) / Σ wᵢ.

    Args:
        sources: equally shaped fp64 tensors.
        weights: positive, one a source.
    """
    result = sources[0].clone()
    total = sum(weights)
    for source, weight in zip(sources[1:], weights[1:], strict=True):
        result += (source - sources[0]) * (weight / total)
    return result


def task_arithmetic(base: Tensor, sources: Sequence[Tensor], weights: Sequence[float], scaling: float) -> Tensor:
    """base + λ · Σ wᵢ (xᵢ − base)."""
    result = base.clone()
    for source, weight in zip(sources, weights, strict=True):
        result += (source - base) * (scaling * weight)
    return result


def slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    """Spherical interpolation between two whole tensors, seen as vectors; linear where they are nearly parallel."""
    cosine = torch.dot(first.flatten(), second.flatten()) / (first.norm() * second.norm())
    if not torch.isfinite(cosine) or abs(float(cosine)) > 1.0 - 1e-7:
        return first + (second - first) * t
    angle = torch.arccos(cosine)
    return (torch.sin((1.0 - t) * angle) * first + torch.sin(t * angle) * second) / torch.sin(angle)


def ties(base: Tensor, sources: Sequence[Tensor], weights: Sequence[float], density: float, scaling: float) -> Tensor:
    """Keeps the largest `density` of each delta, elects a sign for each element, averages what agrees with it."""
    return _elect(base, [_trim(source - base, density) for source in sources], weights, scaling)


def dare_ties(
    base: Tensor,
    sources: Sequence[Tensor],
    weights: Sequence[float],
    density: float,
    scaling: float,
    seeds: Sequence[int],
) -> Tensor:
    """Keeps a random `density` of each delta, rescaled by its inverse, then elects signs as TIES does.

    Args:
        seeds: one a source; the mask is `torch.rand(shape, generator=Generator().manual_seed(seed)) < density`.
    """
    deltas = []
    for source, seed in zip(sources, seeds, strict=True):
        kept = torch.rand(base.shape, generator=torch.Generator().manual_seed(seed)) < density
        deltas.append((source - base) * kept / density)
    return _elect(base, deltas, weights, scaling)


def _trim(delta: Tensor, density: float) -> Tensor:
    keep = max(round(density * delta.numel()), 1)
    if keep >= delta.numel():
        return delta
    threshold = delta.abs().flatten().kthvalue(delta.numel() - keep + 1).values
    return torch.where(delta.abs() >= threshold, delta, 0.0)


def _elect(base: Tensor, deltas: Sequence[Tensor], weights: Sequence[float], scaling: float) -> Tensor:
    weighted = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
    sign = torch.sign(torch.stack(weighted).sum(0))
    total = torch.zeros_like(base)
    count = torch.zeros_like(base)
    for delta, weight in zip(weighted, weights, strict=True):
        agrees = (torch.sign(delta) == sign) & (delta != 0)
        total += torch.where(agrees, delta, 0.0)
        count += agrees.to(count.dtype) * weight
    return base + scaling * total / count.clamp(min=torch.finfo(count.dtype).tiny)
