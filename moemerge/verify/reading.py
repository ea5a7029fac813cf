"""Bytes of files, read at offsets from several threads; never mapped, so that they do not count as memory in use."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for reading, if it is one: a pipe would wait for ever.

    Raises:
        OSError: it is something else, or cannot be opened.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        yield file


def read_regular(path: Path) -> bytes:
    """All of a file; see `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def resolved(folder: Path, name: str) -> Path:
    """Where a file of a folder really lies.

    Raises:
        ValueError: it is a link out of the folder.
        OSError: it is not there, or cannot be followed.
    """
    path = Path(os.path.realpath(folder / name, strict=True))
    if not path.is_relative_to(_boundary(folder)):
        raise ValueError(f"is a link out of the folder, to `{path}`")
    return path


def _boundary(folder: Path) -> Path:
    """The folder, or for a snapshot in a hub cache the model's folder there: a snapshot is links into its blobs."""
    path = folder.resolve()
    cached = path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--")
    return path.parent.parent if cached else path


class OpenFiles:
    """Files opened once, by path, and read at offsets from any thread."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}
        self._lock = Lock()

    def read(self, path: Path, offset: int, length: int) -> bytes:
        """Reads exactly `length` bytes.

        Raises:
            EOFError: the file is shorter.
            OSError: it cannot be read.
        """
        descriptor = self._descriptor(path)
        pieces, done = [], 0
        while done < length:
            piece = os.pread(descriptor, length - done, offset + done)
            if not piece:
                raise _ended(path)
            pieces.append(piece)
            done += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def fill(self, path: Path, offset: int, memory: memoryview) -> None:
        """Reads as many bytes as `memory` holds; raises what `read` does."""
        descriptor, done = self._descriptor(path), 0
        while done < len(memory):
            count = os.preadv(descriptor, [memory[done:]], offset + done)
            if not count:
                raise _ended(path)
            done += count

    def _descriptor(self, path: Path) -> int:
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY)
            return self._files[path]

    def close(self) -> None:
        """Closes all."""
        for descriptor in self._files.values():
            os.close(descriptor)


def _ended(path: Path) -> EOFError:
    return EOFError(f"`{path.name}` ended while it was read")
