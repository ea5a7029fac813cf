"""Measure the demo's specialists on the project's own evaluation texts, in fp32.

    python examples/measure_specialists.py
    python examples/measure_specialists.py --full math examples/full/math

The first command prints the mean next-token loss (nats) of the base and of every specialist on every domain, and what
an oracle could reach in the sparse model: the specialist's own feed-forward networks, with the attention averaged over
the specialists that are merged. The second measures one full fine-tune on all domains.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from train_specialists import ATTENTION, HERE, Log, load_base, mean_loss
from training_sources import DOMAINS

Weights = dict[str, Tensor]
Losses = dict[str, float]


def evaluation_rows(tokenizer: PreTrainedTokenizerBase, domain: str) -> list[list[int]]:
    """The evaluation texts of a domain as token ids, whole."""
    lines = (HERE / "eval" / f"{domain}.jsonl").read_text(encoding="utf-8").splitlines()
    return [tokenizer(json.loads(line)["text"])["input_ids"] for line in lines]


def losses(model: nn.Module, texts: dict[str, list[list[int]]]) -> Losses:
    """The loss of one model on each domain."""
    return {domain: mean_loss(model, rows) for domain, rows in texts.items()}


def specialist_weights(adapter: Path) -> Weights:
    """The specialist's changed weights in fp32, folded as peft folds them."""
    base, _ = load_base()
    merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    return {name: weight for name, weight in merged.state_dict().items() if "proj" in name}


def is_attention(name: str) -> bool:
    """Whether a weight is one of those that the sparse model averages."""
    return any(part in name for part in ATTENTION)


def show(log: Log, name: str, row: Losses) -> None:
    """One line of the table."""
    log(f"{name:16s}" + "".join(f"  {domain} {loss:.4f}" for domain, loss in row.items()))


def measure_adapters(
    log: Log, base: PreTrainedModel, texts: dict[str, list[list[int]]], folder: Path, groups: Sequence[Sequence[str]]
) -> None:
    """The table of all adapters, then the oracle's share of the gain for each group of merged specialists."""
    found = [domain for domain in DOMAINS if (folder / domain).is_dir()]
    specialists = {domain: specialist_weights(folder / domain) for domain in found}
    base_losses = losses(base, texts)
    show(log, "base", base_losses)
    own: Losses = {}
    for domain, weights in specialists.items():
        base.load_state_dict(weights, strict=False)
        row = losses(base, texts)
        own[domain] = row[domain]
        show(log, domain, row)

    for group in groups:
        if not set(group) <= set(found):
            continue
        attention = {
            name: torch.stack([specialists[domain][name] for domain in group]).mean(0)
            for name in specialists[group[0]]
            if is_attention(name)
        }
        kept = gain = 0.0
        for domain in group:
            base.load_state_dict({**specialists[domain], **attention}, strict=False)
            loss = mean_loss(base, texts[domain])
            kept += base_losses[domain] - loss
            gain += base_losses[domain] - own[domain]
            share = (base_losses[domain] - loss) / (base_losses[domain] - own[domain])
            log(f"oracle of {'+'.join(group)}: {domain} {loss:.4f}, keeps {share:.3f} of its gain")
        log(f"oracle of {'+'.join(group)}: keeps {kept / gain:.3f} of the pooled gain")


def main() -> None:
    """Measure the adapters, or one full fine-tune."""
    parser = argparse.ArgumentParser(description="Measure the demo's specialists on the evaluation texts.")
    parser.add_argument("--adapters", type=Path, default=HERE / "adapters", help="folder of the adapters")
    parser.add_argument("--full", nargs=2, metavar=("DOMAIN", "FOLDER"), help="measure this full fine-tune instead")
    arguments = parser.parse_args()

    base, tokenizer = load_base()
    texts = {domain: evaluation_rows(tokenizer, domain) for domain in DOMAINS}
    if arguments.full:
        domain, folder = arguments.full
        log = Log(HERE / "logs" / f"evaluation-{domain}-full.log")
        show(log, "base", losses(base, texts))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        show(log, f"{domain} (full)", losses(model, texts))
        return
    log = Log(HERE / "logs" / "evaluation.log")
    for domain, rows in texts.items():
        log(f"{domain}: {len(rows)} texts, {sum(map(len, rows))} tokens")
    trio = ("code", "math", "french")
    measure_adapters(log, base, texts, arguments.adapters, [trio, (*trio, "spanish")])


if __name__ == "__main__":
    main()
