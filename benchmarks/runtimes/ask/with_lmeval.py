"""lm-eval's harness, by its own model class: each token of the vocabulary as the continuation of a context."""

from __future__ import annotations

from typing import Any

from answers import answer_all
from lm_eval.models.huggingface import HFLM


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """In fp32."""
    model = HFLM(pretrained=asked["model"], dtype="float32", device="cpu", batch_size=64)
    found = []
    for length in asked["lengths"]:
        row = asked["tokens"][:length]
        requests = [(("", ""), row, [token]) for token in range(asked["vocabulary"])]
        found.append([logprob for logprob, _ in model._loglikelihood_tokens(requests, disable_tqdm=True)])
    return {"logprobs": found, "ids": [model.tok_encode(text) for text in asked["texts"]]}


if __name__ == "__main__":
    answer_all(answer)
