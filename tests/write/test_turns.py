"""Tensors are written in their order by several threads, and the first that cannot be is the one that is told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from moemerge.write.weights import _run

THREADS = 2


def run(write: Any, count: int) -> None:
    jobs: Any = [(index, None) for index in range(count)]
    with ThreadPoolExecutor(THREADS) as pool:
        _run(write, jobs, pool, THREADS)


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_each_is_written_once(count: int) -> None:
    """Fewer than there are threads, too."""
    done: list[int] = []
    run(lambda job, _: done.append(job), count)
    assert sorted(done) == list(range(count))


@pytest.mark.parametrize("first", [0, 5])
def test_the_first_that_fails_is_told_though_another_failed_before(first: int) -> None:
    """What comes after a failure is not begun."""
    other_failed, begun = Event(), []

    def write(job: int, _: None) -> None:
        begun.append(job)
        if job == first:
            assert other_failed.wait(10)
            raise ValueError(job)
        if job == first + 1:
            other_failed.set()
            raise ValueError(job)

    with pytest.raises(ValueError, match=f"^{first}$"):
        run(write, 100)
    assert sorted(begun) == list(range(first + 2))
