"""Spreads work over the cores item by item, where one item alone keeps few of them busy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item], most: int) -> list[Result]:
    """The results in the order of `items`, of which at most `most` are worked on at once.

    Each gets an equal share of torch's threads, the same one at every run, so that the results are the same bits.
    """
    import torch

    threads = torch.get_num_threads()
    workers = min(threads, most, len(items))
    if workers <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
        try:
            return list(pool.map(work, items))
        finally:
            torch.set_num_threads(threads)  # a thread sets its own number, and that of threads to come
