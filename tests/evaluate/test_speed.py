"""Prefill and decode of a mixture and of its base, in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moemerge.evaluate import speed
from moemerge.evaluate.speed import measure_speed
from tests.moe import load


def test_both_models_are_measured_in_turn(talker: Path, talking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A B A B, one round to warm up, and as many tokens as are said."""
    calls: list[tuple[str, int]] = []
    models = {"moe": talking, "base": load(talker)}
    for name, model in models.items():
        model.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: calls.append((name, kwargs["input_ids"].shape[1])), with_kwargs=True
        )
    found = measure_speed(models, prompt_tokens=10, new_tokens=3, rounds=2)
    assert calls == [(name, tokens) for _ in range(3) for name in ("moe", "base") for tokens in (10, 1, 1, 1)]
    rates = found.to_json()
    assert list(rates) == ["base", "moe", "prompt_tokens", "new_tokens"]
    assert (rates["prompt_tokens"], rates["new_tokens"]) == (10, 3)
    assert all(rates[name][kind] > 0 for name in models for kind in ("prefill", "decode"))


def test_rates_are_medians_of_tokens_a_second(talking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slow round does not count, nor does the first."""
    seconds = iter([(99.0, 99.0), (2.0, 1.0), (50.0, 50.0), (1.0, 0.5)])
    monkeypatch.setattr(speed, "_once", lambda *_: next(seconds))
    found = measure_speed({"moe": talking}, prompt_tokens=20, new_tokens=4)
    assert found.to_json() == {
        "base": None, "moe": {"prefill": 10.0, "decode": 4.0}, "prompt_tokens": 20, "new_tokens": 4,
    }  # fmt: skip


def test_the_context_bounds_prompt_and_new_tokens(talking: Any) -> None:
    """Of 96 positions, 32 are for new tokens; where more are asked for, half."""
    found = measure_speed({"moe": talking}, rounds=1)
    assert (found.prompt_tokens, found.new_tokens) == (64, 32)
    found = measure_speed({"moe": talking}, prompt_tokens=512, new_tokens=500, rounds=1)
    assert (found.prompt_tokens, found.new_tokens) == (48, 48)
