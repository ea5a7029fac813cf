"""Ways to do something that take turns: how a machine's mood is kept out of a comparison."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def seconds(what: Callable[[], Any]) -> float:
    """Wall-clock seconds."""
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def medians(ways: Mapping[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """The median seconds of each way over so many rounds, after one round that warms up."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(runs + 1):
        for name, way in ways.items():
            took = seconds(way)
            if round_:
                taken[name].append(took)
    return {name: statistics.median(times) for name, times in taken.items()}
