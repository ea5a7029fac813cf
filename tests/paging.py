"""Files in memory, and files that have to be fetched from the disk."""

from __future__ import annotations

import os
from pathlib import Path


def enter_memory(path: Path) -> bool:
    """Reads a file; whether the system says that it is in memory now."""
    path.read_bytes()
    return _is_at_hand(path)


def leave_memory(path: Path) -> bool:
    """Asks the system to keep nothing of a file; whether it says that nothing is."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not on the disk yet is kept
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return not _is_at_hand(path)


def _is_at_hand(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
    except (AttributeError, OSError):
        return False
    return True
