"""The learning rate over the steps."""

from __future__ import annotations

import pytest

from moemerge.train.schedule import LAST, rate_at, steps_in


def test_warm_up_then_cosine() -> None:
    """It rises to the highest rate, then falls to a tenth of it, and never ends at zero."""
    rates = [rate_at(step, 100, 10) for step in range(100)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(LAST)
    assert rates[0] > 0


def test_few_steps_warm_up_shortly() -> None:
    """A quarter of the steps at most, and one step is taken at the highest rate."""
    assert rate_at(0, 1, 10) == pytest.approx(1.0)
    assert [rate_at(step, 4, 10) for step in range(2)] == pytest.approx([0.5, 1.0])


def test_steps_that_there_is_time_for() -> None:
    """One at least, and never more than asked for."""
    assert (steps_in(60, 2, 200), steps_in(60, 0.1, 200), steps_in(1, 5, 200)) == (30, 200, 1)
