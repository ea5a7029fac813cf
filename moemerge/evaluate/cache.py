"""Losses that were computed before, kept by what the model and the texts are, never by a path."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moemerge.mixture.content import joined

FORMAT = 1


class LossCache:
    """Named tensors of fp64 by key, one small file a key.

    Args:
        folder: where they are; None keeps nothing and finds nothing.
        setting: what changes every number: dtype, device, versions.
    """

    def __init__(self, folder: Path | None, setting: str) -> None:
        self._folder, self._setting = folder, setting
        self.found = 0
        """How many were found."""

    def under(self, setting: str) -> LossCache:
        """The same folder for another setting."""
        return LossCache(self._folder, setting)

    def get(self, *key: str) -> dict[str, Tensor] | None:
        """What was put under a key; None where there is nothing, or nothing that can be read."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))["values"]
            kept = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None  # written by something else, or half a file: it is computed again and replaced
        self.found += 1
        return kept

    def put(self, values: dict[str, Tensor], *key: str) -> None:
        """Keeps tensors under a key. What cannot be written is not kept: a cache may be lost at any time."""
        path = self._path(key)
        if path is None:
            return
        said: dict[str, Any] = {"values": {name: value.tolist() for name, value in values.items()}}
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(said), encoding="utf-8")
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)

    def _path(self, key: tuple[str, ...]) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"losses-{FORMAT}" / f"{joined((self._setting, *key))}.json"
