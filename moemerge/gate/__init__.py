"""Fits the router from texts: `fit_gate` all layers, `fit_in_turn` one after the other. docs/gates.md has the methods.

torch is loaded by it and not by the room, because gates that look at no text (`blank`) need none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from moemerge.gate.request import DenseModels, ExpertTexts, GateFit, GateRequest, GateStatistics

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from moemerge.console import Progress

__all__ = ["DenseModels", "ExpertTexts", "GateFit", "GateRequest", "GateStatistics", "fit_gate", "fit_in_turn"]


def fit_gate(
    request: GateRequest,
    models: DenseModels | None,
    tokenizer: PreTrainedTokenizerBase | None,
    progress: Progress | None = None,
) -> GateFit:
    """Makes the router's weights; see `moemerge.gate.fit.fit_gate`."""
    from moemerge.gate.fit import fit_gate as fit

    return fit(request, models, tokenizer, progress)


def fit_in_turn(
    request: GateRequest,
    models: DenseModels,
    tokenizer: PreTrainedTokenizerBase,
    layers: Sequence[int],
    progress: Progress | None = None,
) -> Iterator[Tensor]:
    """Fits the gates one after the other; see `moemerge.gate.fit.fit_in_turn`."""
    from moemerge.gate.fit import fit_in_turn as fit

    return fit(request, models, tokenizer, layers, progress)
