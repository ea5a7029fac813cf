"""Source files opened once, by path, and read at offsets from any thread."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import TracebackType

from moemerge.errors import SourceError
from moemerge.sources.checkpoint import ByteRange


@dataclass
class SourceFiles:
    """Source files opened once, by path, and read at offsets from any thread; a context manager that closes them.

    Attributes:
        from_disk: whether anything that was expected so far was not in memory, or the system cannot tell.
    """

    from_disk: bool = False
    _files: dict[Path, int] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def descriptor(self, path: Path) -> int:
        """The one descriptor of a file, for any thread."""
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY)
            return self._files[path]

    def expect(self, place: ByteRange) -> None:
        """Has the disk read a tensor ahead: threads that share a descriptor look to the system like random reads."""
        source = self.descriptor(place.path)
        ends = (place.offset, place.offset + max(place.length - 1, 0))
        self.from_disk = self.from_disk or not all(_is_at_hand(source, at) for at in ends)
        if hasattr(os, "posix_fadvise"):  # macOS has no such call
            os.posix_fadvise(source, place.offset, place.length, os.POSIX_FADV_WILLNEED)

    def read(self, place: ByteRange, start: int, view: memoryview) -> None:
        """Fills `view` with the bytes from `start` of a tensor that lies at `place`; one system call may read less.

        Raises:
            SourceError: the file ends before them.
        """
        source, done = self.descriptor(place.path), 0
        while done < len(view):
            count = os.preadv(source, [view[done:]], place.offset + start + done)
            if not count:
                missing = f"{len(view) - done} bytes are missing"
                raise SourceError(f"`{place.path}` ended while it was read: {missing}", code="truncated")
            done += count

    def __enter__(self) -> SourceFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)


def _is_at_hand(descriptor: int, offset: int) -> bool:
    """Whether a byte of a file can be read without waiting; no where the system cannot tell."""
    try:
        os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
    except (AttributeError, OSError):  # what is really wrong shows when it is read
        return False
    return True
