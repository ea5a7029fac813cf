"""One declaration of each option: what is refused, how it is said, and what the command line makes of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest
from typer.testing import CliRunner

from moemerge.cli import app
from moemerge.cli.options import takes_options
from moemerge.errors import EvalError, MoemergeError, TrainError
from moemerge.evaluate.options import EvalOptions, TaskOptions
from moemerge.mixture.placement import Placement
from moemerge.options import Option, check, option, options_of, parts, typed
from moemerge.train.options import TrainOptions


@dataclass(frozen=True)
class Some:
    """Options of every kind."""

    half_life: int = option(3, "Time", "How long.", least=1)
    rate: float | None = option(None, "Time", "How fast.", above=0)
    share: float = option(0.0, "Time", "How much.", least=0)
    kind: Literal["a", "b"] = option("a", "Sort", "a or b.", flag="--sort")
    also: tuple[Literal["x", "y"], ...] = option((), "Sort", "x, y.")
    plain: int = 0


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"half_life": 0}, "`--half-life 0` must be at least 1", None),
        ({"rate": 0.0}, "`--rate 0.0` must be more than 0", None),
        ({"rate": float("nan")}, "`--rate nan` must be more than 0", None),
        ({"share": -0.5}, "`--share -0.5` must not be negative", None),
        ({"share": float("nan")}, "`--share nan` must not be negative", None),
        ({"kind": "c"}, "`--sort c` is not known", "one of `a`, `b`"),
        ({"also": ("x", "z", "w")}, "`--also z,w` is not known", "one of `x`, `y`"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_in_the_words_that_were_typed(
    given: dict[str, Any], message: str, hint: str | None
) -> None:
    """Flag, value and bound; choices are those of the field's type."""
    with pytest.raises(TrainError) as caught:
        check(Some(**given), TrainError)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_values_within_the_bounds_pass() -> None:
    """The bounds themselves, and None where there is no value."""
    check(Some())
    check(Some(half_life=1, rate=1e-9, share=0, kind="b", also=("y",)))
    assert typed(Some(kind="b"), "kind") == "--sort b"


def test_a_list_is_taken_apart_at_its_commas() -> None:
    """Given at once or one by one, each part once."""
    assert parts(["a, b", "c,,a", ""]) == ("a", "b", "c")


def test_a_command_takes_the_options_in_place_of_the_dataclass() -> None:
    """A field without a declaration is none; what the command takes beside them stays."""
    seen: list[Any] = []

    @takes_options
    def command(one: int, some: Some, two: bool = False) -> None:
        seen.append((one, some, two))

    assert list(inspect.signature(command).parameters) == ["one", "half_life", "rate", "share", "sort", "also", "two"]
    command(one=1, half_life=2, rate=None, share=0.5, sort="b", also=["x,y"], two=True)
    assert seen == [(1, Some(2, None, 0.5, "b", ("x", "y")), True)]
    with pytest.raises(MoemergeError, match="`--sort c` is not known"):
        command(one=1, half_life=2, rate=None, share=0.5, sort="c", also=[], two=True)


def every_option() -> Iterator[tuple[str, str, Option]]:
    """Dataclass, field and declaration of every option that there is."""
    for kind in (TrainOptions, EvalOptions, TaskOptions, Placement):
        for name, declared in options_of(kind).items():
            yield kind.__name__, name, declared


@pytest.mark.parametrize("declared", [pytest.param(one, id=f"{kind}.{name}") for kind, name, one in every_option()])
def test_the_help_is_a_sentence_that_names_every_choice(declared: Option) -> None:
    """So that help and type cannot differ."""
    assert re.fullmatch(r"[A-Za-z].*[.\]]|.*\.", declared.help)
    assert [choice for choice in declared.choices if choice not in declared.help] == []


@pytest.mark.parametrize("kind", [TrainOptions, EvalOptions])
def test_every_field_is_an_option_or_a_group_of_them(kind: type) -> None:
    """But the cache, which `--no-cache` turns off."""
    hints = get_type_hints(kind)
    plain = [one.name for one in fields(kind) if "option" not in one.metadata and not is_dataclass(hints[one.name])]
    assert plain == (["cache"] if kind is EvalOptions else [])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--rank", "0"], "`--rank 0` must be at least 1"),
        (["--limit", "0"], "`--limit 0` must be at least 1"),
        (["--method", "dora"], "`--method dora` is not known\nhint: one of `lora`, `full`"),
        (["--also", "mlp"], "`--also mlp` is not known\nhint: one of `attention`, `experts`"),
        (["--track", "mlflow"], "`--track mlflow` is not known\nhint: one of `tensorboard`, `wandb`"),
        (["--dtype", "float16"],
         "`--dtype float16` is not known in training\nhint: one of `auto`, `float32`, `bfloat16`"),
        (["--max-memory", "cpu=8GB"], "`--max-memory` needs `--device-map`\nhint: add `--device-map auto`"),
    ],
)  # fmt: skip
def test_train_router_misused(arguments: list[str], error: str, tmp_path: Path) -> None:
    """One line and status 1, before anything is read."""
    result = CliRunner().invoke(app, ["train-router", str(tmp_path), "-o", str(tmp_path / "out"), *arguments])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"error: {error}\n")


def test_eval_options_that_make_no_sense() -> None:
    """Outside the command line too."""
    for given, message in (
        ({"limit": 0}, "`--limit 0` must be at least 1"),
        ({"seed": -1}, "`--seed -1` must not be negative"),
    ):
        with pytest.raises(EvalError) as caught:
            EvalOptions(**given)
        assert caught.value.message == message
    with pytest.raises(EvalError, match="`--fewshot -1` must not be negative"):
        TaskOptions(fewshot=-1)
