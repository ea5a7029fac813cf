"""The closed forms against independent numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moemerge.gate import closed_forms, systems
from moemerge.gate.closed_forms import FOLD_EPSILON, METHODS, bias_vector, centred, centroid, lda, ridge
from moemerge.gate.moments import Moments
from moemerge.gate.systems import System
from tests.gate.conftest import LABELLED

WIDTH = 12


def domain_tokens(counts: list[int], seed: int = 0, apart: float = 2.0) -> list[np.ndarray]:
    """Correlated Gaussian tokens about a mean of their own."""
    random = np.random.default_rng(seed)
    mix = random.normal(size=(WIDTH, WIDTH))
    return [random.normal(size=(n, WIDTH)) @ mix + apart * random.normal(size=WIDTH) + 1.0 for n in counts]


def moments_of(domains: list[np.ndarray], negatives: dict[int, np.ndarray] | None = None) -> Moments:
    """The moments by their definition."""
    negatives = negatives or {}
    everything = domains + list(negatives.values())
    empty = np.zeros(WIDTH)
    return Moments(
        second=torch.tensor(sum(d.T @ d / len(d) for d in everything)),
        first=torch.tensor(np.stack([d.mean(0) for d in domains])),
        mass=torch.ones(len(domains), dtype=torch.float64),
        negative=torch.tensor(
            np.stack([negatives[e].mean(0) if e in negatives else empty for e in range(len(domains))])
        ),
        negative_mass=torch.tensor([float(e in negatives) for e in range(len(domains))], dtype=torch.float64),
    )


def weighted_rows(domains: list[np.ndarray], targets: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All tokens and their targets, each row times the square root of its weight 1/n."""
    tokens = np.concatenate([d / np.sqrt(len(d)) for d in domains])
    wanted = np.concatenate([np.tile(t, (len(d), 1)) / np.sqrt(len(d)) for d, t in zip(domains, targets, strict=True)])
    return tokens, wanted


def sized(rows: np.ndarray) -> np.ndarray:
    """About their mean, with a mean square norm of 1."""
    rows = rows - rows.mean(0)
    return rows / np.sqrt((rows**2).sum(1).mean())


@pytest.mark.parametrize("counts", [[50, 80, 40], [3, 2, 4]], ids=["many tokens", "fewer tokens than dimensions"])
def test_ridge_is_penalised_least_squares(counts: list[int]) -> None:
    """Ridge equals `lstsq` with the penalty as extra rows, up to their mean and size; also in the dual's regime."""
    domains = domain_tokens(counts)
    tokens, wanted = weighted_rows(domains, list(np.eye(3)))
    penalty = 0.1 * np.trace(tokens.T @ tokens) / WIDTH
    tokens = np.concatenate([tokens, np.sqrt(penalty) * np.eye(WIDTH)])
    wanted = np.concatenate([wanted, np.zeros((WIDTH, 3))])
    expected = np.linalg.lstsq(tokens, wanted, rcond=None)[0].T
    rows = ridge(moments_of(domains), 0.1).numpy()
    np.testing.assert_allclose(rows, sized(expected), atol=1e-10)


def test_ridge_primal_equals_the_dual() -> None:
    """With fewer tokens than dimensions and a small λ the d × d system loses nothing against the n × n one."""
    domains = domain_tokens([2, 2, 3])
    tokens, wanted = weighted_rows(domains, list(np.eye(3)))
    kernel = tokens @ tokens.T
    penalty = 1e-3 * np.trace(kernel) / WIDTH
    expected = (tokens.T @ np.linalg.solve(kernel + penalty * np.eye(len(kernel)), wanted)).T
    rows = ridge(moments_of(domains), 1e-3).numpy()
    np.testing.assert_allclose(rows, sized(expected), atol=1e-9)


