"""Gates that look at no text, made with numpy: a build with one of them loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moemerge.errors import Problem
from moemerge.gate.request import GateRequest


@dataclass(frozen=True)
class BlankGate:
    """A gate that was not fitted; its attributes are those of `GateFit`, and say so.

    Attributes:
        weights: the router's weights, `[L, E, d]`, fp32, as numpy has them.
    """

    weights: NDArray[np.float32]
    tokens: tuple[int, ...]
    separation: tuple[float | None, ...]
    confusion: None = None
    ridge: None = None
    scale: tuple[float, ...] = ()
    samples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()
    statistics: None = None


def blank_gate(request: GateRequest) -> BlankGate:
    """The gate `random` or `uniform`."""
    rows = random_rows(request) if request.init == "random" else uniform_rows(request)
    return BlankGate(rows, (0,) * len(request.experts), (None,) * len(request.layers))


def random_rows(request: GateRequest) -> NDArray[np.float32]:
    """Standard normal rows, `[L, E, d]`; over √d where the scores are sigmoids, which else were 1 for many experts."""
    rows = np.random.default_rng(request.seed).standard_normal(_shape(request), np.float32)
    return rows / np.float32(math.sqrt(request.hidden_size)) if request.rule.sees_shifts else rows


def uniform_rows(request: GateRequest) -> NDArray[np.float32]:
    """Rows uniform in ±1/√d (mergekit's `uniform_random`), `[L, E, d]`."""
    draws = np.random.default_rng(request.seed).random(_shape(request), np.float32)
    return (2 * draws - 1) / np.float32(math.sqrt(request.hidden_size))


def _shape(request: GateRequest) -> tuple[int, int, int]:
    return len(request.layers), len(request.experts), request.hidden_size
