"""`plan --deep`: how far the specialists' FFNs are from the base's."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from moemerge.console import Silent
from moemerge.divergence import measure_divergence
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
