"""Where a thing stands in what the user wrote, and how an error shows it: place, source line, caret."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from moemerge.errors import ManyProblems, Problem, RecipeError

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What YAML takes as the end of a line, so that our line numbers are its line numbers."""
_SHOWN = 100
"""Characters of a long source line that are shown."""


class RecipeProblems(ManyProblems, RecipeError):
    """Everything that is wrong with a recipe."""


@dataclass(frozen=True, eq=False)
class Source:
    """A text to point into.

    Attributes:
        name: what the user calls it: a path, or `--set`.
        text: all of it.
        what: what it is, for messages.
    """

    name: str
    text: str
    what: str = "recipe"

    @cached_property
    def lines(self) -> list[str]:
        """The text's lines, without their ends."""
        return _BREAK.split(self.text)


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of one line.

    Attributes:
        source: the text.
        line: number of the line, from 0.
        column: first character, from 0.
        length: characters, at least 1.
    """

    source: Source
    line: int
    column: int
    length: int = 1

    def show(self) -> str:
        """Three lines: `file:line:column`, the source line, and a caret under each character of the place."""
        line = self.source.lines[self.line] if self.line < len(self.source.lines) else ""
        start = 0
        if len(line) > _SHOWN:
            start = max(0, min(self.column - _SHOWN // 2, len(line) - _SHOWN))
        shown = [_printable(character) for character in line[start : start + _SHOWN]]
        before, under = shown[: self.column - start], shown[self.column - start :][: self.length]
        opened, closed = "…" if start else "", "…" if start + _SHOWN < len(line) else ""
        number = str(self.line + 1)
        return (
            f"  {self.source.name}:{number}:{self.column + 1}\n"
            f"  {number} | {opened}{''.join(shown)}{closed}\n"
            f"  {' ' * len(number)} | {' ' * _width([*opened, *before])}{'^' * max(_width(under), 1)}"
        )

    @property
    def order(self) -> tuple[int, int]:
        """Sorts the places of one source."""
        return self.line, self.column


def _printable(character: str) -> str:
    return " " if character == "\t" else character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"


def _width(characters: Iterable[str]) -> int:
    """Columns that a terminal gives them."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in characters
    )


def problem(place: Place, code: str, message: str, hint: str | None = None) -> Problem:
    """A problem whose message ends with its place."""
    return Problem(code, f"{message}\n{place.show()}", hint)


def recipe_error(place: Place, code: str, message: str, hint: str | None = None) -> RecipeError:
    """An error whose message ends with its place."""
    return RecipeError(f"{message}\n{place.show()}", hint=hint, code=code)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like `word`, or None where none is; case, `-` and `_` do not count."""
    plain = {name.lower().replace("-", "_"): name for name in known}
    found = difflib.get_close_matches(word.lower().replace("-", "_"), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint: the nearest known word where there is one, and all of them where there is none."""
    known = list(known)
    found = nearest(word, known)
    return f"did you mean `{found}`?" if found else f"known are {listed(quoted(known))}"


def quoted(words: Iterable[str]) -> list[str]:
    """Each in backticks."""
    return [f"`{word}`" for word in words]


def listed(words: Iterable[str], last: str = "and") -> str:
    """`a, b and c`."""
    parts = list(words)
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}" if len(parts) > 1 else "".join(parts)
