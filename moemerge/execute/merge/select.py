"""The k-th largest of many numbers that are never in memory together."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

COLLECTED = 1 << 19
"""So many candidates are gathered and sorted out at once: 4 MiB, and three times that while it lasts."""
_DIGIT = 16
"""Bits that one pass over the numbers decides."""


def kth_largest(blocks: Callable[[], Iterable[Tensor]], count: int, kth: int) -> Tensor:
    """The exact k-th largest of non-negative numbers, digit by digit of their bits, whose order is the numbers'.

    Args:
        blocks: gives the numbers anew, in contiguous fp64 blocks of any shape; called up to five times.
        count: how many there are.
        kth: 1 for the largest; at most `count`.

    Returns:
        A scalar tensor, fp64. NaN counts as the largest, as in `torch.kthvalue`.
    """
    prefix, shift, left = 0, 64, kth
    while count > COLLECTED and shift:
        shift -= _DIGIT
        counts = torch.zeros(1 << _DIGIT, dtype=torch.int64)
        for block in blocks():
            digits = _matching(block, prefix, shift + _DIGIT).view(torch.int64).bitwise_right_shift(shift)
            counts += torch.bincount(digits.bitwise_and_((1 << _DIGIT) - 1), minlength=1 << _DIGIT)
        from_above = counts.flip(0).cumsum(0)
        digit = len(counts) - 1 - int(torch.searchsorted(from_above, left))
        count = int(counts[digit])
        left -= int(counts[digit + 1 :].sum())
        prefix = prefix << _DIGIT | digit
    if not shift:
        return torch.tensor(prefix, dtype=torch.int64).view(torch.float64)
    found, done = torch.empty(count, dtype=torch.float64), 0  # no list of pieces, which would keep the heap in pieces
    for block in blocks():
        matching = _matching(block, prefix, shift)
        found[done : done + len(matching)] = matching
        done += len(matching)
    return found.kthvalue(count - left + 1).values


def _matching(block: Tensor, prefix: int, shift: int) -> Tensor:
    """The block's numbers, flattened, whose bits from `shift` up are `prefix`; all of them for a shift of 64."""
    flat = block.view(-1)
    return flat if shift == 64 else flat[flat.view(torch.int64).bitwise_right_shift(shift) == prefix]
