"""A folder that appears complete or not at all: written beside its place, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moemerge.errors import WriteError
from moemerge.record.read import NAME
from moemerge.write.made import Made, foreign, made_by_build, remove_empty, remove_made
from moemerge.write.stage import Stage, adopt, longest_name, make_stage, orphans


def check_output(output: Path, *, overwrite: bool, needed: int) -> list[Path]:
    """Checks, before any work, that `output` can be written.

    An output that a killed build had moved aside is put back first.

    Args:
        output: the folder that is to appear.
        overwrite: whether a folder that moemerge made may be replaced.
        needed: bytes that will be written.

    Returns:
        What killed builds left beside it, for `remove_orphan`.

    Raises:
        WriteError: it exists, its parent cannot be written, its name is too long, or the disk is too full.
    """
    try:
        return _checked(output, overwrite=overwrite, needed=needed)
    except OSError as error:
        raise _explain(error, output) from error


def _checked(output: Path, *, overwrite: bool, needed: int) -> list[Path]:
    left = orphans(output)
    _restore(left, output)
    if os.path.lexists(output):
        _check_replaceable(output, output, overwrite=overwrite)
    with suppress(FileNotFoundError, NotADirectoryError):
        os.stat(longest_name(output))  # is it too long?
    existing = output.parent
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
    return left


def _check_replaceable(folder: Path, output: Path, *, overwrite: bool) -> Made:
    """What a build made in `folder`, which messages call `output`, where it made all of it."""
    if not overwrite:
        message = f"output `{output}` exists"
        hint = "choose another with `-o`, or pass `--overwrite` to replace a folder that moemerge made"
        raise WriteError(message, hint=hint, code="output-exists")
    made = made_by_build(folder) if folder.is_dir() and not folder.is_symlink() else None
    if made is None:
        damaged = os.path.lexists(folder / NAME)
        state = f"has a `{NAME}` that this moemerge cannot read" if damaged else "was not made by moemerge"
        message = f"output `{output}` {state}, so it is not overwritten"
        raise WriteError(message, hint="remove it yourself, or choose another with `-o`", code="output-exists")
    if strange := foreign(folder, made):
        message = f"output `{output}` holds files that moemerge did not write: {_listed(strange)}"
        raise WriteError(message, hint="move them away before overwriting", code="output-exists")
    return made


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(f"`{name}`" for name in names[:4]) + more


@contextmanager
def staged(output: Path, *, overwrite: bool, warn: Callable[[str], None]) -> Iterator[Path]:
    """Gives an empty folder beside `output`; when the block ends well it becomes `output`, otherwise it is removed.

    Args:
        output: the folder that is to appear.
        overwrite: whether a folder that moemerge made may be replaced.
        warn: is told what could not be tidied up; `output` is as complete as without it.

    Raises:
        WriteError: the folder cannot be made, the disk is full, or `output` may not be replaced.
    """
    stage: Stage | None = None
    parents: list[Path] = []
    try:
        parents = [parent for parent in output.parents if not parent.exists()]
        output.parent.mkdir(parents=True, exist_ok=True)
        stage = make_stage(output)
        yield stage.new
        _publish(stage, output, overwrite=overwrite)
        try:
            _sync(output.parent)
        except OSError as error:
            warn(f"`{output.parent}` could not be forced to the disk: {error.strerror or error}")
    except OSError as error:
        raise _explain(error, output) from error
    finally:
        if stage is not None:
            for left in _clear(stage, output):
                warn(left)
        for parent in parents:  # the deepest first
            with suppress(OSError):  # not made, or not empty: the output is in it, or what somebody else put there
                parent.rmdir()


def _publish(stage: Stage, output: Path, *, overwrite: bool) -> None:
    """Two renames, or one; whatever ends this in between, `_clear` puts the old output back."""
    if os.path.lexists(output):
        _check_replaceable(output, output, overwrite=overwrite)
        os.rename(output, stage.replaced)
        # once more: this is what will be removed, and nobody finds it by the output's name any longer
        _check_replaceable(stage.replaced, output, overwrite=overwrite)
    os.rename(stage.new, output)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _restore(left: list[Path], output: Path) -> None:
    """Puts back what an overwriting build had moved aside when it was killed between its two renames."""
    for folder in left:
        stage = adopt(folder)
        if stage is not None:
            try:
                _put_back(stage, output)
            finally:
                stage.release()


def _put_back(stage: Stage, output: Path) -> None:
    if os.path.lexists(stage.replaced) and not os.path.lexists(output):
        os.rename(stage.replaced, output)


def _clear(stage: Stage, output: Path) -> list[str]:
    """Ends a staging folder, at whatever point its build ended, and gives up its lock.

    Returns:
        What could not be done, or had to be kept, in sentences.
    """
    said = []
    try:
        _put_back(stage, output)
        if os.path.lexists(stage.replaced):
            os.rename(stage.replaced, stage.discarded)
        if os.path.lexists(stage.discarded):
            said += _discard(stage, output)
        if os.path.lexists(stage.new):
            shutil.rmtree(stage.new)
        stage.remove()
    except OSError as error:
        said.append(f"`{stage.folder}` could not be removed: {error.strerror or error}")
    finally:
        stage.release()
    return said


def _discard(stage: Stage, output: Path) -> list[str]:
    """Removes the old output by the names that its build made; what else appeared in it is kept, in plain sight.

    All of it is kept where something that this build did not write took its place.
    """
    published = not os.path.lexists(stage.new)
    made = made_by_build(stage.discarded) if published else None
    if made is not None:
        remove_made(stage.discarded, made)
    if remove_empty(stage.discarded):
        return []
    left = sorted(os.listdir(stage.discarded))
    kept = Path(tempfile.mkdtemp(prefix=f"{output.name}.kept-", dir=output.parent))
    os.rename(stage.discarded, kept)
    return [f"kept {_listed(left)} of the former `{output}` in `{kept}`"]


def remove_orphan(folder: Path, output: Path) -> list[str]:
    """Removes a folder that `check_output` named, unless another build did or does.

    Returns:
        What could not be done, or had to be kept, in sentences.
    """
    stage = adopt(folder)
    return [] if stage is None else _clear(stage, output)


def _explain(error: OSError, output: Path) -> WriteError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        message = f"no space left while writing `{output}`: nothing was kept"
        return WriteError(message, hint="free some space, or choose another disk with `-o`", code="no-space")
    if error.errno == errno.EFBIG:
        message = f"a file of `{output}` is larger than its disk or `ulimit -f` allows: nothing was kept"
        return WriteError(message, hint="set a smaller `output.shard_size`, or choose another disk with `-o`")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return WriteError(f"no permission to write `{output}`: {error.strerror}", hint="choose another with `-o`")
    return WriteError(f"`{output}` cannot be written: {error.strerror or error}")