def test_ridge_sends_negative_tokens_to_minus_one() -> None:
    """A negative prompt's tokens are a domain whose target is −1 for the expert that must not win, 0 for the others."""
    domains, (negative,) = domain_tokens([50, 80, 40]), domain_tokens([30], seed=5)
    targets = [*np.eye(3), np.array([0.0, -1.0, 0.0])]
    tokens, wanted = weighted_rows([*domains, negative], targets)
    penalty = 0.3 * np.trace(tokens.T @ tokens) / WIDTH
    tokens = np.concatenate([tokens, np.sqrt(penalty) * np.eye(WIDTH)])
    wanted = np.concatenate([wanted, np.zeros((WIDTH, 3))])
    expected = np.linalg.lstsq(tokens, wanted, rcond=None)[0].T
    rows = ridge(moments_of(domains, {1: negative}), 0.3).numpy()
    np.testing.assert_allclose(rows, sized(expected), atol=1e-10)


def test_bias_vector_is_one_on_every_token() -> None:
    """`a·h` is about 1 where the tokens share a mean, so that `b a` acts as the bias b."""
    domains = domain_tokens([4000, 4000], apart=0.2)
    shifted = [d + 30.0 for d in domains]
    moments = moments_of(shifted)
    second = moments.second.numpy() / 2
    penalty = FOLD_EPSILON * np.trace(second) / WIDTH
    mean = (shifted[0].mean(0) + shifted[1].mean(0)) / 2
    expected = np.linalg.solve(second + penalty * np.eye(WIDTH), mean)
    vector = bias_vector(moments).numpy()
    np.testing.assert_allclose(vector, expected, atol=1e-12)
    assert np.abs(np.concatenate(shifted) @ vector - 1).max() < 0.2


def textbook_lda(domains: list[np.ndarray], strength: float, tokens: np.ndarray) -> np.ndarray:
    """Log posteriors of LDA with equal priors and a shrunken pooled covariance, straight from Gaussian densities."""
    means = [d.mean(0) for d in domains]
    within = sum((d - m).T @ (d - m) / len(d) for d, m in zip(domains, means, strict=True)) / len(domains)
    within = within + strength * np.trace(within) / WIDTH * np.eye(WIDTH)
    inverse = np.linalg.inv(within)
    density = np.stack([-0.5 * np.einsum("nd,de,ne->n", tokens - m, inverse, tokens - m) for m in means], 1)
    return (
        density
        - np.log(np.exp(density - density.max(1, keepdims=True)).sum(1, keepdims=True))
        - density.max(1, keepdims=True)
    )


def test_lda_with_its_exact_bias_is_the_textbook(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bias added as a bias, before it is folded, the posteriors are those of the densities."""
    domains = domain_tokens([60, 90, 70])
    tokens = np.concatenate(domains)
    rows: dict[str, torch.Tensor] = {}

    def keep(moments: Moments, weights: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        rows["weights"], rows["bias"] = weights, bias
        return weights

    monkeypatch.setattr(closed_forms, "_without_negatives", keep)
    lda(moments_of(domains), 0.1)
    logits = torch.tensor(tokens) @ rows["weights"].T + rows["bias"]
    np.testing.assert_allclose(torch.log_softmax(logits, 1).numpy(), textbook_lda(domains, 0.1, tokens), atol=1e-9)


def test_lda_folds_its_bias() -> None:
    """Folded, nearly all of the textbook's decisions stay; without the bias many change."""
    domains = [d + 20.0 for d in domain_tokens([600, 900, 700], apart=1.0)]
    tokens = np.concatenate(domains)
    exact = textbook_lda(domains, 0.1, tokens).argmax(1)
    rows = lda(moments_of(domains), 0.1).numpy()
    assert ((tokens @ rows.T).argmax(1) == exact).mean() > 0.98
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-12)


def test_centroid_is_the_unit_mean() -> None:
    """The rows are the domains' means, divided by their norms."""
    domains = domain_tokens([5, 9])
    means = np.stack([d.mean(0) for d in domains])
    rows = centroid(moments_of(domains), 0.0).numpy()
    np.testing.assert_allclose(rows, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-12)


def test_centred_picks_the_nearest_mean() -> None:
    """With its bias folded, the largest logit is the nearest mean's for nearly every token."""
    domains = [d + 20.0 for d in domain_tokens([400, 300, 500], apart=1.0)]
    tokens = np.concatenate(domains)
    means = np.stack([d.mean(0) for d in domains])
    nearest = ((tokens[:, None] - means) ** 2).sum(2).argmin(1)
    rows = centred(moments_of(domains), 0.0).numpy()
    assert ((tokens @ rows.T).argmax(1) == nearest).mean() > 0.94


