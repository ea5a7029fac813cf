"""The arithmetic that makes one shared tensor out of several. It knows tensors, not files.

What needs the whole tensor (an angle, the threshold of a trim) is found in passes over its blocks; the rest is done
block by block, so that nothing here has to hold a tensor in fp64.

Everything is computed in fp64 and rounded once to fp32 (at most twice, by the writer, to the stored dtype). Each
formula adds weighted *differences* to one of its inputs, so merging identical tensors returns them bit for bit,
whatever the weights.

Sources of the formulas: task arithmetic, arXiv 2212.04089; TIES, arXiv 2306.01708; DARE, arXiv 2311.03099;
SLERP, Shoemake 1985.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from moemerge.execute.merge.select import kth_largest


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
    return along_arc(first, second, t, angle_between([(first, second)]))


def angle_between(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor | None:
    """The angle between two vectors that come in pairs of blocks; None where they are nearly parallel, or one is zero.

    The blocks' sums are added in their order.
    """
    dot = torch.zeros((), dtype=torch.float64)
    norms: list[tuple[float, float]] = []  # no tensors: small ones that live on keep the heap from reusing blocks
    for first, second in pairs:
        dot = dot + torch.dot(first.flatten(), second.flatten())
        norms.append((float(first.norm()), float(second.norm())))
    one, other = torch.tensor(norms, dtype=torch.float64).T.contiguous().norm(dim=1)
    cosine = dot / (one * other)
    if not torch.isfinite(cosine) or abs(float(cosine)) > 1.0 - 1e-7:
        return None
    return torch.arccos(cosine)


def along_arc(first: Tensor, second: Tensor, t: float, angle: Tensor | None) -> Tensor:
    """A block at `t` between two vectors' blocks, the vectors being `angle` apart."""
    if angle is None:
        return first + (second - first) * t
    return (torch.sin((1.0 - t) * angle) * first + torch.sin(t * angle) * second) / torch.sin(angle)


def ties(base: Tensor, sources: Sequence[Tensor], weights: Sequence[float], density: float, scaling: float) -> Tensor:
    """Keeps the largest `density` of each delta, elects a sign for each element, averages what agrees with it."""
    deltas = [source - base for source in sources]
    least = [trim_threshold(lambda delta=delta: [delta.abs()], delta.numel(), density) for delta in deltas]  # type: ignore[misc]  # mypy infers no type for a lambda's default
    kept = [trim(delta, threshold) for delta, threshold in zip(deltas, least, strict=True)]
    return elect(base, kept, weights, scaling)


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
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    deltas = [drop(source - base, density, draw) for source, draw in zip(sources, generators, strict=True)]
    return elect(base, deltas, weights, scaling)


def trim_threshold(sizes: Callable[[], Iterable[Tensor]], count: int, density: float) -> Tensor | None:
    """The least magnitude that trimming keeps; None where it keeps everything.

    Args:
        sizes: gives the magnitudes of a whole tensor's delta anew, in contiguous fp64 blocks.
        count: how many there are.
        density: the share to keep.
    """
    keep = max(round(density * count), 1)
    return kth_largest(sizes, count, keep) if keep < count else None


def trim(delta: Tensor, threshold: Tensor | None) -> Tensor:
    """A delta's block without what is smaller than the threshold."""
    return delta if threshold is None else torch.where(delta.abs() >= threshold, delta, 0.0)


def drop(delta: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """A delta's block with a random `density` of it kept and rescaled, in place.

    Blocks of one tensor, taken in order with one generator, get the mask that the whole tensor would.
    """
    return delta.mul_(torch.rand(delta.shape, generator=generator) < density).div_(density)


def elect(base: Tensor, deltas: Sequence[Tensor], weights: Sequence[float], scaling: float) -> Tensor:
    """base + λ · the weighted mean of the deltas that have the sign of their weighted sum, element by element.

    The deltas are used up: they are weighted in place.
    """
    weighted = [delta.mul_(weight) for delta, weight in zip(deltas, weights, strict=True)]
    sign = weighted[0].clone()
    for delta in weighted[1:]:
        sign += delta
    sign.sign_()
    total, count = torch.zeros_like(base), torch.zeros_like(base)
    for delta, weight in zip(weighted, weights, strict=True):
        agrees = (torch.sign(delta) == sign) & (delta != 0)
        total += torch.where(agrees, delta, 0.0)
        count += agrees.to(count.dtype) * weight
    return total.mul_(scaling).div_(count.clamp_(min=torch.finfo(count.dtype).tiny)).add_(base)
