"""Bytes are decoded as torch decodes them, and one unit in the last place is the gap to the next number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moemerge.verify.compare import _near
from moemerge.verify.numbers import FORMATS, decode, first_not_finite, largest, unit

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def raw(values: torch.Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("name", ["BF16", "F16"])
def test_every_number_of_16_bits_is_decoded(name: str) -> None:
    """All 65,536 of them, NaN and Inf included."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    expected = bits.view(DTYPES[name]).float().numpy()
    np.testing.assert_array_equal(decode(raw(bits), name), expected)


@pytest.mark.parametrize("name", DTYPES)
@given(position=st.integers(0, 199_999), bad=st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_the_first_bad_value_is_found(name: str, position: int, bad: float) -> None:
    """Wherever it is, and none where there is none, up to the largest number."""
    dtype = DTYPES[name]
    values = torch.linspace(-1, 1, 200_000, dtype=torch.float64).to(dtype)
    values[0], values[1] = torch.finfo(dtype).max, torch.finfo(dtype).min
    assert first_not_finite(raw(values), name) is None
    values[position] = bad
    assert first_not_finite(raw(values), name) == position


@pytest.mark.parametrize("name", ["BF16", "F16"])
def test_every_number_of_16_bits_that_is_not_finite_is_found(name: str) -> None:
    """Of either sign, with any fraction, behind the largest and the smallest number that there is."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    wrong = bits[~bits.view(DTYPES[name]).isfinite()]
    assert len(wrong) == 2 * 2 ** FORMATS[name].fraction
    finite = bits[bits.view(DTYPES[name]).isfinite()]
    assert first_not_finite(raw(finite), name) is None
    for number in wrong:
        assert first_not_finite(raw(torch.cat([finite[:3], number[None], finite[3:6]])), name) == 3


@pytest.mark.parametrize("name", DTYPES)
@given(exponent=st.integers(-30, 14), mantissa=st.floats(1.0, 1.999))
def test_a_unit_is_the_gap_to_the_next_number(name: str, exponent: int, mantissa: float) -> None:
    """As torch's `nextafter` says, away from zero, subnormal numbers included."""
    value = torch.tensor(mantissa * 2.0**exponent, dtype=torch.float64).to(DTYPES[name])
    if name == "F32":
        gap = float(torch.nextafter(value, torch.tensor(torch.inf)).double() - value.double())
    else:
        gap = float((value.view(torch.int16) + 1).to(torch.int16).view(DTYPES[name]).double() - value.double())
    assert unit(np.array([value.double()]), name)[0] == gap
    assert unit(np.array([-value.double()]), name)[0] == gap


@given(st.lists(st.one_of(st.floats(0, 1e300), st.sampled_from([0.0, 1.0, 1 + 2**-52, 2.0])), min_size=1), st.data())
def test_the_nth_largest_is_what_sorting_gives(values: list[float], data: st.DataObject) -> None:
    """Whether the numbers are spread, equal, or differ in the last bit."""
    nth, step = data.draw(st.integers(1, len(values))), data.draw(st.integers(1, len(values)))
    array = np.array(values)
    found = largest(lambda: [array[i : i + step] for i in range(0, len(values), step)], nth)
    assert found == sorted(values, reverse=True)[nth - 1]


@pytest.mark.parametrize("dtype", sorted(FORMATS))
@given(pairs=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.floats(-3.0, 3.0)), min_size=1, max_size=50))
def test_what_is_near_is_within_a_unit(dtype: str, pairs: list[tuple[int, float]]) -> None:
    """Any finite number, and a value so many units from it; numbers that were rounded once are near."""
    form = FORMATS[dtype]
    bits = np.array([bit for bit, _ in pairs], np.uint32) >> (32 - 8 * np.dtype(form.integer).itemsize)
    bits[(bits & form.exponent) == form.exponent] = 0
    actual = decode(bits.astype(form.integer).tobytes(), dtype)
    values = actual + np.array([off for _, off in pairs]) * unit(actual, dtype)
    near = _near(actual, values, dtype)
    gap = np.abs(actual.astype(np.float64) - values)
    assert (gap[near] <= unit(np.maximum(np.abs(actual), np.abs(values)), dtype)[near]).all()
    normal = np.abs(actual) >= 2.0 ** (form.smallest + 1)
    assert near[normal & (gap <= unit(actual, dtype) * 0.49)].all()
