"""The factor at which a top-1 gate is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moemerge.evaluate.routers import find_routers
from moemerge.gate.held_out import spread
from moemerge.train.sharpness import SPREADS, _factor, sharpness
from tests.evaluate.conftest import mixture
from tests.train.test_step import some_rows

__all__ = ["mixture"]


def test_a_gate_is_trained_alike_whatever_its_scale(mixture: Any) -> None:
    """A gate a hundred times as large gets a hundredth of the factor."""
    model = mixture("mixtral", k=1)
    routers, rows = find_routers(model), [some_rows(4), some_rows(4, seed=1)]
    weights = [router.weight.detach().clone() for router in routers.modules]
    small = sharpness(model, routers, weights, rows)
    large = sharpness(model, routers, [100 * weight for weight in weights], rows)
    assert [100 * factor for factor in large] == pytest.approx(list(small), rel=1e-3)


def test_several_experts_a_token_keep_their_weights(mixture: Any) -> None:
    """With two experts a token the logits' size is part of the model."""
    model = mixture("mixtral", k=2)
    routers = find_routers(model)
    assert sharpness(model, routers, [router.weight for router in routers.modules], [some_rows(2)]) == (1.0, 1.0)


def test_the_spread_stays_within_its_bounds() -> None:
    """Logits that say nothing are not made flat, and those that are right are not made hard."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    noise = torch.randn(300, 3, generator=draw, dtype=torch.float64)
    right = torch.nn.functional.one_hot(labels, 3).double()
    assert spread(_factor(noise, labels) * noise, labels) == pytest.approx(SPREADS[0])
    assert spread(_factor(right, labels) * right, labels) == pytest.approx(SPREADS[1])
    assert _factor(torch.zeros(3, 3, dtype=torch.float64), torch.arange(3)) == 1.0
