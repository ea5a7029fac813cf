"""Losses that were computed before, kept by what the model and the texts are, never by a path."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from moemerge.kept import Kept

KIND = "losses-1"


class LossCache:
    """Named tensors of fp64 by key.

    Args:
        folder: where they are; None keeps nothing and finds nothing.
        setting: what changes every number: dtype, device, versions.
    """

    def __init__(self, folder: Path | None, setting: str) -> None:
        self._folder, self._setting, self._kept = folder, setting, Kept(folder, KIND)
        self.found = 0
        """How many were found."""

    def under(self, setting: str) -> LossCache:
        """The same folder for another setting."""
        return LossCache(self._folder, setting)

    def get(self, names: Collection[str], *key: str) -> dict[str, Tensor] | None:
        """The tensors of these names that were put under a key; None where one is not there, or cannot be read."""
        values = self._kept.get(self._setting, *key)
        try:
            kept = {name: torch.tensor(values[name], dtype=torch.float64) for name in names}
        except (ValueError, TypeError, KeyError):
            return None  # none, or of another form: it is computed again and replaced
        self.found += 1
        return kept

    def put(self, values: dict[str, Tensor], *key: str) -> None:
        """Keeps tensors under a key, where they can be kept."""
        self._kept.put({name: value.tolist() for name, value in values.items()}, self._setting, *key)
