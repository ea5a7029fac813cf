"""Reads texts: prompts, the documents of `data`, and rows of several fields, from files or a hub data set."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from moemerge.errors import Problem, SourceError
from moemerge.recipe import file_path
from moemerge.recipe.paths import CSV, PLAIN, TEXTS
from moemerge.recipe.schema import Data, Questions, Rows
from moemerge.texts.forms import FIELDS, Conversation, NoField, columns_of, question_of, text_of
from moemerge.texts.rows import SAVE, Columns, Row, Unreadable, lines_of, rows_of

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_NAMED = 3
"""Rows that are named for a reason; the others are counted."""
ENOUGH = 10_000
"""Rows after which no more are read where none could be."""

Found = TypeVar("Found")


class LeftOut:
    """Counts the rows of a file or data set that hold no text.

    Args:
        name: what messages call it.
    """

    def __init__(self, name: str) -> None:
        self.name, self.unit, self.rows, self.headed = name, "row", 0, False
        self._first: Unreadable | None = None
        self._counts: dict[str, int] = {}
        self._numbers: dict[str, list[int]] = {}

    def add(self, number: int, why: Unreadable) -> None:
        """One more."""
        self._first = self._first or why
        self._counts[why.reason] = self._counts.get(why.reason, 0) + 1
        numbers = self._numbers.setdefault(why.reason, [])
        if len(numbers) < _NAMED:
            numbers.append(number)

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self._counts.values())

    @property
    def problem(self) -> Problem | None:
        """A warning that names them; None where all could be read."""
        count = self.count
        if not count:
            return None
        are = f"one of {self.rows:,} rows is" if count == 1 else f"{count:,} of {self.rows:,} rows are"
        return Problem("rows-left-out", f"`{self.name}`: {are} left out: {self._reasons()}", self._hint)

    def nothing(self, what: str, hint: str) -> SourceError:
        """The error where no row is left."""
        if not self._counts:
            return SourceError(f"`{self.name}` holds no {what}", hint=hint)
        return SourceError(f"`{self.name}` holds no {what} that can be read: {self._reasons()}", hint=self._hint)

    @property
    def _hint(self) -> str | None:
        if self._first is None:
            return None
        if self.headed and isinstance(self._first, NoField):
            return f"{self._first.hint}; its first line is taken for the header: put one there if it has none"
        return self._first.hint

    def _reasons(self) -> str:
        return "; ".join(f"{reason} ({self._places(reason)})" for reason in self._counts)

    def _places(self, reason: str) -> str:
        numbers = [f"{number:,}" for number in self._numbers[reason]]
        more = self._counts[reason] - len(numbers)
        numbers += [f"{more:,} more"] if more else []
        unit = self.unit if self._counts[reason] == 1 else f"{self.unit}s"
        return f"{unit} {' and '.join([', '.join(numbers[:-1]), numbers[-1]]) if numbers[1:] else numbers[0]}"


def read_texts(data: Data, root: Path, left_out: LeftOut) -> Iterator[tuple[int, str | Conversation]]:
    """Reads the texts that `data` names, each with the number of its row; blank ones are passed over.

    Args:
        data: a file, by its suffix, or the id of a hub data set; its `limit` is not heeded.
        root: the folder that a relative path is relative to.
        left_out: counts the rows that cannot be read.

    Raises:
        SourceError: as `rows_of` says.
    """
    path = file_path(root, data.path)
    if os.path.isfile(path) and path.suffix.lower() in PLAIN:
        return enumerate(_paragraphs(path), start=1)
    fields, named = (FIELDS, False) if data.field is None else ({data.field}, True)
    return _read(
        data, path, partial(columns_of, fields=fields, all_of=named), left_out,
        lambda row: text_of(row, data.field), PLAIN,
    )  # fmt: skip


def check_texts(data: Data, root: Path) -> None:
    """Reads the first document of a local file, to see that it is there and of the kind that its name says.

    A hub data set is left alone: a plan fetches no texts.

    Raises:
        SourceError: as `read_texts`, or it holds no text.
    """
    if not _is_hub(data, file_path(root, data.path)):
        left_out = LeftOut(data.path)
        if next(read_texts(data, root, left_out), None) is None:
            raise no_texts(left_out)


def no_texts(left_out: LeftOut) -> SourceError:
    """The error where a file or data set has no document."""
    return left_out.nothing("text", "give a file with one document at least")


def is_absent(rows: Rows, root: Path) -> bool:
    """Whether a local file of texts is not there; nothing is opened. A hub data set is left alone."""
    path = file_path(root, rows.path)
    return not os.path.exists(path) and not _is_hub(rows, path)


def read_asked(rows: Questions, root: Path, left_out: LeftOut) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Reads questions and their right answers, at most `rows.limit`; a row where one of them is blank is passed over.

    Args:
        rows: a file, by its suffix, or the id of a hub data set, and the names of the fields.
        root: the folder that a relative path is relative to.
        left_out: counts the rows that cannot be read.

    Raises:
        SourceError: as `rows_of` says.
    """
    path = file_path(root, rows.path)
    if os.path.isfile(path) and path.suffix.lower() in PLAIN:
        raise SourceError(f"`{rows.path}` is plain text, which has no fields", hint="give a JSONL or Parquet file")
    columns = partial(columns_of, fields={rows.question, rows.answer}, all_of=True)
    found = _read(rows, path, columns, left_out, lambda row: question_of(row, rows.question, rows.answer))
    return tuple(values for _, values in itertools.islice(found, rows.limit))


