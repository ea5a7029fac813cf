"""Brings all texts through a model layer by layer, so that one layer's weights in memory are enough.

What a layer is given besides the hidden states (masks, positions) is made by the model's own `forward`: it runs once
over each batch with layers that do nothing but note their arguments. Then each layer in turn runs over all batches,
called with what it was given. So nothing here knows a family, and the results are those of the whole model, bit for
bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moemerge.dense.generation import device_of
from moemerge.families import anatomy_of
from moemerge.gate.packed import Runs, places_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Reader = Callable[[int, int, Tensor], None]
"""Is told the number of the model, that of the batch, and the tensor `[B, S, d]` that enters the MoE block."""


@dataclass(frozen=True)
class Batch:
    """Texts that run together.

    Attributes:
        ids: `[B, S]`.
        mask: `[B, S]`, 0 where padded. None will do where padding is on the right: under causal attention no token
            sees what follows it.
        runs: of a packed row, ids `[1, S]`; the models' attention is then that of `packed`.
    """

    ids: Tensor
    mask: Tensor | None = None
    runs: Runs = ()


class Walk:
    """Batches of texts, each with the model that it runs through, at one layer of their way.

    Args:
        give: the model of a number, valid until the next call. It is asked for once a layer and number, so it should
            cost nothing but the weights of the layers that run.
        batches: for each number its batches.
    """

    def __init__(self, give: Callable[[int], PreTrainedModel], batches: Sequence[Sequence[Batch]]) -> None:
        self._give = give
        self._states: list[list[Tensor]] = []
        self._arguments: list[list[list[_Arguments]]] = []
        for number, own in enumerate(batches):
            model = give(number) if own else None
            started = [_begin(model, batch) for batch in own]
            self._states.append([states for states, _ in started])
            self._arguments.append([arguments for _, arguments in started])

    def states(self, number: int) -> Sequence[Tensor]:
        """The residual stream `[B, S, d]` of each of a model's batches: what enters the next layer."""
        return self._states[number]

    @torch.inference_mode()
    def advance(self, layer: int, read: Reader | None = None, *, last: bool = False) -> None:
        """Runs one layer over all batches.

        Args:
            layer: each in turn, from 0.
            read: is told what enters the layer's MoE block.
            last: nothing is asked of what leaves that block, so it does not run.
        """
        for number, states in enumerate(self._states):
            if not states:
                continue
            model = self._give(number)
            anatomy = anatomy_of(model)
            block: Any = anatomy.layers_of(model)[layer]
            recurrent = anatomy.recurrent_of(block)
            ffn_block = anatomy.block_of(block) if read else None  # not every layer has one
            for place, arguments in enumerate(self._arguments[number]):
                with (
                    _entering(ffn_block, partial(read, number, place)) if read else nullcontext(),
                    _instead([ffn_block], lambda states: states) if last else nullcontext(),
                    _by_text(recurrent) if recurrent is not None else nullcontext(),
                ):
                    inputs, others = arguments[layer]
                    output = block(states[place], *inputs, **others)
                states[place] = output[0] if isinstance(output, tuple) else output


_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@torch.inference_mode()
def _begin(model: Any, batch: Batch) -> tuple[Tensor, list[_Arguments]]:
    """What enters the first layer, and every layer's other arguments."""
    found: list[Tensor] = []
    arguments: list[_Arguments] = []

    def note(states: Tensor, *inputs: Any, **others: Any) -> Tensor:
        found.append(states)
        arguments.append((inputs, others))
        return states

    device, anatomy = device_of(model), anatomy_of(model)
    mask = None if batch.mask is None else batch.mask.to(device)
    packed = {"position_ids": places_of(batch.runs).to(device), "runs": batch.runs} if batch.runs else {}
    with _instead(anatomy.layers_of(model), note):
        anatomy.decoder_of(model)(input_ids=batch.ids.to(device), attention_mask=mask, use_cache=False, **packed)
    return found[0], arguments


@contextmanager
def _instead(modules: Sequence[Any], forward: Callable[..., Any]) -> Iterator[None]:
    """Modules run `forward` in place of their own, hooks and attributes as they were."""
    kept = [vars(module).get("forward") for module in modules]
    try:
        for module in modules:
            module.forward = forward
        yield
    finally:
        for module, before in zip(modules, kept, strict=True):
            del module.forward
            if before is not None:
                module.forward = before


@contextmanager
def _by_text(module: Any) -> Iterator[None]:
    """A module that carries a state along `[1, S, d]` begins anew at each text of a packed row."""
    forward = module.forward

    def run_by_run(hidden_states: Tensor, runs: Runs = (), **others: Any) -> Tensor:
        if not runs:
            whole: Tensor = forward(hidden_states=hidden_states, **others)
            return whole
        found, start = [], 0
        for texts, length in runs:
            here = hidden_states[0, start : (start := start + texts * length)].unflatten(0, (texts, length))
            found.append(forward(hidden_states=here, **others).flatten(0, 1))
        return torch.cat(found)[None]

    with _instead([module], run_by_run):
        yield


@contextmanager
def _entering(module: Any, read: Callable[[Tensor], None]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda _module, inputs: read(inputs[0]))
    try:
        yield
    finally:
        handle.remove()
