"""NaN and Inf are found in raw bytes wherever they are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moemerge.execute.finite import has_only_finite

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


def raw(values: torch.Tensor) -> memoryview:
    return memoryview(values.view(torch.uint8).numpy())


@pytest.mark.parametrize("name", DTYPES)
@given(position=st.integers(0, 199_999), bad=st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_one_bad_value_is_found(name: str, position: int, bad: float) -> None:
    """A single bad element among many is seen, and none is seen where there is none."""
    dtype = DTYPES[name]
    values = torch.linspace(-1, 1, 200_000, dtype=torch.float64).to(dtype)
    values[0], values[1] = torch.finfo(dtype).max, torch.finfo(dtype).min
    assert has_only_finite(raw(values), name)
    values[position] = bad
    assert not has_only_finite(raw(values), name)
