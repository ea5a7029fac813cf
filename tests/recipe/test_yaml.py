"""YAML becomes a tree with places; what has no place in a recipe is refused where it stands."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from moemerge.errors import RecipeError
from moemerge.recipe.places import Source
from moemerge.recipe.yaml import MAX_DEPTH, MAX_VALUES, Table, compose, decode, plain


def read(text: str) -> Any:
    return plain(compose(Source("r.yaml", text)))


def refused(text: str | bytes) -> tuple[str, str, str | None]:
    """Code, message and hint of the error."""
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(RecipeError) as caught:
        compose(decode(data, "r.yaml"))
    return caught.value.code, caught.value.message, caught.value.hint


def test_anchors_aliases_and_merge_keys_are_expanded() -> None:
    """An alias is its anchor's value; own keys win over merged ones, and the first of several merged mappings wins."""
    text = """
    x: &a {b: 1, c: [2]}
    y: {<<: *a, b: 3}
    z: {<<: [*a, {b: 9, d: 5}], e: *a}
    """
    assert read(text) == {
        "x": {"b": 1, "c": [2]},
        "y": {"b": 3, "c": [2]},
        "z": {"b": 1, "c": [2], "d": 5, "e": {"b": 1, "c": [2]}},
    }


def test_a_quoted_merge_sign_is_an_ordinary_key() -> None:
    """Only the bare `<<` merges."""
    assert read("'<<': 1") == {"<<": 1}


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("off", "off"), ("no", "no"), ("yes", "yes"), ("2024-01-01", "2024-01-01"), ("12e4567", "12e4567"),
        ("0x10", "0x10"), ("010", "010"), ("1:30", "1:30"), ("1_000", "1_000"), ("9" * 40, "9" * 40),
        ("'1'", "1"), ('"true"', "true"), ("''", ""),
        ("true", True), ("FALSE", False), ("~", None), ("null", None), ("", None),
        ("7", 7), ("-12", -12), (".5", 0.5), ("1.0e-05", 1e-5), ("-.inf", float("-inf")),
    ],
)  # fmt: skip
def test_only_what_all_versions_of_yaml_agree_on_is_more_than_text(typed: str, value: object) -> None:
    """`off`, dates, octal numbers and commits stay text; true, null and decimal numbers do not."""
    assert read(f"a: {typed}") == {"a": value}


def test_places_point_at_keys_and_values() -> None:
    """Line, column and length of keys and values, in characters and not in bytes."""
    tree = compose(Source("r.yaml", "é: &x {ü: wert}\nb: [1, *x]\n"))
    key, node = tree.entries["é"]
    assert (key.line, key.column, key.length) == (0, 0, 1)
    assert isinstance(node, Table)
    inner = node.entries["ü"]
    assert (inner.key.column, inner.node.place.column, inner.node.place.length) == (7, 10, 4)


def test_utf8_with_a_mark_and_utf16_are_read() -> None:
    """Editors that write a byte order mark are no obstacle."""
    for encoding in ("utf-8-sig", "utf-16"):
        assert plain(compose(decode("a: é".encode(encoding), "r.yaml"))) == {"a": "é"}


