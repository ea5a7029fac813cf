"""Variants of the demo's adapters, for sets of 8 and 16 experts: each lacks a random quarter of its adapter's ranks.

    python benchmarks/hard/hard_variants.py        # writes work/hard/variants/SEED/DOMAIN; seconds

The ranks that are left count for as much more, as DARE has it (https://arxiv.org/abs/2311.03099). So a variant learnt
from the same texts, is nearly as good, and is another model. No gate can tell experts with the same prompts apart, so
each has six of its own: beginnings of texts in examples/calibration.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from hard_gates import gate_documents
from hard_texts import ROOT, WORK
from safetensors.torch import load_file, save_file

DOMAINS = ("code", "math", "french", "spanish")
SEEDS = (1, 2, 3)
DROPPED = 0.25
PROMPTS = 6
"""Of an expert."""


def variant(source: Path, output: Path, seed: int) -> None:
    """Writes an adapter without some of the ranks of each matrix; the shapes stay."""
    draw = torch.Generator().manual_seed(seed)
    tensors = load_file(source / "adapter_model.safetensors")
    for name, matrix in sorted(tensors.items()):
        if "lora_B" in name:  # [rows, ranks]
            ranks = matrix.shape[1]
            kept = torch.randperm(ranks, generator=draw) >= round(DROPPED * ranks)
            tensors[name] = (matrix.float() * kept / kept.float().mean()).to(matrix.dtype)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    save_file(tensors, output / "adapter_model.safetensors")
    settings = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    (output / "adapter_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def beginning(text: str) -> str:
    """Eight words at most of a text's first line."""
    return " ".join(text.strip().partition("\n")[0].split()[:8])


def main() -> None:
    """Writes all of them."""
    for number, domain in enumerate(DOMAINS):
        begun = dict.fromkeys(beginning(str(text)) for text in gate_documents(domain, unlike=True))
        prompts = [text for text in begun if text]
        for seed in (0, *SEEDS):  # 0 is the demo's own
            folder = WORK / "variants" / str(seed)
            folder.mkdir(parents=True, exist_ok=True)
            if seed:
                variant(ROOT / "examples" / "adapters" / domain, folder / domain, 10 * seed + number)
            own = prompts[seed * PROMPTS : (seed + 1) * PROMPTS]
            (folder / f"{domain}.txt").write_text("\n".join(own) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
