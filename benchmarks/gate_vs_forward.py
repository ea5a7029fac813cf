"""How long the gate takes beside transformers' own forward passes over the same tokens of the same merged models.

    python benchmarks/gate_vs_forward.py                     # the demo's recipe, 32 prompts an expert; two minutes
    python benchmarks/gate_vs_forward.py --runs 9 --recipe recipes/near-pair.yaml

An expert's prompts are the recipe's, then beginnings of the project's own texts. The gate is the recipe's, without
expansion. The forward passes make no logits and see no padding: prompts of equal length run together, or each prompt
alone. They come without the weights (whole models in memory), and with them (each merged model loaded by
`from_pretrained` from a checkpoint that was written before); the gate stage reads and merges the sources. All take
turns, and medians are compared. Exit status 1 says that the bar is missed: 1.2 times.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from turns import medians

from moemerge.build import fit_router, read_expert_texts
from moemerge.gate import ExpertTexts
from moemerge.models import MergedTensors, PlannedModels, load_tokenizer
from moemerge.plan import Plan, make_plan
from moemerge.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
BAR = 1.2
PROMPTS = 32
CHARACTERS = 160


def more_prompts(name: str, own: Sequence[str], count: int) -> list[str]:
    """So many prompts of a domain: its own, then the beginnings of the project's texts, and what follows them."""
    lines = (ROOT / "examples" / "eval" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line)["text"] for line in lines]
    pieces = [text[start : start + CHARACTERS] for start in (0, CHARACTERS) for text in found]
    more = (piece.rpartition(" ")[0] for piece in pieces)
    return [*own, *more][:count]


def with_prompts(texts: ExpertTexts) -> ExpertTexts:
    """An expert's texts with 32 prompts."""
    return replace(texts, prompts=tuple(more_prompts(texts.name, texts.prompts, PROMPTS)))


def of_equal_length(rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Token ids `[B, S]` without padding."""
    found: dict[int, list[Sequence[int]]] = defaultdict(list)
    for row in rows:
        found[len(row)].append(row)
    return [torch.tensor(batch) for batch in found.values()]


@torch.inference_mode()
def forward(model: Any, batches: Sequence[Tensor]) -> None:
    """The decoder without the head."""
    for ids in batches:
        model.model(input_ids=ids, use_cache=False)


class Reading:
    """Counts the seconds in which the gate reads and merges weights, in one thread or several."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._busy, self._since, self._lock = 0, 0.0, Lock()
        for name in ("read", "rows"):
            setattr(MergedTensors, name, self._timed(getattr(MergedTensors, name)))

    def _changed(self, by: int) -> None:
        with self._lock:
            if by > 0 and not self._busy:
                self._since = time.perf_counter()
            self._busy += by
            if not self._busy:
                self.seconds += time.perf_counter() - self._since

    def _timed(self, read: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def timed(*arguments: Any, **others: Any) -> Tensor:
            self._changed(1)
            try:
                return read(*arguments, **others)
            finally:
                self._changed(-1)

        return timed


def checkpoints(plan: Plan, work: Path) -> list[Path]:
    """Each expert's merged dense model as a checkpoint of transformers."""
    models = PlannedModels(plan)
    folders = [work / expert.name for expert in plan.experts]
    for number, folder in enumerate(folders):
        models.merged(number).save_pretrained(folder)
    return folders


def main() -> None:
    """Prints the table."""
    from transformers import AutoModelForCausalLM

    parser = argparse.ArgumentParser(description="The gate beside the forward passes that it needs.")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "demo.yaml")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()

    loaded = load_recipe(arguments.recipe, ("gate.expand=off", *arguments.overrides))
    plan = make_plan(loaded.recipe, loaded.root)
    texts = tuple(map(with_prompts, read_expert_texts(plan, loaded.root)))
    tokenizer = load_tokenizer(plan)
    ids = [[tokenizer(prompt)["input_ids"] for prompt in expert.prompts] for expert in texts]
    together, alone = [of_equal_length(rows) for rows in ids], [[torch.tensor([row]) for row in rows] for rows in ids]

    with tempfile.TemporaryDirectory(prefix="moemerge-gate-") as work:
        folders = checkpoints(plan, Path(work))

        def load(number: int) -> Any:
            return AutoModelForCausalLM.from_pretrained(folders[number], dtype="auto").eval()

        held = [load(number) for number in range(len(texts))]
        reading = Reading()

        def passes(batches: Sequence[Sequence[Tensor]], give: Callable[[int], Any]) -> None:
            for number, own in enumerate(batches):
                forward(give(number), own)

        found = medians(
            {
                "equal lengths together": lambda: passes(together, held.__getitem__),
                "each prompt alone": lambda: passes(alone, held.__getitem__),
                "equal lengths together, loaded first": lambda: passes(together, load),
                "gate": lambda: fit_router(plan, texts),
            },
            arguments.runs,
        )
    gate = found.pop("gate")
    weights = reading.seconds / (arguments.runs + 1)
    tokens = sum(len(row) for rows in ids for row in rows)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {plan.dtype}; {len(texts)} experts, "
        f"{PROMPTS} prompts each, {tokens:,} tokens; median of {arguments.runs} interleaved runs\n\n"
        f"the gate stage: {gate:.2f} s, {weights:.2f} s of them reading and merging weights\n"
    )
    print("| forward passes | s | gate stage | times | without its weights | times |\n|---|---|---|---|---|---|")
    for name, took in found.items():
        print(
            f"| {name} | {took:.2f} | {gate:.2f} | {gate / took:.2f} | {gate - weights:.2f} | "
            f"{(gate - weights) / took:.2f} |"
        )
    ratio = (gate - weights) / found["equal lengths together"]
    sys.exit(f"the bar of {BAR} is missed: {ratio:.2f}" if ratio > BAR else 0)


if __name__ == "__main__":
    main()
