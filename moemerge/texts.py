"""Reads texts: prompts, the documents of `data`, and rows of several fields, from files or a hub data set."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from moemerge.errors import MoemergeError, SourceError
from moemerge.recipe import file_path
from moemerge.recipe.paths import JSON_LINES, PARQUET
from moemerge.recipe.schema import Data, Rows

PLAIN = (".txt", ".text", ".md")
_SAVE = "save its text in a file"
"""Texts are read more than once, so a pipe does not do."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def read_texts(data: Data, root: Path) -> tuple[str, ...]:
    """Reads the documents that `data` names, at most `data.limit`; blank ones are left out.

    Args:
        data: a file, by its suffix (`.jsonl`, `.txt`, `.parquet`), or the id of a hub data set.
        root: the folder that a relative path is relative to.

    Raises:
        SourceError: as `read_rows` says, or there is no text.
    """
    path = file_path(root, data.path)
    plain = os.path.isfile(path) and path.suffix.lower() in PLAIN
    documents = ((text,) for text in _paragraphs(path)) if plain else _rows(data, path, {"field": data.field}, PLAIN)
    found = tuple(text for (text,) in _taken(documents, data.limit, path))
    if not found:
        raise SourceError(f"`{data.path}` holds no text", hint="give a file with one document at least")
    return found


def check_texts(data: Data, root: Path) -> None:
    """Reads the first document of a local file, to see that it is there and of the kind that its name says.

    A hub data set is left alone: a plan fetches no texts.

    Raises:
        SourceError: as `read_texts`.
    """
    if not _is_hub(data, file_path(root, data.path)):
        read_texts(data.model_copy(update={"limit": 1}), root)


def is_absent(rows: Rows, root: Path) -> bool:
    """Whether a local file of texts is not there; nothing is opened. A hub data set is left alone."""
    path = file_path(root, rows.path)
    return not os.path.exists(path) and not _is_hub(rows, path)


