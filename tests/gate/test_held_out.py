"""What is chosen and judged on held-out tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from moemerge.gate import held_out, layer_rows
from moemerge.gate.capture import Captured
from moemerge.gate.layer_rows import fit_layer
from moemerge.gate.moments import together
from moemerge.gate.request import GateRequest
from tests.gate.conftest import LABELLED

WIDTH, TOKENS, FOLDS = 24, 60, 4


def captured(apart: float, seed: int = 0, experts: int = 3, tokens: int = TOKENS, widest: float = 1.0) -> Captured:
    """Gaussian domains `apart` from each other, in four folds; the noise falls from `widest` to 1 over the width."""
    generator = torch.Generator().manual_seed(seed)
    means = apart * torch.randn(experts, WIDTH, generator=generator, dtype=torch.float64)
    folds = (torch.arange(experts * tokens) % FOLDS).sort(stable=True)
    labels = torch.arange(experts).repeat_interleave(tokens)[folds.indices]
    noise = torch.randn(experts * tokens, WIDTH, generator=generator, dtype=torch.float64)
    noise *= torch.linspace(widest, 1.0, WIDTH)
    return Captured(means[labels] + noise, labels, (*torch.bincount(folds.values).tolist(), 0), experts)


def logits_of(data: Captured, strength: float) -> torch.Tensor:
    """The judging logits of the discriminant at one λ."""
    parts = data.moments()
    return held_out.judging_logits(data, together(parts), parts, "discriminant", (strength,))[0]


def in_sample(data: Captured) -> Captured:
    """The same tokens in one fold."""
    return replace(data, sizes=(sum(data.sizes), 0))


def test_held_out_logits_come_from_the_other_folds() -> None:
    """Each token's logits are those of a fit to the tokens of the other folds, from scratch."""
    data = captured(1.0)
    logits = logits_of(data, 0.1)
    fold = torch.zeros(len(data.labels), dtype=torch.bool)
    fold[data.places(2)] = True
    rest, labels = data.tokens[~fold].numpy(), data.labels[~fold].numpy()
    weights = 1 / TOKENS
    second = weights * rest.T @ rest
    targets = weights * rest.T @ np.eye(3)[labels]
    rows = np.linalg.solve(second + 0.1 * np.trace(second) / WIDTH * np.eye(WIDTH), targets).T
    rows -= rows.mean(0)
    rows /= np.sqrt((rows**2).sum(1).mean())
    np.testing.assert_allclose(logits[fold].numpy(), data.tokens[fold].numpy() @ rows.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("init", LABELLED)
def test_fewer_tokens_than_dimensions(init: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the span of the tokens everything is what it is in all dimensions."""
    data = captured(1.0, tokens=6)
    assert data.tokens.shape[0] < WIDTH
    request = GateRequest(init, (), (0,), WIDTH, keep_statistics=True)  # type: ignore[arg-type]  # any of the methods
    rows, moments = fit_layer(data, request, (0.1, 1.0))
    monkeypatch.setattr(layer_rows, "_span", lambda all_of_it: (None, all_of_it))
    others, full = fit_layer(data, request, (0.1, 1.0))
    torch.testing.assert_close(moments.second, full.second, rtol=1e-5, atol=1e-5)
    for strength in (0.1, 1.0):
        torch.testing.assert_close(rows[strength].weights, others[strength].weights, rtol=1e-4, atol=1e-4)
        assert rows[strength].loss == pytest.approx(others[strength].loss, rel=1e-3, abs=1e-6)


def test_the_scale_out_of_fold_is_less_sharp_than_in_sample() -> None:
    """In-sample logits are too sure of themselves; the held-out scale has the lower loss on fresh tokens."""
    data = captured(0.25, tokens=20)
    outside = logits_of(data, 0.01)
    inside = logits_of(in_sample(data), 0.01)
    fair, sharp = held_out.best_scale(outside, data.labels), held_out.best_scale(inside, data.labels)
    assert fair < 0.5 * sharp
    assert held_out.nll(fair * outside, data.labels) < held_out.nll(sharp * outside, data.labels)


def test_the_scale_minimises_the_loss() -> None:
    """No factor on a fine grid has a lower loss."""
    data = captured(0.4)
    logits = logits_of(data, 0.1)
    best = held_out.best_scale(logits, data.labels)
    losses = [held_out.nll(best * 2.0**power * logits, data.labels) for power in np.linspace(-3, 3, 61)]
    assert min(losses) == pytest.approx(held_out.nll(best * logits, data.labels), abs=1e-9)


@pytest.mark.parametrize(("sign", "bound"), [(1.0, 50.0), (-1.0, 0.05)], ids=["always right", "always wrong"])
def test_the_scale_stays_within_bounds(sign: float, bound: float) -> None:
    """Logits that are always right, or worse than none, give a finite, positive scale."""
    labels = torch.arange(3).repeat(5)
    logits = sign * torch.eye(3, dtype=torch.float64)[labels]
    scale = held_out.best_scale(logits, labels)
    assert scale * held_out.spread(logits, labels) == pytest.approx(bound, rel=1e-3)


def test_the_scale_of_equal_logits_is_one() -> None:
    """Nothing to scale."""
    assert held_out.best_scale(torch.ones(4, 2, dtype=torch.float64), torch.tensor([0, 1, 0, 1])) == 1.0


def test_the_logits_of_several_experts_a_token_have_a_fixed_spread() -> None:
    """However well the domains part: their likelihood would sharpen the logits until one expert is left."""
    for apart in (0.3, 3.0):
        data = captured(apart)
        request = GateRequest("discriminant", (), (0,), WIDTH, experts_per_token=2)
        rows = fit_layer(data, request, (0.1,))[0][0.1]
        logits = data.tokens.double() @ rows.weights.double().T
        assert held_out.spread(logits, data.labels) == pytest.approx(held_out.SPREAD, rel=1e-4)
        unscaled = fit_layer(data, replace(request, experts_per_token=1), (0.1,))[0][0.1]
        torch.testing.assert_close(rows.weights, rows.scale * unscaled.weights)


def test_regret_is_what_a_better_choice_would_save() -> None:
    """By the largest logit, balanced over the experts' texts."""
    advantages = torch.tensor([[0.5, -0.5], [0.2, -0.2], [-0.1, 0.1]]).double()
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]).double()
    labels = torch.tensor([0, 0, 1])
    assert held_out.regret(logits, advantages, labels) == pytest.approx((1.0 + 0.0) / 4 + 0.2 / 2)


