"""The experts of a layer on a CPU where their weights are frozen: one expert after the other, nothing kept but what the
slopes of the activation need.

transformers' own grouping makes each product's result twice (one expert's, then all of them joined), in the backward
pass too, and keeps three tensors of the experts' width. Here results are written in their place, and one such tensor is
kept. Figures: docs/decisions/train-cpu-speed.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from moemerge.families import Anatomy
from moemerge.mixture.routers import find_routers

NAME = "moemerge_frozen"


def use_frozen_experts(model: Any) -> bool:
    """Gives a model these experts where it can have them; returns whether it did.

    Args:
        model: a mixture of transformers in eval mode, all of whose experts are frozen.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    silu = getattr(model.config.get_text_config(), "hidden_act", None) == "silu"
    plain = silu and all(map(_plain, find_routers(model).stacks))
    if model.device.type != "cpu" or not plain:
        return False
    ALL_EXPERTS_FUNCTIONS.register(NAME, _experts)
    model.set_experts_implementation(NAME)
    return True


def _plain(stack: Any) -> bool:
    """Whether a layer's experts are two matrices each, `[2I, d]` and `[d, I]`, and nothing else."""
    told = {"has_gate": True, "has_bias": False, "is_concatenated": True, "is_transposed": False}
    return all(getattr(stack, name, None) is value for name, value in told.items())


def _experts(module: Any, hidden: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """As transformers calls it: hidden states `[N, d]`, indices and weights `[N, k]`."""
    order = indices.flatten().argsort(stable=True)
    counts = torch.bincount(indices.flatten(), minlength=module.num_experts).tolist()
    anatomy = Anatomy()  # `_plain` experts have the usual names
    gate_up, down = getattr(module, anatomy.gate_up), getattr(module, anatomy.down)
    each: Tensor = _Frozen.apply(hidden, gate_up, down, order, counts)  # type: ignore[no-untyped-call]
    weighted = each * weights.reshape(-1, 1)
    return weighted.view(*indices.shape, -1).sum(dim=1).to(hidden.dtype)


class _Frozen(torch.autograd.Function):
    """What each token's experts give, `[N k, d]`, token by token; the weights get no gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, gate_up: Tensor, down: Tensor, order: Tensor, counts: list[int]) -> Tensor:
        taken = len(order) // len(hidden)
        inputs = hidden[order // taken]
        both = hidden.new_empty(len(order), gate_up.shape[1])
        output = torch.empty_like(inputs)
        for expert, places in _spans(counts):
            torch.mm(inputs[places], gate_up[expert].mT, out=both[places])
            gate, up = both[places].chunk(2, dim=-1)
            torch.mm(functional.silu(gate).mul_(up), down[expert].mT, out=output[places])
        ctx.save_for_backward(both, gate_up, down, order)
        ctx.counts, ctx.taken = counts, taken
        return torch.empty_like(output).index_copy_(0, order, output)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        both, gate_up, down, order = ctx.saved_tensors
        outgoing = slopes[0][order]
        by_input = torch.empty_like(outgoing)
        for expert, places in _spans(ctx.counts):
            gate, up = both[places].chunk(2, dim=-1)
            inner = outgoing[places] @ down[expert]
            by_both = torch.empty_like(both[places])
            by_gate, by_up = by_both.chunk(2, dim=-1)
            torch.mul(inner, functional.silu(gate), out=by_up)
            by_gate.copy_(torch.ops.aten.silu_backward(inner.mul_(up), gate))
            torch.mm(by_both, gate_up[expert], out=by_input[places])
        each = torch.empty_like(by_input).index_copy_(0, order, by_input)
        by_hidden = each if ctx.taken == 1 else each.view(-1, ctx.taken, each.shape[1]).sum(dim=1)
        return by_hidden, None, None, None, None


def _spans(counts: list[int]) -> Iterator[tuple[int, slice]]:
    """Each expert that has tokens, and where they stand in order."""
    start = 0
    for expert, count in enumerate(counts):
        if count:
            yield expert, slice(start, start + count)
        start += count