def read_rows(rows: Rows, root: Path, fields: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """Reads some fields of the rows that `rows` names, at most `rows.limit`; a row with a blank one is left out.

    Args:
        rows: a JSONL or Parquet file, by its suffix, or the id of a hub data set.
        root: the folder that a relative path is relative to.
        fields: the fields to read, by the recipe's key that names each, which a hint then names.

    Returns:
        The values of each row, in the order of `fields`.

    Raises:
        SourceError: the file is absent or unreadable, a row (named) is no JSON object or lacks a field, or the data
            set cannot be had.
    """
    path = file_path(root, rows.path)
    return tuple(_taken(_rows(rows, path, fields), rows.limit, path))


def _taken(found: Iterable[tuple[str, ...]], limit: int | None, path: Path) -> Iterator[tuple[str, ...]]:
    """The first `limit` rows without a blank value."""
    try:
        yield from itertools.islice((row for row in found if all(map(str.strip, row))), limit)
    except OSError as error:
        raise SourceError(f"Cannot read `{path}`: {error.strerror or error}") from error


def read_prompts_file(path: Path) -> tuple[str, ...]:
    """Reads prompts, one a line; blank lines are left out.

    Raises:
        SourceError: the file is absent, empty, or not UTF-8.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise SourceError(f"Prompts file `{path}` is not a regular file", hint=_SAVE)
    if not os.path.isfile(path):
        raise SourceError(f"Prompts file `{path}` does not exist", hint="paths are relative to the recipe's folder")
    try:
        prompts = tuple(line.strip() for _, line in _lines(path) if line.strip())
    except OSError as error:
        raise SourceError(f"Cannot read `{path}`: {error.strerror or error}") from error
    if not prompts:
        raise SourceError(f"Prompts file `{path}` is empty", hint="write one prompt a line")
    return prompts


def _rows(rows: Rows, path: Path, fields: Mapping[str, str], plain: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The rows of whatever kind of file or data set it is; `plain` are suffixes that would do beside those of rows."""
    suffixes = JSON_LINES + plain + PARQUET
    if os.path.isfile(path):
        suffix = path.suffix.lower()
        if suffix in JSON_LINES:
            return _json_lines(path, fields)
        if suffix in PARQUET:
            return _parquet(path, fields)
        if suffix in PLAIN:
            raise SourceError(f"`{rows.path}` is plain text, which has no fields", hint="give a JSONL or Parquet file")
        raise SourceError(
            f"`{rows.path}` is of an unknown kind, `{path.suffix}`",
            hint=f"known are {', '.join(f'`{known}`' for known in suffixes)}",
        )
    if os.path.isdir(path):
        known = sorted(p.name for p in path.iterdir() if p.suffix.lower() in suffixes)
        hint = f"such as `{rows.path.rstrip('/')}/{known[0]}`" if known else None
        raise SourceError(f"`{rows.path}` is a folder: name one of its files", hint=hint)
    if os.path.exists(path):
        raise SourceError(f"`{path}` is not a regular file", hint=_SAVE)
    if not _is_hub(rows, path):
        hint = "relative paths start at the folder of the file that names them"
        raise SourceError(f"`{path}` does not exist", hint=hint)
    return _hub(rows, fields)


def _is_hub(rows: Rows, path: Path) -> bool:
    suffixed = path.suffix.lower() in JSON_LINES + PLAIN + PARQUET
    return not os.path.exists(path) and not suffixed and HUB_ID.fullmatch(rows.path) is not None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, without a byte order mark.

    Raises:
        SourceError: a line (named) is not UTF-8.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise SourceError(f"{path}:{number}: not UTF-8 ({error.reason})", hint="save it as UTF-8") from error


def _json_lines(path: Path, fields: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits is no `JSONDecodeError`
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            reason = "a number is too long" if type(error) is ValueError else reason
            raise SourceError(
                f"{path}:{number}: not JSON: {reason}", hint="JSONL has one JSON object a line"
            ) from error
        if not isinstance(row, dict):
            raise SourceError(f"{path}:{number}: not a JSON object", hint="JSONL has one JSON object a line")
        yield _values(row, fields, f"{path}:{number}")


def _values(row: Mapping[str, Any], fields: Mapping[str, str], place: str) -> tuple[str, ...]:
    return tuple(_text(row, key, field, place) for key, field in fields.items())


def _text(row: Mapping[str, Any], key: str, field: str, place: str) -> str:
    if field not in row:
        raise SourceError(f"{place}: no field `{field}`", hint=_one_of(key, row))
    value = row[field]
    if not isinstance(value, str):
        raise SourceError(f"{place}: field `{field}` is no text", hint=f"set `{key}` to one that holds strings")
    return value


def _one_of(key: str, names: Iterable[str]) -> str:
    have = ", ".join(f"`{name}`" for name in names) or "none"
    return f"set `{key}` to one of those that it has: {have}"


def _paragraphs(path: Path) -> Iterator[str]:
    """Documents that blank lines separate."""
    document: list[str] = []
    for _, line in _lines(path):
        if line.strip():
            document.append(line)
        elif document:
            yield "".join(document).rstrip()
            document = []
    if document:
        yield "".join(document).rstrip()


def _parquet(path: Path, fields: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SourceError(f"`{path}` needs pyarrow to be read", hint="`pip install pyarrow`") from error
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for key, field in fields.items():
                if field not in names:
                    raise SourceError(f"{path}: no column `{field}`", hint=_one_of(key, names))
            number = 0
            for batch in file.iter_batches(columns=list(dict.fromkeys(fields.values())), batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield _values(row, fields, f"{path}: row {number}")
    except (pyarrow.ArrowException, UnicodeError) as error:
        raise SourceError(f"{path} is not a Parquet file: {_first_line(error)}") from error


def _hub(rows: Rows, fields: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    try:
        import datasets
    except ImportError as error:
        raise SourceError(
            f"`{rows.path}` is no file here, and hub data sets need `datasets`", hint="`pip install datasets`"
        ) from error
    try:
        found: Iterable[dict[str, Any]] = datasets.load_dataset(
            rows.path, name=rows.name, split=rows.split, revision=rows.revision, streaming=True
        )
        for number, row in enumerate(found, start=1):
            yield _values(row, fields, f"{rows.path}: row {number}")
    except MoemergeError:
        raise
    except Exception as error:  # datasets and its file systems raise many kinds; all mean that the texts cannot be had
        raise SourceError(
            f"Data set `{rows.path}` cannot be read, and no such file exists: {_first_line(error)}",
            hint="check the id, `name`, `split` and `revision`; offline, give a local file",
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
