"""The model card as a reader sees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from syrupy.assertion import SnapshotAssertion

from moemerge import __version__
from moemerge.plan import Plan, make_plan
from moemerge.sources import open_checkpoint
from moemerge.sources.card import Stated
from moemerge.write.card import model_card
from tests.conftest import TinyMaker
from tests.moe import recipe_of
from tests.sources.conftest import make_adapter

FITTED = {"init": "discriminant", "separation": [0.8125, 0.90625], "scale": [3.0, 4.0], "ridge": 0.1,
          "tokens": {"e0": 64, "e1": 64}}  # fmt: skip


@pytest.fixture
def plan(tiny: TinyMaker) -> Plan:
    """A plan whose models have names that are the same in every run, and licences."""
    base, other = tiny("llama"), tiny("llama", 1)
    made = make_plan(recipe_of(base, [other, "base"], gate={"init": "discriminant"}), Path.cwd())
    return renamed(made, base=("models/base", "apache-2.0"), e0=("models/code", "mit"))


def renamed(plan: Plan, **models: tuple[str, str | None]) -> Plan:
    changed: dict[str, Any] = dict(plan.models)
    for key, (spec, licence) in models.items():
        changed[key] = replace(changed[key], spec=spec, stated=Stated(licence))
    return replace(plan, models=changed)


def on_the_hub(plan: Plan, **specs: str) -> Plan:
    changed: dict[str, Any] = dict(plan.models)
    for key, spec in specs.items():
        changed[key] = replace(changed[key], spec=spec, kind="hub", revision="0123abc", stated=Stated("mit"))
    return replace(plan, models=changed)


def card_of(plan: Plan, gate: dict[str, Any]) -> str:
    """The card, whatever version is being released."""
    return model_card(plan, gate, "moe").replace(f" {__version__}:", " VERSION:")


def front(card: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return values


def test_a_fitted_gate(plan: Plan, snapshot: SnapshotAssertion) -> None:
    """The whole card: licence, sources, sizes, separation of each layer, how to run."""
    assert card_of(plan, FITTED) == snapshot


def test_a_random_gate(plan: Plan, snapshot: SnapshotAssertion) -> None:
    """The whole card where nothing is known of the gate."""
    assert card_of(plan, {"init": "random", "separation": [None, None]}) == snapshot


@pytest.mark.parametrize(("family", "layout", "transformers", "vllm"), [
    ("llama", "per_expert", "right", "right"), ("llama", "fused", "**silently wrong**", "does not run it"),
    ("granite", "per_expert", "right", "right"), ("granite", "fused", "right", "right"),
])  # fmt: skip
def test_what_reads_it(family: str, layout: str, transformers: str, vllm: str, tiny: TinyMaker) -> None:
    """By what was measured of such mixtures; a class that has fused names alone has them in every layout."""
    made = make_plan(recipe_of(tiny(family), [tiny(family, 1), "base"], output={"layout": layout}), Path.cwd())
    card = model_card(made, FITTED, "moe")
    assert f"- transformers 4, tried with 4.57.6: {transformers}" in card
    assert f"- vLLM, tried with 0.32.0: {vllm}" in card
    assert ("vllm serve ." in card) == (vllm == "right")
    assert ("mlx_lm.generate" in card) == (layout == "per_expert" or family == "granite")


def test_what_was_not_tried_is_said(tiny: TinyMaker) -> None:
    """A rope that no run had."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    made = make_plan(recipe_of(tiny("llama", rope_parameters=rope), ["base", "base"]), Path.cwd())
    assert "Whether engines other than transformers 5 read it was not tried." in model_card(made, FITTED, "moe")


def test_models_of_the_hub(plan: Plan, snapshot: SnapshotAssertion) -> None:
    """The whole card with hub models, which the metadata name without their revision."""
    card = card_of(on_the_hub(plan, base="org/base", e0="someone/code@v2"), FITTED)
    assert front(card)["base_model"] == ["org/base", "someone/code"]
    assert card == snapshot


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("random", "which looks at no text."),
        ("uniform", "which looks at no text."),
        ("hidden_avg", "which reads the base model on the prompts. How well it separates is not measured."),
        ("discriminant", "Nothing could be held out, so how well it separates is not known."),
        ("centroid", "Nothing could be held out, so how well it separates is not known."),
    ],
)
def test_a_gate_that_was_not_judged_says_why(init: str, said: str, plan: Plan) -> None:
    """A gate fitted on one prompt an expert has looked at text."""
    card = model_card(plan, {"init": init, "separation": [None, None]}, "moe")
    assert card.split("## Gate\n\n")[1].split("\n")[0].endswith(said)


def test_local_models_are_not_in_the_metadata(plan: Plan) -> None:
    """`models/base` could be a hub id, and is none."""
    assert "base_model" not in front(model_card(plan, FITTED, "moe"))


@pytest.mark.parametrize(
    ("base_name", "revision", "expected"),
    [
        ("org/base", "0123abc", ["someone/lora", "org/base"]),
        ("org/base", None, ["org/base"]),
        ("/srv/models/base", None, None),
        ("models/base", None, None),
        ("./base", "0123abc", ["someone/lora"]),
        (None, "0123abc", ["someone/lora"]),
    ],
)
def test_adapters_name_themselves_and_their_base(
    base_name: str | None, revision: str | None, expected: list[str] | None, plan: Plan, tmp_path: Path
) -> None:
    """An adapter from the hub, and the hub model that an adapter's config says it was trained on."""
    folder = make_adapter(plan.models["base"].location, tmp_path / "lora")
    adapter: Any = open_checkpoint(str(folder), root=tmp_path, base=plan.models["base"])
    adapter.spec = "someone/lora@main" if revision else "lora"
    adapter.revision, adapter.adapter = revision, {**adapter.adapter, "base": base_name}
    card = model_card(replace(plan, models={**plan.models, "e0": adapter}), FITTED, "moe")
    assert front(card).get("base_model") == expected
