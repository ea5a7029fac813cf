"""Means of stored bf16 numbers as `build` takes them, in fp32, two numbers to a 32-bit word."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import local

from moemerge.verify.block import Array, Block

_HALF = 1 << 15
"""Half a unit in the last place of bf16, in those of fp32."""


class Memory(local):
    """A thread's own: allocated anew for each block, it would be given back and faulted in every time."""

    def __init__(self) -> None:
        self._kept: dict[str, Array] = {}

    def take(self, name: str, size: int) -> Array:
        """So many fp32 numbers, the same ones whenever the name is."""
        import numpy as np

        kept = self._kept.get(name)
        if kept is None or len(kept) < size:
            kept = self._kept[name] = np.empty(size, np.float32)
        return kept[:size]


@dataclass(frozen=True, slots=True)
class PairMeans:
    """Consecutive rows of a mean.

    Nearly always the folder holds the bf16 numbers that are nearest to these; only where it does not, the mean is taken
    in fp64.

    Attributes:
        means: those of the words' upper halves, then those of the lower ones, fp32; changed by `holds`.
        size: how many numbers there are.
        memory: to compare in.
        block: the same in fp64.
    """

    means: Array
    size: int
    memory: Memory
    block: Callable[[], Block]

    def holds(self, data: bytes) -> bool:
        """Whether bytes of the folder are all within half a unit in the last place of these.

        As integers, numbers of one sign are in their order, and the bf16 ones among those of fp32 lie 2^16 apart.
        """
        import numpy as np

        gaps, own = self.means.view(np.uint32), _halves(data, self.memory, "next").view(np.uint32)
        np.subtract(gaps, own, out=gaps)
        np.add(gaps, _HALF, out=gaps)
        return bool(gaps.max(initial=0) <= 2 * _HALF)


def mean_of(sources: Iterable[bytes], count: int, memory: Memory) -> Array:
    """The sum of `count` sources, in their order, times the fp32 number nearest to 1/count; valid until the next."""
    import numpy as np

    with np.errstate(all="ignore"):  # the folder's own numbers are looked at for what is not finite
        rest = iter(sources)
        means = _halves(next(rest), memory, "means")
        for data in rest:
            np.add(means, _halves(data, memory, "next"), out=means)
        np.multiply(means, np.float32(1 / count), out=means)
    return means


def _halves(data: bytes, memory: Memory, name: str) -> Array:
    """Of every word's upper half the number, then of every lower half, fp32."""
    import numpy as np

    words = np.frombuffer(data if len(data) % 4 == 0 else data + bytes(2), "<u4")
    numbers = memory.take(name, 2 * len(words))
    bits = numbers.view(np.uint32)
    np.bitwise_and(words, np.uint32(0xFFFF0000), out=bits[: len(words)])
    np.left_shift(words, 16, out=bits[len(words) :])
    return numbers
