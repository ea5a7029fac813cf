"""Warnings that the tiny models do not give on their own."""

from __future__ import annotations

import torch

from moemerge.errors import Problem
from moemerge.gate.held_out import Judgement
from moemerge.gate.notices import inseparable, rounding


def judgement(*pairs: float) -> Judgement:
    """Three experts with the given accuracies of the pairs 0-1, 0-2, 1-2."""
    matrix = torch.full((3, 3), 0.5)
    for (one, other), value in zip(((0, 1), (0, 2), (1, 2)), pairs, strict=True):
        matrix[one, other] = matrix[other, one] = value
    return Judgement(torch.eye(3), matrix)


def test_pairs_are_named_worst_first() -> None:
    """Those below 60 % on the mean of the layers, or like a coin at the first one."""
    found = inseparable(("a", "b", "c"), [judgement(0.55, 0.52, 0.7), judgement(0.55, 0.9, 0.8)])
    assert found == [
        Problem(
            "inseparable-experts",
            "Experts `a` and `c` cannot be told apart: 52% of their tokens at the first layer go to the right one of "
            "the two, where a coin gives 50%",
            "give them texts that differ, or keep one of the two",
        ),
        Problem(
            "inseparable-experts",
            "Experts `a` and `b` cannot be told apart: 55% of their tokens go to the right one of the two, where a "
            "coin gives 50%",
            "give them texts that differ, or keep one of the two",
        ),
    ]


def test_rounding_is_said_where_it_moves_routes() -> None:
    """The worst layer is named."""
    assert rounding([0.999, 0.981], (0, 1), "lda") == []
    assert rounding([0.999, 0.961], (0, 2), "lda") == [
        Problem(
            "bf16-routes",
            "In bf16, 3.9% of the tokens at layer 2 go to another expert than in fp32",
            "build with `dtype: float32`, or use `gate.init: discriminant`, whose rows have no common part",
        )
    ]
    assert rounding([0.961], (0,), "discriminant")[0].hint == "build with `dtype: float32`"
