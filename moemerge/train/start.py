"""The gate that training begins from: the folder's own, one fitted anew on the training texts, or one calibrated.

A closed form is fitted as a build does, with the mixture itself in the place of the merged dense models: with every
token forced to its domain's expert it computes what they compute. `calibrate` goes layer by layer instead: each gate is
fitted on what the gates before it really send.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from moemerge.console import Progress
from moemerge.gate import ExpertTexts, GateRequest, fit_gate
from moemerge.gate.fit import fit_in_turn
from moemerge.gate.request import FITTED
from moemerge.mixture.routers import Routers
from moemerge.train.options import TrainOptions
from moemerge.train.texts import Texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CALIBRATION_TOKENS = 8192
"""Tokens a domain whose states are held while a gate is calibrated."""


def starting_gates(
    model: Any,
    routers: Routers,
    built: Sequence[Tensor],
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Texts],
    options: TrainOptions,
    progress: Progress,
) -> list[Tensor]:
    """Each layer's gate `[E, d]`, fp32, that training begins from; the model is left as it was.

    Args:
        model: the mixture.
        routers: its routers.
        built: the gates that the folder holds.
        tokenizer: its tokenizer.
        texts: the training texts.
        options: the start, and whether it is calibrated.
        progress: how to report.

    Raises:
        GateError: the gate cannot be fitted from the texts.
    """
    weights = list(built)
    if options.start != "fitted":
        request = _request(texts, routers, weights, options)
        with ExitStack() as stack:
            fitted = fit_gate(request, _Forced(model, routers, stack), tokenizer, progress)
        weights = list(fitted.weights.to(weights[0].device))
        for warning in fitted.warnings:
            progress.note(f"warning: {warning.message}")
    if options.calibrate:
        progress.stage("calibrate", len(weights), "layers", "without `--calibrate` it is left out")
        weights = _calibrated(model, routers, tokenizer, weights, _request(texts, routers, weights, options), progress)
    return weights


def _request(texts: Sequence[Texts], routers: Routers, weights: Sequence[Tensor], options: TrainOptions) -> GateRequest:
    return GateRequest(
        init="discriminant" if options.start == "fitted" else options.start,
        experts=tuple(ExpertTexts(domain.name, documents=domain.train) for domain in texts),
        layers=routers.layers,
        hidden_size=weights[0].shape[1],
        experts_per_token=routers.experts_per_token,
        rule=routers.rule,
        seed=options.seed,
        expand="off",
        context=options.context,
    )


class _Mixture:
    """The mixture in the place of dense models, routed as it is."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def merged(self, expert: int) -> Any:
        """See `DenseModels`: the same for every expert."""
        return self._model

    def whole_merged(self, expert: int) -> Any:
        """See `DenseModels`: it is whole."""
        return self.merged(expert)

    def specialist(self, expert: int) -> Any:
        """See `DenseModels`; without expansion nothing asks for it."""
        raise NotImplementedError

    def base(self) -> Any:
        """See `DenseModels`; likewise."""
        raise NotImplementedError


class _Forced(_Mixture):
    """Its tokens forced to one expert."""

    def __init__(self, model: Any, routers: Routers, stack: ExitStack) -> None:
        super().__init__(model)
        self._routers, self._stack = routers, stack

    def merged(self, expert: int) -> Any:
        """See `DenseModels`."""
        self._stack.close()
        self._stack.enter_context(self._routers.forced(expert))
        return self._model


def _calibrated(
    model: Any,
    routers: Routers,
    tokenizer: PreTrainedTokenizerBase,
    weights: Sequence[Tensor],
    request: GateRequest,
    progress: Progress,
) -> list[Tensor]:
    init = request.init if request.init in FITTED else "discriminant"
    request = replace(request, init=init, max_tokens=CALIBRATION_TOKENS)
    found = list(weights)
    with ExitStack() as routed:
        routed.enter_context(routers.routed_by(found))
        fitted = fit_in_turn(request, _Mixture(model), tokenizer, progress)
        for place, rows in enumerate(fitted):
            found[place] = rows.to(weights[place].device)
            routed.close()
            routed.enter_context(routers.routed_by(found))
    return found
