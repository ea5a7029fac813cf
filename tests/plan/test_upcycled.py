"""What `plan` says of copies and of channels that are drawn anew."""

from __future__ import annotations

from typing import Any

import pytest

from moemerge.plan import make_plan, plan_json
from moemerge.recipe import Recipe
from tests.conftest import TinyMaker

NEW = "channels drawn anew know nothing yet: the result needs training, experts and router both"


def notes(tiny: TinyMaker, *experts: dict[str, Any], gate: str = "uniform") -> tuple[str, ...]:
    """The plan's, of experts of the tiny base."""
    base = tiny("llama")
    listed = [{"model": "base", **expert} for expert in experts]
    recipe = {"base_model": str(base), "experts": listed, "gate": {"init": gate}}
    return make_plan(Recipe.model_validate(recipe), base.parent).notes


def test_copies_drawn_anew(tiny: TinyMaker) -> None:
    """How many, how much of each, and that they want training."""
    drawn = "`a-1` to `a-8` are 8 copies of the base, each with 12 of 48 FFN channels of its own choice drawn anew"
    assert notes(tiny, {"name": "a", "copies": 8, "reinitialise": 0.25}) == (drawn, NEW)


def test_a_random_gate_is_warned_of(tiny: TinyMaker) -> None:
    """Its logits are so far apart that one expert gets nearly all of a token."""
    found = notes(tiny, {"name": "a", "copies": 2, "reinitialise": 0.25}, gate="random")
    assert found[2] == "`gate.init: random` gives nearly all of a token to one expert; `uniform` shares it out at first"


def test_plain_copies(tiny: TinyMaker) -> None:
    """They are the same; noise makes them differ, and experts with prompts of their own are told apart by a gate."""
    assert notes(tiny, {"name": "a", "copies": 3}) == (
        "`a-1` to `a-3` are 3 copies of the base, and the same until they are trained",
    )
    assert notes(tiny, {"name": "a", "copies": 3, "noise_scale": 0.1}) == ()
    fitted = [{"name": name, "prompts": [name]} for name in ("one", "two")]
    assert notes(tiny, *fitted, gate="lda") == ()


def test_one_expert_drawn_anew(tiny: TinyMaker) -> None:
    """It may be one of several."""
    found = notes(tiny, {"name": "a", "reinitialise": 0.5}, {"name": "b"})
    assert found == ("`a` has 24 of 48 FFN channels drawn anew", NEW)


@pytest.mark.parametrize(("share", "way"), [(0.5, "from base, drawn anew in part"), (0.0, "copied from base")])
def test_where_the_experts_come_from(share: float, way: str, tiny: TinyMaker) -> None:
    """A share of nothing is a copy of bytes."""
    base = tiny("llama")
    expert = {"name": "a", "model": "base", "copies": 2, "reinitialise": share}
    recipe = {"base_model": str(base), "experts": [expert], "gate": {"init": "uniform"}}
    plan = make_plan(Recipe.model_validate(recipe), base.parent)
    assert plan.ok
    (row,) = [row for row in plan_json(plan)["groups"] if row["group"] == "expert"]
    assert row["from"] == [way]
