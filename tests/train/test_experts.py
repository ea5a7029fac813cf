"""Frozen experts with a gate give what transformers' own give, forward and backward, for one and more a token."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from moemerge.mixture.routers import find_routers
from moemerge.train.experts import use_frozen_experts
from tests.evaluate.conftest import mixture
from tests.hosts import DIVIDED, HOSTS, every
from tests.train.test_step import gradients, some_rows

__all__ = ["mixture"]

SILU = [host for host, case in HOSTS.items() if case.silu]
"""Hosts whose experts are of the kind that is replaced; the others keep transformers' own."""


def values_and_slopes(stack: Any, k: int, experts: int) -> tuple[Tensor, ...]:
    """Of the experts of one layer on twenty tokens; the last expert gets none."""
    draw = torch.Generator().manual_seed(k)
    hidden = torch.randn(20, stack.hidden_dim, generator=draw, dtype=torch.float64).requires_grad_()
    weights = torch.rand(20, k, generator=draw, dtype=torch.float64).requires_grad_()
    indices = torch.stack([torch.randperm(experts - 1, generator=draw)[:k] for _ in range(20)])
    output = stack(hidden, indices, weights)
    slopes = torch.autograd.grad(
        output, [hidden, weights], torch.randn(output.shape, generator=draw, dtype=torch.float64)
    )
    return output.detach(), *slopes


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("host", every(SILU))
def test_values_and_slopes_are_those_of_transformers(host: str, k: int, mixture: Any) -> None:
    """By tokens and by weights, in fp64 to its rounding."""
    model = deepcopy(mixture(host)).double().requires_grad_(False)
    model.set_experts_implementation("eager")  # the grouped one has no fp64
    stack = find_routers(model).stacks[0]
    before = values_and_slopes(stack, k, 4)
    assert use_frozen_experts(model)
    for one, other in zip(values_and_slopes(stack, k, 4), before, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", ["straight-through", "soft", "top-k"])
@pytest.mark.parametrize("host", every(SILU))
def test_a_step_is_the_same(host: str, how: str, mixture: Any) -> None:
    """Terms and gradients of a whole step, however it routes."""
    model, rows = deepcopy(mixture(host, k=1, **DIVIDED[host])), some_rows(4)
    before, losses = gradients(model, [rows], how)
    assert use_frozen_experts(model)
    after, others = gradients(model, [rows], how)
    assert losses.next_token == pytest.approx(others.next_token, rel=1e-5)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_they_keep_less_for_the_backward_pass(mixture: Any) -> None:
    """One tensor of the experts' width beside what enters: counted by autograd's own hooks; the rest are small here."""
    model = deepcopy(mixture("mixtral")).requires_grad_(False)
    stack, hidden = find_routers(model).stacks[0], torch.randn(64, 32, requires_grad=True)
    own = {parameter.data_ptr() for parameter in stack.parameters()}

    def kept() -> int:
        sizes: dict[int, int] = {}

        def keep(value: Tensor) -> Tensor:
            if value.untyped_storage().data_ptr() not in own:
                sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            output = stack(hidden, torch.arange(64)[:, None] % 4, torch.ones(64, 1))
        del output
        return sum(sizes.values())

    before = kept()
    assert use_frozen_experts(model)
    assert kept() < 0.7 * before


def test_others_stay_as_they_are(mixture: Any) -> None:
    """Another activation, or experts with more than two matrices."""
    model = deepcopy(mixture("mixtral"))
    model.config.hidden_act = "gelu"
    assert not use_frozen_experts(model)
    model = deepcopy(mixture("mixtral"))
    find_routers(model).stacks[0].has_bias = True
    assert not use_frozen_experts(model)
    assert model.config._experts_implementation != "moemerge_frozen"
