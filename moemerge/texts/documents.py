"""Documents as a model reads them: plain texts, and conversations through a chat template with what counts of them.

Where there is no chat template, a conversation is its messages one after the other, a blank line between two, and
counts as a plain text does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moemerge.device import available_memory
from moemerge.errors import Problem, SourceError, TemplateError
from moemerge.recipe.schema import Data
from moemerge.texts.forms import LONGEST, Conversation
from moemerge.texts.read import ENOUGH, LeftOut, no_texts, read_texts
from moemerge.texts.rows import TAKES, Unreadable
from moemerge.texts.template import Template, messages_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Spans = tuple[tuple[int, int], ...]
"""Parts of a text, in order: where each begins and ends, in characters."""
AT_A_TIME = 512
"""Conversations that are rendered together."""
_MEND = "mend the chat template, or write such conversations as plain texts under `text`"


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation as a template writes it, special tokens among it: a tokenizer adds none.

    Attributes:
        text: all of it.
        words: what was said by anyone; the template's own is the rest.
        scored: what losses are taken of: the replies with the token that ends each, or all.
        prompt: what the user says first; empty where none does.
    """

    text: str
    words: Spans
    scored: Spans
    prompt: str


Document = str | Chat
"""A plain text or a conversation."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A document as token ids.

    Attributes:
        ids: special tokens included.
        words: which of them are the document's own words, not special and not a template's.
        scored: which of them losses are taken of.
        bytes: bytes of UTF-8 of what is scored, the first token left out, as nothing comes before it.
    """

    ids: tuple[int, ...]
    words: tuple[bool, ...]
    scored: tuple[bool, ...]
    bytes: int


def read_documents(
    data: Data, root: Path, tokenizer: Callable[[], PreTrainedTokenizerBase], whose: str
) -> tuple[tuple[Document, ...], tuple[Problem, ...]]:
    """Reads the documents that `data` names, at most `data.limit`; blank ones are passed over.

    Args:
        data: a file, by its suffix, or the id of a hub data set.
        root: the folder that a relative path is relative to.
        tokenizer: gives the one whose chat template conversations are written with; asked only where there are some.
        whose: this template is, for messages, such as `the base`.

    Returns:
        The documents, and warnings: rows that cannot be read, conversations of which all counts.

    Raises:
        SourceError: the file is absent or of no known kind, or no row of it can be read; or the chat template takes
            too much too often to be tried on.
    """
    left_out = LeftOut(data.path)
    renderer = _Renderer(data, tokenizer, whose, left_out)
    found: list[Document] = []
    size, room = 0, available_memory() // TAKES
    rows = read_texts(data, root, left_out)
    while data.limit is None or len(found) < data.limit:
        wanted = AT_A_TIME if data.limit is None else min(AT_A_TIME, data.limit - len(found))
        batch = _batch(rows, wanted)
        if not batch:
            break
        new = list(renderer.documents(batch))
        found += new
        size += sum(len(text_of(document)) for document in new)
        if size > room:
            message = f"`{data.path}` holds more text than fits into the memory that is free"
            raise SourceError(message, hint=f"set `limit`: {len(found):,} of its texts are too many")
        if not found and left_out.count >= ENOUGH:
            break
    if not found:
        raise no_texts(left_out)
    return tuple(found), tuple(said for said in (left_out.problem, *renderer.problems) if said is not None)


def _batch(rows: Iterator[tuple[int, str | Conversation]], most: int) -> list[tuple[int, str | Conversation]]:
    """The next rows; fewer than `most` where they are long."""
    found, size = [], 0
    for number, said in itertools.islice(rows, most):
        found.append((number, said))
        size += len(said) if isinstance(said, str) else sum(len(turn.content) for turn in said.turns)
        if size >= LONGEST:
            break
    return found


def text_of(document: Document) -> str:
    """All of a document, as a text."""
    return document if isinstance(document, str) else document.text


