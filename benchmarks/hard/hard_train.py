"""Trains the specialists of the set "surface" on a CPU: adapters of rank 32 on every matrix of SmolLM2-135M.

    python benchmarks/hard/hard_texts.py
    python benchmarks/hard/hard_train.py        # writes work/hard/adapters/DOMAIN, some minutes of one core each

Attention and FFN are trained alike, so that the shared weights matter more than with the demo's adapters. A few texts
of development, which no specialist has seen, are measured before and after.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import torch
from hard_texts import ROOT, WORK
from peft import LoraConfig, get_peft_model

sys.path.insert(0, str(ROOT / "examples"))

from train_specialists import ATTENTION, FFN, batch, load_base, mean_loss, save_adapter  # after the path

DOMAINS = ("c", "legal")
RANK, ALPHA, WARMUP = 32, 64, 0.05
ROW_TOKENS, ROWS = 160, 2
RATE = 5e-4
STEPS = {"c": 300, "legal": 94}
"""One look at every text."""
MEASURED = 12
"""Documents of development that are measured before and after."""


def rows_of(tokenizer: object, path: Path) -> list[list[int]]:
    """The documents of a file as token ids, each cut to a row."""
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [row[:ROW_TOKENS] for row in tokenizer(texts)["input_ids"]]  # type: ignore[operator]


def train(domain: str, steps: int, rate: float, texts: Path, output: Path) -> None:
    """One specialist from the base to its folder."""
    torch.manual_seed(0)
    base, tokenizer = load_base()
    rows = rows_of(tokenizer, texts / "train" / f"{domain}.jsonl")
    unseen = rows_of(tokenizer, texts / "development" / f"{domain}.jsonl")[:MEASURED]
    before = mean_loss(base, unseen)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=[*FFN, *ATTENTION], r=RANK, lora_alpha=ALPHA)
    model = get_peft_model(base, config)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0, betas=(0.9, 0.95))
    order, shuffle = list[int](), random.Random(0)
    model.train()
    started = time.monotonic()
    for step in range(steps):
        if len(order) < ROWS:
            order += shuffle.sample(range(len(rows)), len(rows))
        chosen, order = order[:ROWS], order[ROWS:]
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (done + 0.01) / WARMUP) * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
        ids, mask, labels = batch([rows[index] for index in chosen])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 6 == 0:
            print(
                f"{domain}: step {step + 1}, {time.monotonic() - started:.0f} s, {float(loss.detach()):.3f}", flush=True
            )
    save_adapter(model, output / domain)
    print(f"{domain}: development texts: base {before:.4f}, specialist {mean_loss(model, unseen):.4f}", flush=True)


def main() -> None:
    """Trains all, or those that are named."""
    parser = argparse.ArgumentParser(description="Train the specialists of the hard set.")
    parser.add_argument("--domain", choices=DOMAINS, nargs="*", default=DOMAINS)
    parser.add_argument("--steps", type=int, help="[300 for C, 94 for licences: each text once]")
    parser.add_argument("--rate", type=float, default=RATE, help="[5e-4]")
    parser.add_argument("--texts", type=Path, default=WORK / "texts", help="[work/hard/texts]")
    parser.add_argument("--output", type=Path, default=WORK / "adapters", help="[work/hard/adapters]")
    arguments = parser.parse_args()
    for domain in arguments.domain:
        train(domain, arguments.steps or STEPS[domain], arguments.rate, arguments.texts, arguments.output)


if __name__ == "__main__":
    main()
