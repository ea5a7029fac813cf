"""Which files of a folder a build made, by its record; everything else in the folder is somebody's own."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import xxhash

from moemerge.errors import SourceError
from moemerge.record.read import NAME, read_fields
from moemerge.sources.strict_json import load_json

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d{5,}-of-\d{5,}\.safetensors")


@dataclass(frozen=True)
class Made:
    """What a build made in a folder.

    Attributes:
        files: relative POSIX paths.
        folders: the folders that these need.
    """

    files: frozenset[str]
    folders: frozenset[str]


def made_by_build(folder: Path) -> Made | None:
    """What the record of a folder says, or None where it has none that can be read.

    Files of the record, the record itself, and the weights: the shards that the recorded index names, or else the one
    file. An index that changed after the build speaks for no shard.

    Raises:
        OSError: the folder or a file in it cannot be read.
    """
    record = read_fields(folder)
    if record is None:
        return None
    files = frozenset({NAME, *record["files"], *_weights(folder, record["files"])})
    parents = {parent.as_posix() for name in files for parent in PurePosixPath(name).parents}
    return Made(files, frozenset(parents - {"."}))


def _weights(folder: Path, recorded: dict[str, Any]) -> Iterator[str]:
    if _INDEX not in recorded:
        yield _SINGLE
        return
    path = folder / _INDEX
    if not _is_regular(path):
        return
    data = path.read_bytes()
    if xxhash.xxh3_128_hexdigest(data) != recorded[_INDEX]:
        return
    # a record may be forged too
    with suppress(SourceError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        yield from [name for name in set(load_json(data, _INDEX)["weight_map"].values()) if _SHARD.fullmatch(name)]


def foreign(folder: Path, made: Made) -> list[str]:
    """What the build did not make, sorted: files, links whatever they lead to, folders (named with a `/`).

    Raises:
        OSError: a folder cannot be read.
    """
    found = []
    for root, folders, files in os.walk(folder, onerror=_raise):
        inside = Path(root).relative_to(folder)
        links = [name for name in folders if (folder / inside / name).is_symlink()]
        for name in (*files, *links):
            path = (inside / name).as_posix()
            if path not in made.files or not _is_regular(folder / path):
                found.append(path)
        known = [name for name in folders if (inside / name).as_posix() in made.folders]
        found += [f"{(inside / name).as_posix()}/" for name in folders if name not in (*links, *known)]
        folders[:] = known
    return sorted(found)


def remove_made(folder: Path, made: Made) -> None:
    """Removes what the build made in a folder, and nothing else; the index and the record come last.

    So what a kill leaves can still be told apart.

    Raises:
        OSError: something cannot be removed.
    """
    last = [folder / name for name in (_INDEX, NAME)]
    for root, folders, files in os.walk(folder, topdown=False, onerror=_raise):
        inside = Path(root).relative_to(folder)
        for name in files:
            path = folder / inside / name
            if (inside / name).as_posix() in made.files and path not in last and _is_regular(path):
                path.unlink()
        for name in folders:
            if (inside / name).as_posix() in made.folders and not (folder / inside / name).is_symlink():
                remove_empty(folder / inside / name)
    for path in last:
        if _is_regular(path):
            path.unlink()


def remove_empty(folder: Path) -> bool:
    """Removes a folder if it is empty, and says whether it was."""
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _raise(error: OSError) -> NoReturn:
    raise error
