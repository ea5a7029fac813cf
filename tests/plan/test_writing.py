"""What a plan says that the specialists will write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moemerge.gate import expand, request
from moemerge.plan import writing as room
from moemerge.plan.writing import writing
from moemerge.recipe.checks import EXPANDED
from tests.conftest import TinyMaker
from tests.plan.test_plan import plan_of

LONG = {"prompts": [f"a prompt of some more words, number {number}" for number in range(8)]}
TIMED = "`build` first measures how long that takes"
SKIPPED = f"{TIMED}, and skips it beyond 10 minutes"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, f"2 specialists write 128 tokens each; {SKIPPED}"),
        ({"expert_0": LONG}, f"up to 2 specialists write 128 tokens each; {SKIPPED}"),
        ({"expert_0": {"prompts": [], "prompts_file": "p.txt"}},
         f"up to 2 specialists write 128 tokens each; {SKIPPED}"),
        ({"expert_0": {"data": {"path": "d.jsonl"}}}, f"2 specialists write 128 tokens each; {SKIPPED}"),
        ({"expert_0": {"prompts": [], "data": {"path": "d.jsonl"}}}, f"one specialist writes 128 tokens; {SKIPPED}"),
        ({"expert_0": {"prompts": [], "data": {"path": "d.jsonl"}},
          "expert_1": {"prompts": [], "data": {"path": "d.jsonl"}}}, None),
        ({"expert_0": {"prompts": []}}, f"2 specialists write 128 tokens each; {TIMED}"),
        ({"gate": {"init": "advantage", "expand": 5000}}, f"2 specialists write 5,000 tokens each; {TIMED}"),
        ({"gate": {"expand": 9}, "expert_0": {"prompts": [], "data": {"path": "d.jsonl"}}},
         f"one specialist writes 9 tokens; {TIMED}"),
        ({"gate": {"expand": "off"}}, None),
        ({"gate": {"init": "random"}}, None),
        ({"gate": {"init": "hidden_avg"}}, None),
        ({"gate": {"init": "advantage", "data": {"path": "d.jsonl"}}}, None),
    ],
)  # fmt: skip
def test_who_writes_how_much_is_said(
    settings: dict[str, Any], said: str | None, tiny: TinyMaker, tmp_path: Path
) -> None:
    """Four tokens per dimension, here 32, unless the recipe asks for more; whose texts may be enough is left open."""
    base = tiny("llama")
    for name, text in (("d.jsonl", '{"text": "words"}'), ("p.txt", "a prompt")):
        (base.parent / name).write_text(text, encoding="utf-8")
    plan = plan_of(base, [base, tiny("llama", 1)], **{"gate": {"init": "discriminant"}, **settings})
    assert plan.ok, plan.problems
    assert writing(plan) == said


def test_the_numbers_are_those_of_the_gate() -> None:
    """The plan room may not import the gate room, so its numbers are held equal here."""
    assert (room.WRITTEN, room.ENOUGH_PER_WIDTH) == (expand.AUTO_TOKENS, expand.ENOUGH_PER_WIDTH)
    assert (room.MINUTES * 60, EXPANDED) == (expand.TOO_LONG, request.FITTED)
