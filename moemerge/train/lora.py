"""LoRA on attention and experts, trained beside the router: made, named and saved as peft does, computed here.

peft's own forward pass for fused experts adds the change to the whole weight in every pass and takes a gradient of that
size; here a token meets the two thin matrices of its expert alone. The model's own parameters are never written to, not
even by a look at held-out texts: there each layer's weights are merged and rounded as they would be stored, for as long
as that layer runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from moemerge.families import Anatomy, Host, anatomy_of
from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import find_routers
from moemerge.train.options import TrainOptions

_ADAPTER = "default"
Change = Callable[[Tensor], Tensor]
"""What becomes of a stored tensor, fp32 to fp32."""


@dataclass(frozen=True)
class Delta:
    """The low-rank change of one weight.

    Attributes:
        down: peft's `lora_A`, `[E * r, in]`, E = 1 for a linear layer.
        up: peft's `lora_B`, `[out, r * E]`, expert by expert in the last place.
        scale: alpha / r.
        experts: E.
    """

    down: nn.Parameter
    up: nn.Parameter
    scale: float
    experts: int = 1

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Each expert's `[r, in]` and `[out, r]`, fp32."""
        downs = self.down.view(self.experts, -1, self.down.shape[1]).unbind(0)
        ups = self.up.view(self.up.shape[0], -1, self.experts).unbind(2)
        return list(zip(downs, ups, strict=True))

    @torch.no_grad()
    def merged(self, weight: Tensor, expert: int = 0, rows: slice = slice(None)) -> Tensor:
        """One expert's weight `[out, in]` with the change in it, fp32; `rows` where the weight is some rows of it."""
        down, up = self.pairs()[expert]
        change = self.scale * (up @ down)
        return weight.to(change.device, torch.float32) + change[rows]

    def rounded(self, weight: Tensor, stored: torch.dtype) -> Tensor:
        """The weight, `[out, in]` or `[E, out, in]`, merged and rounded as it would be stored."""
        if weight.ndim == 2:
            return self.merged(weight).to(stored).to(weight.dtype)
        found = torch.empty_like(weight)
        for expert, own in enumerate(weight):
            found[expert] = self.merged(own, expert).to(stored)
        return found


@dataclass(frozen=True)
class _Linear:
    """A projection of the attention in one layer."""

    name: str
    wrapper: Any
    delta: Delta

    def train(self, inputs: Tensor) -> Tensor:
        base = self.wrapper.base_layer
        ((down, up),) = self.delta.pairs()
        return base(inputs) + self.delta.scale * _thin(inputs, down, up)  # type: ignore[no-any-return]

    def judge(self, stored: torch.dtype, inputs: Tensor) -> Tensor:
        base = self.wrapper.base_layer
        return functional.linear(inputs, self.delta.rounded(base.weight, stored), base.bias)


