"""`plan --deep`: how far the specialists' FFNs are from the base's."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moemerge.build.divergence import measure_divergence
from moemerge.build.idle import idle_experts
from moemerge.build.run import build_plan
from moemerge.console import Silent
from moemerge.errors import Problem
from moemerge.plan import Plan, make_plan
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


ADDS_NOTHING = Problem(
    "expert-is-base",
    "expert `e1` has the base's FFNs: it adds nothing",
    "is it the right folder, and did its training reach the FFNs? If you mean the base, write `model: base`",
)


ALL_ZERO = Problem(
    "expert-is-zero",
    "expert `e1` has FFNs that are all zero",
    "it was saved before its weights were there, or is damaged: save or download it again",
)


def ffns(folder: Path, names: str, to: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """A copy of a model whose FFN matrices of such names are changed."""
    shutil.copytree(folder, to)
    state = load_file(to / "model.safetensors")
    state |= {name: change(value).contiguous() for name, value in state.items() if re.search(names, name)}
    save_file(state, to / "model.safetensors", {"format": "pt"})
    return to


@pytest.mark.parametrize(
    ("names", "change", "warning"),
    [
        (r"self_attn", torch.neg, ADDS_NOTHING),
        (r"1\.mlp\.down_proj", torch.neg, None),
        (r"mlp\.up_proj", torch.Tensor.half, None),
        (r"\.mlp\.", torch.zeros_like, ALL_ZERO),
        (r"\.mlp\.", lambda value: value * 0, ALL_ZERO),
        (r"\.mlp\.", lambda value: torch.full_like(value, 1.793662034335766e-43), None),
        (r"0\.mlp", torch.zeros_like, None),
    ],
)  # fmt: skip
def test_a_build_says_which_experts_add_nothing(
    names: str, change: Callable[[torch.Tensor], torch.Tensor], warning: Problem | None, tiny: TinyMaker, tmp_path: Path
) -> None:
    """By their bytes: FFNs that are the base's own or all zero, in every layer; the base itself is meant."""
    expert = ffns(tiny("llama"), names, tmp_path / "expert", change)
    plan = make_plan(recipe_of(tiny("llama"), ["base", expert, tiny("llama", 1)]), Path.cwd())
    assert isinstance(plan, Plan)
    assert idle_experts(plan) == ([warning] if warning else [])


def test_the_warning_is_the_builds_own(tiny: TinyMaker, tmp_path: Path) -> None:
    """It is among the build's warnings, where the plan reads no weights."""
    copy = ffns(tiny("llama"), "nothing", tmp_path / "copy", torch.neg)
    plan = make_plan(recipe_of(tiny("llama"), ["base", copy], gate={"init": "random"}), Path.cwd())
    assert isinstance(plan, Plan)
    assert ADDS_NOTHING not in plan.warnings
    assert ADDS_NOTHING in build_plan(plan, tmp_path / "out", root=Path.cwd()).warnings


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
