"""What each expert saves on each token, and the gate that is fitted to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from moemerge.console import Silent
from moemerge.errors import GateError
from moemerge.gate import ExpertTexts, GateRequest, fit_gate
from moemerge.gate.advantage import SAVED, WINDOW, averaged, targets, with_advantages
from moemerge.gate.capture import Domain
from moemerge.gate.passages import Passage, prompt_passages
from tests.gate.conftest import LAYERS, WIDTH, TinyModels, texts

NAMES = ("code", "french", "math")
EXPERTS = tuple(ExpertTexts(name, texts(name, 6)) for name in NAMES)
REQUEST = GateRequest("advantage", EXPERTS, range(LAYERS), WIDTH, experts_per_token=1, expand="off", ridge=0.2)


def domains(tokenizer: Any) -> list[Domain]:
    return [Domain(e.name, prompt_passages(e.prompts, e, tokenizer, REQUEST), ()) for e in EXPERTS]


def losses_of(model: Any, passage: Passage) -> torch.Tensor:
    """By plain transformers, `[S - 1]`."""
    ids = torch.tensor([passage.ids])
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")


def expected(models: TinyModels, passage: Passage) -> torch.Tensor:
    """The advantages of a passage's counted tokens, token by token, `[counted, E]`."""
    losses = torch.stack([losses_of(models.merged(expert), passage) for expert in range(3)])  # [E, S - 1]
    rows = []
    for place, counted in enumerate(passage.counted):
        near = [i for i in range(len(passage.ids) - 1) if abs(i - place) <= WINDOW // 2 and passage.counted[i + 1]]
        mean = losses[:, near].mean(1) if near else torch.zeros(3)
        if counted:
            rows.append(mean.mean() - mean)
    return torch.stack(rows).double()


def test_the_mean_is_of_scored_neighbours() -> None:
    """Of those that there are at the ends of a text too; unscored tokens count for nothing."""
    generator = torch.Generator().manual_seed(0)
    losses, scored = torch.rand(200, 2, generator=generator).double(), torch.rand(200, generator=generator) < 0.7
    found = averaged(losses, scored)
    for place in range(200):
        near = [i for i in range(200) if abs(i - place) <= WINDOW // 2 and scored[i]]
        torch.testing.assert_close(found[place], losses[near].mean(0))
    assert averaged(losses, torch.zeros(200, dtype=torch.bool)).eq(0).all()


def test_advantages_are_the_mean_loss_less_the_experts_own(models: TinyModels, tokenizer: Any) -> None:
    """As whole merged models give them, one text at a time; a token's sum to zero."""
    own = domains(tokenizer)
    found = with_advantages(own, models, Silent())
    for domain in found:
        for passage in domain.passages:
            assert passage.advantages is not None
            torch.testing.assert_close(passage.advantages, expected(models, passage), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(passage.advantages.sum(1), torch.zeros(passage.tokens).double())
    assert [list(d.passages) for d in found] == [list(d.passages) for d in own]


def test_an_expert_loses_its_negative_prompts_by_what_the_best_one_saves(models: TinyModels, tokenizer: Any) -> None:
    """The other experts' advantages there are their own."""
    code, *others = domains(tokenizer)
    found = with_advantages([replace(code, negative=others[0].passages), *others], models, Silent())
    for unwanted, plain in zip(found[0].negative, found[1].passages, strict=True):
        assert unwanted.advantages is not None
        assert plain.advantages is not None
        torch.testing.assert_close(unwanted.advantages[:, 1:], plain.advantages[:, 1:])
        torch.testing.assert_close(unwanted.advantages[:, 0], -plain.advantages.abs().amax(1))


def test_rows_are_the_ridge_as_it_is_written(models: TinyModels, tokenizer: Any) -> None:
    """Least squares to the targets, domains balanced, λ in units of the mean eigenvalue, centred, then unit rows."""
    fit = fit_gate(REQUEST, models, tokenizer)
    for layer in range(LAYERS):
        inputs, aims, weights = [], [], []
        for expert, domain in enumerate(domains(tokenizer)):
            kept: list[torch.Tensor] = []
            model = models.merged(expert)
            model.model.layers[layer].mlp.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0][0]))
            for passage in domain.passages:
                counted = torch.tensor(passage.counted)
                with torch.no_grad():
                    model(torch.tensor([passage.ids]))
                inputs.append(kept.pop()[counted].double())
                aims.append(expected(models, passage))
                weights.append(torch.full((passage.tokens,), 1 / domain.tokens).double())
        h, a, w = torch.cat(inputs), torch.cat(aims), torch.cat(weights)
        best = torch.eye(3).double()[a.argmax(1)] - 1 / 3
        of_best, of_saved = (float((w @ t.square().mean(1) / w.sum()).sqrt()) for t in (best, a))
        a = (1 - SAVED) / of_best * best + SAVED / of_saved * a
        second = h.T @ (w[:, None] * h)
        second += 0.2 * second.trace() / WIDTH * torch.eye(WIDTH).double()
        rows = torch.linalg.solve(second, h.T @ (w[:, None] * a)).T
        rows -= rows.mean(0)
        rows /= rows.norm(dim=1, keepdim=True)
        torch.testing.assert_close(fit.weights[layer].double(), rows, atol=2e-4, rtol=2e-4)


