"""The quick check of means of bf16 numbers accepts the nearest; what it refuses is looked at in fp64."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from moemerge.sources import open_checkpoint
from moemerge.verify import recompute
from moemerge.verify.block import Block, ExpectedBytes
from moemerge.verify.compare import Comparison
from moemerge.verify.expected import Merge, Wanted
from moemerge.verify.layout import Place
from moemerge.verify.means import Memory, mean_of
from moemerge.verify.reading import OpenFiles

SIZES = [1, 2, 7, 64, 1001]


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def quick(sources: list[torch.Tensor]) -> ExpectedBytes:
    size = sources[0].numel()
    fills = [partial(_copy, raw(source)) for source in sources]
    return ExpectedBytes(mean_of(fills, size, Memory()), size, lambda: Block(None))


def _copy(data: bytes, memory: memoryview) -> None:
    memory[:] = data


def random(count: int, size: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(count * size)
    return [torch.randn(size, generator=generator).bfloat16() for _ in range(count)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_the_nearest_are_accepted(count: int, size: int) -> None:
    """Of sums in fp32, whatever the number of elements."""
    sources = random(count, size)
    total = sources[0].float()
    for source in sources[1:]:
        total = total + source.float()
    assert quick(sources).holds(raw((total / count).bfloat16()))


@pytest.mark.parametrize("size", SIZES)
@given(place=st.integers(0, 1000), up=st.booleans())
def test_one_number_that_is_not_the_nearest_is_noticed(size: int, place: int, up: bool) -> None:
    """One unit away; a closer look then tells whether that is near enough."""
    sources = random(4, size)
    own = ((sources[0].float() + sources[1].float() + sources[2].float() + sources[3].float()) / 4).bfloat16()
    bits = own.view(torch.int16)
    assert quick(sources).holds(raw(own))
    bits[place % size] += 1 if up else -1
    assert not quick(sources).holds(raw(own))


@pytest.mark.parametrize("number", [0.0, 1e-39, -9e-41, 3e38, -1.0])
def test_any_number_is_its_own_mean(number: float) -> None:
    """Subnormal and large ones too; the other sign's is not."""
    one = torch.tensor([number, 1.0]).bfloat16()
    assert quick([one]).holds(raw(one))
    if number:
        assert not quick([one]).holds(raw(torch.tensor([-number, 1.0]).bfloat16()))


def outcome(folder: Path, sources: Sequence[torch.Tensor], own: torch.Tensor) -> list[str]:
    """What a comparison says about a folder that holds `own` as the mean."""
    models = {}
    for number, tensor in enumerate(sources):
        path = folder / str(number)
        path.mkdir()
        (path / "config.json").write_text('{"model_type": "llama"}')
        save_file({"w": tensor}, path / "model.safetensors", metadata={"format": "pt"})
        models[str(number)] = open_checkpoint(str(number), root=folder)
    file = folder / "own"
    file.write_bytes(raw(own))
    files = OpenFiles()
    shape = tuple(own.shape)
    part = Merge("mean", tuple(models), "w", shape, (1.0,) * len(models), 1.0, 0.5, 1.0, (0,) * len(models))
    comparison = Comparison(models, {"t": xxhash.xxh3_128_hexdigest(raw(own))}, files)
    place = Place(file, "own", {torch.bfloat16: "BF16", torch.float32: "F32"}[own.dtype], shape, 0, len(raw(own)))
    found = comparison.check("t", place, Wanted(shape, (part,)))
    files.close()
    assert found.recomputed
    return [difference.message for difference in found.differences]


