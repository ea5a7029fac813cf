"""What numpy makes of stored bytes is what torch makes of them, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from moemerge.execute import blocks
from moemerge.execute.blocks import NUMPY, Blocks
from moemerge.execute.stream import TORCH_DTYPES, Values
from moemerge.plan import make_plan
from moemerge.plan.model import Compute, Copy, Merged, Router
from moemerge.sources.files import SourceFiles
from tests.conftest import TinyMaker
from tests.moe import recipe_of


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_rounding_is_torchs(dtype: str, bits: list[int]) -> None:
    """Any fp32 number, with ties, subnormals, infinities and NaN of any fraction."""
    halves = [(bit & 0xFFFF0000) | 0x8000 for bit in bits]
    numbers = np.array([*bits, *halves, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F7FFFFF], np.uint32).view(np.float32)
    expected = torch.from_numpy(numbers).to(TORCH_DTYPES[dtype])
    with np.errstate(all="ignore"):
        found = as_torch(numbers.astype(NUMPY[dtype]), dtype)
    assert torch.equal(torch.isnan(found), torch.isnan(expected))
    there = ~torch.isnan(expected)
    width = torch.int32 if dtype == "F32" else torch.int16
    assert torch.equal(found[there].view(width), expected[there].view(width))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_every_stored_number_is_read(dtype: str) -> None:
    """All bit patterns of 16 bits, and a sample of those of 32."""
    patterns = np.arange(1 << 16, dtype=np.uint32)
    stored = patterns * np.uint32(65521) if dtype == "F32" else patterns.astype(np.uint16)
    with np.errstate(all="ignore"):
        numbers = torch.from_numpy(stored.view(NUMPY[dtype]).astype(np.float32))
    assert torch.equal(numbers.nan_to_num(7), as_torch(stored, dtype).float().nan_to_num(7))


def as_torch(numbers: NDArray[Any], dtype: str) -> torch.Tensor:
    """The same bytes as a tensor of a dtype."""
    return torch.from_numpy(numbers.view(np.uint8)).view(TORCH_DTYPES[dtype])


@pytest.mark.parametrize(("stored", "wanted"), list(itertools.permutations(["float32", "bfloat16", "float16"], 2)))
@pytest.mark.parametrize("elements", [1 << 17, 7])
def test_conversions_are_torchs(
    stored: str, wanted: str, elements: int, tiny: TinyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scaled expert too, whatever the size of a block."""
    monkeypatch.setattr(blocks, "ELEMENTS", elements)
    base, expert = tiny("llama", dtype=stored), tiny("llama", 1, dtype=stored)
    fields = {"merge": {"shared": "base"}, "dtype": wanted, "expert_0": {"residual_scale": 0.3}}
    plan = make_plan(recipe_of(base, [expert], **fields), Path.cwd())
    assert plan.ok, plan.problems
    models = {
        "base": load_file(base / "model.safetensors"),
        plan.experts[0].model: load_file(expert / "model.safetensors"),
    }
    seen = set()
    with SourceFiles() as files:
        made = Blocks(plan, None, files)
        for tensor in plan.tensors:
            for part in tensor.parts:
                if isinstance(part, Compute):
                    assert made.makes(part)
                    source = models[part.source.model][part.source.name]
                    value = source.float() * part.scale if part.scale != 1.0 else source
                    assert torch.equal(Values(plan).whole(tensor), value.to(getattr(torch, wanted))), tensor.name
                    seen.add(part.scale)
    assert seen == {0.3, 1.0}


