"""The files beside the weights: what the build wrote unchanged, what the base has there, nothing read by mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import xxhash

from moemerge.verify.layout import INDEX
from moemerge.verify.result import Difference
from moemerge.verify.tokens import NAME as TOKENIZER

_CHUNK = 4 << 20
_ADAPTER = "adapter_config.json"


def check_files(folder: Path, recorded: Mapping[str, str]) -> dict[str, str]:
    """Digests every recorded file.

    Args:
        folder: the built folder.
        recorded: digest by relative path.

    Returns:
        What is wrong, by the file's relative path.
    """
    found = {}
    for name, digest in recorded.items():
        path = folder / name
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name:
            found[name] = "is outside the folder, so it is not read"
            continue
        try:
            actual = _digest(path)
        except FileNotFoundError:
            found[name] = "is missing"
        except OSError as error:
            found[name] = f"cannot be read: {error.strerror}"
        else:
            if actual != digest:
                found[name] = "changed after the build"
    return found


def check_strangers(folder: Path) -> list[Difference]:
    """Files that transformers would take up though the build did not write them."""
    if (folder / _ADAPTER).exists():
        return [Difference(_ADAPTER, "does not belong in it: transformers would apply that adapter on loading")]
    return []


def check_base_files(folder: Path, files: Mapping[str, Path]) -> list[Difference]:
    """The base's files must be there byte for byte; the tokenizer has its own comparison."""
    found = []
    for name, theirs in files.items():
        if name in (TOKENIZER, INDEX):
            continue
        own = folder / name
        if not own.is_file():
            found.append(Difference(name, "is missing, the base has it"))
        elif own.read_bytes() != theirs.read_bytes():
            found.append(Difference(name, "differs from the base's"))
    return found


def _digest(path: Path) -> str:
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            state.update(data)
    return state.hexdigest()
