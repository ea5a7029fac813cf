"""The hidden folder beside an output in which one build works, locked for as long as that build lives.

It holds the lock, the output that is being written (`new`), and, while a build replaces an older output, that one
(`replaced`, then `discarded`). A kill at any moment leaves it with a lock that nobody holds, so the next build finds
it.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from moemerge.files import hold, is_at

_LOCK = ".moemerge-staged"
_RANDOM = "[a-z0-9_]{8}"
"""What `tempfile` appends."""


@dataclass(frozen=True)
class Stage:
    """A staging folder whose lock this process holds.

    Attributes:
        folder: where it is.
        lock: the descriptor of its lock.
    """

    folder: Path
    lock: int

    @property
    def new(self) -> Path:
        """The folder that is to become the output."""
        return self.folder / "new"

    @property
    def replaced(self) -> Path:
        """Where the old output is until the new one is in its place; from here it is put back."""
        return self.folder / "replaced"

    @property
    def discarded(self) -> Path:
        """Where it is removed."""
        return self.folder / "discarded"

    def remove(self) -> None:
        """Removes the lock and the folder, which must hold nothing else.

        Raises:
            OSError: it does, or cannot be removed.
        """
        if others := sorted(set(os.listdir(self.folder)) - {_LOCK}):
            raise OSError(f"it holds `{others[0]}`, which moemerge did not write")
        (self.folder / _LOCK).unlink()  # after what it guards; a kill here leaves an empty folder, which is found too
        self.folder.rmdir()

    def release(self) -> None:
        """Gives up the lock."""
        os.close(self.lock)


def longest_name(output: Path) -> Path:
    """A path as long as that of the staging folder."""
    return output.parent / f"{_prefix(output)}12345678"


def make_stage(output: Path) -> Stage:
    """Makes a staging folder beside `output`, whose parent exists.

    Raises:
        OSError: it cannot be made; nothing of it is left.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(output), dir=output.parent))
        try:
            stage = _take(folder, os.O_CREAT | os.O_EXCL)
        except (FileExistsError, FileNotFoundError):
            stage = None
        except OSError:
            folder.rmdir()
            raise
        if stage is None:  # another build looked before the lock was held, and removes the folder as an orphan
            continue
        try:
            stage.new.mkdir()
        except OSError:
            with suppress(OSError):
                stage.remove()
            stage.release()
            raise
        return stage


def orphans(output: Path) -> list[Path]:
    """Staging folders of `output` whose build is gone."""
    found = []
    for folder in _candidates(output):
        stage = adopt(folder)
        if stage is not None:
            stage.release()
            found.append(folder)
    return found


def adopt(folder: Path) -> Stage | None:
    """Takes over a staging folder whose build is gone; None where it lives, or where it cannot be told."""
    try:
        if not os.listdir(folder):  # killed before it had a lock; should that build live, it makes another folder
            return _take(folder, os.O_CREAT | os.O_EXCL)
        return _take(folder, 0)
    except OSError:  # somebody else's, or gone by now
        return None


def _prefix(output: Path) -> str:
    return f".{output.name}.moemerge-"


def _candidates(output: Path) -> list[Path]:
    name = re.compile(re.escape(_prefix(output)) + _RANDOM)
    try:
        with os.scandir(output.parent) as entries:
            found = [entry for entry in entries if name.fullmatch(entry.name)]
    except OSError:  # it is not there, or may not be read
        return []
    return sorted(Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False))


def _take(folder: Path, flags: int) -> Stage | None:
    """Opens the lock and holds it; None where another process does, or has removed it in the meantime.

    Where the system has no such locks, a new folder is held without one, and a folder that was found is not taken.
    """
    path = folder / _LOCK
    lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o600)
    try:
        held = hold(lock)
        if (held or (held is None and flags)) and is_at(lock, path):
            taken, lock = lock, -1
            return Stage(folder, taken)
        return None
    finally:
        if lock >= 0:
            os.close(lock)