def mean_of(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of bf16 tensors summed in fp32, of others in fp64 and rounded to fp32 first."""
    if tensors[0].dtype is torch.bfloat16:
        total = torch.zeros(tensors[0].shape)
        for tensor in tensors:
            total += tensor.float()
        return (total / len(tensors)).bfloat16()
    return (torch.stack([tensor.double() for tensor in tensors]).sum(dim=0) / len(tensors)).float().to(tensors[0].dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("elements", [1 << 17, 100, 7])
def test_a_mean_is_rounded_once_to_its_dtype(
    elements: int, count: int, dtype: str, tiny: TinyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks or whole, blocks of an odd number of elements too."""
    monkeypatch.setattr(blocks, "ELEMENTS", elements)
    folders = [tiny("llama", seed, dtype=dtype) for seed in range(count)]
    plan = make_plan(recipe_of(folders[0], folders), Path.cwd())
    models = [load_file(folder / "model.safetensors") for folder in folders]
    merged = [(tensor, part) for tensor in plan.tensors for part in tensor.parts if isinstance(part, Merged)]
    assert len(merged) == 15
    for tensor, part in merged:
        expected = mean_of([model[part.base.name] for model in models])
        assert torch.equal(Values(plan).whole(tensor), expected), tensor.name


@pytest.mark.parametrize(
    ("stored", "wanted"), [("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "float16")]
)
def test_rows_that_are_picked_are_rows_of_the_whole(stored: str, wanted: str, tiny: TinyMaker) -> None:
    """A mean's, to the bit, in the output's dtype."""
    folders = [tiny("llama", seed, dtype=stored) for seed in range(3)]
    plan = make_plan(recipe_of(folders[0], folders, dtype=wanted), Path.cwd())
    embedding = next(tensor for tensor in plan.tensors if tensor.name == "model.embed_tokens.weight")
    rows = torch.tensor([0, 3, 17, embedding.shape[0] - 1])
    values = Values(plan)
    picked = values.picked(embedding, rows)
    assert picked.dtype is getattr(torch, wanted)
    assert torch.equal(picked, values.whole(embedding)[rows])


@pytest.mark.parametrize("elements", [1 << 17, 7])
def test_numbers_whose_sum_is_too_large_for_fp32_are_taken_in_fp64(
    elements: int, tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their mean is a number all the same, where it is none none comes out, and their neighbours are as ever."""
    monkeypatch.setattr(blocks, "ELEMENTS", elements)
    folders = []
    for seed, cancels in enumerate([1.0, 2.0**-24, -1.0, -(2.0**-24)]):
        folder = tmp_path / str(seed)
        copytree(tiny("llama", seed, dtype="bfloat16"), folder)
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"][:4] = torch.tensor([3e38, -3e38, cancels, float("inf") if seed else 1.0])
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    plan = make_plan(recipe_of(folders[0], folders), Path.cwd())
    norm = next(tensor for tensor in plan.tensors if tensor.name == "model.norm.weight")
    large, small, cancelled, infinite = Values(plan).whole(norm)[:4].tolist()
    assert (large, small) == (float(torch.tensor(3e38).bfloat16()), float(torch.tensor(-3e38).bfloat16()))
    assert cancelled == -(2.0**-26), "fp64 would have given 0"
    assert infinite == float("inf")


def test_torch_makes_the_rest(tiny: TinyMaker) -> None:
    """Noise, other merges and padding are no work of numpy's; a gate that is not fitted is said."""
    base, expert = tiny("llama"), tiny("llama", 1)
    fields = {"merge": {"shared": "base", "norms": "slerp", "attention": "weighted"}, "expert_0": {"noise_scale": 0.1}}
    plan = make_plan(recipe_of(base, [expert, "base"], **fields), Path.cwd())
    with SourceFiles() as files:
        made = Blocks(plan, None, files)
        parts = [part for tensor in plan.tensors for part in tensor.parts]
        assert not any(made.makes(part) for part in parts if isinstance(part, Merged | Copy))
        assert [made.makes(part) for part in parts if isinstance(part, Compute)].count(False) == 6
        with pytest.raises(ValueError, match="the gate is not fitted yet"):
            list(made.blocks(next(part for part in parts if isinstance(part, Router)), "F32"))
    with pytest.raises(ValueError, match="is made in `blocks`"):
        list(Values(plan)._blocks(plan.tensors[0], Router(0)))
