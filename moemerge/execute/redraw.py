"""Channels of an FFN drawn anew, as drop-upcycling has it (Nakamura et al. 2025, arXiv 2502.19261, section 3).

Experts that are copies of one dense model become different: in each, another choice of the FFN's channels loses what
it knew. In each of the three matrices the chosen channels are drawn from N(μ, σ²), where μ and σ are the mean and the
standard deviation of what the matrix has in them, so that activations keep their size.

The numbers are the same on any machine and by any number of threads: the draws are numpy's, in the order of the
matrix's rows; μ and σ are summed up in fp64 and rounded to fp32; the products are rounded once each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moemerge.plan.model import Redraw

Indices = NDArray[np.intp]


def redrawn(
    redraw: Redraw, shape: tuple[int, ...], seeds: tuple[int, int], blocks: Callable[[], Iterable[Tensor]]
) -> Iterator[Tensor]:
    """Yields a matrix's blocks of rows with some channels drawn anew, in fp32.

    Args:
        redraw: what is drawn.
        shape: the matrix's.
        seeds: of the choice, and of the values.
        blocks: reads the matrix from its first row; it is called twice.
    """
    chosen = choose(shape[redraw.axis], redraw.channels, seeds[0])
    mean, deviation = _moments(chosen, redraw.axis, blocks())
    draws = np.random.default_rng(seeds[1])
    for block, inside in _chosen_of(chosen, redraw.axis, blocks()):
        made = block.to(torch.float32, copy=True)
        values = mean + deviation * draws.standard_normal(made[inside].shape)
        made[inside] = torch.from_numpy(values.astype(np.float32))
        yield made


def choose(width: int, channels: int, seed: int) -> Indices:
    """So many of the channels, ascending: the first of a permutation by numpy's default generator."""
    return np.sort(np.random.default_rng(seed).permutation(width)[:channels])


def _chosen_of(
    chosen: Indices, axis: int, blocks: Iterable[Tensor]
) -> Iterator[tuple[Tensor, tuple[slice | Tensor, ...]]]:
    """Each block of rows, and the index of what is chosen in it."""
    start = 0
    for block in blocks:
        if axis == 1:
            inside: tuple[slice | Tensor, ...] = (slice(None), torch.from_numpy(chosen))
        else:
            first, stop = np.searchsorted(chosen, (start, start + len(block)))
            inside = (torch.from_numpy(chosen[first:stop] - start),)
        yield block, inside
        start += len(block)


def _moments(chosen: Indices, axis: int, blocks: Iterable[Tensor]) -> tuple[float, float]:
    """Mean and standard deviation (that of a population) of what the chosen channels have."""
    count, total, squares = 0, 0.0, 0.0
    for block, inside in _chosen_of(chosen, axis, blocks):
        values = block[inside].double().numpy().ravel()
        count += values.size
        total += float(values.sum())
        squares += float(np.square(values).sum())
    mean = total / count
    return float(np.float32(mean)), float(np.float32(math.sqrt(max(squares / count - mean * mean, 0.0))))
