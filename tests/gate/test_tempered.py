"""Gates of sigmoid routers are made small where their size is free."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moemerge.gate.blank import BlankGate
from moemerge.gate.request import GateFit
from moemerge.gate.tempered import tempered

LONG = np.array([[[30.0, 40.0], [0.3, 0.4]], [[0.3, 0.4], [0.0, 0.5]], [[0.0, 0.0], [0.0, 0.0]]], np.float32)
"""Three layers of two experts: rows of 50, 0.5 and 0 at the longest."""


@pytest.mark.parametrize("k", [1, 2])
def test_a_gate_that_saw_no_text_may_have_any_size(k: int) -> None:
    """Its longest row is brought to one or less by a power of two, a short or empty one stays."""
    found = tempered(BlankGate(LONG, (0, 0), (None,) * 3), k)
    assert np.array_equal(found.weights, LONG * np.array([1 / 64, 1.0, 1.0], np.float32)[:, None, None])


def test_of_a_fitted_one_only_where_one_expert_is_chosen() -> None:
    """With more the size is part of their weights; the scale that is told goes along."""
    gate = GateFit(torch.from_numpy(LONG), (5, 5), (None,) * 3, scale=(2.0, 3.0, 4.0))
    assert tempered(gate, 2) is gate
    found = tempered(gate, 1)
    assert torch.equal(
        torch.as_tensor(found.weights), torch.from_numpy(LONG) * torch.tensor([1 / 64, 1, 1])[:, None, None]
    )
    assert found.scale == (2 / 64, 3.0, 4.0)
    assert torch.equal(gate.weights, torch.from_numpy(LONG))
