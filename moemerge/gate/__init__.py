"""Fits the router from texts. `fit_gate` is the one function; docs/gates.md explains the methods.

torch is loaded by it and not by the room, because gates that look at no text (`blank`) need none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moemerge.gate.request import DenseModels, ExpertTexts, GateFit, GateRequest, GateStatistics, GateTexts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from moemerge.console import Progress

__all__ = ["DenseModels", "ExpertTexts", "GateFit", "GateRequest", "GateStatistics", "GateTexts", "fit_gate"]


def fit_gate(
    request: GateRequest,
    models: DenseModels | None,
    tokenizer: PreTrainedTokenizerBase | None,
    progress: Progress | None = None,
) -> GateFit:
    """Makes the router's weights; see `moemerge.gate.fit.fit_gate`."""
    from moemerge.gate.fit import fit_gate as fit

    return fit(request, models, tokenizer, progress)
