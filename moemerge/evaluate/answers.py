"""What counts as an answer: in what a model writes, and in the right answers that people keep."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from moemerge.recipe.schema import Questions

_HASHES = re.compile(r"####[ \t]*([^\n]*)(\n?)")
_BOXED = r"\boxed{"
_BRACES = re.compile(r"\\boxed\{|[{}]")
_THOUSANDS = re.compile(r"(?<=[0-9])[,\u00a0\u202f](?=[0-9]{3}(?![0-9]))")
"""A comma or a no-break space between groups of three digits."""


def normalised(text: str) -> str:
    """A text in lower case, its spaces single, without thousands separators and one full stop at the end."""
    plain = _THOUSANDS.sub("", " ".join(_THOUSANDS.sub("", text).split()))
    return plain.removesuffix(".").rstrip().casefold()


def final(answer: str) -> str:
    """The part of a right answer that is compared: what it marks last by `####` or `\\boxed{}`, or all of it."""
    last = answer
    for _, text, _ in _marked(answer):
        last = text
    return last


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
    def of(cls, questions: Questions, answers: Iterable[str]) -> AnswerForm:
        """The form for one of some questions, by its right answers."""
        again = questions.prompt.partition("{question}")[0].strip()
        return cls(questions.after, any(map(is_marked, answers)) and questions.after is None, again)

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

    def equal(self, written: str, answers: Iterable[str]) -> tuple[str, str | None]:
        """What a model answered, and which of the right answers that is; None where it is none of them."""
        reply, _ = self.find(written)
        ours = _compared(reply)
        return reply, next((answer for answer in answers if ours == _compared(answer) != ""), None)


def why_never(questions: Questions, answer: str) -> str | None:
    """Why no reply could be right, in a clause: not even one that repeats the right answer. None where one could."""
    if not _compared(answer):
        return "it is empty"
    form = AnswerForm.of(questions, (answer,))
    perfect = answer if form.after is None else f"{form.after}{final(answer)}"
    if form.equal(perfect, (answer,))[1] is not None:
        return None
    return "it has several lines, and a reply ends with its line"


def _compared(answer: str) -> str:
    return normalised(final(answer)).strip("$ ")


def _marked(text: str) -> Iterator[tuple[int, str, bool]]:
    """What a text marks: where, what, and whether it has ended, in order."""
    found = [(match.start(), *match.span(1), bool(match[2])) for match in _HASHES.finditer(text)]
    boxes: dict[int, tuple[int, int | None]] = {}  # by where each begins: where its words do, and where they end
    opened: list[int | None] = []
    for brace in _BRACES.finditer(text):
        if brace[0] != "}":
            box = brace.start() if brace[0] == _BOXED else None
            opened.append(box)
            if box is not None:
                boxes[box] = brace.end(), None
        elif opened and (box := opened.pop()) is not None:
            boxes[box] = boxes[box][0], brace.start()
    found += [(at, begin, len(text) if end is None else end, end is not None) for at, (begin, end) in boxes.items()]
    for at, begin, end, ended in sorted(found):
        yield at, text[begin:end].strip(), ended
