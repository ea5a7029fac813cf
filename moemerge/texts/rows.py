"""Rows of files and hub data sets, whatever their format: each a mapping of fields, or why it cannot be read."""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moemerge.device import available_memory
from moemerge.errors import MoemergeError, SourceError, cause_of
from moemerge.recipe.paths import CSV, JSON, JSON_LINES, PARQUET
from moemerge.recipe.schema import Rows

SAVE = "save its text in a file"
"""Texts are read more than once, so a pipe does not do."""
TAKES = 3
"""Bytes of memory, at least, that a byte of an array of JSON takes while it is read: as text, and as what it holds."""
LONGEST_CELL = 1 << 30
"""Characters of a cell of a CSV file; Python's own limit is 131,072."""
_WITHIN = ("data", "train", "rows", "examples", "instances")
"""Keys under which a JSON file may hold its rows."""
LONGEST_LINE = 1 << 26
"""Bytes of a line that is read, which leave room for the longest text in whatever way JSON writes it."""
SPLIT = "split it into several documents"
_AT_ONCE = 4
"""Rows of a Parquet file that are unpacked together: each may be thousands of times as large as in the file."""
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
"""What files in other encodings begin with; the first that fits counts."""
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_PACKINGS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""What packed files begin with, whatever they are called."""
_SAVED = {"dataset_dict.json": '["train"]', "state.json": ""}
"""What lies in a folder that datasets' `save_to_disk` wrote, and how the rows in it are reached."""
_DELIMITERS = ",;\t"
"""What separates the cells of a header, the likeliest first."""
_LINE_HINT = "JSONL has one JSON object a line"


class Unreadable(Exception):
    """A row that holds no text: it is counted, and no error by itself.

    Attributes:
        reason: in a clause.
        hint: what mends it, or None.
    """

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.hint = reason, hint


@dataclass(frozen=True, slots=True)
class Row:
    """A row, or what stands in its place.

    Attributes:
        number: from 1, of the line or the row.
        fields: what it holds, or why it holds nothing.
    """

    number: int
    fields: Mapping[str, Any] | Unreadable


Columns = Callable[[Sequence[str]], Collection[str]]
"""Which of these columns may be of use."""


def rows_of(rows: Rows, path: Path, columns: Columns, plain: tuple[str, ...] = ()) -> tuple[str, Iterator[Row]]:
    """The rows of a file, by its suffix, or of a hub data set.

    Args:
        rows: what to read.
        path: of the file, where it is one.
        columns: which need be read, where they lie apart.
        plain: suffixes that would do beside those of rows, for hints.

    Returns:
        What a row's number counts, `line` or `row`, and the rows.

    Raises:
        SourceError: the file is absent, of no known kind or damaged as a whole, or the data set cannot be had. While
            rows are read, also OSError.
    """
    suffixes = JSON_LINES + JSON + CSV + PARQUET + plain
    suffix = path.suffix.lower()
    if os.path.isfile(path):
        if suffix in JSON_LINES + JSON + CSV:
            _check_packing(path, rows.path)
        if suffix in JSON_LINES + JSON:
            return ("line", _json_lines(path)) if _has_lines(path, suffix) else ("row", _json_array(path))
        if suffix in CSV:
            return "line", _csv(path, "\t" if suffix == ".tsv" else ",")
        if suffix in PARQUET:
            return "row", _parquet(path, columns)
        known_are = f"known are {', '.join(f'`{known}`' for known in suffixes)}"
        what = f", `{path.suffix}`" if suffix else ": its name has no ending"
        raise SourceError(
            f"`{rows.path}` is of an unknown kind{what}",
            hint=f"unpack it; {known_are}" if suffix in _PACKED else known_are,
        )
    if os.path.isdir(path):
        for name, part in _SAVED.items():
            if (path / name).is_file():
                way = f"make a file of it: `datasets.load_from_disk(FOLDER){part}.to_parquet(FILE)`"
                raise SourceError(f"`{rows.path}` is a data set that `save_to_disk` wrote", hint=way)
        known = sorted(p.name for p in path.iterdir() if p.suffix.lower() in suffixes)
        hint = f"such as `{rows.path.rstrip('/')}/{known[0]}`" if known else None
        raise SourceError(f"`{rows.path}` is a folder: name one of its files", hint=hint)
    if os.path.exists(path):
        raise SourceError(f"`{path}` is not a regular file", hint=SAVE)
    return "row", _hub(rows)


def lines_of(path: Path) -> Iterator[tuple[int, str | Unreadable]]:
    """Numbered lines, without a byte order mark."""
    with path.open("rb") as file:
        for number in itertools.count(1):
            line = file.readline(LONGEST_LINE)
            if not line:
                return
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                while (more := file.readline(LONGEST_LINE)) and not more.endswith(b"\n"):
                    pass
                yield number, Unreadable(f"a line of more than {LONGEST_LINE / 1e6:.0f} MB", SPLIT)
                continue
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield number, Unreadable(f"not UTF-8 ({error.reason})", "save it as UTF-8")


def _has_lines(path: Path, suffix: str) -> bool:
    """Whether a JSON file has a row a line: many a `.json` file has, and many a `.jsonl` file is one array."""
    lines = (line for _, line in lines_of(path))
    first = next((line for line in lines if isinstance(line, Unreadable) or line.strip()), "")
    if isinstance(first, Unreadable):
        return suffix in JSON_LINES
    in_array = first.lstrip().startswith("[")
    if suffix in JSON_LINES and not in_array:
        return True
    second = next((line for line in lines if isinstance(line, Unreadable) or line.strip()), None)
    return second is not None and isinstance(_object(first), dict)


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in lines_of(path):
        if isinstance(line, Unreadable):
            yield Row(number, line)
        elif line.strip():
            yield Row(number, _object(line))


