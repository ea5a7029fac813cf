"""Losses of language models on texts by domain, by plain transformers: what the demo and the gate table print.

A loss is the mean next-token loss in nats over all tokens of a domain's texts, each text read from its beginning, in
the model's own dtype. Gain kept is what a model keeps of the specialists' gain over the base (DESIGN: Measures):
over the domains, Σ(L_base − L_model) / Σ(L_base − L_specialist).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Losses = Mapping[str, Tensor]
"""For each domain `[texts, 2]`: the sum of a text's token losses in nats, and the number of its tokens."""

RESAMPLES = 2000


def read_texts(folder: Path, domains: Iterable[str]) -> dict[str, list[str]]:
    """The evaluation texts of each domain, from `FOLDER/DOMAIN.jsonl`."""
    texts = {}
    for domain in domains:
        lines = (folder / f"{domain}.jsonl").read_text(encoding="utf-8").splitlines()
        texts[domain] = [json.loads(line)["text"] for line in lines if line.strip()]
    return texts


@torch.inference_mode()
def text_losses(model: Any, tokenizer: Any, texts: Iterable[str]) -> Tensor:
    """`[texts, 2]`: loss sum and token count of each text."""
    rows = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"].to(model.device)
        scores = model(ids, use_cache=False).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(scores, ids[0, 1:], reduction="sum")
        rows.append([float(loss), ids.shape[1] - 1])
    return torch.tensor(rows, dtype=torch.float64)


def mean(losses: Tensor) -> float:
    """Mean loss a token, in nats."""
    return float(losses[:, 0].sum() / losses[:, 1].sum())


def gain_kept(base: Losses, specialists: Losses, model: Losses) -> float:
    """The pooled gain kept."""
    gained = sum(mean(base[d]) - mean(model[d]) for d in specialists)
    possible = sum(mean(base[d]) - mean(specialists[d]) for d in specialists)
    return gained / possible


def gain_interval(base: Losses, specialists: Losses, model: Losses, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the pooled gain kept, by a paired bootstrap over the texts of each domain."""
    generator = torch.Generator().manual_seed(seed)
    gained = torch.zeros(RESAMPLES, dtype=torch.float64)
    possible = torch.zeros(RESAMPLES, dtype=torch.float64)
    for domain in specialists:
        count = len(base[domain])
        picked = torch.randint(count, (RESAMPLES, count), generator=generator)

        def resampled(losses: Losses, domain: str = domain, picked: Tensor = picked) -> Tensor:
            sums = losses[domain][picked].sum(1)
            return sums[:, 0] / sums[:, 1]

        gained += resampled(base) - resampled(model)
        possible += resampled(base) - resampled(specialists)
    kept = gained / possible
    return float(kept.quantile(0.025)), float(kept.quantile(0.975))
