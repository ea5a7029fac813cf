"""Means of bf16 numbers, by the build and by its check: torch's sums in fp32, and near to what fp64 makes of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from moemerge.execute.blocks import Blocks, _Stored
from moemerge.plan.model import Plan
from moemerge.sources.checkpoint import ByteRange
from moemerge.sources.files import SourceFiles
from moemerge.verify import means

Bits = NDArray[np.uint16]
FINITE = st.integers(0, 2**16 - 1).filter(lambda bits: bits & 0x7F80 != 0x7F80)
MODERATE = FINITE.filter(lambda bits: bits & 0x7F80 < 0x7000)
"""Those of which a few hundred can be added in fp32."""


def by_build(sources: Bits) -> Bits:
    """Of bf16 numbers `[n, size]`, read from a file."""
    made = np.empty(sources.shape[1], bfloat16)
    with tempfile.TemporaryDirectory() as folder, SourceFiles() as files, np.errstate(all="ignore"):
        path = Path(folder, "sources")
        path.write_bytes(sources.tobytes())
        length = made.nbytes
        places = [_Stored(ByteRange(path, row * length, length), "BF16") for row in range(len(sources))]
        Blocks(Plan.__new__(Plan), None, files)._mean_of_bf16(places, made, 0, len(made))
    return made.view(np.uint16)


def by_verify(sources: Bits) -> Bits:
    """The same by the check."""
    fills = [partial(_copy, source.tobytes()) for source in sources]
    mean: Bits = means.mean_of(fills, sources.shape[1], means.Memory()).view(np.uint16)
    return mean


def _copy(data: bytes, memory: memoryview) -> None:
    memory[:] = data


BOTH = pytest.mark.parametrize("mean_of", [by_build, by_verify])


def as_torch(bits: Bits) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


@st.composite
def several(draw: st.DrawFn, numbers: st.SearchStrategy[int]) -> Bits:
    count, size = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    return np.array([[draw(numbers) for _ in range(size)] for _ in range(count)], np.uint16)


@BOTH
@given(sources=several(st.integers(0, 2**16 - 1)))
def test_it_is_torchs_sum_in_fp32_divided_by_their_number(mean_of: Callable[[Bits], Bits], sources: Bits) -> None:
    """To the bit, wherever that sum is a number; neighbours of what is none are as ever."""
    total = as_torch(sources[0]).float()
    for source in sources[1:]:
        total = total + as_torch(source).float()
    expected = (total / len(sources)).bfloat16()
    finite, found = expected.isfinite(), as_torch(mean_of(sources))
    assert torch.equal(found[finite].view(torch.int16), expected[finite].view(torch.int16))


@BOTH
@given(sources=several(MODERATE))
def test_it_is_the_nearest_number_but_for_the_error_of_the_sums(mean_of: Callable[[Bits], Bits], sources: Bits) -> None:
    """Half a unit away from the mean in fp64, and n·2^-24 of the largest operand."""
    exact = torch.stack([as_torch(source).double() for source in sources])
    mean, largest = exact.mean(dim=0), exact.abs().amax(dim=0)
    found = as_torch(mean_of(sources)).double()
    _, exponents = torch.frexp(found)
    half = torch.ldexp(torch.ones_like(found), (exponents - 1).clamp(min=-126) - 8)
    half[found == 0] = 2.0**-134
    error = len(sources) * 2.0**-24 * largest + 2.0**-149
    assert bool(((found - mean).abs() <= half + error).all())


@BOTH
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 16, 100, 1000])
def test_the_mean_of_identical_numbers_is_the_number(count: int, mean_of: Callable[[Bits], Bits]) -> None:
    """All that are finite, as far as their sum is."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    bits = bits[(as_torch(bits).float().abs() * count).isfinite().numpy()]
    found = mean_of(np.tile(bits, (count, 1)))
    zeros = (bits & 0x7FFF) == 0
    np.testing.assert_array_equal(found[~zeros], bits[~zeros])
    assert not (found[zeros] & 0x7FFF).any()


@BOTH
@given(number=FINITE, count=st.integers(2, 5), wrong=st.integers(0x7F80, 0x7FFF), negative=st.booleans())
def test_what_is_not_finite_never_becomes_a_number(
    mean_of: Callable[[Bits], Bits], number: int, count: int, wrong: int, negative: bool
) -> None:
    """NaN of any fraction, and Inf of either sign."""
    sources = np.full((count, 3), number, np.uint16)
    sources[count - 1, 1] = wrong | negative << 15
    assert [bool(value) for value in as_torch(mean_of(sources)).isfinite()][1] is False
