"""Reads texts: prompts, and the documents of `data`, from JSONL, plain text, Parquet or a hub data set."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from moemerge.errors import MoemergeError, SourceError
from moemerge.recipe.schema import Data

JSON_LINES = (".jsonl", ".ndjson")
PLAIN = (".txt", ".text", ".md")
PARQUET = (".parquet",)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def read_texts(data: Data, root: Path) -> tuple[str, ...]:
    """Reads the documents that `data` names, at most `data.limit`; blank ones are left out.

    Args:
        data: a file, by its suffix (`.jsonl`, `.txt`, `.parquet`), or the id of a hub data set.
        root: the folder that a relative path is relative to.

    Raises:
        SourceError: the file is absent, empty or unreadable, a line (named) is no JSON object or lacks the field, or
            the data set cannot be had.
    """
    path = root / Path(data.path).expanduser()
    documents = _documents(data, path)
    try:
        found = tuple(itertools.islice((text for text in documents if text.strip()), data.limit))
    except OSError as error:
        raise SourceError(f"Cannot read `{path}`: {error.strerror or error}") from error
    if not found:
        raise SourceError(f"`{data.path}` holds no text", hint="give a file with one document at least")
    return found


def read_prompts_file(path: Path) -> tuple[str, ...]:
    """Reads prompts, one a line; blank lines are left out.

    Raises:
        SourceError: the file is absent, empty, or not UTF-8.
    """
    if not path.is_file():
        raise SourceError(f"Prompts file `{path}` does not exist", hint="paths are relative to the recipe's folder")
    try:
        prompts = tuple(line.strip() for _, line in _lines(path) if line.strip())
    except OSError as error:
        raise SourceError(f"Cannot read `{path}`: {error.strerror or error}") from error
    if not prompts:
        raise SourceError(f"Prompts file `{path}` is empty", hint="write one prompt a line")
    return prompts


def _documents(data: Data, path: Path) -> Iterator[str]:
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix in JSON_LINES:
            return _json_lines(path, data.field)
        if suffix in PLAIN:
            return _paragraphs(path)
        if suffix in PARQUET:
            return _parquet(path, data.field)
        raise SourceError(
            f"`{data.path}` is of an unknown kind, `{path.suffix}`",
            hint=f"known are {', '.join(f'`{known}`' for known in JSON_LINES + PLAIN + PARQUET)}",
        )
    if path.is_dir():
        known = sorted(p.name for p in path.iterdir() if p.suffix.lower() in JSON_LINES + PLAIN + PARQUET)
        hint = f"such as `{data.path.rstrip('/')}/{known[0]}`" if known else None
        raise SourceError(f"`{data.path}` is a folder: name one of its files", hint=hint)
    suffixed = path.suffix.lower() in JSON_LINES + PLAIN + PARQUET
    if suffixed or not HUB_ID.fullmatch(data.path):
        raise SourceError(f"`{path}` does not exist", hint="paths are relative to the recipe's folder")
    return _hub(data)


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


def _json_lines(path: Path, field: str) -> Iterator[str]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise SourceError(
                f"{path}:{number}: not JSON: {reason}", hint="JSONL has one JSON object a line"
            ) from error
        if not isinstance(row, dict):
            raise SourceError(f"{path}:{number}: not a JSON object", hint="JSONL has one JSON object a line")
        yield _text(row, field, f"{path}:{number}")


def _text(row: dict[str, Any], field: str, place: str) -> str:
    if field not in row:
        have = ", ".join(f"`{key}`" for key in row) or "none"
        raise SourceError(f"{place}: no field `{field}`", hint=f"set `field` to one of those that it has: {have}")
    value = row[field]
    if not isinstance(value, str):
        raise SourceError(f"{place}: field `{field}` is no text", hint="set `field` to one that holds strings")
    return value


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


def _parquet(path: Path, field: str) -> Iterator[str]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SourceError(f"`{path}` needs pyarrow to be read", hint="`pip install pyarrow`") from error
    try:
        with parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                have = ", ".join(f"`{name}`" for name in file.schema_arrow.names)
                raise SourceError(
                    f"{path}: no column `{field}`", hint=f"set `field` to one of those that it has: {have}"
                )
            number = 0
            for batch in file.iter_batches(columns=[field], batch_size=256):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield _text({field: value}, field, f"{path}: row {number}")
    except pyarrow.ArrowException as error:
        raise SourceError(f"{path} is not a Parquet file: {_first_line(error)}") from error


def _hub(data: Data) -> Iterator[str]:
    try:
        import datasets
    except ImportError as error:
        raise SourceError(
            f"`{data.path}` is no file here, and hub data sets need `datasets`", hint="`pip install datasets`"
        ) from error
    try:
        rows: Iterable[dict[str, Any]] = datasets.load_dataset(
            data.path, name=data.name, split=data.split, revision=data.revision, streaming=True
        )
        for number, row in enumerate(rows, start=1):
            yield _text(row, data.field, f"{data.path}: row {number}")
    except MoemergeError:
        raise
    except Exception as error:  # datasets and its file systems raise many kinds; all mean that the texts cannot be had
        raise SourceError(
            f"Data set `{data.path}` cannot be read, and no such file exists: {_first_line(error)}",
            hint="check the id, `name`, `split` and `revision`; offline, give a local file",
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