def test_more_noise_wants_more_ridge() -> None:
    """With few noisy tokens the chosen λ is larger than with many."""
    request = GateRequest("discriminant", (), (0,), WIDTH)
    few, many = (
        min((rows.loss, strength) for strength, rows in fit_layer(data, request, held_out.GRID)[0].items())[1]
        for data in (captured(0.6, tokens=8, widest=6.0), captured(0.6, tokens=1000, widest=6.0))
    )
    assert few > many


def test_domains_apart_are_told_apart() -> None:
    """Separable domains have an accuracy near one, equal ones that of a coin."""
    for apart, low, high in ((2.0, 0.98, 1.0), (0.0, 0.2, 0.47)):
        data = captured(apart)
        judged = held_out.judge(logits_of(data, 0.1), data.labels)
        assert low <= judged.accuracy <= high
        torch.testing.assert_close(judged.confusion.sum(1), torch.ones(3, dtype=torch.float64))


def test_pairs_let_only_two_compete() -> None:
    """A third expert that wins everything does not hide that two others part well; a tie is half a win."""
    logits = torch.tensor([[1.0, 0.0, 9.0], [0.0, 1.0, 9.0], [0.0, 0.0, 9.0]]).double()
    judged = held_out.judge(logits, torch.tensor([0, 1, 2]))
    assert judged.pairs.tolist() == [[0.5, 1.0, 0.5], [1.0, 0.5, 0.5], [0.5, 0.5, 0.5]]
    assert judged.accuracy == pytest.approx(1 / 3)
    assert held_out.mean_of([judged, judged]).pairs.tolist() == judged.pairs.tolist()


def test_the_loss_is_balanced_over_the_experts() -> None:
    """An expert with many tokens counts as much as one with few."""
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]).double()
    labels = torch.tensor([0, 0, 0, 1])
    right, wrong = np.log1p(np.exp(-2)), np.log1p(np.exp(2))
    assert held_out.nll(logits, labels) == pytest.approx((right + wrong) / 2)


def test_bf16_moves_routes_of_rows_that_are_nearly_equal() -> None:
    """Rows with a large common part lose their difference in bf16; unit rows apart do not."""
    generator = torch.Generator().manual_seed(0)
    sample, labels = torch.randn(400, WIDTH, generator=generator), torch.arange(400) % 2
    apart = torch.randn(2, WIDTH, generator=generator)
    found = held_out.bf16_agreement(sample, torch.stack([apart, 100 + 0.1 * apart]), labels)
    assert found[0] > 0.98
    assert found[1] < 0.9
    exact, rounded = (sample.to(kind) @ apart.to(kind).T for kind in (torch.float32, torch.bfloat16))
    same = exact.argmax(1) == rounded.argmax(1)
    assert found[0] == pytest.approx(sum(float(same[labels == e].double().mean()) for e in range(2)) / 2)
