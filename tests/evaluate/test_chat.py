"""A sample reply through the chat template, and what ends it."""

from __future__ import annotations

from typing import Any

import pytest

from moemerge.errors import MoemergeError
from moemerge.evaluate.chat import Reply, end_of_turn, prompt_of, sample_reply, stop_tokens

END = 6


@pytest.mark.parametrize("ends", [None, 2, END, [2, END]])
def test_a_reply_ends_with_the_end_of_turn(talking: Any, letters: Any, ends: Any) -> None:
    """Whatever the generation config says of it: an id, several, none, or only the end of a text."""
    talking.generation_config.eos_token_id = ends
    reply = sample_reply(talking, letters, "hi", 20)
    assert reply == Reply("hi", "yo ho", 5, True, "<|end|>")
    assert reply.to_json() == {"prompt": "hi", "reply": "yo ho", "tokens": 5, "stopped": True, "stop": "<|end|>"}
    assert talking.generation_config.eos_token_id == ends


def test_a_reply_that_never_ends_is_seen(talking: Any, letters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template without an end of turn, and a model that writes on."""
    monkeypatch.setattr(letters, "chat_template", "{% for m in messages %}Q:{{ m.content }}\nS:{% endfor %}")
    reply = sample_reply(talking, letters, "ab", 12)
    assert reply == Reply("ab", "so\nA: 1,200", 12, False, None)
    long = sample_reply(talking, letters, "ab" * 43, 1000)  # of 96 positions 5 are left
    assert (long.tokens, long.stopped) == (5, False)
    assert sample_reply(talking, letters, "f") == Reply("f", "never", 6, True, "</s>")


def test_the_end_of_turn_is_an_added_token_after_the_reply(letters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind spaces too; ordinary text is none."""
    assert end_of_turn(letters) == END
    turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    for after, expected in (("\n<|end|>\n", END), ("</s>", 2), ("\n\n", None), ("", None), (" bye <|end|>", None)):
        monkeypatch.setattr(letters, "chat_template", turns + after + "{% endfor %}")
        assert end_of_turn(letters) == expected


def test_each_stop_token_is_listed_once(talking: Any, letters: Any) -> None:
    """Those of the generation config, then the tokenizer's, then the template's."""
    talking.generation_config.eos_token_id = [END, 3]
    assert stop_tokens(talking, letters) == [END, 3, 2]
    talking.generation_config.eos_token_id = None
    assert stop_tokens(talking, letters) == [2, END]


def test_tokenizers_and_prompts_that_cannot_chat(talking: Any, letters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No template, one that refuses, a prompt that fills the context."""

    def refused(prompt: str) -> tuple[str, str | None]:
        with pytest.raises(MoemergeError) as error:
            sample_reply(talking, letters, prompt)
        return error.value.message, error.value.hint

    assert refused("a" * 93) == (
        "The chat prompt has 96 tokens, and the model's context is 96", "give a shorter prompt",
    )  # fmt: skip
    monkeypatch.setattr(letters, "chat_template", "{{ raise_exception('no users here') }}")
    assert refused("hi") == ("The chat template does not take a user's message: no users here", None)
    monkeypatch.setattr(letters, "chat_template", "{% for m in messges %}{{ m.content }}{% endfor %}")
    assert refused("hi") == (
        "The tokenizer makes no token of what the chat template makes of a user's message",
        "a model continues at least one: check it and the tokenizer",
    )
    monkeypatch.setattr(letters, "chat_template", None)
    assert refused("hi") == (
        "The tokenizer has no chat template", "chat needs a `chat_template` in the tokenizer",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("prompts", "documents", "expected"),
    [
        (("one", "two"), ["three"], "one"),
        ((), ["Version 1.5 is out! Get it.", "x"], "Version 1.5 is out!"),
        ((), ["\n  def f(x):\n    return x. y\n"], "def f(x):"),
        ((), ["a" * 400], "a" * 300),
        ((), [" ", "Only one"], "Only one"),
        ((), [], None),
    ],
)
def test_what_a_domain_is_asked(prompts: tuple[str, ...], documents: list[str], expected: str | None) -> None:
    """The first prompt, else the first sentence or line of the first document that has one."""
    assert prompt_of(prompts, documents) == expected