@dataclass(frozen=True)
class _Experts:
    """The fused experts of one layer: gates and ups `[E, 2I, d]` or ups alone `[E, I, d]`, downs `[E, d, I]`."""

    wrapper: Any
    base: Any
    deltas: Mapping[str, Delta]
    anatomy: Anatomy

    @property
    def wide(self) -> Delta:
        """Of the gates and ups."""
        return self.deltas[self.anatomy.gate_up]

    @property
    def narrow(self) -> Delta:
        """Of the downs."""
        return self.deltas[self.anatomy.down]

    def train(self, states: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        base, gate_up, down = self.base, self.wide, self.narrow
        gate_up_weight, down_weight = getattr(base, self.anatomy.gate_up), getattr(base, self.anatomy.down)
        out = torch.zeros_like(states)
        for expert, (wide, narrow) in enumerate(zip(gate_up.pairs(), down.pairs(), strict=True)):
            tokens, places = (indices == expert).nonzero(as_tuple=True)
            if not len(tokens):
                continue
            inputs = states[tokens]
            both = functional.linear(inputs, gate_up_weight[expert]) + gate_up.scale * _thin(inputs, *wide)
            inner = self.anatomy.inner(base, both)
            found = functional.linear(inner, down_weight[expert]) + down.scale * _thin(inner, *narrow)
            out = out.index_add(0, tokens, (found * weights[tokens, places, None]).to(out.dtype))
        return out

    def judge(self, stored: torch.dtype, *inputs: Tensor) -> Tensor:
        weights = {name: delta.rounded(getattr(self.base, name), stored) for name, delta in self.deltas.items()}
        found: Tensor = torch.func.functional_call(self.base, weights, inputs)
        return found


def _thin(inputs: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return functional.linear(functional.linear(inputs, down.to(inputs.dtype)), up.to(inputs.dtype))


class Lora:
    """The LoRA of a model.

    Args:
        model: the mixture, frozen; its projections and experts are wrapped.
        options: what is trained, rank, alpha, and the seed of the first halves.
    """

    def __init__(self, model: Any, options: TrainOptions) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        self.trained = options.also
        anatomy, routed = anatomy_of(model), find_routers(model).layers
        self.config: Any = LoraConfig(
            r=options.rank, lora_alpha=options.alpha, lora_dropout=0.0, task_type="CAUSAL_LM",
            target_modules=anatomy.projection_modules if "attention" in options.also else [],
            target_parameters=list(anatomy.expert_weights) if "experts" in options.also else [],
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            inject_adapter_in_model(self.config, model, _ADAPTER)
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for parameter in self._named.values():
            parameter.data = parameter.data.float()
        self._spots: list[tuple[int, _Linear | _Experts]] = []
        for number, layer in enumerate(anatomy.layers_of(model)):
            if "attention" in options.also:
                attention = anatomy.attention_of(layer)
                linears = {name: getattr(attention, name, None) for name in anatomy.projections}
                self._spots += [(number, _linear(name, own)) for name, own in linears.items() if own is not None]
            if "experts" in options.also and number in routed:
                self._spots.append((number, _experts(anatomy.experts_of(layer), anatomy)))
        for _, spot in self._spots:
            spot.wrapper.forward = spot.train

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser changes, fp32."""
        return list(self._named.values())

    def clear(self) -> None:
        """Before the passes of a step."""
        for parameter in self.parameters:
            parameter.grad = None

    def gather(self, processes: Processes) -> None:
        """After them: the gradients, added up over the processes; zero where no token came by."""
        for parameter in self.parameters:
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            parameter.grad = processes.total(gradient)

    def state(self) -> dict[str, Tensor]:
        """Everything to continue from, by name."""
        return {name: parameter.detach().clone() for name, parameter in self._named.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes up a state."""
        for name, parameter in self._named.items():
            parameter.copy_(state[name])

    @contextmanager
    def exported(self, stored: torch.dtype) -> Iterator[None]:
        """The model with its weights merged and rounded as the folder would hold them."""
        try:
            for _, spot in self._spots:
                spot.wrapper.forward = partial(spot.judge, stored)
            yield
        finally:
            for _, spot in self._spots:
                spot.wrapper.forward = spot.train

    def changes(self, host: Host, *, fused: bool) -> dict[str, Change]:
        """What becomes of the folder's tensors, by their names in its files."""
        found: dict[str, Change] = {}
        for layer, spot in self._spots:
            if isinstance(spot, _Linear):
                found[host.attention.format(layer=layer, projection=spot.name)] = spot.delta.merged
            elif fused:
                for short, delta in (("gate_up", spot.wide), ("down", spot.narrow)):
                    change = partial(_all_experts, delta, transposed=host.transposed)
                    found[host.fused[short].format(layer=layer)] = change
            else:
                found |= _separate(host, layer, spot.wide, spot.narrow)
        return found

    def adapter(self) -> dict[str, Tensor]:
        """peft's tensors by the names that its files have."""
        names = {name: name.replace(f".{_ADAPTER}.", ".") for name in self._named}
        return {f"base_model.model.{names[name]}": value.detach().clone() for name, value in self._named.items()}


def _linear(name: str, wrapper: Any) -> _Linear:
    return _Linear(name, wrapper, _delta(wrapper, 1))


def _experts(wrapper: Any, anatomy: Anatomy) -> _Experts:
    base, deltas = wrapper, {}
    while hasattr(base, "base_layer"):
        deltas[base.parameter_name] = _delta(base, base.num_experts)
        base = base.base_layer
    return _Experts(wrapper, base, deltas, anatomy)


def _delta(wrapper: Any, experts: int) -> Delta:
    down, up = wrapper.lora_A[_ADAPTER].weight, wrapper.lora_B[_ADAPTER].weight
    return Delta(down, up, wrapper.scaling[_ADAPTER], experts)


def _all_experts(delta: Delta, weight: Tensor, *, transposed: bool) -> Tensor:
    """`weight` as it is stored, each expert transposed or not."""
    turned = weight.mT if transposed else weight
    merged = torch.stack([delta.merged(own, expert).cpu() for expert, own in enumerate(turned)])
    return merged.mT.contiguous() if transposed else merged


def _separate(host: Host, layer: int, wide: Delta, narrow: Delta) -> dict[str, Change]:
    found: dict[str, Change] = {}
    *into, down = host.projections
    rows = wide.up.shape[0] // len(into)
    for expert in range(wide.experts):
        for place, projection in enumerate(into):
            own = slice(place * rows, (place + 1) * rows)
            found[host.expert_name(layer, expert, projection)] = partial(wide.merged, expert=expert, rows=own)
        found[host.expert_name(layer, expert, down)] = partial(narrow.merged, expert=expert)
    return found
