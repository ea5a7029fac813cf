"""`--set KEY=VALUE` and `--gate NAME` change a recipe before it is checked, and are pointed into like a file."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moemerge.errors import MoemergeError, RecipeError
from moemerge.recipe import Recipe, parse_recipe

GOOD = """\
base_model: base/model
experts:
  - name: code
    model: adapters/code
    prompts: [Write a function]
  - &math
    name: math
    model: adapters/math
    prompts: [Add two numbers]
merge: {shared: base}
gate:
"""


def changed(*overrides: str, gate: str | None = None) -> Recipe:
    return parse_recipe(GOOD, "r.yaml", overrides=overrides or ["gate={}"], gate=gate).recipe


def refused(*overrides: str, gate: str | None = None) -> tuple[str, str, str | None]:
    """Code, message and hint of the only problem."""
    with pytest.raises(RecipeError) as caught:
        changed(*overrides, gate=gate)
    (problem,) = caught.value.problems
    return problem.code, problem.message, problem.hint


def test_values_are_yaml() -> None:
    """Numbers, truth, lists, mappings and text, with equals signs and colons in it."""
    recipe = changed(
        "seed=7",
        "experts[1].pad=true",
        "experts[0].prompts=[a = b, 'c: d']",
        "gate={init: lda, expand: off}",
        "output.path=/tmp/a b",
        "eval.domains.code=code.jsonl",
    )
    assert recipe.seed == 7
    assert [expert.pad for expert in recipe.experts] == [False, True]
    assert recipe.experts[0].prompts == ("a = b", "c: d")
    assert (recipe.gate.init, recipe.gate.expand) == ("lda", "off")
    assert (recipe.output.path, recipe.eval.domains) == ("/tmp/a b", {"code": "code.jsonl"})


def test_what_is_not_named_stays() -> None:
    """A key within a mapping leaves its neighbours alone."""
    recipe = changed("merge.lm_head=mean", "gate.init=lda")
    assert (recipe.merge.shared, recipe.merge.lm_head) == ("base", "mean")


def test_the_last_override_wins_and_the_gate_option_is_last() -> None:
    """They are applied in order."""
    assert changed("seed=1", "seed=2", "gate.init=lda").seed == 2
    assert changed("gate.init=lda", gate="centroid").gate.init == "centroid"
    assert changed(gate="random").gate.init == "random"


def test_an_empty_value_takes_back_an_optional_field() -> None:
    """Nothing after the equals sign is null."""
    assert changed("gate={ridge: 1}", "gate.ridge=").gate.ridge is None


def test_an_item_is_replaced_where_it_stands() -> None:
    """One prompt of a list."""
    assert changed("gate={}", "experts[1].prompts[0]=Subtract").experts[1].prompts == ("Subtract",)


def test_what_an_alias_shares_is_changed_in_one_place_only() -> None:
    """An override of one expert leaves another expert alone that was written as its alias."""
    text = "base_model: b\ngate: {init: random}\nexperts:\n- &a {name: a, model: m}\n- {<<: *a, name: b}\n- *a\n"
    recipe = parse_recipe(text, overrides=["experts[2].name=c", "experts[2].pad=true"]).recipe
    assert [(expert.name, expert.pad) for expert in recipe.experts] == [("a", False), ("b", False), ("c", True)]


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        (
            "gate.inti=lda",
            "Unknown key `inti` in `gate`\n  --set:1:6\n  1 | gate.inti=lda\n    |      ^^^^",
            "did you mean `init`?",
        ),
        (
            "gate.init=ldaa",
            "`gate.init` must be `discriminant`, `advantage`, `lda`, `centroid`, `centred`, `random`, `uniform`, "
            "`mergekit_hidden`, `hidden_avg` or `cheap_embed`, not `ldaa`\n"
            "  --set:1:11\n"
            "  1 | gate.init=ldaa\n"
            "    |           ^^^^",
            "did you mean `lda`?",
        ),
        (
            "expert[0].pad=true",
            "Unknown key `expert`\n  --set:1:1\n  1 | expert[0].pad=true\n    | ^^^^^^",
            "did you mean `experts`?",
        ),
        (
            "experts[2].pad=true",
            "`experts` has no item 2: it has 2, counted from 0\n"
            "  --set:1:8\n"
            "  1 | experts[2].pad=true\n"
            "    |        ^^^",
            "the last is `experts[1]`",
        ),
        (
            "experts.pad=true",
            "`experts` is a list, so it has no `pad`\n  --set:1:9\n  1 | experts.pad=true\n    |         ^^^",
            "name an item: `experts[0].pad`",
        ),
        (
            "base_model.path=x",
            "`base_model` is a single value, so it has no `path`\n"
            "  --set:1:12\n"
            "  1 | base_model.path=x\n"
            "    |            ^^^^",
            None,
        ),
        (
            "base_model[0]=x",
            "`base_model` has no item 0: it is not a list\n  --set:1:11\n  1 | base_model[0]=x\n    |           ^^^",
            "give all of it: `--set 'base_model=[...]'`",
        ),
        (
            "experts[0].prompts=[a, !b c]",
            "Tag `!b` is not read: a recipe holds plain values\n"
            "  --set:1:24\n"
            "  1 | experts[0].prompts=[a, !b c]\n"
            "    |                        ^^^^",
            "put quotes round a text that begins with `!`",
        ),
        (
            "experts[0].prompts=[a",
            "The value is not valid YAML: while parsing a flow sequence, did not find expected ',' or ']'\n"
            "  --set:1:20\n"
            "  1 | experts[0].prompts=[a\n"
            "    |                    ^",
            "close the bracket of line 1, or put a comma between its parts",
        ),
    ],
)
def test_a_wrong_override_is_shown_with_a_caret(override: str, message: str, hint: str | None) -> None:
    """The text of the option is the source that the caret points into."""
    assert refused("gate={}", override)[1:] == (message, hint)


def test_a_list_that_is_not_there_begins_with_its_first_item() -> None:
    """Any other item of it is refused."""
    assert changed("gate={}", "shared_experts[0].model=x").shared_experts[0].model == "x"
    code, message, _ = refused("gate={}", "shared_experts[1].model=x")
    assert (code, message.splitlines()[0]) == ("unknown-key", "`shared_experts` has no item 1: it is not there")


@pytest.mark.parametrize(
    "text",
    ["", "seed", "=1", ".seed=1", "seed.=1", "gate..init=lda", "[0]=1", "experts[x]=1", "experts[0]pad=1", "a.[0]=1"],
)
def test_what_is_no_key_and_value_is_refused(text: str) -> None:
    """With the form and two examples."""
    code, message, hint = refused("gate={}", text)
    assert (code, message.splitlines()[0]) == ("bad-override", f"`{text}` is not of the form `KEY=VALUE`")
    assert hint == "write `--set KEY=VALUE`, such as `--set gate.init=lda` or `--set experts[1].pad=true`"


def test_a_misspelt_gate_option_is_refused_with_the_nearest() -> None:
    """`--gate` is checked as `gate.init` is."""
    code, message, hint = refused("gate={}", gate="centriod")
    assert (code, hint) == ("unknown-value", "did you mean `centroid`?")
    assert message.splitlines()[1:] == ["  --gate:1:1", "  1 | centriod", "    | ^^^^^^^^"]


def test_bytes_of_the_command_line_that_are_no_text_are_refused() -> None:
    """Python hands them over as lone surrogates, which no file could hold either."""
    code, message, _ = refused("gate={}", "output.path=caf\udce9")
    assert (code, message) == (
        "syntax",
        "The value holds the character U+DCE9, which YAML does not allow\n"
        "  --set:1:16\n"
        "  1 | output.path=caf\ufffd\n"
        "    |                ^",
    )


@given(
    st.text(max_size=30) | st.text(alphabet="experts[0].pad=true{}&*! ", max_size=30), st.none() | st.text(max_size=5)
)
def test_no_option_raises_anything_but_our_errors(text: str, gate: str | None) -> None:
    """Whatever is typed, with characters that no terminal shows too."""
    with suppress(MoemergeError):
        changed(text, gate=gate)