def _object(text: str) -> Mapping[str, Any] | Unreadable:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unreadable(_json_error(error), _LINE_HINT)
    fields = _fields(found)
    return Unreadable("not a JSON object", _LINE_HINT) if fields is None else fields


def _fields(row: Any) -> Mapping[str, Any] | None:
    """A row as fields: an object's own, or a list of messages, as some keep their conversations; None for others."""
    if isinstance(row, list) and row and all(isinstance(message, dict) for message in row):
        return {"messages": row}
    return row if isinstance(row, dict) else None


def _json_error(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "not JSON: nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg}"
    return "not JSON: a number has too many digits"


def _json_array(path: Path) -> Iterator[Row]:
    """The objects of an array, which may stand under a key of its own. A text stands for an object that holds it."""
    size, free = path.stat().st_size, available_memory()
    if size * TAKES > free:
        message = (
            f"`{path}` is an array of {size / 1e9:.3g} GB, which takes more than the {free / 1e9:.3g} GB of memory "
        )
        raise SourceError(
            message + "that are free", hint="save it as JSONL, an object a line, which is read line by line"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SourceError(f"`{path}` is not UTF-8 ({error.reason})", hint="save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        where = f"line {error.lineno}: " if isinstance(error, json.JSONDecodeError) else ""
        raise SourceError(f"`{path}`: {where}{_json_error(error)}", hint="a `.json` file holds an array") from error
    if isinstance(found, dict):
        inner = [found[key] for key in _WITHIN if isinstance(found.get(key), list)]
        found = inner[0] if inner else found if _by_columns(found) else [found]
    if _by_columns(found):
        message = f"`{path}` is written by columns: each of its fields holds the values of all rows"
        raise SourceError(message, hint='write an array of objects, one a row (in pandas `to_json(orient="records")`)')
    if not isinstance(found, list):
        raise SourceError(f"`{path}` holds no array", hint="a `.json` file holds an array of objects")
    for number, item in enumerate(found, start=1):
        item = {"text": item} if isinstance(item, str) else item
        fields = _fields(item)
        yield Row(number, Unreadable("not a JSON object") if fields is None else fields)


def _by_columns(found: Any) -> bool:
    """Whether an object holds a list of plain values a field, or an object of one each, as pandas writes by default."""
    if not isinstance(found, dict) or not found:
        return False
    columns = list(found.values())
    if all(isinstance(column, dict) for column in columns):
        return all(column.keys() == columns[0].keys() for column in columns)
    plain = all(isinstance(column, list) and not any(isinstance(v, dict) for v in column) for column in columns)
    return plain and any(columns) and len({len(column) for column in columns}) == 1


def _csv(path: Path, delimiter: str) -> Iterator[Row]:
    """Rows below a header. An empty cell is one without a value."""
    _check_encoding(path)
    csv.field_size_limit(LONGEST_CELL)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        first = file.readline()
        file.seek(0)
        if delimiter not in first:
            delimiter = next((other for other in _DELIMITERS if other in first), delimiter)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(number, Unreadable(f"not CSV: {error}"))
                continue
            if header is None:
                header = [name.strip() for name in cells]
            elif len(cells) > len(header):
                yield Row(number, Unreadable(f"{len(cells)} cells under a header of {len(header)}"))
            elif cells:
                yield Row(number, {name: cell or None for name, cell in itertools.zip_longest(header, cells)})


def _check_packing(path: Path, name: str) -> None:
    """Refuses a packed file that is not called one."""
    with path.open("rb") as file:
        begins = file.read(6)
    packing = next((packing for mark, packing in _PACKINGS.items() if begins.startswith(mark)), None)
    if packing is not None:
        raise SourceError(f"`{name}` is packed with {packing}, though its name does not say so", hint="unpack it")


def _check_encoding(path: Path) -> None:
    """Refuses what some programs save as "Unicode", which could be read as CSV of other characters."""
    with path.open("rb") as file:
        begins = file.read(4)
    kind = next((kind for mark, kind in _MARKS.items() if begins.startswith(mark)), None)
    kind = "UTF-16" if kind is None and b"\0" in begins[:2] else kind
    if kind is not None:
        raise SourceError(f"`{path}` is {kind}, not UTF-8", hint="save it as UTF-8")


def _parquet(path: Path, columns: Columns) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SourceError(f"`{path}` needs pyarrow to be read", hint="`pip install pyarrow`") from error
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            number = 0
            for batch in file.iter_batches(columns=list(columns(names)), batch_size=_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield Row(number, row)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        message = f"`{path}` is not a Parquet file: {cause_of(error)}"
        raise SourceError(message, hint="download or copy it again, or write it again") from error


def _hub(rows: Rows) -> Iterator[Row]:
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
            yield Row(number, row)
    except MoemergeError:
        raise
    except Exception as error:  # datasets and its file systems raise many kinds; all mean that the texts cannot be had
        raise SourceError(
            f"Data set `{rows.path}` cannot be read, and no such file exists: {cause_of(error)}",
            hint="check the id, `name`, `split` and `revision`; offline, give a local file",
        ) from error
