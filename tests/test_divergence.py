"""`plan --deep`: how far the specialists' FFNs are from the base's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moemerge.build.divergence import measure_divergence
from moemerge.console import Silent
from moemerge.plan import make_plan
from tests.conftest import TinyMaker
from tests.moe import recipe_of


def test_divergence_is_the_relative_distance_of_the_ffns(tiny: TinyMaker) -> None:
    """‖expert − base‖ / ‖base‖ over all FFN matrices; attention plays no part."""
    base, other = tiny("llama"), tiny("llama", 1)
    plan = make_plan(recipe_of(base, [base, other]), Path.cwd())
    distance, _ = measure_divergence(plan, Silent())
    ours, theirs = (load_file(path / "model.safetensors") for path in (base, other))
    names = [name for name in ours if ".mlp." in name]
    changed = sum(float(((theirs[name].double() - ours[name].double()) ** 2).sum()) for name in names)
    total = sum(float((ours[name].double() ** 2).sum()) for name in names)
    assert distance == {"e0": 0.0, "e1": pytest.approx((changed / total) ** 0.5)}


def test_experts_that_are_the_base_or_far_from_it_are_warned_of(tiny: TinyMaker, tmp_path: Path) -> None:
    """A copy of the base adds nothing, and a model of another training is no fine-tune; `model: base` is meant."""
    base = tiny("llama")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in base.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    plan = make_plan(recipe_of(base, ["base", copy, tiny("llama", 1)]), Path.cwd())
    _, warnings = measure_divergence(plan, Silent())
    assert [warning.code for warning in warnings] == ["expert-is-base", "expert-far"]
    assert warnings[0].message == "expert `e1` has the base's FFNs: it adds nothing"


@pytest.mark.parametrize("width", [32, 64])
def test_ffns_of_another_width_are_compared_padded(width: int, tiny: TinyMaker) -> None:
    """A narrower random expert is far from the base, and so is a wider one: never "the base's FFNs"."""
    base, other = tiny("llama"), tiny("llama", 1, intermediate_size=width)
    pads = {"expert_0": {"pad": True}, "expert_1": {"pad": True}}
    plan = make_plan(recipe_of(base, ["base", other], **pads), Path.cwd())
    assert plan.ok, plan.problems
    distance, warnings = measure_divergence(plan, Silent())
    ours, theirs = (load_file(path / "model.safetensors") for path in (base, other))
    changed = total = 0.0
    for name in (name for name in ours if ".mlp." in name):
        pair = [value[name].double() for value in (ours, theirs)]
        shape = [max(extents) for extents in zip(*(value.shape for value in pair), strict=True)]
        one, two = (torch.zeros(shape, dtype=torch.float64) for _ in pair)
        one[: pair[0].shape[0], : pair[0].shape[1]] = pair[0]
        two[: pair[1].shape[0], : pair[1].shape[1]] = pair[1]
        changed, total = changed + float(((two - one) ** 2).sum()), total + float((one**2).sum())
    assert distance == {"e0": 0.0, "e1": pytest.approx((changed / total) ** 0.5)}
    assert [warning.code for warning in warnings] == ["expert-far"]
