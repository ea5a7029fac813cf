"""Where the parts of a model of transformers lie in memory, as paths of attributes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The paths of a family; those of most families are the defaults.

    Attributes:
        decoder: from the model to what gives the last hidden states, without a head.
        layers: from the model to its layers.
        norm: from the decoder to its last norm.
        head: from the model to the output head.
        logits_divisor: key of the config's number that the head's output is divided by, where there is one.
        logits_multiplier: key of the one that it is multiplied by, likewise.
        softcap: key of the config's number that bounds the logits, by its tanh, where there is one.
        block: from a layer to its FFN or MoE block, whose input the router reads.
        attention: from a layer to its attention.
        projections: from the attention to its linear maps, in peft's order; not every model has all of them.
        recurrent: from a layer to what it may have in the place of attention, which carries a state from token to
            token; None where no layer has such a thing.
        kind: attribute of a layer that says what it has, where attention, what carries a state, and the FFN all lie at
            one place and no layer has two of them.
        beside: whether router and experts lie in the layer itself, beside the block, and not in it. The block is given
            what the experts are given all the same.
        router: from a MoE block to its router, which gives logits, weights and indices.
        router_matrix: from the router to its weight `[E, d]`.
        experts: from a MoE block to the module that holds all experts.
        gate_up: their gates and ups, `[E, 2 I, d]`, gate rows first, as an attribute of that module; of experts without
            a gate their ups, `[E, I, d]`.
        down: likewise `[E, d, I]`.
        gated: whether experts have a gate.
        shared: from a MoE block to its always-on expert, where it has one.
        shared_gate: from a MoE block to what weighs that, where there is one: the sigmoid of its output.
    """

    decoder: str = "model"
    layers: str = "model.layers"
    norm: str = "norm"
    head: str = "lm_head"
    logits_divisor: str | None = None
    logits_multiplier: str | None = None
    softcap: str | None = None
    block: str = "mlp"
    attention: str = "self_attn"
    projections: tuple[str, ...] = ("k_proj", "o_proj", "q_proj", "v_proj")
    recurrent: str | None = None
    kind: str | None = None
    beside: bool = False
    router: str = "gate"
    router_matrix: str = "weight"
    experts: str = "experts"
    gate_up: str = "gate_up_proj"
    down: str = "down_proj"
    gated: bool = True
    shared: str = "shared_expert"
    shared_gate: str = "shared_expert_gate"

    def decoder_of(self, model: Any) -> Any:
        """What gives the last hidden states."""
        return _at(model, self.decoder)

    def layers_of(self, model: Any) -> Sequence[Any]:
        """The decoder layers."""
        layers: Sequence[Any] = _at(model, self.layers)
        return layers

    def norm_of(self, model: Any) -> Any:
        """The last norm."""
        return _at(self.decoder_of(model), self.norm)

    def logits_of(self, model: Any, states: Any) -> Any:
        """The vocabulary's logits `[..., V]` of last hidden states `[..., d]`, as the whole model gives them."""
        return self.bounded(model, _at(model, self.head)(states))

    def bounded(self, model: Any, logits: Any) -> Any:
        """Logits of what the head gives."""
        config = model.config.get_text_config()
        if self.logits_divisor is not None:
            logits = logits / getattr(config, self.logits_divisor)
        if self.logits_multiplier is not None:
            logits = logits * getattr(config, self.logits_multiplier)
        most = getattr(config, self.softcap) if self.softcap is not None else None
        return logits if most is None else (logits / most).tanh() * most

    def block_of(self, layer: Any) -> Any:
        """A layer's FFN or MoE block."""
        return _at(layer, self.block)

    def attention_of(self, layer: Any) -> Any:
        """A layer's attention; None where it has none."""
        return getattr(layer, self.attention, None) if self._is(layer, "full_attention") else None

    def recurrent_of(self, layer: Any) -> Any:
        """What a layer has in the place of attention, where it carries a state; else None."""
        there = self.recurrent is not None and self._is(layer, "linear_attention")
        return getattr(layer, str(self.recurrent), None) if there else None

    def _is(self, layer: Any, kind: str) -> bool:
        return self.kind is None or getattr(layer, self.kind) == kind

    def experts_of(self, layer: Any) -> Any:
        """The module that holds a layer's experts; None where it has none."""
        return getattr(self._mixture_of(layer), self.experts, None)

    def router_of(self, layer: Any) -> Any:
        """A layer's router; None where it has none."""
        return getattr(self._mixture_of(layer), self.router, None)

    def routed_of(self, layer: Any) -> Any:
        """What is given the experts' input and gives what they add up to, with the shared one where there is one."""
        return self.experts_of(layer) if self.beside else self.block_of(layer)

    def _mixture_of(self, layer: Any) -> Any:
        return layer if self.beside else self.block_of(layer)

    def _within(self, path: str) -> str:
        return path if self.beside else f"{self.block}.{path}"

    def inner(self, experts: Any, wide: Any) -> Any:
        """What an expert's down is given, `[..., I]`, by what its gate and up, or its up alone, give."""
        if not self.gated:
            return experts.act_fn(wide)
        gate, up = wide.chunk(2, dim=-1)
        return experts.act_fn(gate) * up

    @property
    def projection_modules(self) -> list[str] | str:
        """The attentions' linear maps as peft names targets: by their own names, or by a pattern of whole names where
        what sees or hears, or has the place of attention, may have maps of the same names."""
        if self.layers == Anatomy().layers and self.recurrent is None:
            return list(self.projections)
        return rf"{re.escape(self.layers)}\.\d+\.{self.attention}\.({'|'.join(self.projections)})"

    @property
    def router_weight(self) -> str:
        """From a layer to its router's weight: what peft calls the parameter."""
        return self._within(f"{self.router}.{self.router_matrix}")

    def router_matrix_of(self, router: Any) -> Any:
        """A router's weight `[E, d]`; None where the module has no such thing."""
        return reduce(lambda inside, name: getattr(inside, name, None), self.router_matrix.split("."), router)

    @property
    def expert_weights(self) -> tuple[str, str]:
        """From a layer to its experts' weights, `down` and `gate_up`, likewise."""
        experts = self._within(self.experts)
        return f"{experts}.{self.down}", f"{experts}.{self.gate_up}"


def _at(module: Any, path: str) -> Any:
    return reduce(getattr, path.split("."), module)