@pytest.mark.parametrize(
    ("text", "code", "message", "hint"),
    [
        (
            "a: 1\nb: !!python/object/apply:os.system [ls]",
            "tag",
            "Tag `!!python/object/apply:os.system` is not read: a recipe holds plain values\n"
            "  r.yaml:2:4\n"
            "  2 | b: !!python/object/apply:os.system [ls]\n"
            "    |    ^",
            "put quotes round a text that begins with `!`",
        ),
        (
            "seed: 1\nexperts: []\nseed: 2",
            "duplicate-key",
            "Key `seed` is given twice\n  r.yaml:3:1\n  3 | seed: 2\n    | ^^^^",
            "line 1 has it already; keep one of the two",
        ),
        (
            "a: &a [*a]",
            "bad-alias",
            "Alias `*a` stands inside what it names, so it would never end\n"
            "  r.yaml:1:8\n"
            "  1 | a: &a [*a]\n"
            "    |        ^^",
            None,
        ),
        (
            "a: &prompts [x]\nb: *promts",
            "bad-alias",
            "Alias `*promts` names no anchor before it\n  r.yaml:2:4\n  2 | b: *promts\n    |    ^^^^^^^",
            "did you mean `prompts`?",
        ),
        (
            "a: *bold",
            "bad-alias",
            "Alias `*bold` names no anchor before it\n  r.yaml:1:4\n  1 | a: *bold\n    |    ^^^^^",
            "put quotes round a text: `'*bold'`",
        ),
        (
            "a: {<<: 3}",
            "bad-merge-key",
            "`<<` merges mappings, and this value is not one\n  r.yaml:1:5\n  1 | a: {<<: 3}\n    |     ^^",
            "write `<<: *name` or `<<: [*one, *two]`, each the anchor of a mapping",
        ),
        (
            "model: {{base}}",
            "bad-key",
            "A key must be text, and this one is a list or mapping\n"
            "  r.yaml:1:9\n"
            "  1 | model: {{base}}\n"
            "    |         ^",
            "put quotes round a text that begins with `{` or `[`",
        ),
        (
            "a: 1\n---\nb: 2",
            "documents",
            "The recipe is one YAML document, and here a second begins\n  r.yaml:2:1\n  2 | ---\n    | ^",
            None,
        ),
        (
            "- a: 1",
            "not-a-mapping",
            "The recipe is a list, and must be a mapping of keys to values\n  r.yaml:1:1\n  1 | - a: 1\n    | ^",
            "begin with a key, such as `base_model: ...`",
        ),
        (
            "",
            "empty",
            "The recipe is empty\n  r.yaml:1:1\n  1 | \n    | ^",
            "it needs at least `base_model` and `experts`",
        ),
        (
            "# only a comment\n",
            "empty",
            "The recipe is empty\n  r.yaml:1:1\n  1 | # only a comment\n    | ^",
            "it needs at least `base_model` and `experts`",
        ),
        (
            b"a: caf\xe9",
            "encoding",
            "The recipe is not UTF-8: byte 0xe9 is not a character\n  r.yaml:1:7\n  1 | a: caf\ufffd\n    |       ^",
            "save the file as UTF-8",
        ),
        (
            "a: 1\nb: x\x00y",
            "syntax",
            "The recipe holds the character U+0000, which YAML does not allow\n"
            "  r.yaml:2:5\n  2 | b: x\ufffdy\n    |     ^",
            "remove it, or write it as an escape in a double-quoted text",
        ),
        (
            "a: [1, 2\nb: 3",
            "syntax",
            "The recipe is not valid YAML: while parsing a flow sequence, did not find expected ',' or ']'\n"
            "  r.yaml:2:2\n"
            "  2 | b: 3\n"
            "    |  ^",
            "close the bracket of line 1, or put a comma between its parts",
        ),
        (
            "a: 1\nb: [1, 2\n\n",
            "syntax",
            "The recipe is not valid YAML: while parsing a flow sequence, did not find expected ',' or ']'\n"
            "  r.yaml:2:4\n"
            "  2 | b: [1, 2\n"
            "    |    ^",
            "close the bracket of line 2, or put a comma between its parts",
        ),
        (
            'a: ["x", "y" z", "w"]',
            "syntax",
            "The recipe is not valid YAML: while parsing a flow sequence, did not find expected ',' or ']'\n"
            "  r.yaml:1:14\n"
            '  1 | a: ["x", "y" z", "w"]\n'
            "    |              ^",
            "close the bracket of line 1, or put a comma between its parts",
        ),
        (
            "a: 1\nb: 'x\nc: 2\n",
            "syntax",
            "The recipe is not valid YAML: while scanning a quoted scalar, found unexpected end of stream\n"
            "  r.yaml:2:4\n"
            "  2 | b: 'x\n"
            "    |    ^",
            "check the indentation, and that every quote is closed",
        ),
        (
            "a: b: c",
            "syntax",
            "The recipe is not valid YAML: mapping values are not allowed in this context\n"
            "  r.yaml:1:5\n"
            "  1 | a: b: c\n"
            "    |     ^",
            "put quotes round a text that holds a colon and a space",
        ),
        (
            "a:\n\t- b",
            "syntax",
            "The recipe is not valid YAML: while scanning for the next token, "
            "found character that cannot start any token\n"
            "  r.yaml:2:1\n"
            "  2 |  - b\n"
            "    | ^",
            "indent with spaces: YAML takes no tabs",
        ),
        (
            "a: @b",
            "syntax",
            "The recipe is not valid YAML: while scanning for the next token, "
            "found character that cannot start any token\n"
            "  r.yaml:1:4\n"
            "  1 | a: @b\n"
            "    |    ^",
            "put quotes round a text that begins with `@`",
        ),
        (
            'a: "C:\\q"',
            "syntax",
            "The recipe is not valid YAML: while parsing a quoted scalar, found unknown escape character\n"
            "  r.yaml:1:7\n"
            '  1 | a: "C:\\q"\n'
            "    |       ^",
            "use single quotes, in which a backslash means itself, or double the backslash",
        ),
    ],
)
def test_what_is_not_read_is_refused_with_line_and_caret(
    text: str | bytes, code: str, message: str, hint: str | None
) -> None:
    """Message, place, source line, caret and hint, in full."""
    assert refused(text) == (code, message, hint)


