"""Spreads work over the cores item by item, where one item alone keeps few of them busy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class ThreadMap:
    """Threads that work on items at once; they stay for the next items, as starting one costs more than small work.

    Each gets an equal share of torch's threads, the same one at every run, so that the results are the same bits.

    Args:
        most: items that are worked on at once.
    """

    def __init__(self, most: int) -> None:
        import torch

        self._threads = torch.get_num_threads()
        workers = min(self._threads, most)
        share = (self._threads // workers,)
        self._pool = (
            ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=share) if workers > 1 else None
        )

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """The results in the order of `items`; the first error ends it."""
        import torch

        if self._pool is None or len(items) <= 1:
            return [work(item) for item in items]
        try:
            return list(self._pool.map(work, items))
        finally:
            torch.set_num_threads(self._threads)  # a thread sets its own number, and that of threads to come
