"""Which layers stay dense, as a recipe's `layers` says it."""

from __future__ import annotations

from collections.abc import Iterable

AGREE = "agree"
"""The key that stands for the layers in which all experts have the same FFN."""


def layer_range(key: str) -> range:
    """The layers that a key such as `3` or `0-1` names; none where it is `agree`, or ends before it begins."""
    if key == AGREE:
        return range(0)
    first, _, last = key.partition("-")
    return range(int(first), int(last or first) + 1)


def numbered(keys: Iterable[str]) -> frozenset[int]:
    """All layers that keys name by their numbers."""
    return frozenset(layer for key in keys for layer in layer_range(key))


def as_ranges(layers: Iterable[int]) -> str:
    """Layers as a recipe would name them: `0-1, 5`."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
