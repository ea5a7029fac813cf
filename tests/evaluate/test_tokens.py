"""The tokens of a text, joined, are the text."""

from __future__ import annotations

from typing import Any

import pytest

from moemerge.errors import EvalError
from moemerge.evaluate.tokens import read_tokens

TEXTS = (
    "def reverse(list): return list",
    "  two spaces, then\ttabs\n\n\nand lines  ",
    "naïve café, 中文, здравствуй",
    "🦄 and 👩‍👩‍👧 and 🇫🇷!",
    "e\u0301 combined, \u200b invisible, \ufffd lost",
    "\r\n<b>&amp;</b></script>",
    "unknownword \x00 \x1b[31m",
)


@pytest.mark.parametrize("text", TEXTS)
def test_joined_tokens_are_the_text(text: str, words: Any, byte_level: Any) -> None:
    """Whatever the kind of tokenizer: words with unknown ones, bytes, and one that gives no offsets."""
    from transformers import ByT5Tokenizer

    for tokenizer in (words, byte_level, ByT5Tokenizer()):
        tokens = read_tokens(tokenizer, text)
        assert "".join(tokens.texts) == text
        assert list(tokens.ids) == tokenizer(text)["input_ids"]
        assert len(tokens.ids) == len(tokens.texts) == len(tokens.special)


def test_a_character_of_several_tokens_stands_with_the_first(byte_level: Any) -> None:
    """The unicorn is four bytes, and a token each; `<s>` has no part of the text, only a name."""
    tokens = read_tokens(byte_level, "a🦄b")
    assert tokens.texts == ("", "a", "🦄", "", "", "", "b")
    assert tokens.special == ("<s>", None, None, None, None, None, None)


def test_a_tokenizer_without_offsets_is_read_by_decoding() -> None:
    """ByT5's tokens are bytes, and it puts `</s>` after the text."""
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    tokens = read_tokens(tokenizer, "a é🦄b")
    assert tokens.texts == ("a", " ", "é", "", "🦄", "", "", "", "b", "")
    assert tokens.special == (None,) * 9 + ("</s>",)


def test_spaces_that_no_token_stands_for_go_with_the_next(words: Any) -> None:
    """And those at the end with the last."""
    assert read_tokens(words, " the  a\nlist \n").texts == (" the", "  a", "\nlist \n")


def test_special_tokens_in_the_text_keep_their_text(words: Any) -> None:
    """A model reads `</s>` in a text as the special token that it names; an unknown word is not special."""
    tokens = read_tokens(words, "the </s> zzz")
    assert (tokens.texts, tokens.special) == (("the", " </s>", " zzz"), (None, "</s>", None))


def test_long_texts_are_not_cut(words: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does transformers warn that they are longer than the model's context."""
    assert len(read_tokens(words, "the " * 999).ids) == 999
    assert caplog.text == ""


def test_nothing_to_read(words: Any, byte_level: Any) -> None:
    """An empty text, one that the tokenizer makes nothing of."""
    for tokenizer in (words, byte_level):
        with pytest.raises(EvalError, match=r"^there is no text to trace$"):
            read_tokens(tokenizer, "")
    with pytest.raises(EvalError, match=r"^the tokenizer makes no tokens of the text$"):
        read_tokens(words, " \n ")
