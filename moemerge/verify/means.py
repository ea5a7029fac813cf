"""Means of stored bf16 numbers as `build` takes them: Σ xᵢ / n in fp32, then rounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import local

from moemerge.verify.block import Array

Fill = Callable[[memoryview], None]
"""Puts the bytes of a source's numbers into memory."""


class Memory(local):
    """A thread's own: allocated anew for each block, it would be given back and faulted in every time."""

    def __init__(self) -> None:
        self._kept: tuple[Array, Array] | None = None

    def take(self, size: int) -> tuple[Array, Array]:
        """So many fp32 and bf16 numbers, the same ones every time."""
        import numpy as np
        from ml_dtypes import bfloat16

        if self._kept is None or len(self._kept[0]) < size:
            self._kept = np.empty(size, np.float32), np.empty(size, bfloat16)
        return self._kept[0][:size], self._kept[1][:size]


def mean_of(sources: Sequence[Fill], size: int, memory: Memory) -> Array:
    """The mean of sources of `size` numbers each, summed in their order.

    Returns:
        Its bytes, `[2 * size]` uint8, in the thread's memory until the next is asked for.
    """
    import numpy as np

    total, stored = memory.take(size)
    data = stored.view(np.uint8)
    with np.errstate(all="ignore"):  # the folder's own numbers are looked at for what is not finite
        for index, fill in enumerate(sources):
            fill(data.data)
            if index:
                np.add(total, stored, out=total, dtype=np.float32)
            else:
                np.copyto(total, stored)
        np.divide(total, len(sources), out=stored, dtype=np.float32, casting="unsafe")
    return data
