"""What counts as an answer: in what a model writes, and in the right answers that people keep."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from moemerge.recipe.schema import Questions

_HASHES = re.compile(r"####[ \t]*([^\n]*)(\n?)")
_BOXED = r"\boxed{"
_THOUSANDS = re.compile(r"(?<=[0-9])[,\u00a0\u202f](?=[0-9]{3}(?![0-9]))")
"""A comma or a no-break space between groups of three digits."""


def normalised(text: str) -> str:
    """A text in lower case, its spaces single, without thousands separators and one full stop at the end."""
    plain = _THOUSANDS.sub("", " ".join(_THOUSANDS.sub("", text).split()))
    return plain.removesuffix(".").rstrip().casefold()


def final(answer: str) -> str:
    """The part of a right answer that is compared: what it marks last by `####` or `\\boxed{}`, or all of it."""
    found = [text for _, text, _ in _marked(answer)]
    return found[-1] if found else answer


def is_marked(answer: str) -> bool:
    """Whether an answer marks a part of it."""
    return any(True for _ in _marked(answer))


@dataclass(frozen=True)
class AnswerForm:
    """How an answer is found in what a model writes.

    Attributes:
        after: the answer follows the first such text; None where it begins at once.
        marked: whether the answer may be marked, wherever in a reply of several lines. Without a mark it is the first.
        again: how the next question would begin, which a model may ask itself; empty where that is not known.
    """

    after: str | None
    marked: bool = False
    again: str = ""

    @classmethod
    def of(cls, questions: Questions, answer: str) -> AnswerForm:
        """The form for one of some questions, by its right answer."""
        again = questions.prompt.partition("{question}")[0].strip()
        return cls(questions.after, is_marked(answer) and questions.after is None, again)

    def find(self, text: str) -> tuple[str, bool]:
        """The answer, blank lines before it passed over, and whether it has ended; empty where there is none."""
        if self.after is not None:
            _, marker, text = text.partition(self.after)
            if not marker:
                return "", False
        over = False
        text = text.replace("\r", "\n")
        if self.marked:
            own, found, _ = text.partition(f"\n{self.again}") if self.again else (text, "", "")
            text, over = own, bool(found)
            for _, answer, ended in _marked(text):
                return answer, ended or over
        line, end, _ = text.lstrip().partition("\n")
        return line.rstrip(), over if self.marked else bool(end)

    def equal(self, written: str, answer: str) -> tuple[str, bool]:
        """What a model answered, and whether that is the right answer."""
        reply, _ = self.find(written)
        ours, right = (normalised(final(text)).strip("$ ") for text in (reply, answer))
        return reply, ours == right != ""


def why_never(questions: Questions, answer: str) -> str | None:
    """Why no reply could be right, in a clause: not even one that repeats the right answer. None where one could."""
    if not normalised(final(answer)).strip("$ "):
        return "it is empty"
    form = AnswerForm.of(questions, answer)
    perfect = answer if form.after is None else f"{form.after}{final(answer)}"
    if form.equal(perfect, answer)[1]:
        return None
    return "it has several lines, and a reply ends with its line"


def _marked(text: str) -> Iterator[tuple[int, str, bool]]:
    """What a text marks: where, what, and whether it has ended, in order."""
    found = [(match.start(), match[1].strip(), bool(match[2])) for match in _HASHES.finditer(text)]
    start = text.find(_BOXED)
    while start >= 0:
        begin = start + len(_BOXED)
        end = _closing(text, begin)
        found.append((start, text[begin : len(text) if end is None else end].strip(), end is not None))
        start = text.find(_BOXED, begin)
    return iter(sorted(found))


def _closing(text: str, place: int) -> int | None:
    """Where the brace closes that was opened before a place; None where it does not."""
    depth = 1
    for index in range(place, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if not depth:
            return index
    return None
