"""Values that no model should have, found while they are read."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.bad_input.command import QUERY, UP, change_tensors, refused


@pytest.mark.parametrize("gate", ["random", "discriminant"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_in_a_copied_tensor(value: float, gate: str) -> None:
    """One bad value in an expert's FFN, which goes from file to file as bytes."""
    damaged = load_file("models/code/model.safetensors")[UP]
    damaged[3, 5] = value
    change_tensors("code", {UP: damaged})
    assert refused("--gate", gate, "--set", "gate.expand=off") == (
        "error: `model.layers.1.block_sparse_moe.experts.0.w3.weight` holds NaN or Inf, from `models/code`\n"
        "hint: the source is damaged: check or download it again\n"
    )


@pytest.mark.parametrize("gate", ["random", "discriminant"])
def test_a_value_that_is_not_finite_in_a_computed_tensor(gate: str) -> None:
    """One bad value in attention, which is the mean of all experts."""
    damaged = load_file("models/math/model.safetensors")[QUERY]
    damaged[31, 0] = float("nan")
    change_tensors("math", {QUERY: damaged})
    assert refused("--gate", gate, "--set", "gate.expand=off") == (
        "error: `model.layers.0.self_attn.q_proj.weight` holds NaN or Inf, from `models/math`\n"
        "hint: the source is damaged: check or download it again\n"
    )


def test_a_value_that_is_not_finite_in_a_converted_expert() -> None:
    """An expert that is converted to another dtype is computed, and looked at too."""
    change_tensors("code", {UP: torch.full((48, 32), float("-inf"))})
    assert refused("--set", "dtype=bfloat16") == (
        "error: `model.layers.1.block_sparse_moe.experts.0.w3.weight` holds NaN or Inf, from `models/code`\n"
        "hint: the source is damaged: check or download it again\n"
    )


def test_a_value_that_the_dtype_cannot_hold() -> None:
    """A sound source is not called damaged where the conversion makes an Inf."""
    change_tensors("code", {UP: torch.full((48, 32), 1e6)})
    assert refused("--set", "dtype=float16") == (
        "error: `model.layers.1.block_sparse_moe.experts.0.w3.weight` holds NaN or Inf, and its sources do not: "
        "a value is too large for F16\n"
        "hint: set a `dtype` with a larger range, such as `bfloat16`\n"
    )