_WRITE_THEM = "write one prompt per line there, six to eight of them; a path is relative to the recipe's folder"


def read_prompts_file(path: Path) -> tuple[str, ...]:
    """Reads prompts, one per line; blank lines are left out.

    Raises:
        SourceError: the file is absent, empty, or not UTF-8.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise SourceError(f"Prompts file `{path}` is not a regular file", hint=SAVE)
    if not os.path.isfile(path):
        raise SourceError(f"Prompts file `{path}` does not exist", hint=_WRITE_THEM)
    try:
        prompts = tuple(line.strip() for line in _lines(path) if line.strip())
    except OSError as error:
        raise _cannot_read(path, error) from error
    if not prompts:
        raise SourceError(f"Prompts file `{path}` is empty", hint="write one prompt per line")
    return prompts


def _read(
    rows: Rows,
    path: Path,
    columns: Columns,
    left_out: LeftOut,
    what: Callable[[Mapping[str, object]], Found | None],
    plain: tuple[str, ...] = (),
) -> Iterator[tuple[int, Found]]:
    """What the rows hold that hold something, with their numbers."""
    if not os.path.exists(path) and not _is_hub(rows, path):
        hint = "relative paths start at the folder of the file that names them"
        raise SourceError(f"`{path}` does not exist", hint=hint)
    left_out.headed = path.suffix.lower() in CSV
    left_out.unit, found = rows_of(rows, path, columns, plain)
    return _kept(found, path, left_out, what)


def _kept(
    rows: Iterator[Row], path: Path, left_out: LeftOut, what: Callable[[Mapping[str, object]], Found | None]
) -> Iterator[tuple[int, Found]]:
    try:
        for row in rows:
            left_out.rows += 1
            try:
                if isinstance(row.fields, Unreadable):
                    raise row.fields
                found = what(row.fields)
            except Unreadable as why:
                left_out.add(row.number, why)
                if left_out.count == left_out.rows == ENOUGH:
                    return
                continue
            if found is not None:
                yield row.number, found
    except OSError as error:
        raise _cannot_read(path, error) from error


def _cannot_read(path: Path, error: OSError) -> SourceError:
    return SourceError(f"Cannot read `{path}`: {error.strerror or error}")


def _is_hub(rows: Rows, path: Path) -> bool:
    suffixed = path.suffix.lower() in TEXTS
    return not os.path.exists(path) and not suffixed and HUB_ID.fullmatch(rows.path) is not None


def _lines(path: Path) -> Iterator[str]:
    """The lines of a plain text.

    Raises:
        SourceError: a line (named) is not UTF-8.
    """
    for number, line in lines_of(path):
        if isinstance(line, Unreadable):
            raise SourceError(f"{path}:{number}: {line.reason}", hint=line.hint)
        yield line


def _paragraphs(path: Path) -> Iterator[str]:
    """Documents that blank lines separate."""
    document: list[str] = []
    try:
        for line in _lines(path):
            if line.strip():
                document.append(line)
            elif document:
                yield "".join(document).rstrip()
                document = []
    except OSError as error:
        raise _cannot_read(path, error) from error
    if document:
        yield "".join(document).rstrip()
