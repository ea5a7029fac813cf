"""Bad recipes, each by the real command: its exact message, status 1, and nothing left of an output."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from moemerge.cli import app
from tests.bad_input.command import RECIPE, refused

RECIPES = {
    "empty file": (
        "",
        "error: The recipe is empty\n"
        "  recipe.yaml:1:1\n"
        "  1 | \n"
        "    | ^\n"
        "hint: it needs at least `base_model` and `experts`\n",
    ),
    "unknown key": (
        RECIPE.replace("models/math, prompts", "models/math, promts"),
        "error: Unknown key `promts` in `experts[1]`\n"
        "  recipe.yaml:4:38\n"
        "  4 |   - {name: math, model: models/math, promts: [sum of two and three minus one equals four]}\n"
        "    |                                      ^^^^^^\n"
        "hint: did you mean `prompts`?\n",
    ),
    "misspelt gate": (
        RECIPE.replace("random", "discriminat"),
        "error: `gate.init` must be `discriminant`, `advantage`, `lda`, `centroid`, `centred`, `random`, "
        "`uniform`, `mergekit_hidden`, `hidden_avg` or `cheap_embed`, not `discriminat`\n"
        "  recipe.yaml:5:14\n"
        "  5 | gate: {init: discriminat}\n"
        "    |              ^^^^^^^^^^^\n"
        "hint: did you mean `discriminant`?\n",
    ),
    "no experts": (
        "base_model: models/base\nexperts: []\n",
        "error: The recipe has no experts\n"
        "  recipe.yaml:2:1\n"
        "  2 | experts: []\n"
        "    | ^^^^^^^\n"
        "hint: list two specialists or more under `experts`\n",
    ),
    "one expert": (
        "".join(RECIPE.splitlines(keepends=True)[:3]),
        "error: The recipe has one expert, so it would be a dense model\n"
        "  recipe.yaml:2:1\n"
        "  2 | experts:\n"
        "    | ^^^^^^^\n"
        "hint: list two specialists or more under `experts`\n",
    ),
    "more experts per token than experts": (
        RECIPE + "experts_per_token: 3\n",
        "error: `experts_per_token` is 3, and the recipe has 2 experts\n"
        "  recipe.yaml:6:20\n"
        "  6 | experts_per_token: 3\n"
        "    |                    ^\n"
        "hint: set it to 2 or less\n",
    ),
    "missing model": (
        RECIPE.replace("models/code", "models/coed"),
        "error: expert `code`: Model `models/coed` is neither a folder nor in the hub's cache, and offline mode is on\n"
        "hint: did you mean `models/code`?\n",
    ),
    "missing folder with a path": (
        RECIPE.replace("models/code", "./nowhere"),
        "error: expert `code`: Model `./nowhere` does not exist: there is no `WORK/nowhere`\n",
    ),
    "missing prompts file": (
        RECIPE.replace("prompts: [def reverse list return print number]", "prompts_file: code.txt"),
        "error: `experts[0].prompts_file`: Prompts file `WORK/code.txt` does not exist\n"
        "hint: write one prompt per line there, six to eight of them; a path is relative to the recipe's folder\n",
    ),
}


@pytest.mark.parametrize(("recipe", "message"), RECIPES.values(), ids=RECIPES)
def test_recipes(recipe: str, message: str) -> None:
    """What is wrong with a recipe or what it names is said with its place, or with the nearest thing there is."""
    assert refused(recipe=recipe) == message


def test_a_missing_recipe() -> None:
    """The nearest file is named."""
    Path("recipe.yaml").write_text(RECIPE, encoding="utf-8")
    result = CliRunner().invoke(app, ["build", "recipee.yaml", "-o", "out"])
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        "error: Recipe `recipee.yaml` does not exist\nhint: did you mean `recipe.yaml`?\n",
    )
