"""The learning rate over the steps, and how many steps there is time for."""

from __future__ import annotations

import math

LAST = 0.1
"""Share of the highest rate at the last step."""


def rate_at(step: int, steps: int, warm_up: int) -> float:
    """Factor on the highest rate at a step (from 0): a linear warm-up, then a cosine to `LAST`.

    The warm-up takes a quarter of the steps at most.
    """
    warm_up = min(warm_up, steps // 4)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    done = (step - warm_up) / max(steps - 1 - warm_up, 1)
    return LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def fading(step: int, steps: int) -> float:
    """Factor on what helps at the beginning alone, at a step (from 0): half a cosine to 0 at half of the steps."""
    return 0.5 * (1 + math.cos(math.pi * min(2 * step / max(steps, 1), 1.0)))


def steps_in(seconds: float, a_step: float, most: int) -> int:
    """Steps that there is time for, at least one."""
    return max(min(int(seconds / max(a_step, 1e-9)), most), 1)
