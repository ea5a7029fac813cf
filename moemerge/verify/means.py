"""Means of stored bf16 numbers as `build` takes them: Σ xᵢ / n in fp32, then rounded."""

from __future__ import annotations

from collections.abc import Iterable
from threading import local

from moemerge.verify.block import Array


class Memory(local):
    """A thread's own: allocated anew for each block, it would be given back and faulted in every time."""

    def __init__(self) -> None:
        import numpy as np

        self._kept = np.empty(0, np.float32)

    def take(self, size: int) -> Array:
        """So many fp32 numbers, the same ones every time."""
        import numpy as np

        if len(self._kept) < size:
            self._kept = np.empty(size, np.float32)
        return self._kept[:size]


def mean_of(sources: Iterable[bytes], count: int, size: int, memory: Memory) -> Array:
    """The bytes, `[2 * size]` uint8, of the mean of `count` sources of `size` numbers each, summed in their order."""
    import numpy as np
    from ml_dtypes import bfloat16

    total = memory.take(size)
    numbers = (np.frombuffer(data, bfloat16) for data in sources)
    with np.errstate(all="ignore"):  # the folder's own numbers are looked at for what is not finite
        np.copyto(total, next(numbers))
        for more in numbers:
            np.add(total, more, out=total, dtype=np.float32)
        np.divide(total, count, out=total)
        return total.astype(bfloat16).view(np.uint8)
