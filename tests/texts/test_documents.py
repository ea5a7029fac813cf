"""Conversations through chat templates: what a model reads, and what counts of it, held against transformers."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from moemerge import templates
from moemerge.errors import SourceError
from moemerge.recipe.schema import Data
from moemerge.texts import Chat, Document, read_documents, tokenise
from moemerge.texts.forms import Conversation, Turn
from moemerge.texts.template import Template, messages_of

CHATML = (
    "{% for m in messages %}<|user|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}\n{% endfor %}"
)
"""Like ChatML, with the marks by which transformers tells replies."""
LLAMA = (
    "{% for m in messages %}{% if m.role == 'user' %}"
    "<s>[INST] {% if loop.index0 == 1 and messages[0].role == 'system' %}"
    "<<SYS>>\n{{ messages[0].content }}\n<</SYS>>\n\n{% endif %}{{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %} {% generation %}{{ m.content | trim }}{% endgeneration %} </s>{% endif %}"
    "{% endfor %}"
)
"""Like Llama 2's: a system's message stands within the user's, all is trimmed, and a space goes before the end."""
LAST_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST]"
    "{% if loop.index0 >= messages | length - 2 and messages[0].role == 'system' %}"
    "{{ messages[0].content }}\n{% endif %}{{ m.content }}[/INST]{% elif m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}</s>{% endgeneration %}{% endif %}{% endfor %}"
)
"""Like Mistral's: the system's message comes last."""
THINKING = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
    "{% set said = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.last %}<think>\n{% if '</think>' in m.content %}"
    "{{ m.content.split('</think>')[0].split('<think>')[-1].strip('\n') }}{% endif %}{{ '\n</think>\n\n' }}"
    "{% endif %}{{ said }}<|end|>{% endgeneration %}{% else %}<|user|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
)
"""Like Qwen 3's: the thoughts of the last reply alone are shown."""

TALK = [
    {"role": "user", "content": "assistant"},
    {"role": "assistant", "content": "user "},
    {"role": "user", "content": "a\nb"},
    {"role": "assistant", "content": "yo, user"},
]
SYSTEM = [{"role": "system", "content": "Be brief."}, *TALK]
THOUGHTS = [
    {**m, "content": f"<think>\nhm {number}\n</think>\n\n{m['content']}"} if m["role"] == "assistant" else m
    for number, m in enumerate(TALK)
]


def documents(
    folder: Path, chats: Sequence[Any], tokenizer: Any, **settings: Any
) -> tuple[tuple[Document, ...], list[str]]:
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"messages": chat}) for chat in chats), encoding="utf-8")
    found, warnings = read_documents(Data(path="a.jsonl", **settings), folder, lambda: tokenizer, "the base")
    return found, [said.message for said in warnings]


@pytest.mark.parametrize("chat", [TALK, SYSTEM, THOUGHTS], ids=["plain", "system", "thoughts"])
@pytest.mark.parametrize("template", [CHATML, LLAMA, LAST_SYSTEM, THINKING])
def test_replies_are_told_as_transformers_tells_them(
    template: str, chat: Any, letters: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The ids are those of `apply_chat_template`, and losses are taken of what it marks as the assistant's."""
    if template == THINKING and chat == SYSTEM:
        pytest.skip("it has no place for a system")
    monkeypatch.setattr(letters, "chat_template", template)
    ((document,), warnings) = documents(tmp_path, [chat], letters)
    assert isinstance(document, Chat)
    if template == THINKING and chat == TALK:  # it writes thoughts about a reply that has none
        chat = [*chat[:-1], {**chat[-1], "content": f"<think>\n\n</think>\n\n{chat[-1]['content']}"}]
        before = len("<think>\n\n</think>\n\n")
    else:
        before = 0
    expected = letters.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, add_generation_prompt=False
    )
    read = tokenise(document, letters)
    assert list(read.ids) == expected["input_ids"]
    mask = expected["assistant_masks"]
    last = len(mask) - 1 - mask[::-1].index(1)
    begun = last - mask[: last + 1][::-1].index(0) + 1
    mask[begun : begun + before] = [0] * before
    assert [int(scored) for scored in read.scored] == mask
    assert warnings == []
    said = [c for place, c in enumerate(document.text) if any(a <= place < b for a, b in document.words)]
    for message in chat[-2:]:
        assert message["content"].strip()[-3:] in "".join(said)
    assert document.prompt == "assistant"
    assert read.bytes == sum(len(document.text[a:b].encode()) for a, b in document.scored)


def test_all_that_the_template_writes_is_scored_where_it_is_asked_for(letters: Any, tmp_path: Path) -> None:
    """The words that count for the gate stay those that somebody said. Without a reply all is scored too."""
    ((document,), _) = documents(tmp_path, [TALK], letters, losses="all")
    read = tokenise(document, letters)
    assert all(read.scored)
    assert sum(read.words) == sum(len(message["content"]) for message in TALK)
    first = len("<|user|>")
    assert read.bytes == len(document.text) - first if isinstance(document, Chat) else False
    ((asked,), _) = documents(tmp_path, [TALK[:1]], letters)
    assert all(tokenise(asked, letters).scored)


