"""How hosts say in their config which layers keep one FFN: `Host.dense_layers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families.architecture import DenseConfig

Marks = Callable[[DenseConfig], Mapping[str, Any] | Problem]


def any_layers(key: str) -> Marks:
    """Any layers: the key lists their numbers."""
    return lambda dense: {key: sorted(dense.kept)}


def listed_layers(key: str, kept: str, routed: str) -> Marks:
    """Any layers: the key lists all layers by two words, of those that are kept and of those that route."""
    return lambda dense: {key: [kept if layer in dense.kept else routed for layer in range(dense.layers)]}


def first_layers(key: str) -> Marks:
    """The first layers alone: the key says how many."""

    def marks(dense: DenseConfig) -> Mapping[str, Any] | Problem:
        if dense.kept == frozenset(range(len(dense.kept))):
            return {key: len(dense.kept)}
        message = "`layers`: this host keeps its first layers dense, and no others"
        return Problem("dense-layers", message, "name layers from 0 on, without a gap, such as `{0-1: dense}`")

    return marks
