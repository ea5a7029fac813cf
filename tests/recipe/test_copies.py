"""An expert with `copies` stands for several, in a recipe's data and for its messages."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from moemerge.recipe import Recipe, RecipeProblems, parse_recipe

HEAD = "base_model: base/model\n"
TWO = HEAD + "experts:\n  - {name: a, model: base, copies: 3, reinitialise: 0.5}\n  - {name: b, model: m/b}\n"
UNFITTED = "gate: {init: uniform}\n"


def problems(text: str) -> list[tuple[str, str, str | None]]:
    """Code, first line and hint of each problem."""
    with pytest.raises(RecipeProblems) as caught:
        parse_recipe(text, "r.yaml")
    return [(problem.code, problem.message, problem.hint) for problem in caught.value.problems]


def test_each_copy_is_an_expert_of_its_own() -> None:
    """All else is the same; what is written down asks for no copies, so that it is read as it is."""
    recipe = parse_recipe(TWO + UNFITTED).recipe
    assert [expert.name for expert in recipe.experts] == ["a-1", "a-2", "a-3", "b"]
    assert {(expert.model, expert.reinitialise, expert.copies) for expert in recipe.experts} == {
        ("base", 0.5, 1), ("m/b", 0.0, 1)
    }  # fmt: skip
    assert Recipe.model_validate(recipe.dump()) == recipe
    assert len(parse_recipe(TWO + UNFITTED, overrides=["experts[0].copies=7"]).recipe.experts) == 8


def test_one_expert_with_copies_is_enough() -> None:
    """A recipe of one model may have no other expert."""
    text = HEAD + "experts: [{name: a, model: base, copies: 128}]\n" + UNFITTED
    assert len(parse_recipe(text).recipe.experts) == 128


def test_no_fitted_gate_tells_copies_apart() -> None:
    """It is said once, at the expert; other mistakes beside it keep their places."""
    text = TWO.replace("copies: 3", "copies: 3, prompts: [one]").replace("m/b", "m/b, prompts_file: x, prompts: [y]")
    (copies, several) = problems(text)
    assert copies == (
        "copies",
        "Copies such as `a-1` answer the same, so no gate can tell them apart\n  r.yaml:3:5\n"
        "  3 |   - {name: a, model: base, copies: 3, reinitialise: 0.5, prompts: [one]}".replace(
            ", reinitialise: 0.5, prompts: [one]", ", prompts: [one], reinitialise: 0.5"
        )
        + "\n    |     ^",
        "take a gate that is not fitted with `--gate uniform`, and train the result",
    )
    assert several[0] == "several-texts"
    assert "\n  r.yaml:4:" in several[1]


def test_their_names_are_unique_too() -> None:
    """The later one is pointed at."""
    text = TWO.replace("name: b", "name: a-2") + UNFITTED
    ((code, message, _),) = problems(text)
    assert (code, message.partition("\n")[0]) == ("duplicate-name", "Experts 1 and 3 are both named `a-2`")
    assert "\n  r.yaml:4:" in message


def test_there_are_not_too_many() -> None:
    """256 of one, 1024 in all."""
    ((code, message, _),) = problems(TWO.replace("copies: 3", "copies: 257"))
    assert (code, message.partition("\n")[0]) == ("out-of-range", "`experts[0].copies` must be at most 256, not `257`")
    many = "".join(f"  - {{name: a{number}, model: base, copies: 256}}\n" for number in range(5))
    ((_, message, _),) = problems(HEAD + "experts:\n" + many)
    assert message.partition("\n")[0] == "`experts`: 1280 with all copies, and a recipe may have 1024"
    with pytest.raises(ValidationError):
        Recipe.model_validate({"base_model": "b", "experts": [{"name": "a", "model": "b", "copies": 200}] * 6})