def test_a_conversation_that_the_template_refuses_is_counted_and_named(
    letters: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the template's own reason; `limit` counts the others."""
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    monkeypatch.setattr(letters, "chat_template", template + letters.chat_template)
    found, warnings = documents(tmp_path, [SYSTEM, TALK, SYSTEM, TALK, TALK], letters, limit=2)
    assert len(found) == 2
    assert warnings == [
        "`a.jsonl`: 2 of 4 rows are left out: "
        "the chat template of the base does not take it: System role not supported (lines 1 and 3)"
    ]


def test_a_file_of_conversations_that_the_template_refuses_is_not_read_to_its_end(
    letters: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where none of many can be read, the others are not tried."""
    monkeypatch.setattr("moemerge.texts.documents.ENOUGH", 500)
    monkeypatch.setattr(letters, "chat_template", "{{ raise_exception('no') }}")
    with pytest.raises(SourceError) as caught:
        documents(tmp_path, [TALK] * 2000, letters)
    assert caught.value.message == (
        "`a.jsonl` holds no text that can be read: the chat template of the base does not take it: no "
        "(lines 1, 2, 3 and 509 more)"
    )


def test_a_file_is_refused_where_the_template_is_given_up(
    letters: Any, rendered: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Forty conversations do not wait forty times: three are tried, the later ones hardly."""
    monkeypatch.setattr(templates, "SECONDS", 1.0)
    monkeypatch.setattr(templates, "EACH", 0.1)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{{ messages }}"
    monkeypatch.setattr(letters, "chat_template", loop)
    with pytest.raises(SourceError) as caught:
        documents(tmp_path, [TALK] * 40, letters)
    assert rendered == [1.0, 0.1, 0.1]
    assert (caught.value.message, caught.value.hint) == (
        "`a.jsonl`: the chat template of the base cannot be rendered: it takes longer than 1 seconds, and it is given "
        "up after 3 such conversations",
        "mend the chat template, or write such conversations as plain texts under `text`",
    )


@pytest.mark.parametrize("fast", [True, False])
def test_a_conversation_of_which_the_template_shows_nothing_is_left_out(
    fast: bool, letters: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the template writes of its own, and even where a word of it happens to be among what is said."""
    monkeypatch.setattr(type(letters), "is_fast", fast)
    monkeypatch.setattr(letters, "chat_template", "user said hello")
    with pytest.raises(SourceError) as caught:
        documents(tmp_path, [TALK, SYSTEM], letters)
    assert (caught.value.message, caught.value.hint) == (
        "`a.jsonl` holds no text that can be read: the chat template of the base shows none of the words "
        "(lines 1 and 2)",
        "mend the chat template, or write such conversations as plain texts under `text`",
    )
    monkeypatch.setattr(letters, "chat_template", "{% if messages[0].role == 'system' %}{{ messages }}{% endif %}")
    found, warnings = documents(tmp_path, [TALK, SYSTEM], letters)
    assert len(found) == 1
    assert warnings[0] == (
        "`a.jsonl`: one of 2 rows is left out: the chat template of the base shows none of the words (line 1)"
    )


def test_a_conversation_that_the_template_changes_counts_whole(
    letters: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is said."""
    monkeypatch.setattr(letters, "chat_template", "{% for m in messages %}{{ m.content | upper }}\n{% endfor %}")
    found, warnings = documents(tmp_path, [TALK, TALK], letters)
    assert all(all(tokenise(document, letters).scored) for document in found)
    assert warnings == [
        "`a.jsonl`: 2 conversations count whole, replies and everything else, because the chat template changes the "
        "messages' words"
    ]


def test_a_conversation_of_many_messages_is_read_in_their_time(letters: Any) -> None:
    """Where each stands is found in one pass: with a pass a message, ten times as many took a hundred times as long."""
    template, seconds = Template(letters), []
    for count in (2_000, 20_000):
        found = Conversation(tuple(Turn(("user", "assistant")[n % 2], f"word {n}") for n in range(count)))
        (text,) = template.render([messages_of(found)])
        assert isinstance(text, str)
        began = time.process_time()
        spans = template.spans(found, text)
        seconds.append(time.process_time() - began)
        assert spans is not None
        assert [text[start:end] for start, end in spans] == [turn.content for turn in found.turns]
    assert seconds[1] < 40 * seconds[0] + 0.5


def test_calls_of_tools_are_not_read(letters: Any, tmp_path: Path) -> None:
    """A message that only calls is an empty one, of which no loss is taken; what the tool says is read. It is said."""
    call = [{"id": "1", "function": {"name": "add", "arguments": "{}"}}]
    chat = [
        {"role": "user", "content": "one and two"},
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
        {"role": "assistant", "content": "three"},
    ]
    empty = [{"role": m["role"], "content": m["content"] or ""} for m in chat]
    ((document,), warnings) = documents(tmp_path, [chat], letters)
    assert isinstance(document, Chat)
    assert document.text == letters.apply_chat_template(empty, tokenize=False)
    assert [document.text[start:end].removesuffix("<|end|>") for start, end in document.scored] == ["three"]
    assert "".join(document.text[start:end] for start, end in document.words) == "one and two3three"
    assert warnings == ["`a.jsonl`: one conversation calls tools: their words are read, the calls are not"]
    _, warnings = documents(tmp_path, [chat, TALK, chat], letters)
    assert warnings == ["`a.jsonl`: 2 conversations call tools: their words are read, the calls are not"]


@pytest.mark.parametrize("template", [None, ""])
def test_a_conversation_without_a_template_is_its_messages(
    template: str | None, letters: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A blank line between two, as one plain text."""
    monkeypatch.setattr(letters, "chat_template", template)
    assert documents(tmp_path, [SYSTEM], letters) == (("Be brief.\n\nassistant\n\nuser\n\na\nb\n\nyo, user",), [])
