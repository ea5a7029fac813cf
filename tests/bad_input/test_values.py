"""Values that no model should have, found while they are read."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.bad_input.command import QUERY, UP, change_tensors, refused_by_build


@pytest.mark.parametrize("gate", ["random", "discriminant"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_in_a_copied_tensor(value: float, gate: str) -> None:
    """One bad value in an expert's FFN, which goes from file to file as bytes."""
    damaged = load_file("models/code/model.safetensors")[UP]
    damaged[3, 5] = value
    change_tensors("code", {UP: damaged})
    assert refused_by_build("--gate", gate, "--set", "gate.expand=off") == (
        "error: `model.layers.1.block_sparse_moe.experts.0.w3.weight` holds NaN or Inf, from `models/code`\n"
        "hint: the source is damaged: check or download it again\n"
    )


@pytest.mark.parametrize("expand", ["off", "64"])
@pytest.mark.parametrize("gate", ["random", "discriminant", "mergekit_hidden"])
def test_a_value_that_is_not_finite_in_a_computed_tensor(gate: str, expand: str) -> None:
    """One bad value in attention, which is the mean of all experts; whatever meets it first, the tensor is named."""
    damaged = load_file("models/math/model.safetensors")[QUERY]
    damaged[31, 0] = float("nan")
    change_tensors("math", {QUERY: damaged})
    assert refused_by_build("--gate", gate, "--set", f"gate.expand={expand}") == (
        "error: `model.layers.0.self_attn.q_proj.weight` holds NaN or Inf, from `models/math`\n"
        "hint: the source is damaged: check or download it again\n"
    )


@pytest.mark.parametrize("gate", ["discriminant", "mergekit_hidden"])
@pytest.mark.parametrize("expand", ["off", "64"])
def test_a_model_of_nothing_but_nan(gate: str, expand: str) -> None:
    """Base and expert alike: no kernel lets that pass, and still the tensor is named."""
    head = "model.embed_tokens.weight"
    for model in ("base", "code", "math"):
        change_tensors(model, {head: torch.full_like(load_file(f"models/{model}/model.safetensors")[head], torch.nan)})
    assert refused_by_build("--gate", gate, "--set", f"gate.expand={expand}") == (
        f"error: `{head}` holds NaN or Inf, from `models/code`, `models/math`\n"
        "hint: the source is damaged: check or download it again\n"
    )


@pytest.mark.parametrize(
    ("expand", "message"),
    [
        (
            "off",
            "error: The hidden states at layer 0 are not finite on the texts of expert `code`\n"
            "hint: they overflow: build in `dtype: float32`, or set `gate.dtype: float32`\n",
        ),
        (
            "64",
            "error: A model writes NaN in place of a token\n"
            "hint: its weights hold NaN or Inf, or its states overflow: float32 has more room than float16\n",
        ),
    ],
)
def test_states_that_overflow(expand: str, message: str) -> None:
    """Sound sources whose states are too large for the dtype are not called damaged."""
    for model in ("base", "code", "math"):
        weights = load_file(f"models/{model}/model.safetensors")
        for name in (QUERY.replace("q_proj", "v_proj"), QUERY.replace("q_proj", "o_proj")):
            change_tensors(model, {name: torch.full_like(weights[name], 3e38)})
    assert refused_by_build("--gate", "discriminant", "--set", f"gate.expand={expand}") == message


def test_a_value_that_is_not_finite_in_a_converted_expert() -> None:
    """An expert that is converted to another dtype is computed, and looked at too."""
    change_tensors("code", {UP: torch.full((48, 32), float("-inf"))})
    assert refused_by_build("--set", "dtype=bfloat16") == (
        "error: `model.layers.1.block_sparse_moe.experts.0.w3.weight` holds NaN or Inf, from `models/code`\n"
        "hint: the source is damaged: check or download it again\n"
    )


def test_a_value_that_the_dtype_cannot_hold() -> None:
    """A sound source is not called damaged where the conversion makes an Inf."""
    change_tensors("code", {UP: torch.full((48, 32), 1e6)})
    assert refused_by_build("--set", "dtype=float16") == (
        "error: `model.layers.1.block_sparse_moe.experts.0.w3.weight` holds NaN or Inf, and its sources do not: "
        "a value is too large for F16\n"
        "hint: set a `dtype` with a larger range, such as `bfloat16`\n"
    )