@pytest.mark.parametrize("init", LABELLED)
def test_negative_texts_lower_the_experts_logit(init: str) -> None:
    """Tokens of a negative prompt lose logit for that expert, against the others, and are no longer its own."""
    domains = domain_tokens([200, 200, 200], apart=4.0)
    negative = domain_tokens([100], seed=0, apart=4.0)[0] * 0.5 + domains[2][:100] * 0.5  # between experts 0 and 2
    plain = torch.tensor(negative) @ METHODS[init](moments_of(domains), 0.1).T
    warned = torch.tensor(negative) @ METHODS[init](moments_of(domains, {0: negative}), 0.1).T
    before = torch.log_softmax(plain, 1)[:, 0].mean()
    after = torch.log_softmax(warned, 1)[:, 0].mean()
    assert after < before
    assert (warned.argmax(1) == 0).double().mean() < 0.1
    own = torch.tensor(domains[1]) @ METHODS[init](moments_of(domains, {0: negative}), 0.1).T
    assert (own.argmax(1) == 1).double().mean() > 0.8


@pytest.mark.parametrize("init", LABELLED)
def test_experts_in_another_order_give_rows_in_that_order(init: str) -> None:
    """Permuting the experts permutes the rows and changes nothing else."""
    domains, order = domain_tokens([30, 40, 50]), [2, 0, 1]
    negative = domain_tokens([20], seed=7)[0]
    rows = METHODS[init](moments_of(domains, {2: negative}), 0.1)
    permuted = METHODS[init](moments_of([domains[i] for i in order], {0: negative}), 0.1)
    torch.testing.assert_close(permuted, rows[order], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("step", [systems.STEP, 48, 13])
@pytest.mark.parametrize(("size", "strength"), [(1.0, 0.01), (1e-12, 0.01), (1e12, 0.01), (1.0, 1e-9), (1.0, 1e-13)])
def test_solutions_are_those_of_fp64(size: float, strength: float, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an fp32 factor leaves of it: eigenvalues over twelve decades, hidden states far from one, blocks."""
    monkeypatch.setattr(systems, "STEP", step)
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.normal(size=(48, 48)))[0]
    matrix = size * basis * np.logspace(0, -12, 48) @ basis.T
    rows = size * generator.normal(size=(3, 48))
    found = System(torch.tensor(matrix)).solve(strength, torch.tensor(rows)).numpy()
    regularised = matrix + strength * np.trace(matrix) / 48 * np.eye(48)
    exact = np.linalg.solve(regularised, rows.T).T
    condition = np.linalg.cond(regularised)
    assert np.linalg.norm(found - exact) <= max(1e-11, 1e-15 * condition) * np.linalg.norm(exact)


def test_an_fp32_factor_is_given_up_where_it_is_of_no_use() -> None:
    """Too ill conditioned, or not positive in fp32: None, and the factor is taken in fp64."""
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.normal(size=(48, 48)))[0]
    wanted = torch.tensor(generator.normal(size=(48, 3)))
    systems = [System(torch.tensor(basis * np.logspace(0, -decades, 48) @ basis.T)) for decades in (4, 8, 12)]
    found = [system._refined(0.0, wanted) for system in systems]
    assert [solution is None for solution in found] == [False, True, True]


@pytest.mark.parametrize("step", [48, 7])
def test_a_factor_in_blocks_is_that_of_lapack(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a matrix that is not positive there is none, wherever the block lies that shows it."""
    monkeypatch.setattr(systems, "STEP", step)
    tokens = torch.randn(200, 48, generator=torch.Generator().manual_seed(0))
    matrix = tokens.T @ tokens / 200
    factor = systems._factor(matrix)
    assert factor is not None
    torch.testing.assert_close(factor.tril(), torch.linalg.cholesky(matrix))
    for place in (0, 20, 47):
        changed = matrix.clone()
        changed[place, place] = -1.0
        assert systems._factor(changed) is None
