"""Bytes of files, read at offsets from several threads; never mapped, so that they do not count as memory in use."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock


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
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY)
        pieces, done = [], 0
        while done < length:
            piece = os.pread(self._files[path], length - done, offset + done)
            if not piece:
                raise EOFError(f"`{path.name}` ended while it was read")
            pieces.append(piece)
            done += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Closes all."""
        for descriptor in self._files.values():
            os.close(descriptor)
