"""Finds a folder's weights: one file, or the shards that an index names; nothing outside the folder is followed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from moemerge.errors import SourceError
from moemerge.sources.checkpoint import ByteRange, TensorInfo
from moemerge.sources.regular import regular_size
from moemerge.sources.safetensors_file import SafetensorsStore, read_file_header
from moemerge.sources.strict_json import read_object

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_AGAIN = "download or copy the model again"
PICKLE_SINGLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder and the boundary that links in it may not leave.

    Attributes:
        path: the resolved folder.
        boundary: the folder itself, or for a snapshot in a hub cache the repository's folder in that cache,
            because a snapshot is made of links into its `blobs`.
        spec: the model as the user typed it, for messages.
    """

    path: Path
    boundary: Path
    spec: str

    @classmethod
    def at(cls, path: Path, spec: str) -> Folder:
        """The folder at `path`, whose own place may be a link."""
        path = path.resolve()
        cached = path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--")
        return cls(path, path.parent.parent if cached else path, spec)

    def has(self, name: str) -> bool:
        """Whether there is such an entry, a broken link included: that one is reported when it is opened."""
        path = self.path / name
        return path.exists() or path.is_symlink()

    def file(self, name: str) -> Path:
        """The resolved path of a file.

        Raises:
            SourceError: it is a link that leaves the boundary, or leads to itself; or no name that a file can have.
        """
        try:
            path = Path(os.path.realpath(self.path / name, strict=True))
        except FileNotFoundError:
            path = (self.path / name).resolve()
        except OSError as error:
            raise SourceError(f"`{self.path / name}` cannot be read: {error.strerror or error}") from error
        if not path.is_relative_to(self.boundary):
            raise SourceError(
                f"`{name}` of model `{self.spec}` is a link that leaves its folder, to `{path}`",
                hint=f"copy the file into `{self.path}`",
            )
        return path


def open_safetensors(folder: Folder) -> SafetensorsStore | None:
    """The tensors of `model.safetensors`, or else of the shards in its index; None when there is neither.

    The single file wins where both exist, as in transformers.

    Raises:
        SourceError: a file or the index is malformed; see `read_file_header` and `shard_map`.
    """
    if folder.has(SINGLE):
        return read_file_header(folder.file(SINGLE))
    if not folder.has(INDEX):
        return None
    weight_map = shard_map(folder, INDEX, ".safetensors")
    shards = {name: read_file_header(folder.file(name)) for name in dict.fromkeys(weight_map.values())}
    tensors: dict[str, TensorInfo] = {}
    ranges: dict[str, ByteRange] = {}
    absent = []
    for tensor, name in weight_map.items():
        if tensor in shards[name].tensors:
            tensors[tensor], ranges[tensor] = shards[name].tensors[tensor], shards[name].ranges[tensor]
        else:
            absent.append(f"\n  {tensor}: not in {name}")
    if absent:
        raise SourceError(
            f"Model `{folder.spec}` is inconsistent: {len(absent)} of {len(weight_map)} tensors in `{INDEX}` "
            f"are not in the shard that it names{''.join(absent[:8])}{_more(absent)}",
            hint="download or convert the model again",
        )
    return SafetensorsStore(tensors, ranges)


def shard_map(folder: Folder, index: str, suffix: str) -> dict[str, str]:
    """The `weight_map` of an index: tensor name to the name of a file beside the index.

    Raises:
        SourceError: malformed, a name that is not a plain file name, a link out of the folder, or a missing shard.
    """
    text = read_object(folder.file(index), f"{folder.path / index}")
    weight_map = text.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceError(
            f"`{folder.path / index}` is not valid: it needs a `weight_map` that is not empty", hint=_AGAIN
        )
    for tensor, name in weight_map.items():
        if not _plain(name) or not name.endswith(suffix):
            raise SourceError(
                f"`{folder.path / index}` is not valid: it places tensor `{tensor}` in `{name}`, which is not the "
                f"plain name of a `{suffix}` file in the same folder",
                hint=_AGAIN,
            )
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not folder.file(name).exists()]
    if missing:
        raise SourceError(
            f"Model `{folder.spec}` is incomplete: {len(missing)} of {len(names)} shards are missing from "
            f"`{folder.path}`: {', '.join(f'`{name}`' for name in missing[:8])}{_more(missing)}",
            hint=_AGAIN,
        )
    for name in names:
        regular_size(folder.file(name))
    return weight_map


def sources_of(weight_map: Mapping[str, Any]) -> list[str]:
    """The plain file names in a `weight_map` that nobody has checked yet, for choosing what to download."""
    return sorted({name for name in weight_map.values() if _plain(name)})


def _plain(name: Any) -> bool:
    if not isinstance(name, str) or not name or name in {".", ".."} or "\0" in name:
        return False
    if any("\ud800" <= character <= "\udfff" for character in name):  # half a character, which no disk can hold
        return False
    # both flavours, so that a checkpoint is as safe on Windows; a drive or a backslash is never plain
    return PurePosixPath(name).name == name and PureWindowsPath(name).name == name


def _more(items: list[str], shown: int = 8) -> str:
    return f"\n  and {len(items) - shown} more" if len(items) > shown else ""
