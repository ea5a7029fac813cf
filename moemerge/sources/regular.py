"""Regular files alone: reading a pipe or a device would wait, or never end."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from moemerge.errors import SourceError

MAX_BYTES = 100_000_000
"""The largest JSON text that is read: the bound that safetensors sets for its headers."""


_STANDS_IN: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (
        re.compile(rb"version https://git-lfs\.github\.com/spec/"),
        "a pointer of Git LFS",
        "`git lfs pull` in its folder fetches the file",
    ),
    (
        re.compile(rb"\s*<(!doctype\s+)?html", re.IGNORECASE),
        "a web page",
        "download it again: on the hub, addresses with `/resolve/` give the file, those with `/blob/` its page",
    ),
)
"""What lies in a file's place where it was not downloaded: what it begins with, what it is, and the cure."""


HEAD = 1024
"""Bytes that are enough for it."""


def check_downloaded(head: bytes, name: str) -> None:
    """Refuses what begins like no model's file.

    Args:
        head: the first bytes of a file that is none of the kind that was expected.
        name: what messages call it.

    Raises:
        SourceError: it lies in the file's place where this was not downloaded.
    """
    for pattern, what, cure in _STANDS_IN:
        if pattern.match(head):
            raise SourceError(f"`{name}` is {what}, and not the file itself", hint=cure)


def regular_size(path: Path, name: str | None = None) -> int:
    """Size in bytes of a regular file.

    Args:
        path: where it is; links are followed.
        name: what messages call it; its path when None.

    Raises:
        SourceError: it is missing, cannot be read, or is something else (a folder, a pipe).
    """
    name = str(path) if name is None else name
    try:
        status = path.stat()
    except OSError as error:
        raise SourceError(f"`{name}` cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"`{name}` is not a regular file")
    return status.st_size


def read_whole(path: Path, most: int | None = None) -> bytes:
    """All of a file, as `regular_size` knows it.

    Raises:
        SourceError: it cannot be read, or has more than `most` bytes.
    """
    try:
        if most is not None and (size := path.stat().st_size) > most:
            raise SourceError(f"`{path}` has {size} bytes, more than the {most} that are read")
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"`{path}` cannot be read: {error.strerror or error}") from error