def tokenise(document: Document, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """A document as a model reads it, of any length: a plain text with the special tokens that the tokenizer adds."""
    fast = tokenizer.is_fast
    if isinstance(document, Chat):
        encoding = tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
        ids = tuple(encoding["input_ids"])
        if not fast:  # such a chat counts as a whole
            whole = (True,) * len(ids)
            return Tokens(ids, whole, whole, len(document.text.encode()))
        offsets = encoding["offset_mapping"]
        words, scored = (tuple(_within(offsets, spans)) for spans in (document.words, document.scored))
        first = offsets[0][1] if scored and scored[0] else 0
        size = sum(len(document.text[max(start, first) : end].encode()) for start, end in document.scored)
        return Tokens(ids, words, scored, size)
    encoding = tokenizer(document, return_special_tokens_mask=True, return_offsets_mapping=fast, verbose=False)
    ids, own = tuple(encoding["input_ids"]), tuple(not special for special in encoding["special_tokens_mask"])
    skipped = 0
    if own and own[0]:  # nothing comes before the first token, so it is not predicted
        skipped = encoding["offset_mapping"][0][1] if fast else len(tokenizer.decode([ids[0]]))
    return Tokens(ids, own, own, len(document[skipped:].encode("utf-8", "surrogatepass")))


def _within(offsets: Sequence[tuple[int, int]], spans: Spans) -> Iterator[bool]:
    """Which tokens have a part of one of the spans."""
    place = 0
    for start, end in offsets:
        while place < len(spans) and spans[place][1] <= start:
            place += 1
        yield place < len(spans) and start < spans[place][1] and end > spans[place][0]


class _Renderer:
    """Makes documents of what was read.

    Args:
        data: says of which words losses are taken.
        tokenizer: gives the one with the template.
        whose: it is.
        left_out: counts conversations that the template does not take.
    """

    def __init__(
        self, data: Data, tokenizer: Callable[[], PreTrainedTokenizerBase], whose: str, left_out: LeftOut
    ) -> None:
        self._data, self._give, self._whose, self._left_out = data, tokenizer, whose, left_out
        self._template: Template | None = None
        self._whole = self._calling = 0

    @property
    def problems(self) -> tuple[Problem | None, ...]:
        """Of how many conversations the replies could not be told apart, and how many call tools."""
        calling = None
        if self._calling:
            are = "one conversation calls" if self._calling == 1 else f"{self._calling:,} conversations call"
            message = f"`{self._data.path}`: {are} tools: their words are read, the calls are not"
            calling = Problem("tool-calls", message)
        return self._not_told_apart, calling

    @property
    def _not_told_apart(self) -> Problem | None:
        if not self._whole or self._template is None:
            return None
        are = "one conversation counts" if self._whole == 1 else f"{self._whole:,} conversations count"
        why = "the chat template changes the messages' words" if self._template.fast else "the tokenizer is a slow one"
        return Problem("chats-whole", f"`{self._data.path}`: {are} whole, replies and everything else, because {why}")

    def documents(self, batch: Sequence[tuple[int, str | Conversation]]) -> Iterator[Document]:
        """One for each text, but for those that the template does not take."""
        chats = [found for _, found in batch if isinstance(found, Conversation)]
        if chats and self._template is None:
            self._template = Template(self._give())
        template = self._template if self._template is not None and self._template.there else None
        rendered = iter(template.render(map(messages_of, chats)) if template is not None else ())
        for number, found in batch:
            if isinstance(found, str):
                yield found
                continue
            self._calling += any(turn.calls for turn in found.turns)
            if template is None:
                yield "\n\n".join(turn.content.strip() for turn in found.turns if turn.content.strip())
            else:
                text = next(rendered)
                if isinstance(text, TemplateError):
                    self._refused(number, text)
                elif not template.shows(found, text):
                    why = f"the chat template of {self._whose} shows none of the words"
                    self._left_out.add(number, Unreadable(why, _MEND))
                else:
                    yield self._chat(found, text, template)

    def _refused(self, number: int, error: TemplateError) -> None:
        """Leaves a conversation out, or the whole file where the template is not tried any more."""
        if error.given_up:
            message = f"`{self._data.path}`: the chat template of {self._whose} cannot be rendered: {error.reason}"
            raise SourceError(message, hint=_MEND)
        why = f"the chat template of {self._whose} does not take it: {error.reason}"
        self._left_out.add(number, Unreadable(why, _MEND))

    def _chat(self, found: Conversation, text: str, template: Template) -> Chat:
        prompt = next((turn.content for turn in found.turns if turn.role == "user"), "")
        everything = ((0, len(text)),)
        spans = template.spans(found, text)
        if spans is None:
            self._whole += 1
            return Chat(text, everything, everything, prompt)
        words = tuple(sorted(spans))
        if self._data.losses == "all" or not found.replies:
            return Chat(text, words, everything, prompt)
        pairs = zip(found.turns, spans, strict=True)
        replies = (
            template.ended(text, span) for turn, span in pairs if turn.role == "assistant" and turn.content.strip()
        )
        return Chat(text, words, tuple(sorted(replies)), prompt)
