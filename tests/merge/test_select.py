"""The k-th largest by passes over blocks is the one that sorting gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moemerge.execute.merge import select

NUMBERS = st.one_of(
    st.floats(0, allow_nan=False, allow_infinity=True),
    st.sampled_from([0.0, 5e-324, 1.0, 1.0 + 2**-52, 1.0 + 2**-40, 2.0]),
)


@settings(deadline=None, max_examples=150)
@given(numbers=st.lists(NUMBERS, min_size=1, max_size=60), data=st.data())
@pytest.mark.parametrize("collected", [0, 1, 7, 100])
def test_it_is_what_sorting_gives(collected: int, numbers: list[float], data: st.DataObject) -> None:
    """Also among equal numbers and numbers that differ in their last bit, however few may be gathered."""
    kth = data.draw(st.integers(1, len(numbers)))
    step = data.draw(st.integers(1, len(numbers)))
    values = torch.tensor(numbers, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "COLLECTED", collected)
        found = select.kth_largest(lambda: values.split(step), len(numbers), kth)
    assert found.dtype is torch.float64
    assert float(found) == sorted(numbers, reverse=True)[kth - 1]


def test_nan_is_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `torch.kthvalue` has it."""
    monkeypatch.setattr(select, "COLLECTED", 0)
    values = torch.tensor([1.0, float("nan"), 3.0, float("inf")], dtype=torch.float64)
    assert torch.isnan(select.kth_largest(lambda: [values], 4, 1))
    assert float(select.kth_largest(lambda: [values], 4, 2)) == float("inf")
