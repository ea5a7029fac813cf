"""The record is believed only as far as it is whole and agrees with itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moemerge.errors import VerifyError
from moemerge.record.read import read_record
from moemerge.verify.hosts import HOSTS
from tests.verify.conftest import Folder

Tamper = Callable[..., Folder]


def change(folder: Folder, edit: Callable[[dict[str, Any]], Any]) -> list[str]:
    path = folder.path / "moemerge.yaml"
    record = yaml.safe_load(path.read_text(encoding="utf-8"))
    edit(record)
    path.write_text(yaml.safe_dump(record), encoding="utf-8")
    return folder.differences()


def test_yaml_that_cannot_be_parsed(tampered: Tamper) -> None:
    """The parser's own words, on one line."""
    folder = tampered()
    (folder.path / "moemerge.yaml").write_text("format: 1\nseed: [")
    (found,) = folder.differences()
    assert found.startswith("moemerge.yaml: cannot be read: while parsing a flow ")
    assert "\n" not in found


@pytest.mark.parametrize("text", ["", "- a list\n", "just words\n"])
def test_yaml_that_is_something_else(text: str, tampered: Tamper) -> None:
    """A record is a map."""
    folder = tampered()
    (folder.path / "moemerge.yaml").write_text(text)
    assert folder.differences() == ["moemerge.yaml: is not a map of the record's fields"]


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 50_000, "nested deeper than 64 levels"),
        ("- " * 50_000, "nested deeper than 64 levels"),
        ("format: 1\nrecipe: " + "{a: " * 50_000, "nested deeper than 64 levels"),
        (BOMB, "more than 1,000,000 values"),
        ("a: &a [*a]\n", "alias `*a` names nothing before it"),
    ],
)
def test_yaml_that_no_parser_survives(text: str, why: str, tampered: Tamper) -> None:
    """Depth that ends the process, and aliases that stand for gigabytes, are refused before it is put together."""
    folder = tampered()
    (folder.path / "moemerge.yaml").write_text(text)
    assert folder.differences() == [f"moemerge.yaml: cannot be read: {why}"]


def test_an_alias_stands_for_what_it_names(tampered: Tamper) -> None:
    """Other tools may write one where two values are the same."""
    folder = tampered()
    path = folder.path / "moemerge.yaml"
    path.write_text(f"same: &same [1, 2]\nagain: *same\n{path.read_text(encoding='utf-8')}", encoding="utf-8")
    assert folder.differences() == []


def test_tags_build_nothing(tampered: Tamper) -> None:
    """A tag that would make an object is refused by the parser."""
    folder = tampered()
    (folder.path / "moemerge.yaml").write_text("format: !!python/object/apply:os.getcwd []\n")
    (found,) = folder.differences()
    assert found.startswith("moemerge.yaml: cannot be read: could not determine a constructor for the tag")


def test_what_is_missing_is_named(tampered: Tamper) -> None:
    """Every field at once."""

    def edit(record: dict[str, Any]) -> None:
        del record["tensors"], record["sources"]["e0"]["digest"]
        record["dtype"] = "F8"
        record["recipe"]["experts_per_token"] = 0

    assert change(tampered(), edit) == [
        "moemerge.yaml: `dtype`: Input should be 'F32', 'BF16' or 'F16'",
        "moemerge.yaml: `sources.e0.digest`: Field required",
        "moemerge.yaml: `recipe.experts_per_token`: Input should be greater than or equal to 1",
        "moemerge.yaml: `tensors`: Field required",
    ]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r["experts"].reverse(), "`experts` and `recipe.experts` do not name the same experts"),
        (lambda r: r["experts"][1].update(source="e2"), "`experts.1.source` is `e2`, the recipe's is `{e1}`"),
        (lambda r: r["sources"]["base"].update(model="x"), "`sources.base` is not the recipe's `base_model`"),
        (lambda r: r["merge"].update(norms="base"), "`merge.norms` is `base`, the recipe's is `mean`"),
        (lambda r: r["experts"][0].update(width=64), "`experts.0.width` is 64, its source has 48"),
    ],
)
def test_a_record_that_contradicts_itself(edit: Callable[[Any], Any], message: str, tampered: Tamper) -> None:
    """What the build did must be what its own recipe asked for."""
    folder = tampered()
    recipe = yaml.safe_load((folder.path / "moemerge.yaml").read_text())["recipe"]
    found = change(folder, edit)
    assert f"moemerge.yaml: {message.format(e1=recipe['experts'][1]['model'])}" in found


def test_a_file_outside_is_not_read(tampered: Tamper) -> None:
    """A record that names files elsewhere."""
    outside = ["../secret", "/etc/passwd"]
    found = change(tampered(), lambda record: record["files"].update(dict.fromkeys(outside, "0" * 32)))
    assert found == [f"{name}: is outside the folder, so it is not read" for name in outside]


def test_a_tensor_that_the_record_forgot(tampered: Tamper) -> None:
    """Every tensor has its digest."""
    found = change(tampered(), lambda record: record["tensors"].pop("model.norm.weight"))
    assert found == ["model.norm.weight: is not in the record"]


def test_a_tensor_that_the_record_invented(tampered: Tamper) -> None:
    """A tensor that the recipe does not lead to, in the record and not in the files."""
    found = change(tampered(), lambda record: record["tensors"].update({"x.weight": "0" * 32}))
    assert found == ["x.weight: is in the record, and no tensor of this model"]


def test_a_wrapper_that_nobody_knows(tampered: Tamper) -> None:
    """It is said like any other field that is wrong."""
    found = change(tampered(), lambda record: record.update(wrapper="</s>"))
    assert found == ["moemerge.yaml: `wrapper`: no model of more than text is known as `</s>`"]


def test_a_newer_record_is_refused(tampered: Tamper) -> None:
    """Another format is no damage: another version reads it."""
    folder = tampered()
    with pytest.raises(VerifyError) as caught:
        change(folder, lambda record: record.update(format=2))
    assert caught.value.message == f"`{folder.path}` has a record of format `2`, and this moemerge reads format `1`"
    assert caught.value.hint == "use the version of moemerge that built it, named in its `moemerge.yaml`"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(text=st.text(max_size=60))
def test_no_text_is_a_traceback(text: str, tmp_path: Path) -> None:
    """Any text as a record gives differences or says that it is none of this version."""
    (tmp_path / "moemerge.yaml").write_text(text, encoding="utf-8")
    assert isinstance(_attempt(tmp_path), VerifyError | list)


def _attempt(folder: Path) -> object:
    try:
        return read_record(folder, HOSTS, ())
    except VerifyError as error:
        return error


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(
    key=st.sampled_from(["architecture", "root", "sources", "experts", "merge", "recipe", "files", "tensors"]),
    value=st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.none() | st.integers(), max_size=2),
)  # fmt: skip
def test_no_value_is_a_traceback(key: str, value: Any, built: Callable[..., Path], tmp_path: Path) -> None:
    """Any value in any field is read, or said to be wrong."""
    record = yaml.safe_load((built() / "moemerge.yaml").read_text())
    record[key] = value
    (tmp_path / "moemerge.yaml").write_text(yaml.safe_dump(record))
    read_record(tmp_path, HOSTS, ())
