"""Texts as passages: what counts, windows, chat templates, documents and folds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moemerge.errors import GateError, Problem
from moemerge.gate.passages import (
    Passage,
    assign_folds,
    document_passages,
    encode,
    encode_prompt,
    prompt_passages,
    windows,
)
from moemerge.gate.request import ChatTemplate, ExpertTexts, GateRequest
from tests.gate.conftest import LAYERS, WIDTH


def request(**settings: Any) -> GateRequest:
    return GateRequest("discriminant", (), range(LAYERS), WIDTH, **settings)


def test_the_first_token_of_a_text_counts(tokenizer: Any) -> None:
    """It is the attention sink that all others read from, so its route matters."""
    (passage,) = prompt_passages(("def print list",), ExpertTexts("code"), tokenizer, request())
    assert tokenizer.convert_ids_to_tokens(list(passage.ids)) == ["def", "print", "list"]
    assert passage.counted == (True, True, True)


def test_special_tokens_never_count(tokenizer: Any) -> None:
    """What the tokenizer adds is not the user's."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    ids, words = encode("def print", PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"))
    assert ids[0] == 1
    assert ids[-1] == 2
    assert words == (False, True, True, False)


@given(st.integers(1, 60), st.integers(0, 5), st.integers(2, 20))
def test_windows_lose_no_token(length: int, lead: int, context: int) -> None:
    """Every token of the text is in one window; each window begins with the leading tokens and fits the context."""
    lead = min(lead, length - 1)
    words = [place >= lead for place in range(length)]
    found = windows(list(range(length)), words, 7, context)
    assert all(len(p.ids) <= context and len(p.ids) == len(p.counted) for p in found)
    assert all(p.group == 7 for p in found)
    seen = {token for p in found for token in p.ids}
    assert seen == set(range(length))
    assert all(token >= lead for p in found for token, counts in zip(p.ids, p.counted, strict=True) if counts)
    counted = [token for p in found for token, counts in zip(p.ids, p.counted, strict=True) if counts]
    assert len(counted) == len(set(counted))


def test_chat_template_counts_only_the_users_words(chat_tokenizer: Any) -> None:
    """The template's own tokens are told apart from the user's, also where they are the same words."""
    chat_tokenizer.chat_template = "<s> hello world {{ messages[0]['content'] | trim }} </s> hello"
    ids, words = encode_prompt(" hello world ", ExpertTexts("code"), chat_tokenizer, "chat")
    tokens = chat_tokenizer.convert_ids_to_tokens(ids)
    assert tokens == ["<s>", "hello", "world", "hello", "world", "</s>", "hello"]
    assert words == [False, False, False, True, True, False, False]


@pytest.mark.parametrize("template", [None, "", " \n"])
def test_chat_template_missing(template: str | None, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer without a template is refused, and so is one with a blank one."""
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(GateError) as error:
        encode_prompt("hello", ExpertTexts("code"), tokenizer, "chat")
    assert error.value.message == (
        "`template: chat` needs a chat template, and neither expert `code` nor the base has one"
    )
    assert error.value.hint == "set `template: none`"


def test_chat_template_that_changes_the_words(chat_tokenizer: Any) -> None:
    """A template that does not show the words as they are is refused."""
    chat_tokenizer.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(GateError) as error:
        encode_prompt("hello", ExpertTexts("code"), chat_tokenizer, "chat")
    assert error.value.message == (
        "The chat template of the base does not show the user's words once and unchanged, so its own tokens "
        "cannot be left out"
    )


def test_an_experts_own_chat_template_comes_first(chat_tokenizer: Any) -> None:
    """With its own names of special tokens; the ids are the base's."""
    chat_tokenizer.chat_template = "{{ messages[0]['content'] }} bonjour"
    own = ChatTemplate("{{ bos_token }} {{ eos_token }} {{ messages[0]['content'] }} code", {"bos_token": "<pad>"})
    ids, words = encode_prompt("hello", ExpertTexts("code", chat=own), chat_tokenizer, "chat")
    assert chat_tokenizer.convert_ids_to_tokens(ids) == ["<pad>", "</s>", "hello", "code"]
    assert words == [False, False, True, False]
    ids, _ = encode_prompt("hello", ExpertTexts("math"), chat_tokenizer, "chat")
    assert chat_tokenizer.convert_ids_to_tokens(ids) == ["hello", "bonjour"]


def test_a_chat_template_that_is_no_template(tokenizer: Any) -> None:
    """A syntax error is the user's to mend."""
    with pytest.raises(GateError, match="The chat template of expert `code` cannot be rendered: "):
        encode_prompt("hello", ExpertTexts("code", chat=ChatTemplate("{% if %}")), tokenizer, "chat")


def test_documents_up_to_the_limit_are_all_read(tokenizer: Any) -> None:
    """Nothing is said where nothing is left out; long documents are windows of one group."""
    texts = ("def " * 25, "print " * 5)
    found, problem = document_passages(texts, "expert `code`", tokenizer, request(context=10))
    assert problem is None
    assert sorted((p.group, len(p.ids)) for p in found) == [(0, 5), (0, 10), (0, 10), (1, 5)]


def test_documents_beyond_the_limit_are_said(tokenizer: Any) -> None:
    """`max_tokens` cuts, and the user reads how much."""
    texts = ("def " * 25,) * 4
    found, problem = document_passages(texts, "expert `code`", tokenizer, request(max_tokens=64))
    assert sum(p.tokens for p in found) == 64
    assert problem == Problem(
        "texts-left-out",
        "Expert `code`: 2 of 4 documents are read in full, as they give 64 tokens",
        "raise `gate.max_tokens` to read more",
    )


def test_documents_follow_the_prompts_groups(tokenizer: Any) -> None:
    """A prompt and a document are never one group."""
    (passage,), _ = document_passages(("print list",), "expert `code`", tokenizer, request(), first_group=1)
    assert passage.group == 1


def passages(*sizes: int) -> list[Passage]:
    return [Passage((1,) * (n + 1), (False, *(True,) * n), group) for group, n in enumerate(sizes)]


def test_folds_keep_groups_together_and_balance_tokens() -> None:
    """A prompt's samples are held out as one; folds have about equal tokens."""
    (folded, _), folds = assign_folds([[*passages(9, 5, 4), *passages(1)], passages(3, 3)])
    assert folds == 2
    assert [(p.group, p.fold) for p in folded] == [(0, 0), (1, 1), (2, 1), (0, 0)]


def test_folds_are_as_many_as_the_fewest_groups() -> None:
    """At most five; what has no counted token is not a group."""
    assert assign_folds([passages(*(2,) * 9), passages(*(2,) * 8)])[1] == 5
    assert assign_folds([passages(2, 2, 2), passages(2, 0, 2)])[1] == 2
    assert assign_folds([passages(2), passages(2, 2)])[1] == 1
