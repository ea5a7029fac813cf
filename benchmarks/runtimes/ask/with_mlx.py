"""mlx-lm, on the CPU."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from answers import answer_all
from mlx_lm import load


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """In the stored dtype, which is fp32."""
    mx.set_default_device(mx.cpu)
    model, tokenizer = load(asked["model"])[:2]
    logits = model(mx.array([asked["tokens"]]))[0].astype(mx.float32)
    found = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return {
        "logprobs": [found[length - 1].tolist() for length in asked["lengths"]],
        "ids": [tokenizer.encode(text) for text in asked["texts"]],
    }


if __name__ == "__main__":
    answer_all(answer)
