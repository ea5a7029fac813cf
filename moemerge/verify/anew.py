"""Channels of an expert's FFN that a recipe had drawn anew (`reinitialise`), worked out again.

Drop-upcycling, arXiv 2502.19261: what an FFN's matrix has in the chosen channels is replaced by draws from a normal
distribution of the same mean and deviation. Written apart from what builds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from moemerge.verify.block import Array


@dataclass(frozen=True, slots=True)
class Anew:
    """What is drawn anew in one matrix.

    Attributes:
        share: of the channels.
        axis: the dimension that counts them.
        choice: seeds which they are.
        values: seeds the draws.
    """

    share: float
    axis: int
    choice: int
    values: int

    def replaced(self, shape: tuple[int, ...], blocks: Iterable[Array], again: Iterable[Array]) -> Iterator[Array]:
        """Yields a matrix's blocks of rows, in fp64, with other numbers in the chosen channels.

        Args:
            shape: the matrix's.
            blocks: its rows from the first to the last.
            again: the same once more.
        """
        import numpy as np

        width = shape[self.axis]
        order = np.random.default_rng(self.choice).permutation(width)
        chosen = np.zeros(width, dtype=bool)
        chosen[order[: round(self.share * width)]] = True
        if not chosen.any():
            yield from blocks
            return
        mean, deviation = self._moments(chosen, blocks)
        generator = np.random.default_rng(self.values)
        for block, there in self._with_places(chosen, again):
            values = block.astype(np.float64)
            drawn = generator.standard_normal(int(there.sum())) * deviation + mean
            values[there] = drawn.astype(np.float32)
            yield values

    def _with_places(self, chosen: Array, blocks: Iterable[Array]) -> Iterator[tuple[Array, Array]]:
        """Each block, and which of its elements are chosen."""
        import numpy as np

        done = 0
        for block in blocks:
            rows = chosen[done : done + len(block), None] if self.axis == 0 else chosen[None, :]
            yield block, np.broadcast_to(rows, block.shape)
            done += len(block)

    def _moments(self, chosen: Array, blocks: Iterable[Array]) -> tuple[float, float]:
        """Mean and deviation in fp32, put together from those of the blocks (Chan, Golub and LeVeque 1979)."""
        import numpy as np

        count, mean, spread = 0, 0.0, 0.0
        for block, there in self._with_places(chosen, blocks):
            values = block[there].astype(np.float64)
            if not values.size:
                continue
            both, own = count + values.size, float(values.mean())
            spread += float(((values - own) ** 2).sum()) + (own - mean) ** 2 * count * values.size / both
            mean += (own - mean) * values.size / both
            count = both
        return float(np.float32(mean)), float(np.float32((spread / count) ** 0.5))
