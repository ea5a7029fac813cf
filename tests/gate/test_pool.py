"""A gate that is fitted to one pool of texts that nobody sorted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from moemerge.console import Silent
from moemerge.errors import GateError, Problem
from moemerge.gate import ExpertTexts, GateRequest, fit_gate
from moemerge.gate.pool import pool_domains
from tests.gate.conftest import LAYERS, WIDTH, TinyModels, texts

NAMES = ("code", "french", "math")
POOL = tuple(text for some in zip(*(texts(name, 6) for name in NAMES), strict=True) for text in some)
REQUEST = GateRequest(
    "advantage", tuple(map(ExpertTexts, NAMES)), range(LAYERS), WIDTH, experts_per_token=1, ridge=0.2, pool=POOL
)


def losses_of(models: TinyModels, text: str, tokenizer: Any) -> list[float]:
    """A text's mean loss by each expert, as plain transformers gives it."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return [float(models.merged(expert)(ids, labels=ids).loss) for expert in range(3)]


def test_each_text_goes_to_the_expert_that_loses_least_on_it(models: TinyModels, tokenizer: Any) -> None:
    """Over the whole text, and every text to one of them; nothing that an expert says of itself is read."""
    own = tuple(replace(one, prompts=texts("code", 2), documents=texts("math", 2)) for one in REQUEST.experts)
    request = replace(REQUEST, pool=tuple(text * 6 for text in POOL), experts=own)
    domains, folds, said = pool_domains(request, models, tokenizer, Silent())
    assert folds == 5
    assert [problem.code for problem in said] in ([], ["never-best"])
    found = {tuple(p.ids): number for number, domain in enumerate(domains) for p in domain.passages}
    assert len(found) == len(POOL)
    for text in request.pool:
        losses = losses_of(models, text, tokenizer)
        best = min(losses)
        won = losses[found[tuple(tokenizer(text)["input_ids"])]]
        assert (
            won - best < 0.02 * (max(losses) - best) + 1e-3
        )  # the means over neighbours weigh a text's ends otherwise


def test_no_expert_says_anything_and_none_writes(models: TinyModels, tokenizer: Any) -> None:
    """A gate from the pool alone; experts that no text was given to are named."""
    fit = fit_gate(REQUEST, models, tokenizer)
    assert fit.weights.shape == (LAYERS, 3, WIDTH)
    assert fit.weights.isfinite().all()
    assert sum(fit.tokens) == sum(len(text.split()) for text in POOL)
    assert all(value is not None and 0 <= value <= 1 for value in fit.separation)
    assert not fit.samples
    assert not [call for call in models.calls if call.startswith("specialist")]


def test_the_order_of_the_pool_is_nothing(models: TinyModels, tokenizer: Any) -> None:
    """The whole of it is read here, and λ is given."""
    one, other = (fit_gate(replace(REQUEST, pool=pool), models, tokenizer) for pool in (POOL, POOL[::-1]))
    torch.testing.assert_close(one.weights, other.weights, atol=1e-4, rtol=1e-3)


def test_an_expert_that_is_never_the_best_is_named(models: TinyModels, tokenizer: Any) -> None:
    """Of two that are alike the first one is. The rows are finite all the same, and the separation is the others'."""
    twice = TinyModels(models.base(), [models.specialist(0), models.specialist(1), models.specialist(1)])
    fit = fit_gate(replace(REQUEST, ridge=None), twice, tokenizer)
    assert fit.tokens[2] == 0
    assert fit.warnings[0] == Problem(
        "never-best",
        "On no text of `gate.data` is `math` the best expert, so few tokens may go there",
        "add texts that it should win, or leave it out of the recipe",
    )
    assert fit.weights.isfinite().all()
    assert all(value is not None and value > 0.4 for value in fit.separation)
    assert fit.confusion is not None
    assert fit.confusion[2] == (0.0, 0.0, 0.0)


def test_negative_prompts_are_heeded(models: TinyModels, tokenizer: Any) -> None:
    """They are the expert's own words beside the pool."""
    plain = fit_gate(REQUEST, models, tokenizer)
    first, *others = REQUEST.experts
    fit = fit_gate(replace(REQUEST, experts=(replace(first, negative=texts("french", 3)), *others)), models, tokenizer)
    assert not torch.allclose(plain.weights, fit.weights)


def test_a_pool_has_the_room_of_all_experts(models: TinyModels, tokenizer: Any) -> None:
    """`max_tokens` is an expert's, and what is left out is said."""
    tokens = sum(len(text.split()) for text in POOL)
    for most, count in ((tokens // 3 + 1, tokens), (20, 60)):
        domains, _, said = pool_domains(replace(REQUEST, max_tokens=most), models, tokenizer, Silent())
        assert sum(domain.tokens for domain in domains) == count
        left_out = [problem.message for problem in said if problem.code == "texts-left-out"]
        assert left_out == (
            [] if count == tokens else ["`gate.data`: 4 of 18 documents are read in full, as they give 60 tokens"]
        )


def test_few_texts_are_said_in_the_pools_words(models: TinyModels, tokenizer: Any) -> None:
    """λ is not chosen from two texts."""
    fit = fit_gate(replace(REQUEST, pool=POOL[:2], ridge=None), models, tokenizer)
    said = {problem.code: problem for problem in fit.warnings}
    assert said["few-groups"] == Problem(
        "few-groups",
        "λ is 0.3, as fewer than 3 texts of `gate.data` can be held out to choose",
        "give 3 texts at least",
    )
    assert said["few-tokens"].hint == "give more texts that it should win in `gate.data`"


def test_a_pool_of_nothing_is_refused(models: TinyModels, tokenizer: Any) -> None:
    """Before any model is asked for."""
    with pytest.raises(GateError) as error:
        fit_gate(replace(REQUEST, pool=(" ",)), models, tokenizer)
    assert error.value.message == "No token to fit the gate from: the texts of `gate.data` are empty"
    assert models.calls == []
