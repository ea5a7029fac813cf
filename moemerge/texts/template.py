"""A tokenizer's chat template, and where in what it writes each message stands."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moemerge.errors import TemplateError
from moemerge.templates import Messages, has_template, render
from moemerge.texts.forms import Conversation, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "moemergeturn"
"""Stands for a message when a template is asked what it writes about it."""
_MARKS = re.compile(f"{MARK}[0-9]+e[0-9]+e")
_THINKING = re.compile(r"(\s*<think>\s*)(.*?)(\s*</think>\s*)(.*)", re.DOTALL)
"""A reply with the thoughts before it, which some templates show in the last message alone."""
_NEAR = 64
"""Characters after a reply that are looked at for the token that ends it."""


class Template:
    """A tokenizer's chat template, and what is known of it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.there, self.fast = has_template(tokenizer), tokenizer.is_fast
        self._added = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()} - {""}
        self._ends: dict[str, int] = {}
        self._marked: dict[tuple[tuple[str, tuple[str, ...]], ...], tuple[str | None, _Frame | None]] = {}

    def render(self, chats: Iterable[Messages]) -> list[str | TemplateError]:
        """Whole conversations as texts."""
        found: list[str | TemplateError] = []
        for messages in chats:
            try:
                found.append(render(self._tokenizer, messages, add_generation_prompt=False))
            except TemplateError as error:
                found.append(error)
        return found

    def shows(self, found: Conversation, text: str) -> bool:
        """Whether the text depends on what is said in the conversation at all."""
        return self._with_marks(found)[0] != text

    def spans(self, found: Conversation, text: str) -> list[tuple[int, int]] | None:
        """Where each message stands in the text; None where that cannot be told."""
        _, frame = self._with_marks(found)
        if not self.fast or frame is None:
            return None
        return frame.spans(text, [_cut(turn.content)[1::2] for turn in found.turns])

    def _with_marks(self, found: Conversation) -> tuple[str | None, _Frame | None]:
        """What the template writes where marks stand for what is said, if it takes that; and that taken apart."""
        cut = [_cut(turn.content) for turn in found.turns]
        shape = tuple((turn.role, parts[::2]) for turn, parts in zip(found.turns, cut, strict=True))
        if shape not in self._marked:
            marked = [
                [f"{MARK}{number}e{part}e" for part in range(len(parts) // 2)] for number, parts in enumerate(cut)
            ]
            turns = [
                Turn(turn.role, "".join(itertools.chain(*itertools.zip_longest(parts[::2], marks, fillvalue=""))))
                for turn, parts, marks in zip(found.turns, cut, marked, strict=True)
            ]
            (framed,) = self.render([messages_of(Conversation(tuple(turns)))])
            if isinstance(framed, TemplateError):
                self._marked[shape] = None, None
            else:
                self._marked[shape] = framed, _Frame.of(framed, marked)
        return self._marked[shape]

    def ended(self, text: str, span: tuple[int, int]) -> tuple[int, int]:
        """A reply with the token that ends it, where the template writes one after it."""
        start, end = span
        near = text[end : end + _NEAR]
        if near not in self._ends:
            self._ends[near] = max((len(token) for token in self._added if near.startswith(token)), default=0)
        return start, end + self._ends[near]


@dataclass(frozen=True)
class _Frame:
    """What a template writes about messages of some roles.

    Attributes:
        parts: what stands before, between and after their words.
        order: whose words come in between: the message, and which of its parts.
    """

    parts: tuple[str, ...]
    order: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, text: str, marked: Sequence[Sequence[str]]) -> _Frame | None:
        """From a text in which marks stand for words; None where a message does not show once. Thoughts need not."""
        keys = {mark: (number, part) for number, marks in enumerate(marked) for part, mark in enumerate(marks)}
        places = [(found.span(), keys[found[0]]) for found in _MARKS.finditer(text) if found[0] in keys]
        order = tuple(key for _, key in places)
        shown = set(order)
        if len(shown) < len(order) or any((number, len(marks) - 1) not in shown for number, marks in enumerate(marked)):
            return None
        edges = [0, *(edge for span, _ in places for edge in span), len(text)]
        return cls(tuple(text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)), order)

    def spans(self, text: str, said: Sequence[Sequence[str]]) -> list[tuple[int, int]] | None:
        """Where each message stands in a text of this template, stripped or not; None where one does not."""
        found: dict[int, tuple[int, int]] = {}
        if not text.startswith(self.parts[0]):
            return None
        place, end = len(self.parts[0]), 0
        for (number, part), after in zip(self.order, self.parts[1:], strict=True):
            words = said[number][part]
            shown = next((form for form in (words, words.strip()) if text.startswith(form + after, place)), None)
            if shown is None:
                return None
            opened = text.rfind("<think>", end, place) if part < len(said[number]) - 1 else -1
            begun, _ = found.get(number, (place if opened < 0 else opened, place))
            end = place + len(shown)
            found[number] = (begun, end)
            place = end + len(after)
        return [found[number] for number in range(len(said))] if place == len(text) else None


def _cut(content: str) -> tuple[str, ...]:
    """A message's words at the odd places, what is about them at the even ones."""
    thinking = _THINKING.fullmatch(content)
    return ("", content, "") if thinking is None else (*thinking.groups(), "")


def messages_of(chat: Conversation) -> Messages:
    """A conversation as templates take it."""
    return [{"role": turn.role, "content": turn.content} for turn in chat.turns]
