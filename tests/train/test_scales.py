"""The factor at which a top-1 gate is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moemerge.families import Anatomy
from moemerge.gate.held_out import spread
from moemerge.mixture.routers import find_routers
from moemerge.train.gates import Gates
from moemerge.train.options import TrainOptions
from moemerge.train.scales import LARGEST, SPREADS, _channels, _factor, scales
from tests.evaluate.conftest import mixture
from tests.train.test_step import some_rows

__all__ = ["mixture"]


def test_a_gate_is_trained_alike_whatever_its_scale(mixture: Any) -> None:
    """A gate a hundred times as large gets a hundredth of the factor."""
    model = mixture("mixtral", k=1)
    routers, rows = find_routers(model), [some_rows(4), some_rows(4, seed=1)]
    weights = [weight.detach().clone() for weight in routers.matrices]
    small = scales(model, routers, weights, rows).factors
    large = scales(model, routers, [100 * weight for weight in weights], rows).factors
    assert [100 * factor for factor in large] == pytest.approx(list(small), rel=1e-3)


def test_several_experts_a_token_keep_their_weights(mixture: Any) -> None:
    """With two experts per token the logits' size is part of the model."""
    model = mixture("mixtral", k=2)
    routers = find_routers(model)
    found = scales(model, routers, routers.matrices, [some_rows(2)])
    assert found.factors == (1.0, 1.0)


def test_the_spread_stays_within_its_bounds() -> None:
    """Logits that say nothing are not made flat, and those that are right are not made hard."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    noise = torch.randn(300, 3, generator=draw, dtype=torch.float64)
    right = torch.nn.functional.one_hot(labels, 3).double()
    assert spread(_factor(noise, labels) * noise, labels) == pytest.approx(SPREADS[0])
    assert spread(_factor(right, labels) * right, labels) == pytest.approx(SPREADS[1])
    assert _factor(torch.zeros(3, 3, dtype=torch.float64), torch.arange(3)) == 1.0


def test_a_channel_ten_times_as_large_moves_a_tenth_as_much() -> None:
    """Powers of two next to the median over the root mean square, within bounds."""
    found = _channels(torch.tensor([1.0, 1.0, 100.0, 0.01, 1e9, 0.0], dtype=torch.float64))
    assert found.tolist() == [1.0, 1.0, 1 / 8, 8.0, 2.0**-LARGEST, 2.0**LARGEST]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_units_change_no_gate_that_was_not_trained(method: Any) -> None:
    """The start is kept bit for bit; a step of one in a parameter is a step of the factor in the gate."""
    draw = torch.Generator().manual_seed(0)
    start = [torch.randn(3, 16, generator=draw) for _ in range(2)]
    inputs = [torch.randint(-6, 7, (16,), generator=draw).float().exp2() for _ in range(2)]
    gates = Gates(start, (0, 1), Anatomy(), TrainOptions(method=method), inputs)
    assert all(torch.equal(one, other) for one, other in zip(gates.weights, start, strict=True))
    with torch.no_grad():
        for parameter in gates.parameters:
            parameter.add_(1.0)
    gates.refresh()
    changes = [(one - other) / scale for one, other, scale in zip(gates.weights, start, inputs, strict=True)]
    if method == "full":
        assert all(torch.allclose(change, torch.ones(3, 16), atol=1e-4) for change in changes)
    else:
        tensors, _ = gates.adapter()
        for layer, (weight, first) in enumerate(zip(gates.weights, start, strict=True)):
            a, b = (tensors[f"base_model.model.model.layers.{layer}.mlp.gate.lora_{half}.weight"] for half in "AB")
            torch.testing.assert_close(first + 2.0 * b @ a, weight)
