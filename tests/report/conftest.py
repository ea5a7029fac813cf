"""A small trace and an explanation, made up, so that what is shown does not hang on a model."""

from __future__ import annotations

import pytest

from moemerge.evaluate.explain import Explanation
from moemerge.evaluate.trace import Trace


@pytest.fixture
def trace() -> Trace:
    """A line of code, one of French with a unicorn of two tokens, and what looks like markup."""
    tokens = ("", "def", " reverse", ":", "\n", "bonjour", " 🦄", "", " [bold]", "\n\n", "</b>")
    first = (0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 1)
    second = (0, 0, 1, 0, 0, 1, 1, 1, 0, 1, 1)
    return Trace(
        experts=("code", "french"),
        layers=(0, 1),
        tokens=tokens,
        special=("<s>", *(None,) * 10),
        chosen=tuple(tuple((top, 1 - top) for top in layer) for layer in (first, second)),
        weights=(((0.9, 0.1),) * 11, ((0.6, 0.4),) * 11),
        context=8,
        windows=2,
    )


@pytest.fixture
def explanation() -> Explanation:
    """A token of a mixture of ten experts with a shared one."""
    odds = [2.0 ** -(place + 1) for place in range(9)]
    return Explanation(
        experts=("code", "math", *(f"e{place}" for place in range(2, 10))),
        index=3,
        token=" [red]\n",
        layer=7,
        input_norm=12.3456,
        input_head=(0.5, -1.25, 0.001, 3.0),
        logits=tuple(float(-place) for place in range(10)),
        probabilities=(*odds, 1 - sum(odds)),
        chosen=(0, 1),
        weights=(0.6667, 0.3333),
        expert_norms=(3.0, 6.0),
        sum_norm=3.21,
        shared_weight=0.25,
        shared_norm=0.5,
        output_norm=3.4,
        difference=2e-7,
        tolerance=4e-5,
        dtype="float32",
    )
