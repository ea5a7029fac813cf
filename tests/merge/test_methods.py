"""The arithmetic of merging: identities that hold to the bit, and formulas against their textbook form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moemerge.execute.merge import dare_ties, mean, slerp, task_arithmetic, ties

METHODS: dict[str, Callable[[Tensor, Sequence[Tensor], Sequence[float]], Tensor]] = {
    "mean": lambda base, xs, w: mean(xs, w),
    "task_arithmetic": lambda base, xs, w: task_arithmetic(base, xs, w, 0.7),
    "slerp": lambda base, xs, w: slerp(xs[0], xs[-1], 0.3),
    "ties": lambda base, xs, w: ties(base, xs, w, 0.5, 1.0),
    "dare_ties": lambda base, xs, w: dare_ties(base, xs, w, 0.5, 1.0, range(len(xs))),
}


def tensors(count: int, seed: int = 0, shape: tuple[int, ...] = (6, 10)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 9), seed=st.integers(0, 1000), data=st.data())
def test_merging_identical_models_changes_no_bit(
    method: str, dtype: torch.dtype, count: int, seed: int, data: st.DataObject
) -> None:
    """Whatever the method, the number of models and their weights, N identical tensors come back bit for bit."""
    weights = data.draw(st.lists(st.floats(0.01, 10), min_size=count, max_size=count))
    stored = tensors(1, seed)[0].to(dtype)
    merged = METHODS[method](stored.double(), [stored.double()] * count, weights)
    assert torch.equal(merged.float().to(dtype), stored)


def test_mean_is_the_weighted_mean() -> None:
    """Equal to Σ wᵢ xᵢ / Σ wᵢ."""
    xs, weights = tensors(3), (1.0, 2.0, 5.0)
    expected = sum(w * x for w, x in zip(weights, xs, strict=True)) / sum(weights)
    torch.testing.assert_close(mean(xs, weights), expected)


def test_task_arithmetic_adds_scaled_deltas() -> None:
    """Equal to base + λ Σ wᵢ (xᵢ − base)."""
    base, *xs = tensors(3)
    expected = base + 0.4 * ((xs[0] - base) + 3 * (xs[1] - base))
    torch.testing.assert_close(task_arithmetic(base, xs, (1.0, 3.0), 0.4), expected)


def test_slerp_keeps_the_norm_of_equally_long_vectors() -> None:
    """On the sphere the way from one end to the other keeps its length, and the ends are the inputs."""
    first, second = (x / x.norm() for x in tensors(2))
    for t in (0.0, 0.25, 0.5, 1.0):
        assert float(slerp(first, second, t).norm()) == pytest.approx(1.0)
    torch.testing.assert_close(slerp(first, second, 0.0), first)
    torch.testing.assert_close(slerp(first, second, 1.0), second)


def test_slerp_of_opposite_or_zero_vectors_is_finite() -> None:
    """Where there is no angle, it falls back on the straight line."""
    (x,) = tensors(1)
    for other in (-x, torch.zeros_like(x), 2 * x):
        torch.testing.assert_close(slerp(x, other, 0.5), (x + other) / 2)


def test_ties_on_a_worked_example() -> None:
    """Trim to the larger half, elect the sign of the larger sum, average what agrees with it."""
    base = torch.zeros(4, dtype=torch.float64)
    first = torch.tensor([4.0, -3.0, 1.0, 0.5], dtype=torch.float64)
    second = torch.tensor([2.0, 5.0, -0.5, 0.1], dtype=torch.float64)
    # trimmed: [4, -3, 0, 0] and [2, 5, 0, 0]; signs: +, +; means of those that agree: 3 and 5
    expected = torch.tensor([3.0, 5.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(ties(base, [first, second], (1.0, 1.0), 0.5, 1.0), expected)


def test_dare_keeps_the_expected_share_and_rescales() -> None:
    """With one model, kept elements are the delta over the density, the others the base."""
    base, x = tensors(2, shape=(400, 50))
    merged = dare_ties(base, [x], (1.0,), 0.25, 1.0, [3])
    kept = merged != base
    assert float(kept.double().mean()) == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close((merged - base)[kept], ((x - base) / 0.25)[kept])
    assert torch.equal(merged, dare_ties(base, [x], (1.0,), 0.25, 1.0, [3]))
    assert not torch.equal(merged, dare_ties(base, [x], (1.0,), 0.25, 1.0, [4]))
