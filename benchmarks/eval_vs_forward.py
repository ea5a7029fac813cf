"""How long `moemerge eval` takes for its losses beside the plain forward passes of transformers that they need.

    python benchmarks/eval_vs_forward.py out/demo            # the demo's MoE; about three minutes on 2 cores
    python benchmarks/eval_vs_forward.py out/demo --runs 9

The passes are over the same batches and by the same model; nothing is made of their logits. The two take turns, and
medians are compared. "watched" counts routes beside the losses, "forced" routes every token to one expert. Exit
status 1 says that the bar is missed: 1.2 times.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from turns import seconds

from moemerge.console import Silent
from moemerge.evaluate.domains import find_evaluation, read_domains
from moemerge.mixture.folder import open_moe
from moemerge.mixture.losses import document_losses
from moemerge.mixture.placement import Placement
from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import find_routers
from moemerge.mixture.routing import RouteCounter
from moemerge.mixture.windows import LOGITS, Encoded, batches, encode

BAR = 1.2


@torch.inference_mode()
def passes(model: Any, encoded: Encoded) -> None:
    """The plain forward passes."""
    positions = LOGITS // model.config.vocab_size
    for batch in batches(encoded.windows, positions):
        model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Losses of `moemerge eval` beside plain forward passes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()

    folder = open_moe(arguments.folder)
    evaluation, root = find_evaluation(folder, None)
    tokenizer = folder.tokenizer()
    domains = read_domains(evaluation.domains, root, folder.experts, None, tokenizer)
    texts = [text for domain in domains for text in domain.texts]
    encoded = encode(texts, tokenizer, 2048, 1024)
    model = folder.load(Placement())
    routers = find_routers(model)

    def losses(watched: bool) -> None:
        counter = RouteCounter(routers) if watched else None
        with counter.watching() if counter else nullcontext():
            document_losses(model, encoded, Silent(), Processes(), counter.before if counter else None)

    ways: dict[str, Callable[[], None]] = {"plain": lambda: losses(False), "watched": lambda: losses(True)}
    taken: dict[str, list[float]] = {name: [] for name in ("forward passes", *ways, "forced: passes", "forced")}
    passes(model, encoded)  # warms up
    for _ in range(arguments.runs):
        taken["forward passes"].append(seconds(lambda: passes(model, encoded)))
        for name, way in ways.items():
            taken[name].append(seconds(way))
        with routers.forced(0):
            taken["forced: passes"].append(seconds(lambda: passes(model, encoded)))
            taken["forced"].append(seconds(ways["plain"]))

    medians = {name: statistics.median(times) for name, times in taken.items()}
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {model.dtype}; "
        f"{sum(encoded.tokens):,} tokens, median of {arguments.runs} interleaved runs\n"
    )
    print("| losses | passes, s | losses, s | ratio |\n| --- | --- | --- | --- |")
    missed = False
    for name, against in (("plain", "forward passes"), ("watched", "forward passes"), ("forced", "forced: passes")):
        ratio = medians[name] / medians[against]
        missed |= ratio > BAR
        print(f"| {name} | {medians[against]:.2f} | {medians[name]:.2f} | {ratio:.2f} |")
    sys.exit(f"the bar of {BAR} is missed" if missed else 0)


if __name__ == "__main__":
    main()
