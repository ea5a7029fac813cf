"""How llama.cpp stores a mixture in a GGUF file, as data of its host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ROPES = frozenset({"default", "linear", "yarn", "llama3"})
"""Kinds of rope that a GGUF file can say and every architecture here computes."""


def _no_keys(config: Mapping[str, Any]) -> Mapping[str, float | int | bool]:
    return {}


@dataclass(frozen=True, slots=True)
class GgufForm:
    """A host's form there. Names of tensors come from the `gguf` library.

    Attributes:
        architecture: llama.cpp's name of it.
        paired: whether each head's rotated rows of q and k are stored as neighbours, where transformers has halves.
        biased: whether q, k and v may have biases there.
        keys: further metadata, below the architecture's name, by the config.
    """

    architecture: str
    paired: bool
    biased: bool
    keys: Callable[[Mapping[str, Any]], Mapping[str, float | int | bool]] = _no_keys
