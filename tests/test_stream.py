"""Merged tensors come in row blocks, and are what the whole tensors give at once, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from moemerge.execute import stream
from moemerge.execute.merge import select
from moemerge.execute.stream import Values, tensor_seed
from moemerge.plan import make_plan
from moemerge.plan.model import Merged
from tests.conftest import TinyMaker
from tests.moe import recipe_of

WEIGHTS = (1.0, 0.3, 2.0, 0.7)


def whole_slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    cosine = torch.dot(first.flatten(), second.flatten()) / (first.norm() * second.norm())
    angle = torch.arccos(cosine)
    return (torch.sin((1.0 - t) * angle) * first + torch.sin(t * angle) * second) / torch.sin(angle)


def whole_trim(delta: Tensor, density: float) -> Tensor:
    keep = max(round(density * delta.numel()), 1)
    threshold = delta.abs().flatten().kthvalue(delta.numel() - keep + 1).values
    return torch.where(delta.abs() >= threshold, delta, 0.0)


def whole_drop(delta: Tensor, density: float, seed: int) -> Tensor:
    kept = torch.rand(delta.shape, generator=torch.Generator().manual_seed(seed)) < density
    return delta * kept / density


def whole_elect(base: Tensor, deltas: Sequence[Tensor], weights: Sequence[float], scaling: float) -> Tensor:
    weighted = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
    sign = torch.sign(torch.stack(weighted).sum(0))
    total, count = torch.zeros_like(base), torch.zeros_like(base)
    for delta, weight in zip(weighted, weights, strict=True):
        agrees = (torch.sign(delta) == sign) & (delta != 0)
        total += torch.where(agrees, delta, 0.0)
        count += agrees.to(count.dtype) * weight
    return base + scaling * total / count.clamp(min=torch.finfo(count.dtype).tiny)


def at_once(part: Merged, models: dict[str, dict[str, Tensor]]) -> Tensor:
    """The merge of whole tensors in fp64, as it was written before it was cut into blocks."""
    base = models["base"][part.base.name].double()
    sources = [models[source.model][source.name].double() for source in part.sources]
    if part.method == "slerp":
        return whole_slerp(sources[0], sources[1], part.slerp_t)
    if part.method == "ties":
        kept = [whole_trim(source - base, part.density) for source in sources]
    else:
        seeds = [tensor_seed(part.seed, source) for source in part.sources]
        kept = [whole_drop(x - base, part.density, seed) for x, seed in zip(sources, seeds, strict=True)]
    return whole_elect(base, kept, part.weights, part.scaling)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("method", "count"), [("slerp", 2), ("ties", 2), ("ties", 4), ("dare_ties", 3)])
@pytest.mark.parametrize("elements", [1 << 17, 100], ids=["one block", "blocks of few rows"])
def test_blocks_give_what_the_whole_gives(
    elements: int, method: str, count: int, dtype: str, tiny: TinyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, whatever the size of a block and of what a selection gathers."""
    monkeypatch.setattr(stream, "MERGE_ELEMENTS", elements)
    monkeypatch.setattr(stream, "PASS_ELEMENTS", 1 << 19 if method == "slerp" else 3 * elements)
    monkeypatch.setattr(select, "COLLECTED", elements)
    base, *experts = (tiny("llama", seed, dtype=dtype) for seed in range(count + 1))
    extra: dict[str, Any] = {f"expert_{i}": {"weight": WEIGHTS[i]} for i in range(count)}
    plan = make_plan(recipe_of(base, experts, merge={"shared": method, "density": 0.4}, **extra), Path.cwd())
    assert plan.ok, plan.problems
    folders = {"base": base} | {e.model: folder for e, folder in zip(plan.experts, experts, strict=True)}
    models = {key: load_file(folder / "model.safetensors") for key, folder in folders.items()}
    merged = [(tensor, part) for tensor in plan.tensors for part in tensor.parts if isinstance(part, Merged)]
    assert len(merged) == 15
    for tensor, part in merged:
        expected = at_once(part, models).float().to(getattr(torch, dtype))
        assert torch.equal(Values(plan).whole(tensor), expected), tensor.name


def test_slerp_in_small_passes_differs_at_most_in_the_last_bits(
    tiny: TinyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums of its angle then come in another order: fp64 rounding, which fp32 does not see."""
    monkeypatch.setattr(stream, "PASS_ELEMENTS", 100)
    folders = [tiny("llama", seed) for seed in range(3)]
    plan = make_plan(recipe_of(folders[0], folders[1:], merge={"shared": "slerp"}), Path.cwd())
    models = dict(zip(("base", "e0", "e1"), (load_file(f / "model.safetensors") for f in folders), strict=True))
    for tensor in plan.tensors:
        for part in tensor.parts:
            if isinstance(part, Merged):
                expected = at_once(part, models).float()
                torch.testing.assert_close(Values(plan).whole(tensor), expected, rtol=2e-7, atol=1e-12)
