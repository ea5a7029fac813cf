"""The card that is published: names that do nothing, and metadata that the hub's own library takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from moemerge.plan import Plan, make_plan
from moemerge.push.card import published_card, read_card
from moemerge.push.results import model_index, results_section
from moemerge.report.reading import Report
from moemerge.sources.card import Stated
from moemerge.write.card import model_card
from moemerge.write.metadata import licence
from tests.conftest import TinyMaker
from tests.hub.conftest import figures_of
from tests.hub.server import wrong_metadata
from tests.moe import recipe_of
from tests.write.test_markdown import NAMES

FITTED = {"init": "discriminant", "separation": [0.8125, 0.90625]}
PICTURES = ["moemerge-gain.png", "moemerge-load.png"]
HARD = st.one_of(st.sampled_from(NAMES), st.text(max_size=24), st.lists(st.sampled_from(NAMES)).map("".join))


class Maker:
    """Makes a card in which everything that a user names is called so."""

    def __init__(self, plan: Plan, figures: dict[str, Any]) -> None:
        self._plan, self._figures = plan, figures

    def __call__(self, name: str) -> str:
        figures = called(self._figures, name)
        built = model_card(with_name(self._plan, name), FITTED, name)
        results, index = results_section(figures, PICTURES), model_index(figures, "moe")
        return published_card(built, "jo/moe", "moe.gguf", results, index)


@pytest.fixture(scope="module")
def card_of(tiny: TinyMaker, published: Path) -> Maker:
    """A maker of cards of a tiny mixture."""
    plan = make_plan(recipe_of(tiny("llama"), [tiny("llama", 1), "base"], gate={"init": "discriminant"}), Path.cwd())
    assert isinstance(plan, Plan)
    return Maker(plan, figures_of(published))


def with_name(plan: Plan, name: str) -> Plan:
    """A plan whose models, licences and revisions are called so."""
    models: dict[str, Any] = {
        key: replace(model, spec=name, revision=name, stated=Stated(name or None, True))
        for key, model in plan.models.items()
    }
    return replace(plan, models=models)


def called(figures: dict[str, Any], name: str) -> Report:
    """Figures whose domains, tasks and verdict are called so."""
    domains = {name: figures["domains"]["code"], "french": figures["domains"]["french"]}
    return {**figures, "domains": domains, "dtype": name, "verdict": f"It is {name}", "tasks": {name: {name: 0.5}}}


def shown(text: str) -> tuple[Counter[str], list[str], list[str]]:
    """How many of each kind of thing a page is made of, its code, and where it leads."""
    page = text.split("---\n", 2)[2]
    tokens: list[Any] = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(page)
    flat = [inner for token in tokens for inner in (token, *(token.children or ()))]
    kinds = Counter(token.type for token in flat if token.type not in ("text", "text_special", "code_inline"))
    code = [token.content for token in flat if token.type in ("fence", "code_block")]
    places = [
        str(token.attrs.get("href") or token.attrs.get("src")) for token in flat if token.type in ("link_open", "image")
    ]
    return kinds, code, places


@given(HARD)
@example("$(touch /tmp/x)")
@example("`id` <img src=x onerror=alert(1)> | [a](javascript:alert(1))")
@example("\n---\nlicense: mit\n---\n")
@example("```\nrm -rf ~\n```")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_name_does_nothing(card_of: Maker, name: str) -> None:
    """Whatever it is, the page has the same parts, the same commands and the same links as with a plain name."""
    plain_kinds, plain_code, plain_places = shown(card_of("name"))
    kinds, code, places = shown(card_of(name))
    assert (kinds, code, places) == (plain_kinds, plain_code, plain_places)


@given(HARD)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_metadata_are_what_the_hub_takes(card_of: Maker, name: str) -> None:
    """huggingface_hub reads them, and writes them again as they were."""
    text = card_of(name)
    front = yaml.safe_load(text.split("---\n")[1])
    card = ModelCard(text)
    assert isinstance(card.data, ModelCardData)
    assert card.data.to_dict() == front
    results = card.data.eval_results
    assert results is not None
    assert [result.metric_value for result in results][:3] == [2.25, 9.4877, 0.75]
    assert list(wrong_metadata(text)) == []
    assert front.get("license", "other") == "other"


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ([], {}),
        ([Stated()], {}),
        ([Stated("mit"), Stated(), Stated("mit")], {"license": "mit"}),
        ([Stated("mit"), Stated("apache-2.0")], {"license": "other", "license_name": "mit-and-apache-2.0"}),
        (
            [Stated("Qwen Research", True, "https://x.org/l")],
            {"license": "other", "license_name": "qwen-research", "license_link": "https://x.org/l"},
        ),
        ([Stated("mit, gpl", True)], {"license": "other", "license_name": "mit-gpl"}),
        ([Stated("???", True)], {"license": "other", "license_name": "other"}),
    ],
)
def test_licences(stated: list[Stated], found: dict[str, str]) -> None:
    """One that all share, or `other` with the names."""
    assert licence(stated) == found


def test_a_card_is_put_together_as_it_was() -> None:
    """Taking it apart loses nothing that a reader sees."""
    text = "---\nlicense: mit\n---\n\n# A\n\ntext\n\n## B\n\n````md\n```\n## C\n```\n````\n\n## D\n\nend\n"
    card = read_card(text)
    assert [section.splitlines()[0] for section in card.sections] == ["# A", "## B", "## D"]
    assert card.text() == text
