"""Means of bf16 numbers, two to a word: what torch makes of the sums in fp32, and near to what fp64 makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from moemerge.pairs import PairSums

FINITE = st.integers(0, 2**16 - 1).filter(lambda bits: bits & 0x7F80 != 0x7F80)
MODERATE = FINITE.filter(lambda bits: bits & 0x7F80 < 0x7000)
"""Those of which a few hundred can be added in fp32."""


def mean_of(sources: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Of bf16 numbers `[n, size]`."""
    size = sources.shape[1]
    words = -(-size // 2)
    sums = PairSums(np.zeros(words, np.uint32), np.empty(2 * words, np.float32), np.empty(2 * words, np.float32))
    own = sums.words.view(np.uint16)[:size]
    with np.errstate(all="ignore"):
        for index, source in enumerate(sources):
            own[:] = source
            if index:
                sums.add()
            else:
                sums.begin()
        sums.mean(len(sources))
    return own.copy()


def as_torch(bits: NDArray[np.uint16]) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


@st.composite
def several(draw: st.DrawFn, numbers: st.SearchStrategy[int]) -> NDArray[np.uint16]:
    count, size = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    return np.array([[draw(numbers) for _ in range(size)] for _ in range(count)], np.uint16)


@given(sources=several(st.integers(0, 2**16 - 1)))
def test_it_is_torchs_sum_in_fp32_times_the_share(sources: NDArray[np.uint16]) -> None:
    """To the bit, of any numbers, an odd count of them too; NaN stays NaN."""
    total = as_torch(sources[0]).float()
    for source in sources[1:]:
        total = total + as_torch(source).float()
    expected = (total * torch.tensor(1 / len(sources), dtype=torch.float32)).bfloat16()
    found = as_torch(mean_of(sources))
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found[~found.isnan()].view(torch.int16), expected[~found.isnan()].view(torch.int16))


@given(sources=several(MODERATE))
def test_it_is_the_nearest_number_but_for_the_error_of_the_sums(sources: NDArray[np.uint16]) -> None:
    """Half a unit away from the mean in fp64, and n·2^-24 of the largest operand."""
    exact = torch.stack([as_torch(source).double() for source in sources])
    mean, largest = exact.mean(dim=0), exact.abs().amax(dim=0)
    found = as_torch(mean_of(sources)).double()
    _, exponents = torch.frexp(found)
    half = torch.ldexp(torch.ones_like(found), (exponents - 1).clamp(min=-126) - 8)
    half[found == 0] = 2.0**-134
    error = len(sources) * 2.0**-24 * largest + 2.0**-149
    assert bool(((found - mean).abs() <= half + error).all())


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 16, 100, 1000])
def test_the_mean_of_identical_numbers_is_the_number(count: int) -> None:
    """All that are finite, as far as their sum is."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    bits = bits[(as_torch(bits).float().abs() * count).isfinite().numpy()]
    found = mean_of(np.tile(bits, (count, 1)))
    zeros = (bits & 0x7FFF) == 0
    np.testing.assert_array_equal(found[~zeros], bits[~zeros])
    assert not (found[zeros] & 0x7FFF).any()


@given(number=FINITE, count=st.integers(2, 5), wrong=st.integers(0x7F80, 0x7FFF), negative=st.booleans())
def test_what_is_not_finite_never_becomes_a_number(number: int, count: int, wrong: int, negative: bool) -> None:
    """NaN of any fraction, and Inf of either sign."""
    sources = np.full((count, 3), number, np.uint16)
    sources[count - 1, 1] = wrong | negative << 15
    assert [bool(value) for value in as_torch(mean_of(sources)).isfinite()][1] is False