@pytest.mark.parametrize("block", [1 << 20, 24], ids=["one block", "blocks of a row"])
def test_a_unit_is_allowed_and_two_are_not(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who summed otherwise is not wrong; the first wrong number is named, with what it should be."""
    monkeypatch.setattr(recompute, "MEAN_BLOCK", block)
    sources = [tensor.view(10, 24) for tensor in random(3, 240)]
    own = (sum(source.double() for source in sources) / 3).float().bfloat16()
    bits = own.view(torch.int16)
    (tmp_path / "one").mkdir()
    bits[3, 5] += 1
    assert outcome(tmp_path / "one", sources, own) == []
    (tmp_path / "two").mkdir()
    bits[3, 5] += 2
    (problem,) = outcome(tmp_path / "two", sources, own)
    assert problem.startswith("1 of 240 values are not the mean of `0`, `1`, `2`, first at [3, 5], which is ")


def test_where_operands_cancel_fp32_is_not_blamed(tmp_path: Path) -> None:
    """2^-24 of an operand is left where the mean is zero; a thousand times that is wrong."""
    left, right = torch.tensor([[1.0, 1.0]]).bfloat16(), torch.tensor([[2.0**-24, 0.0]]).bfloat16()
    sources = [left, right, -left, -right]
    assert float(left[0, 0].float() + right[0, 0].float() - left[0, 0].float() - right[0, 0].float()) == -(2.0**-24)
    (tmp_path / "fine").mkdir()
    assert outcome(tmp_path / "fine", sources, torch.tensor([[-(2.0**-26), 0.0]]).bfloat16()) == []
    (tmp_path / "wrong").mkdir()
    (problem,) = outcome(tmp_path / "wrong", sources, torch.tensor([[-(2.0**-14), 0.0]]).bfloat16())
    assert problem.startswith("1 of 2 values are not the mean of `0`, `1`, `2`, `3`, first at [0, 0]")


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("wanted", [torch.bfloat16, torch.float32])
def test_other_dtypes_are_compared_in_fp64(stored: torch.dtype, wanted: torch.dtype, tmp_path: Path) -> None:
    """A bf16 model among fp32 ones, and a folder in fp32; rows of an odd number of elements."""
    sources = [tensor.view(7, 9) for tensor in random(3, 63)]
    sources[2] = sources[2].to(stored)
    own = (sum(source.double() for source in sources) / 3).float().to(wanted)
    (tmp_path / "fine").mkdir()
    assert outcome(tmp_path / "fine", sources, own) == []
    own[6, 8] *= 1.5
    (tmp_path / "wrong").mkdir()
    (problem,) = outcome(tmp_path / "wrong", sources, own)
    assert "first at [6, 8]" in problem


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_blocks_of_an_odd_number_of_elements(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is read and compared by itself."""
    monkeypatch.setattr(recompute, "MEAN_BLOCK", 9 * rows)
    sources = [tensor.view(7, 9) for tensor in random(4, 63)]
    own = (sum(source.double() for source in sources) / 4).float().bfloat16()
    (tmp_path / "fine").mkdir()
    assert outcome(tmp_path / "fine", sources, own) == []
    own[3, 8] = 9.0
    (tmp_path / "wrong").mkdir()
    (problem,) = outcome(tmp_path / "wrong", sources, own)
    assert "first at [3, 8], which is 9 and should be" in problem


def test_a_sum_that_is_too_large_for_fp32_has_a_mean(tmp_path: Path) -> None:
    """Which is looked at in fp64."""
    sources = [torch.tensor([[3e38, 1.0]]).bfloat16()] * 2
    (tmp_path / "fine").mkdir()
    assert outcome(tmp_path / "fine", sources, sources[0]) == []
    (tmp_path / "wrong").mkdir()
    (problem,) = outcome(tmp_path / "wrong", sources, torch.tensor([[2e38, 1.0]]).bfloat16())
    assert "first at [0, 0]" in problem


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_a_source_that_is_not_finite_excuses_nothing(dtype: torch.dtype, number: float, tmp_path: Path) -> None:
    """An infinite operand would allow an infinite error."""
    sources = [torch.tensor([[number, 1.0]]).to(dtype), torch.tensor([[1.0, 1.0]]).to(dtype)]
    (problem,) = outcome(tmp_path, sources, torch.tensor([[7.0, 1.0]]).bfloat16())
    assert problem.startswith("1 of 2 values are not the mean of `0`, `1`, first at [0, 0], which is 7 and should be")
