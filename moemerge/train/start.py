"""The gate that training begins from: the folder's own, one fitted anew on the training texts, or one calibrated.

A closed form is fitted as a build does, with the mixture itself in the place of the merged dense models: with every
token forced to its domain's expert it computes what they compute. `calibrate` goes layer by layer instead: each gate is
fitted on what the gates before it really send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moemerge.console import Progress, Silent
from moemerge.evaluate.routers import Routers
from moemerge.gate import ExpertTexts, GateRequest, fit_gate
from moemerge.gate.request import FITTED
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
        progress.stage("calibrate", len(weights), "layers")
        weights = _calibrated(model, routers, tokenizer, weights, _request(texts, routers, weights, options), progress)
    return weights


def _request(texts: Sequence[Texts], routers: Routers, weights: Sequence[Tensor], options: TrainOptions) -> GateRequest:
    return GateRequest(
        init="discriminant" if options.start == "fitted" else options.start,
        experts=tuple(ExpertTexts(domain.name, documents=domain.train) for domain in texts),
        layers=len(routers.modules),
        hidden_size=weights[0].shape[1],
        experts_per_token=routers.experts_per_token,
        seed=options.seed,
        expand="off",
        context=options.context,
    )


class _Forced:
    """The mixture as dense models: its tokens forced to one expert."""

    def __init__(self, model: Any, routers: Routers, stack: ExitStack) -> None:
        self._model, self._routers, self._stack = model, routers, stack

    def merged(self, expert: int) -> Any:
        """See `DenseModels`."""
        self._stack.close()
        self._stack.enter_context(self._routers.forced(expert))
        return self._model

    def specialist(self, expert: int) -> Any:
        """See `DenseModels`; without expansion nothing asks for it."""
        raise NotImplementedError

    def base(self) -> Any:
        """See `DenseModels`; likewise."""
        raise NotImplementedError


def _calibrated(
    model: Any,
    routers: Routers,
    tokenizer: PreTrainedTokenizerBase,
    weights: Sequence[Tensor],
    request: GateRequest,
    progress: Progress,
) -> list[Tensor]:
    from dataclasses import replace

    init = request.init if request.init in FITTED else "discriminant"
    one = replace(request, init=init, layers=1, max_tokens=CALIBRATION_TOKENS)
    walk = _Walk(model, model.model.layers)
    found = list(weights)
    reached = 0
    for place, layer in enumerate(routers.layers):
        with routers.routed_by(found):
            walk.advance(reached, layer)
            reached = layer
            found[place] = fit_gate(one, walk, tokenizer, Silent()).weights[0].to(weights[place].device)
        progress.advance()
    return found


class _Walk:
    """The mixture as a "dense model" of one layer, the one that the walk has come to.

    The first pass over the texts keeps what enters the first layer and every layer's other arguments (masks,
    positions); later passes take the batches in the same order and run one layer.
    """

    def __init__(self, model: Any, layers: Sequence[nn.Module]) -> None:
        self._model, self._layers = model, layers
        self._states: list[Tensor] = []
        self._arguments: list[list[dict[str, Any]]] = []
        self._batch = self._at = 0

    def parameters(self) -> Iterator[Tensor]:
        """What tells where the inputs belong."""
        found: Iterator[Tensor] = self._model.parameters()
        return found

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The one layer."""
        return [self._layers[self._at]]

    @property
    def model(self) -> Callable[..., None]:
        """What runs a batch; it has `layers` as a model of transformers has."""
        return _Pass(self)

    def merged(self, expert: int) -> Any:
        """See `DenseModels`: the same for every expert."""
        if expert == 0:
            self._batch = 0
        return self

    def specialist(self, expert: int) -> Any:
        """See `DenseModels`; without expansion nothing asks for it."""
        raise NotImplementedError

    def base(self) -> Any:
        """See `DenseModels`; likewise."""
        raise NotImplementedError

    def run(self, ids: Tensor, mask: Tensor) -> None:
        """One batch through the layer."""
        if self._batch == len(self._states):
            self._record(ids, mask)  # which runs the first layer too
        else:
            self._layers[self._at](self._states[self._batch], **self._arguments[self._batch][self._at])
        self._batch += 1

    def _record(self, ids: Tensor, mask: Tensor) -> None:
        arguments: list[dict[str, Any]] = []

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...], others: dict[str, Any]) -> None:
            if not arguments:
                self._states.append(inputs[0].clone())
            arguments.append(dict(others))

        with ExitStack() as stack:
            for layer in self._layers:
                stack.callback(layer.register_forward_pre_hook(keep, with_kwargs=True).remove)
            self._model.model(input_ids=ids, attention_mask=mask, use_cache=False)
        self._arguments.append(arguments)

    @torch.inference_mode()
    def advance(self, start: int, stop: int) -> None:
        """Carries the states through the layers from `start` to before `stop`, by the gates that are in them."""
        for layer in range(start, stop):
            for batch, arguments in enumerate(self._arguments):
                found = self._layers[layer](self._states[batch], **arguments[layer])
                self._states[batch] = found[0] if isinstance(found, tuple) else found
        self._at = stop


class _Pass:
    def __init__(self, walk: _Walk) -> None:
        self._walk = walk
        self.layers = walk.layers

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> None:
        self._walk.run(input_ids, attention_mask)
