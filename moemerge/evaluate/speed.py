"""Tokens per second of several models, measured in turn (A B A B ...), so that a busy machine slows all alike.

Prefill reads a prompt at once; decode writes one token after the other with a cache: one sequence, no end of text.
"""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moemerge.console import Progress, Silent
from moemerge.dense.generation import context_of, device_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEED = 0
"""Of the random prompt."""
ROUNDS = 3
"""How often each model is measured."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second, medians over the rounds."""

    prefill: float
    decode: float


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        rates: by name of the model.
        prompt_tokens: tokens of the prompt; fewer than asked for where a context is short.
        new_tokens: tokens that were decoded; likewise.
    """

    rates: Mapping[str, Rate]
    prompt_tokens: int
    new_tokens: int

    def to_json(self) -> dict[str, Any]:
        """The report's `tokens_per_second`; `base` is null where it was not measured."""
        rates = {name: {"prefill": rate.prefill, "decode": rate.decode} for name, rate in self.rates.items()}
        return {"base": None, **rates, "prompt_tokens": self.prompt_tokens, "new_tokens": self.new_tokens}


def measure_speed(
    models: Mapping[str, PreTrainedModel],
    prompt_tokens: int = 512,
    new_tokens: int = 32,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> Speed:
    """Measures prefill and decode, after one round that only warms up.

    Args:
        models: by name, in eval mode, each on its own device.
        prompt_tokens: tokens of the prompt; the shortest context leaves room for the new ones.
        new_tokens: tokens to decode, half of the shortest context at most.
        rounds: how often each is measured, at least once.
        progress: is told measurements, those that only warm up too.
    """
    progress = progress or Silent()
    contexts = [context for model in models.values() if (context := context_of(model)) is not None]
    if contexts:
        new_tokens = min(new_tokens, max(1, min(contexts) // 2))
        prompt_tokens = max(1, min(prompt_tokens, min(contexts) - new_tokens))
    vocabulary = min(int(model.config.get_text_config().vocab_size) for model in models.values())
    ids = torch.randint(vocabulary, (1, prompt_tokens), generator=torch.Generator().manual_seed(SEED))
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for warm in (False, *(True for _ in range(rounds))):
        for name, model in models.items():
            seconds = _once(model, ids, new_tokens)
            progress.advance()
            if warm:
                taken[name].append(seconds)
    return Speed(
        {
            name: Rate(
                prompt_tokens / statistics.median(prefill for prefill, _ in times),
                new_tokens / statistics.median(decode for _, decode in times),
            )
            for name, times in taken.items()
        },
        prompt_tokens,
        new_tokens,
    )


@torch.inference_mode()
def _once(model: Any, ids: Tensor, new_tokens: int) -> tuple[float, float]:
    """Seconds of one prefill and of the decoding of `new_tokens` after it."""
    device = device_of(model)
    ids = ids.to(device)
    word = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"  # before 5.24
    started = _now(device)
    output = model(input_ids=ids, use_cache=True, logits_to_keep=1)  # as `generate` reads a prompt
    between = _now(device)
    for _ in range(new_tokens):
        token = output.logits[:, -1:].argmax(-1)
        output = model(input_ids=token, use_cache=True, **{word: output.past_key_values})
    return between - started, _now(device) - between


def _now(device: torch.device) -> float:
    """The time, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
