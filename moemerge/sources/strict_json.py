"""JSON that others wrote, read strictly: one object, no duplicate keys, no surprises from its size or depth.

`load_json` is the one door for a model's files and those of a built folder. A hundred megabytes of brackets would take
gigabytes as lists, so that how much a text takes is estimated before it is read.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moemerge.errors import SourceError, cause_of
from moemerge.sources.regular import MAX_BYTES, check_downloaded, read_whole, regular_size

MEMORY = 1_500_000_000
"""Bytes that a text may take once it is read, by `memory_of`; the largest `tokenizer.json` of today takes a third."""
_COSTS = {b"[": 110, b"{": 240, b":": 160, b",": 40, b'"': 30}
"""Bytes in CPython, at most, of what each of these begins, ends or parts: lists, dicts, their entries, texts."""
_LARGEST: Mapping[str, int] = {
    ".index.json": 50_000_000,
    "tokenizer_config.json": 20_000_000, "added_tokens.json": 20_000_000, "special_tokens_map.json": 20_000_000,
    "tokenizer.json": MAX_BYTES, "vocab.json": MAX_BYTES,
}  # fmt: skip
"""The largest file of a kind, by the end of its name; each is several times the largest that is known."""
_LARGEST_CONFIG = 10_000_000
"""And of every other kind: configs, which have some kilobytes."""
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_PLAIN = "save it as UTF-8 without a byte order mark"
_AGAIN = "download or copy it again, or mend it if you changed it"
_NOT_IT = "it is not what its name says, or it is damaged: download or copy it again"


class _DuplicateKey(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _DuplicateKey(f"the key `{next(key for key in counts if counts[key] > 1)}` appears twice")
    return result


def largest(name: str) -> int:
    """Bytes that a file of this name may have."""
    return next((size for end, size in _LARGEST.items() if name.endswith(end)), _LARGEST_CONFIG)


def check_size(name: str, size: int) -> None:
    """Refuses a file that is too large for its kind, before it is read.

    Raises:
        SourceError: it is.
    """
    if size > (most := largest(name)):
        message = f"`{name}` has {size:,} bytes, and {most:,} are the most that are read of such a file"
        raise SourceError(message, hint=_NOT_IT)


def memory_of(text: bytes) -> int:
    """Bytes that a text of JSON takes at most once it is read, what stands in its strings included."""
    return len(text) * (5 if text.isascii() else 8) + sum(text.count(sign) * cost for sign, cost in _COSTS.items())


def check_memory(text: bytes, name: str) -> None:
    """Refuses a text of JSON that would take more memory than `MEMORY`, before it is parsed.

    Raises:
        SourceError: it would.
    """
    if (needed := memory_of(text)) > MEMORY:
        message = f"`{name}` is not read: its {len(text):,} bytes would take {needed / 1e9:.1f} GB of memory"
        raise SourceError(message, hint=_NOT_IT)


def check_file(path: Path) -> None:
    """Refuses a file of JSON that is too large to be read, for a library that reads it by itself.

    Raises:
        SourceError: it is, or it cannot be read.
    """
    check_size(str(path), regular_size(path))
    check_memory(read_whole(path), str(path))


def load_json(text: bytes, name: str, unique: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parses JSON in UTF-8.

    Args:
        text: the raw bytes.
        name: what messages call it.
        unique: makes objects of their keys and values; dicts when None.

    Raises:
        SourceError: it would take more memory than `MEMORY`.
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    check_memory(text, name)
    return json.loads(text.decode("utf-8"), object_pairs_hook=unique)


def parse_object(text: bytes, name: str) -> dict[str, Any]:
    """Parses UTF-8 JSON whose top level must be an object.

    Args:
        text: the raw bytes.
        name: what to call the text in an error, such as a file name.

    Raises:
        SourceError: not UTF-8, not JSON, duplicate keys, nested too deeply, too large, or not an object.
    """
    if text.startswith(_MARKS):
        raise SourceError(f"`{name}` is not valid JSON: it begins with a byte order mark", hint=_PLAIN)
    try:
        value = load_json(text, name, _unique)
    except _DuplicateKey as error:
        raise SourceError(f"`{name}` is not valid: {error}", hint="remove all but one") from None
    except (ValueError, RecursionError) as error:
        check_downloaded(text, name)
        raise SourceError(f"`{name}` is not valid JSON: {cause_of(error)}", hint=_AGAIN) from None
    if not isinstance(value, dict):
        message = f"`{name}` is not valid: it holds {_kind(value)} where an object is expected"
        raise SourceError(message, hint=_AGAIN)
    return value


def read_object(path: Path, name: str) -> dict[str, Any]:
    """Reads a JSON file; see `parse_object`.

    Raises:
        SourceError: also when the file cannot be read, is not a regular file, or is larger than its kind is.
    """
    check_size(name, regular_size(path, name))
    return parse_object(read_whole(path), name)


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
