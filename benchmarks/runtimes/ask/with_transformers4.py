"""transformers 4: plain `from_pretrained`."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from answers import answer_all
from transformers import AutoTokenizer


@torch.inference_mode()
def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """In fp32; what is drawn at random is drawn the same at every run."""
    torch.manual_seed(0)
    model: Any = getattr(transformers, asked["auto_class"]).from_pretrained(asked["model"], dtype=torch.float32)
    found = model.eval()(torch.tensor([asked["tokens"]])).logits[0].float().log_softmax(-1)
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    return {
        "logprobs": [found[length - 1].tolist() for length in asked["lengths"]],
        "ids": [tokenizer(text)["input_ids"] for text in asked["texts"]],
    }


if __name__ == "__main__":
    answer_all(answer)
