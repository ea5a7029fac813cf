"""Rows of a picture and what is asked and said of it. The pictures lie in the folder of the file that names them.

A file of texts comes from somewhere, and so do pictures: no path leads out of that folder, and nothing is decoded whose
header promises more than memory should hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

from moemerge.errors import SourceError
from moemerge.recipe import file_path
from moemerge.recipe.schema import Data
from moemerge.texts.forms import FIELDS, Conversation, columns_of, text_of
from moemerge.texts.read import ENOUGH, LeftOut
from moemerge.texts.rows import Unreadable, rows_of

FIELD = "image"
"""The field that names a picture."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""Pillow's names of the formats that are read: those of pictures alone, which no other program is called for."""
MAX_BYTES = 64 << 20
"""Bytes of a picture's file."""
MAX_PIXELS = 64 << 20
"""Pixels of a picture: 192 MiB as bytes."""
_HINT = 'a row is `{"image": "7.png", "text": "..."}`, or has an `image` beside messages, or question and answer'


@dataclass(frozen=True, slots=True)
class Pictured:
    """A picture's file, and what is asked and said of it."""

    number: int
    path: Path
    said: str | Conversation


def names_pictures(data: Data, root: Path) -> bool:
    """Whether the first row of a local file that can be read has a picture.

    Raises:
        SourceError: as `rows_of`.
    """
    path = file_path(root, data.path)
    if not os.path.isfile(path):
        return False
    try:
        _, rows = rows_of(data, path, list)
    except SourceError:  # a plain text, or what the reader of texts says more of
        return False
    first = next((row.fields for row in rows if not isinstance(row.fields, Unreadable)), {})
    return isinstance(first.get(FIELD), str)


def read_pictured(data: Data, root: Path) -> tuple[tuple[Pictured, ...], LeftOut]:
    """Reads the rows that `data` names, at most `data.limit`; no picture is opened.

    Returns:
        The rows, and those that were left out.

    Raises:
        SourceError: no row can be read.
    """
    path, left_out = file_path(root, data.path), LeftOut(data.path)
    found: list[Pictured] = []
    for row in _rows(data, path, left_out):
        found.append(row)
        if data.limit is not None and len(found) >= data.limit:
            break
    if not found:
        raise left_out.nothing("pictures with texts", _HINT)
    return tuple(found), left_out


def _rows(data: Data, path: Path, left_out: LeftOut) -> Iterator[Pictured]:
    wanted = {FIELD, *(FIELDS if data.field is None else (data.field,))}
    left_out.unit, rows = rows_of(data, path, lambda names: columns_of(names, wanted, all_of=False))
    for row in rows:
        left_out.rows += 1
        if left_out.count >= ENOUGH:
            return
        try:
            if isinstance(row.fields, Unreadable):
                raise row.fields
            said = text_of(row.fields, data.field)
            if said is not None:
                yield Pictured(row.number, _inside(path.parent, row.fields), said)
        except Unreadable as why:
            left_out.add(row.number, why)


def _inside(folder: Path, row: Mapping[str, Any]) -> Path:
    """Where a row's picture lies.

    Raises:
        Unreadable: it names none, or one outside the folder, or what is not a file.
    """
    named = row.get(FIELD)
    if not isinstance(named, str) or not named.strip() or "\0" in named:
        raise Unreadable(f"field `{FIELD}` names no file", _HINT)
    path = Path(os.path.realpath(folder / named))
    if not path.is_relative_to(os.path.realpath(folder)):
        raise Unreadable("its picture is outside the file's folder", "put the pictures into the file's folder")
    try:
        state = path.stat()
    except OSError:
        raise Unreadable("its picture is not there", "paths are relative to the folder of the file") from None
    if not S_ISREG(state.st_mode):
        raise Unreadable("its picture is not a file")
    if state.st_size > MAX_BYTES:
        raise Unreadable(f"its picture has more than {MAX_BYTES >> 20} MiB")
    return path


def need_pillow() -> None:
    """Checks that pictures can be read at all.

    Raises:
        SourceError: Pillow is missing.
    """
    try:
        import PIL.Image  # noqa: F401  # whether it is there
    except ImportError as error:
        raise SourceError("pictures need `pillow` to be read", hint="`pip install pillow`") from error


def open_picture(path: Path) -> Any:
    """A picture in RGB.

    Raises:
        Unreadable: it is none of `FORMATS`, damaged, or too large.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Unreadable(f"its picture has more than {MAX_PIXELS >> 20} million pixels", "make it smaller")
            return image.convert("RGB")
    except Unreadable:
        raise
    except Exception as error:  # whatever a broken file makes Pillow raise
        kinds = ", ".join(FORMATS)
        raise Unreadable("its picture cannot be read", f"pictures are {kinds}") from error
