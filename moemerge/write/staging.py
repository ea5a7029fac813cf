"""A folder that appears complete or not at all: written beside its place, then renamed."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moemerge.errors import WriteError
from moemerge.write.record import NAME, read_record

_REPLACED = "replaced"
"""Where an overwriting build moves the old output until the new one is in its place."""
_LOCK = ".moemerge-staged"
"""Held locked by the process that writes a staged folder; a staged folder without a holder is an orphan."""


def check_output(output: Path, *, overwrite: bool, needed: int) -> list[Path]:
    """Checks, before any work, that `output` can be written.

    Args:
        output: the folder that is to appear.
        overwrite: whether a folder that moemerge made may be replaced.
        needed: bytes that will be written.

    Returns:
        Orphaned staged folders beside it, which `staged` removes.

    Raises:
        WriteError: it exists, its parent cannot be written, its name is too long, or the disk is too full.
    """
    try:
        return _checked(output, overwrite=overwrite, needed=needed)
    except OSError as error:
        raise _explain(error, output) from error


def _checked(output: Path, *, overwrite: bool, needed: int) -> list[Path]:
    _restore(output)
    if output.is_symlink() or output.exists():
        _check_replaceable(output, overwrite=overwrite)
    with suppress(FileNotFoundError, NotADirectoryError):
        os.stat(output.parent / f"{_prefix(output)}12345678")  # the staged folder's name is longer: is it too long?
    parent = output.parent
    existing = parent
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise WriteError(f"`{existing}` is not a folder", hint="choose another output with `-o`")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise WriteError(f"no permission to write in `{existing}`", hint="choose another output with `-o`")
    free = shutil.disk_usage(existing).free
    if free < needed:
        message = f"no space left for `{output}`: {needed:,} bytes are needed and {free:,} are free"
        raise WriteError(message, hint="free some space, or choose another disk with `-o`", code="no-space")
    return _orphans(output)


def _check_replaceable(output: Path, *, overwrite: bool) -> None:
    if not overwrite:
        message = f"output `{output}` exists"
        hint = "choose another with `-o`, or pass `--overwrite` to replace a folder that moemerge made"
        raise WriteError(message, hint=hint, code="output-exists")
    record = read_record(output) if output.is_dir() and not output.is_symlink() else None
    if record is None:
        message = f"output `{output}` was not made by moemerge, so it is not overwritten"
        raise WriteError(message, hint="remove it yourself, or choose another with `-o`", code="output-exists")
    known = {NAME, *record.get("files", {})}
    strange = sorted(_foreign(output, known))
    if strange:
        listed = ", ".join(f"`{name}`" for name in strange[:4])
        message = f"output `{output}` holds files that moemerge did not write: {listed}"
        raise WriteError(message, hint="move them away before overwriting", code="output-exists")


def _foreign(output: Path, known: set[str]) -> Iterator[str]:
    for path in output.rglob("*"):
        name = path.relative_to(output).as_posix()
        weights = path.suffix == ".safetensors" or name == "model.safetensors.index.json"
        if path.is_file() and name not in known and not weights:
            yield name


@contextmanager
def staged(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Gives an empty folder beside `output`; when the block ends well it becomes `output`, otherwise it is removed.

    Raises:
        WriteError: the folder cannot be made, or the disk is full.
    """
    folder: Path | None = None
    lock: int | None = None
    parents: list[Path] = []
    try:
        parents = [parent for parent in output.parents if not parent.exists()]
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_prefix(output), dir=output.parent))
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        _try_lock(lock)
        yield folder
        (folder / _LOCK).unlink()
        folder.chmod(0o777 & ~_umask())
        _publish(folder, output, overwrite=overwrite)
        folder, parents = None, []
    except OSError as error:
        raise _explain(error, output) from error
    finally:
        if lock is not None:
            os.close(lock)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        for parent in parents:  # the deepest first
            with suppress(OSError):  # not made yet, or somebody else put something into it
                parent.rmdir()


def _prefix(output: Path) -> str:
    return f".{output.name}.moemerge-"


def _publish(folder: Path, output: Path, *, overwrite: bool) -> None:
    if not output.exists():
        os.rename(folder, output)
    else:
        _check_replaceable(output, overwrite=overwrite)
        old = Path(tempfile.mkdtemp(prefix=_prefix(output), dir=output.parent))
        (old / _LOCK).touch()  # held by nobody: were this process killed here, the next run finds the folder
        os.rename(output, old / _REPLACED)
        try:
            os.rename(folder, output)
        except OSError:
            os.rename(old / _REPLACED, output)
            shutil.rmtree(old)
            raise
        shutil.rmtree(old)
    descriptor = os.open(output.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _restore(output: Path) -> None:
    """Puts back what an overwriting build had moved aside when it was killed between its two renames."""
    if output.is_symlink() or output.exists() or not output.parent.is_dir():
        return
    for folder in output.parent.iterdir():
        replaced = folder / _REPLACED
        if folder.name.startswith(_prefix(output)) and replaced.is_dir() and read_record(replaced) is not None:
            os.rename(replaced, output)
            return


def _explain(error: OSError, output: Path) -> WriteError:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        message = f"no space left while writing `{output}`: nothing was kept"
        return WriteError(message, hint="free some space, or choose another disk with `-o`", code="no-space")
    if error.errno == errno.EFBIG:
        message = f"a file of `{output}` is larger than its disk or `ulimit -f` allows: nothing was kept"
        return WriteError(message, hint="set a smaller `output.shard_size`, or choose another disk with `-o`")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return WriteError(f"no permission to write `{output}`: {error.strerror}", hint="choose another with `-o`")
    return WriteError(f"`{output}` cannot be written: {error.strerror or error}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _try_lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # no advisory locks here (Windows): orphans are then left for their owner
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _orphans(output: Path) -> list[Path]:
    """Staged folders of this output whose writer is gone."""
    found = []
    for folder in sorted(output.parent.glob(f"{glob.escape(_prefix(output))}*")):
        if (folder / _LOCK).is_file() and not folder.is_symlink() and os.access(folder / _LOCK, os.R_OK | os.W_OK):
            descriptor = os.open(folder / _LOCK, os.O_RDWR)
            try:
                if _try_lock(descriptor):
                    found.append(folder)
            finally:
                os.close(descriptor)
    return found


def remove_orphan(folder: Path) -> None:
    """Removes a folder that `check_output` named.

    Raises:
        WriteError: it cannot be removed.
    """
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise WriteError(
            f"`{folder}` cannot be removed: {error.strerror or error}", hint="remove it yourself"
        ) from error
