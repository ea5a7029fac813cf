"""mergekit's gates against a naive computation through transformers' own padding and full model."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from moemerge.errors import GateError
from moemerge.gate import ExpertTexts, GateRequest, fit_gate
from tests.gate.conftest import LAYERS, WIDTH, TinyModels

EXPERTS = (
    ExpertTexts("code", ("def print list", "return if else while for"), ("bonjour", "le chat est dans la")),
    ExpertTexts("french", ("bonjour monde",)),
)


def request(init: Any, experts: tuple[ExpertTexts, ...] = EXPERTS, **settings: Any) -> GateRequest:
    return GateRequest(init, experts, range(LAYERS), WIDTH, **settings)


def naive(init: str, prompts: tuple[str, ...], model: Any, tokenizer: Any) -> torch.Tensor:
    """mergekit's way: BOS before each prompt, padding on the left with BOS, hidden states of the whole model."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "left"
    tokenizer.pad_token_id = tokenizer.bos_token_id
    batch = tokenizer(
        [tokenizer.bos_token + p for p in prompts], return_tensors="pt", padding=True, add_special_tokens=False
    )
    if init == "cheap_embed":
        rows = [
            model.model.embed_tokens.weight[token]
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
            for token, real in zip(ids, mask, strict=True)
            if real
        ]
        return torch.stack(rows).sum(0).repeat(LAYERS, 1)
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    found = []
    for states in output.hidden_states[:-1]:
        if init == "hidden_avg":
            found.append(sum(states[:, place] for place in range(states.shape[1])) / states.shape[1])
        else:
            found.append(states[:, -1])
    return torch.stack([(sum(rows) / len(rows)) for rows in found])


@pytest.mark.parametrize("init", ["mergekit_hidden", "hidden_avg", "cheap_embed"])
@torch.no_grad()
def test_mergekits_gates(init: str, models: TinyModels, base: Any, tokenizer: Any) -> None:
    """The base model's residual stream, negative prompts subtracted, unit rows; the tokenizer is left as it was."""
    before = (tokenizer.padding_side, tokenizer.pad_token)
    fit = fit_gate(request(init), models, tokenizer)
    assert set(models.calls) == {"base"}
    assert (tokenizer.padding_side, tokenizer.pad_token) == before
    for number, expert in enumerate(EXPERTS):
        expected = naive(init, expert.prompts, base, tokenizer)
        if expert.negative:
            expected = expected - naive(init, expert.negative, base, tokenizer)
        expected = expected / expected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(fit.weights[:, number], expected, rtol=1e-4, atol=1e-5)
    assert fit.separation == (None, None)
    assert fit.scale == ()
    assert fit.weights.dtype == torch.float32


@pytest.mark.parametrize("init", ["mergekit_hidden", "cheap_embed"])
def test_mergekits_gates_need_prompts(init: str, models: TinyModels, tokenizer: Any) -> None:
    """Texts from `data` alone are not what mergekit reads."""
    with pytest.raises(GateError) as error:
        fit_gate(request(init, (ExpertTexts("code", documents=("def print",)),)), models, tokenizer)
    assert error.value.message == f"Gate `{init}` reads prompts, and expert `code` has none"
    assert error.value.hint == "give it `prompts`, or use `discriminant`, which fits from `data` too"


def test_an_empty_prompt_without_a_first_token(models: TinyModels, tokenizer: Any) -> None:
    """A prompt that gives no token is refused by name."""
    bare = copy.deepcopy(tokenizer)
    bare.bos_token = None
    with pytest.raises(GateError) as error:
        fit_gate(request("mergekit_hidden", (ExpertTexts("code", ("",)),)), models, bare)
    assert error.value.message == "Expert `code` has an empty prompt, which gives no token"


def test_random_gates_are_seeded_and_need_no_model() -> None:
    """Standard normal rows; the seed alone decides."""
    one, same = fit_gate(request("random", seed=3), None, None), fit_gate(request("random", seed=3), None, None)
    other = fit_gate(request("random", seed=4), None, None)
    assert torch.equal(one.weights, same.weights)
    assert not torch.equal(one.weights, other.weights)
    assert one.weights.shape == (LAYERS, 2, WIDTH)
    wide = GateRequest("random", EXPERTS, range(8), 512)
    assert fit_gate(wide, None, None).weights.std() == pytest.approx(1.0, abs=0.05)


def test_uniform_gates_lie_within_their_bounds() -> None:
    """Uniform in ±1/√d, seeded."""
    weights = fit_gate(request("uniform", seed=1), None, None).weights
    assert weights.abs().max() <= 1 / math.sqrt(WIDTH)
    assert weights.abs().max() > 0.9 / math.sqrt(WIDTH)
    assert weights.min() < 0 < weights.max()
