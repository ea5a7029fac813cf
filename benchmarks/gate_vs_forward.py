"""How long the gate takes beside transformers' own forward passes over the same tokens of the same merged models.

    python benchmarks/gate_vs_forward.py                     # the demo's recipe, 32 prompts an expert; four minutes
    python benchmarks/gate_vs_forward.py --runs 9 --recipe recipes/near-pair.yaml

An expert's prompts are the recipe's, then beginnings of the project's own texts. The gate is the recipe's, without
expansion: once from full checkpoints of its base and specialists, which are written first, and once from its own
sources, where the stage also folds what it reads. The forward passes make no logits and see no padding: prompts of
equal length run together, or each prompt alone. They find whole models in memory, or load each by `from_pretrained`
from a checkpoint that was written before; the gate stage reads and merges the sources in either case. All take turns,
and medians are compared. Exit status 1 says that the bar is missed: from full checkpoints, the whole stage beside
passes over equal lengths with the models in memory, 1.2 times.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
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

from moemerge.build.run import fit_router
from moemerge.build.texts import read_expert_texts
from moemerge.dense.models import MergedTensors, PlannedModels, load_tokenizer
from moemerge.gate import ExpertTexts
from moemerge.plan import Plan, sound_plan
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
    """Counts the seconds in which the gate reads and merges weights, in one thread or several.

    Attributes:
        runs: those of each stage.
    """

    def __init__(self) -> None:
        self.runs: list[float] = []
        self._busy, self._since, self._lock = 0, 0.0, Lock()
        for name in ("read", "rows"):
            setattr(MergedTensors, name, self._timed(getattr(MergedTensors, name)))

    def stage(self, plan: Plan, texts: tuple[ExpertTexts, ...]) -> None:
        """One gate stage."""
        self.runs.append(0.0)
        fit_router(plan, texts)

    def _changed(self, by: int) -> None:
        with self._lock:
            if by > 0 and not self._busy:
                self._since = time.perf_counter()
            self._busy += by
            if not self._busy and self.runs:
                self.runs[-1] += time.perf_counter() - self._since

    def _timed(self, read: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def timed(*arguments: Any, **others: Any) -> Tensor:
            self._changed(1)
            try:
                return read(*arguments, **others)
            finally:
                self._changed(-1)

        return timed


def merged_checkpoints(plan: Plan, work: Path) -> list[Path]:
    """Each expert's merged dense model as a checkpoint of transformers."""
    models = PlannedModels(plan)
    folders = [work / f"merged-{expert.name}" for expert in plan.experts]
    for number, folder in enumerate(folders):
        models.merged(number).save_pretrained(folder)
    return folders


def from_full_checkpoints(plan: Plan, work: Path) -> Plan:
    """The same recipe with its base and specialists as checkpoints of transformers, in the plan's dtype."""
    models = PlannedModels(plan)
    models.base().save_pretrained(work / "base")
    load_tokenizer(plan).save_pretrained(work / "base")
    for number, expert in enumerate(plan.experts):
        models.specialist(number).save_pretrained(work / expert.name)
    experts = tuple(expert.model_copy(update={"model": str(work / expert.name)}) for expert in plan.recipe.experts)
    return sound_plan(plan.recipe.model_copy(update={"base_model": str(work / "base"), "experts": experts}), work)


def measure(plan: Plan, texts: tuple[ExpertTexts, ...], reading: Reading, runs: int, sources: str) -> float:
    """Prints a table; gives the whole stage over passes of equal lengths together."""
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(plan)
    ids = [[tokenizer(prompt)["input_ids"] for prompt in expert.prompts] for expert in texts]
    together, alone = [of_equal_length(rows) for rows in ids], [[torch.tensor([row]) for row in rows] for rows in ids]
    with tempfile.TemporaryDirectory(prefix="moemerge-gate-") as work:
        folders = merged_checkpoints(plan, Path(work))

        def load(number: int) -> Any:
            return AutoModelForCausalLM.from_pretrained(folders[number], dtype="auto").eval()

        held = [load(number) for number in range(len(texts))]

        def passes(batches: Sequence[Sequence[Tensor]], give: Callable[[int], Any]) -> None:
            for number, own in enumerate(batches):
                forward(give(number), own)

        reading.runs.clear()
        found = medians(
            {
                "equal lengths together": lambda: passes(together, held.__getitem__),
                "each prompt alone": lambda: passes(alone, held.__getitem__),
                "equal lengths together, loaded first": lambda: passes(together, load),
                "gate": lambda: reading.stage(plan, texts),
            },
            runs,
        )
    gate, weights = found.pop("gate"), statistics.median(reading.runs[1:])
    tokens = sum(len(row) for rows in ids for row in rows)
    print(
        f"\n{sources}: {len(texts)} experts, {PROMPTS} prompts each, {tokens:,} tokens, {plan.dtype}; "
        f"the gate stage {gate:.2f} s, {weights:.2f} s of them reading and merging weights\n\n"
        "| forward passes | s | gate stage | times | without its weights | times |\n|---|---|---|---|---|---|"
    )
    for name, took in found.items():
        print(
            f"| {name} | {took:.2f} | {gate:.2f} | {gate / took:.2f} | {gate - weights:.2f} | "
            f"{(gate - weights) / took:.2f} |"
        )
    return gate / found["equal lengths together"]


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description="The gate beside the forward passes that it needs.")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "demo.yaml")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()

    loaded = load_recipe(arguments.recipe, ("gate.expand=off", *arguments.overrides))
    plan = sound_plan(loaded.recipe, loaded.root)
    texts = tuple(map(with_prompts, read_expert_texts(plan, loaded.root)))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; "
        f"median of {arguments.runs} interleaved runs"
    )
    reading = Reading()
    with tempfile.TemporaryDirectory(prefix="moemerge-gate-") as work:
        ratio = measure(
            from_full_checkpoints(plan, Path(work)), texts, reading, arguments.runs, "From full checkpoints"
        )
        measure(plan, texts, reading, arguments.runs, "From the recipe's own sources")
    sys.exit(f"the bar of {BAR} is missed: {ratio:.2f}" if ratio > BAR else 0)


if __name__ == "__main__":
    main()