def test_a_bomb_of_aliases_is_refused_before_it_is_expanded() -> None:
    """Ten aliases of ten aliases, eleven times over: 10¹² values, refused at the first that is too many."""
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12))]
    code, message, hint = refused("\n".join(lines))
    assert code == "too-large"
    assert message.startswith(f"The recipe expands to more than {MAX_VALUES:,} values\n  r.yaml:7:10\n")
    assert hint == "keep long lists of prompts in a `prompts_file`, texts in `data`"


def test_a_bomb_of_merge_keys_is_refused() -> None:
    """A large mapping merged into many others counts each time."""
    lines = ["a: &a", *(f"  k{i}: 1" for i in range(5000)), "b:", *["  - {<<: *a}"] * 5000]
    assert refused("\n".join(lines))[0] == "too-large"


def test_a_long_text_aliased_often_is_refused() -> None:
    """What counts is the size, not the number of nodes alone."""
    assert refused(f"a: &a {'x' * 1_000_000}\nb: [{', '.join(['*a'] * 100)}]")[0] == "too-large"


@pytest.mark.parametrize("text", ["a: " + "[" * 100_000, "a: " + "{b: " * 70])
def test_deep_nesting_is_refused(text: str) -> None:
    """Neither libyaml's nor Python's stack is at risk."""
    code, message, _ = refused(text)
    assert (code, message.splitlines()[0]) == ("too-deep", f"The recipe is nested deeper than {MAX_DEPTH} levels")


def test_depth_that_aliases_bring_is_refused() -> None:
    """Each level is shallow as typed; together they are not."""
    lines = ["a0: &a0 " + "[" * 30 + "]" * 30]
    lines += [f"a{i}: &a{i} " + "[" * 30 + f"*a{i - 1}" + " ]" * 30 for i in range(1, 50)]
    assert refused("\n".join(lines))[0] == "too-deep"


def test_a_long_line_is_shown_around_the_place() -> None:
    """A caret under the place, whatever the line's length."""
    text = "a: [" + "x, " * 200 + "*y, " + "x, " * 200 + "]"
    _, message, _ = refused(text)
    _, _, line, caret = message.splitlines()
    assert len(line) < 120
    start = caret.index("^")
    assert line[start : start + 2] == "*y"
    assert (line[6], line[-1]) == ("…", "…")


def test_the_caret_stands_under_wide_characters() -> None:
    """Characters of two columns push the caret by two, and it is as wide as they are."""
    _, message, _ = refused("日本: 1\n日本: 2")
    assert message.splitlines()[2:] == ["  2 | 日本: 2", "    | ^^^^"]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029"), max_size=20)
"""Without the line ends that PyYAML itself writes and does not read back."""
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(texts, values, min_size=1, max_size=4), st.booleans())
def test_what_pyyaml_dumps_is_read_as_it_was(data: dict[str, Any], flow: bool) -> None:
    """Any plain data comes back equal, so a recipe that was written out can be read again."""
    text = yaml.safe_dump(data, allow_unicode=True, default_flow_style=flow)
    assert read(text) == data


def shows_a_place(data: bytes) -> bool:
    """Whether what is refused is refused with its place; true of what is read."""
    try:
        compose(decode(data, "r.yaml"))
    except RecipeError as error:
        return "\n  r.yaml:" in error.message
    return True


@given(st.text() | st.text(alphabet="abc: -[]{}&*!|>'\"#%@`\n\t<,?~\\0"))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text, however broken, raises anything but a RecipeError whose message shows a place."""
    assert shows_a_place(text.encode("utf-8", "surrogatepass"))


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """The same for bytes."""
    assert shows_a_place(data)
