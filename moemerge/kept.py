"""What is kept between runs: small files of JSON in the user's cache folder, by all that decides what they hold."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash


def cache_folder() -> Path:
    """`$MOEMERGE_CACHE`, or `moemerge` in the user's cache folder."""
    chosen = os.environ.get("MOEMERGE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moemerge"


def joined(parts: Iterable[str]) -> str:
    """xxh3-128 (hex) of several texts, in their order."""
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(f"{len(part)}:{part}".encode())
    return state.hexdigest()


@dataclass(frozen=True)
class Kept:
    """Values by key, one small file a key.

    Attributes:
        folder: where they are; None keeps nothing and finds nothing.
        kind: what they are and in which form, such as `losses-1`; values of another kind are never found.
    """

    folder: Path | None
    kind: str

    def get(self, *key: str) -> Any:
        """The value that was put under a key; None where there is nothing, or nothing that can be read.

        Whoever asks checks its form: the file may be damaged, or written by something else.
        """
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))["values"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def put(self, value: Any, *key: str) -> None:
        """Keeps a value under a key. What cannot be written is not kept: a cache may be lost at any time."""
        path = self._path(key)
        if path is None:
            return
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps({"values": value}), encoding="utf-8")
            beside.replace(path)
        except OSError:
            with suppress(OSError):
                beside.unlink()

    def _path(self, key: tuple[str, ...]) -> Path | None:
        return None if self.folder is None else self.folder / self.kind / f"{joined(key)}.json"
