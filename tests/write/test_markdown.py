"""Names in Markdown, as a reader of it makes a page of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from moemerge.write.markdown import code, plain, table

NAMES = (
    "$(rm -rf ~)", "`id`", "a|b", "<script>alert(1)</script>", "![x](http://evil)", "[a](javascript:x)", "**bold**",
    "a_b_c", "# heading", "- item", "1. item", "&lt;", "line\nbreak", "``", "`", "\\", "\\|", "https://example.org",
    "www.example.org", "a@b.org", "~~gone~~", "", " ", "\u202eevil", "\x1b[31m",
)  # fmt: skip
HARMLESS = {"paragraph", "inline", "text", "code_inline", "table", "thead", "tbody", "tr", "th", "td", "heading"}


def shown(source: str) -> tuple[set[str], str]:
    """The kinds of what a page is made of, and the text that stands on it."""
    tokens: list[Any] = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(source)
    flat = [inner for token in tokens for inner in (token, *(token.children or ()))]
    kinds = {token.type.removesuffix("_open").removesuffix("_close") for token in flat}
    return kinds, "".join(token.content for token in flat if token.type in ("text", "code_inline", "text_special"))


def flat(name: str) -> str:
    """The name as it can stand on one line."""
    return "".join(sign if sign.isprintable() else " " for sign in name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", [plain, code])
def test_a_name_is_text(name: str, how: Any) -> None:
    """In a heading and in a cell."""
    for source in (f"# x {how(name)} y", table(("a",), [(how(name),)])):
        kinds, text = shown(source)
        assert kinds <= HARMLESS | {"text_special"}, source
        assert flat(name).strip() in text


@given(st.text(max_size=20))
def test_whatever_it_is(name: str) -> None:
    """No kind of anything else comes of it."""
    for how in (plain, code):
        kinds, _ = shown(table(("a", "b"), [(how(name), "1")]))
        assert kinds <= HARMLESS | {"text_special"}
