"""JSON that others wrote, read strictly: one object, no duplicate keys, no surprises from its size or depth."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from moemerge.errors import SourceError, cause_of
from moemerge.sources.regular import MAX_BYTES, check_downloaded, read_whole, regular_size

_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_PLAIN = "save it as UTF-8 without a byte order mark"
_AGAIN = "download or copy it again, or mend it if you changed it"


class _DuplicateKey(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKey(f"the key `{next(key for key in keys if keys.count(key) > 1)}` appears twice")
    return result


def parse_object(text: bytes, name: str) -> dict[str, Any]:
    """Parses UTF-8 JSON whose top level must be an object.

    Args:
        text: the raw bytes.
        name: what to call the text in an error, such as a file name.

    Raises:
        SourceError: not UTF-8, not JSON, duplicate keys, nested too deeply, or not an object.
    """
    if text.startswith(_MARKS):
        raise SourceError(f"`{name}` is not valid JSON: it begins with a byte order mark", hint=_PLAIN)
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
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
        SourceError: also when the file cannot be read, is no regular file, or exceeds `MAX_BYTES`.
    """
    size = regular_size(path, name)
    if size > MAX_BYTES:
        raise SourceError(f"`{name}` has {size} bytes, more than the {MAX_BYTES} that are read")
    return parse_object(read_whole(path), name)


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
