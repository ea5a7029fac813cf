"""Every recipe of the repository loads, and what it names is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from moemerge.recipe import Data, file_path, load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
NAMES = {
    "adapters", "chat", "data-gate", "demo", "full-checkpoints", "mergekit", "mergekit-native", "near-pair", "top-1",
    "upcycle", "vision", "with-base",
}  # fmt: skip


def test_there_is_one_for_each_use() -> None:
    """A recipe that is added here needs a line in this test, and so a reason."""
    assert {path.stem for path in RECIPES} == NAMES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_its_header_has_its_command(path: Path) -> None:
    """It begins with what it is for; the command names the file itself."""
    loaded = load_recipe(path)
    assert len(loaded.recipe.experts) >= 2
    header = path.read_text(encoding="utf-8").partition("\nbase_model:")[0]
    assert all(line.startswith("#") for line in header.splitlines() if line)
    assert f"moemerge build recipes/{path.name}" in header


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_texts_and_adapters_that_a_recipe_names_are_in_the_repository(path: Path) -> None:
    """All but the full checkpoints, which are too large to be kept."""
    loaded = load_recipe(path)
    named = [expert.model.rpartition("+")[2] for expert in loaded.recipe.experts]
    named += [expert.prompts_file for expert in loaded.recipe.experts if expert.prompts_file]
    named += [expert.data.path for expert in loaded.recipe.experts if expert.data]
    named += [texts.path if isinstance(texts, Data) else texts for texts in loaded.recipe.eval.domains.values()]
    named += [questions.path for questions in loaded.recipe.eval.questions.values()]
    kept = [text for text in named if text.startswith("../examples/") and not text.startswith("../examples/full/")]
    assert [text for text in kept if not file_path(loaded.root, text).exists()] == []


def test_the_demos_prompts_are_those_of_the_examples() -> None:
    """They stand in the recipe so that it can be read alone, and are the lines of examples/prompts."""
    for expert in load_recipe(ROOT / "recipes" / "demo.yaml").recipe.experts:
        lines = (ROOT / "examples" / "prompts" / f"{expert.name}.txt").read_text(encoding="utf-8").splitlines()
        assert expert.prompts == tuple(lines)
