"""What consecutive rows of a computed tensor should be."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

Array = Any  # NDArray; a name of its own because numpy is loaded lazily
SUMMING_SLACK = 2.0**-40
"""Error of fp64 sums, as a share of the largest operand."""
SINGLE = 2.0**-24
"""Error of rounding to fp32, as a share of what is rounded."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of a tensor's part.

    Attributes:
        values: what they should be, fp64, or fp32 that is exact.
        others: what they may be too, where rounding decides an election.
        operands: what went into them: they bound the error of any way of summing.
        folded: whether an operand is a product of matrices in fp32, whose last bits depend on the machine.
        slack: error of sums, as a share of the largest operand: it shows where operands cancel.
    """

    values: Array
    others: tuple[Array, ...] = ()
    operands: Collection[Array] = ()
    folded: bool = False
    slack: float = SUMMING_SLACK

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(self.values.size)


@dataclass(frozen=True, slots=True)
class ExpectedBytes:
    """Consecutive rows that are nearly always these very bytes; only where they are not is their arithmetic looked at.

    Attributes:
        data: the bytes, `[n]` uint8, n even, until the next rows are asked for.
        size: the number of elements.
        block: gives the same as numbers.
    """

    data: Array
    size: int
    block: Callable[[], Block]

    def holds(self, data: bytes) -> bool:
        """Whether these are bytes of the folder."""
        import numpy as np

        return np.array_equal(self.data.view(np.uint16), np.frombuffer(data, np.uint16))