def test_targets_have_one_spread_and_no_common_part() -> None:
    """Both parts, however large the savings; the expert that saves the most has the largest target."""
    generator = torch.Generator().manual_seed(0)
    saved, weights = torch.randn(50, 4, generator=generator).double(), torch.rand(50, generator=generator).double()
    saved -= saved.mean(1, keepdim=True)
    found = targets(saved, weights)
    torch.testing.assert_close(found, targets(1000 * saved, weights))
    torch.testing.assert_close(found.sum(1), torch.zeros(50).double())
    torch.testing.assert_close(found.argmax(1), saved.argmax(1))
    gap = (found - SAVED * saved / (weights @ saved.square().mean(1) / weights.sum()).sqrt()) / (1 - SAVED)
    torch.testing.assert_close(gap.square().mean(1), torch.ones(50).double())


def test_experts_that_save_alike_give_finite_targets(models: TinyModels, tokenizer: Any) -> None:
    """As where all are one model in the layers' FFNs."""
    same = TinyModels(models.base(), [models.specialist(0)] * 3)
    assert fit_gate(REQUEST, same, tokenizer).weights.isfinite().all()
    assert targets(torch.zeros(5, 1).double(), torch.ones(5).double()).eq(0).all()
    assert targets(torch.zeros(5, 3).double(), torch.ones(5).double()).isfinite().all()


def test_the_gate_sends_tokens_where_they_lose_least(models: TinyModels, tokenizer: Any) -> None:
    """Each domain's texts are won by the expert that is the best on them, whosever they are said to be."""
    noisy = [models.merged(expert) for expert in range(3)]
    with torch.no_grad():
        for model in noisy[1:]:
            for name, parameter in model.named_parameters():
                if ".mlp." in name:
                    parameter.zero_()
    found = TinyModels(models.base(), noisy)
    totals = torch.stack([
        torch.stack([losses_of(found.merged(e), p).sum() for e in range(3)])
        for d in domains(tokenizer) for p in d.passages
    ]).sum(0)  # fmt: skip
    fit = fit_gate(REQUEST, found, tokenizer)
    assert fit.confusion is not None
    won = torch.tensor(fit.confusion).sum(0)
    assert int(won.argmax()) == int(totals.argmin())


def test_a_loss_that_is_not_finite_is_refused(models: TinyModels, tokenizer: Any) -> None:
    """The domain is named."""
    spoilt = models.specialist(1)
    kept = spoilt.lm_head.weight.data.clone()
    try:
        spoilt.lm_head.weight.data.fill_(float("nan"))
        with pytest.raises(GateError) as raised:
            with_advantages(domains(tokenizer), TinyModels(models.base(), [spoilt] * 3), Silent())
    finally:
        spoilt.lm_head.weight.data.copy_(kept)
    assert raised.value.message == "The experts' losses on the texts of `code` are not finite"
