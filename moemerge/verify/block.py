"""What consecutive rows of a computed tensor should be."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from moemerge.verify.numbers import decode

Array = Any  # NDArray of float64 or float32; a name of its own because numpy is loaded lazily
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
class Folded:
    """Consecutive rows that are an adapter's folded ones as they are, in their own dtype.

    Nearly always the folder holds these very bytes; only where it does not is their arithmetic looked at.

    Attributes:
        data: their bytes.
        dtype: safetensors' name of what they are.
        shape: of the rows.
    """

    data: bytes
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def holds(self, data: bytes) -> bool:
        """Whether these are bytes of the folder."""
        return data == self.data

    def block(self) -> Block:
        """The same as numbers."""
        values = decode(self.data, self.dtype).reshape(self.shape)
        return Block(values, operands=(values,), folded=True)
