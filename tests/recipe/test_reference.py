"""The reference page and the JSON Schema say what the schema says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from moemerge.recipe import parse_recipe
from moemerge.recipe.reference import json_schema, markdown
from moemerge.recipe.schema import Recipe

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    """docs/recipe.md is what `make docs` writes."""
    written = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert written == markdown(), "run `make docs`"


def test_the_module_writes_the_page() -> None:
    """`python -m moemerge.recipe.reference`, without a warning."""
    command = [sys.executable, "-W", "error", "-m", "moemerge.recipe.reference"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", env={"PYTHONUTF8": "1"}, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, markdown(), "")


def test_every_field_is_on_the_page_with_its_meaning() -> None:
    """A field without a docstring would be a row without a meaning."""
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.*?) \| (.*) \|$", markdown(), flags=re.MULTILINE)
    models = [json_schema(), *json_schema()["$defs"].values()]
    assert sorted(key for key, *_ in rows) == sorted(key for model in models for key in model["properties"])
    assert [key for key, kind, _, meaning in rows if not kind or not meaning.endswith(".")] == []


def test_the_links_of_the_page_lead_to_its_headings() -> None:
    """Made as GitHub makes them."""
    page = markdown()
    headings = re.findall(r"^## (.*)$", page, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= anchors


def test_the_pages_example_is_a_recipe() -> None:
    """It is loaded as it stands."""
    (example,) = re.findall(r"```yaml\n(.*?)```", markdown(), flags=re.DOTALL)
    assert [expert.name for expert in parse_recipe(example).recipe.experts] == ["code", "french"]


def test_the_schema_is_one_that_editors_read() -> None:
    """A dialect, a title, descriptions on one line, unknown keys refused, and no flags within patterns."""
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (schema["title"], schema["description"]) == ("moemerge recipe", "What is to be built.")
    assert schema["required"] == ["base_model", "experts"]
    models = [schema, *schema["$defs"].values()]
    assert all(model["additionalProperties"] is False for model in models)
    fields: list[dict[str, Any]] = [field for model in models for field in model["properties"].values()]
    assert all("\n" not in field["description"] and "title" not in field for field in fields)
    assert not any("(?" in field.get("pattern", "") for field in fields)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_of_the_repository_keep_to_the_schema(path: Path) -> None:
    """Every key of every native recipe is known to it."""
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "gate_mode" not in recipe:
        assert recipe.keys() <= json_schema()["properties"].keys() == Recipe.model_fields.keys()
