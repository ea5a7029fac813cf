"""Means of bf16 numbers that lie two to a 32-bit word, so that no number changes its width on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HIGH = np.uint32(0xFFFF0000)


@dataclass(frozen=True)
class PairSums:
    """Sums in fp32 of the numbers in words: of all upper halves, then of all lower ones.

    An upper half is its number in fp32 once the lower half is cleared; a lower half is, once it is shifted up. The sum
    of n bf16 numbers is off by at most (n - 1)·2^-24 times the sum of their magnitudes; that of up to 2^16 identical
    ones is exact.

    Attributes:
        words: `[n]`, what is added next, and where the mean comes to lie.
        sums: `[2n]`.
        wide: `[2n]`, memory to work in.
    """

    words: NDArray[np.uint32]
    sums: NDArray[np.float32]
    wide: NDArray[np.float32]

    def begin(self) -> None:
        """The words are the first summand."""
        self._widen(self.sums)

    def add(self) -> None:
        """The words are the next."""
        self._widen(self.wide)
        np.add(self.sums, self.wide, out=self.sums)

    def _widen(self, numbers: NDArray[np.float32]) -> None:
        bits, count = numbers.view(np.uint32), len(self.words)
        np.bitwise_and(self.words, _HIGH, out=bits[:count])
        np.left_shift(self.words, 16, out=bits[count:])

    def mean(self, count: int) -> None:
        """Puts the sums times the fp32 number nearest to 1/count into the words, as the nearest bf16, ties to even.

        What is not finite stays so: a sum of bf16 numbers that is NaN has a fraction that no carry leaves.
        """
        np.multiply(self.sums, np.float32(1 / count), out=self.sums)
        numbers, carry = self.sums.view(np.uint32), self.wide.view(np.uint32)
        np.right_shift(numbers, 16, out=carry)
        np.bitwise_and(carry, 1, out=carry)
        np.add(carry, 0x7FFF, out=carry)
        np.add(numbers, carry, out=numbers)  # rounds up from more than a half, or from a half to an even number
        upper, lower = np.split(numbers, 2)
        np.bitwise_and(upper, _HIGH, out=upper)
        np.right_shift(lower, 16, out=lower)
        np.bitwise_or(upper, lower, out=self.words)
