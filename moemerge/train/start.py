"""The gate that training begins from: the folder's own, or one fitted anew on the training texts.

A closed form is fitted as a build does, with the mixture itself in the place of the merged dense models: with every
token forced to its domain's expert it computes what they compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torch import Tensor

from moemerge.console import Progress
from moemerge.gate import ExpertTexts, GateRequest, fit_gate
from moemerge.mixture.routers import Routers
from moemerge.train.options import TrainOptions
from moemerge.train.texts import Texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
        options: the start.
        progress: how to report.

    Raises:
        GateError: the gate cannot be fitted from the texts.
    """
    if options.start == "fitted":
        return list(built)
    request = GateRequest(
        init=options.start,
        experts=tuple(ExpertTexts(domain.name, documents=domain.train) for domain in texts),
        layers=routers.layers,
        hidden_size=built[0].shape[1],
        experts_per_token=routers.experts_per_token,
        rule=routers.rule,
        seed=options.seed,
        expand="off",
        context=options.context,
    )
    with ExitStack() as stack:
        fitted = fit_gate(request, _Forced(model, routers, stack), tokenizer, progress)
    for warning in fitted.warnings:
        progress.note(f"warning: {warning.message}")
    return list(fitted.weights.to(built[0].device))


class _Forced:
    """The mixture in the place of dense models: its tokens forced to one expert."""

    def __init__(self, model: Any, routers: Routers, stack: ExitStack) -> None:
        self._model, self._routers, self._stack = model, routers, stack

    def merged(self, expert: int) -> Any:
        """See `DenseModels`."""
        self._stack.close()
        self._stack.enter_context(self._routers.forced(expert))
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
