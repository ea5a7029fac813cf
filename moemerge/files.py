"""Single files that appear complete or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moemerge.errors import WriteError

_RANDOM = "[0-9a-f]{8}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives an empty file beside `path`, which takes its place when the block ends well and is removed otherwise.

    What a killed run left beside it is removed first. The file is locked for as long as it is written, so that it is
    known whose run is gone.

    Raises:
        WriteError: the system refuses.
    """
    try:
        remove_leftovers(path)
        beside, lock = _make(path)
        try:
            yield beside
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
            os.close(lock)
    except OSError as error:
        raise WriteError(f"`{path}` cannot be written: {error.strerror or error}") from error


def remove_leftovers(path: Path) -> list[str]:
    """Removes the unfinished files that killed runs left beside `path`, and names them; those that are still written
    stay."""
    removed = []
    pattern = re.compile(re.escape(_prefix(path)) + _RANDOM + re.escape(".part"))
    with suppress(OSError):  # the folder may not be there, or may not be read: writing will say so
        with os.scandir(path.parent) as entries:
            found = [entry.path for entry in entries if pattern.fullmatch(entry.name)]
        for name in found:
            with suppress(OSError):  # somebody else's, or gone by now
                lock = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    if hold(lock) and is_at(lock, Path(name)):
                        os.unlink(name)
                        removed.append(Path(name).name)
                finally:
                    os.close(lock)
    return removed


def _prefix(path: Path) -> str:
    return f".{path.name[:40]}.moemerge-"


def _make(path: Path) -> tuple[Path, int]:
    """A new file beside `path`, and the descriptor that holds its lock."""
    while True:
        beside = path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}.part")
        lock = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        if hold(lock) is not False and is_at(lock, beside):
            return beside, lock
        os.close(lock)  # another run looked before the lock was held, and removes it as a leftover


def hold(lock: int) -> bool | None:
    """Whether the lock of an open file is now held by this process; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def is_at(lock: int, path: Path) -> bool:
    """Whether an open file is still the one at a path: who held the lock before may have removed it."""
    try:
        return os.path.samestat(os.fstat(lock), path.lstat())
    except FileNotFoundError:
        return False
