"""Tokens a second and peak memory of the router's training, beside transformers' Trainer.

    python benchmarks/train_vs_trainer.py out/demo            # the demo's MoE; about eight minutes on 2 cores
    python benchmarks/train_vs_trainer.py out/demo --rounds 1 --steps 2

Both train the gates of the same mixture and nothing else, on the same packed rows (position ids tell the documents
apart), in the same dtype, without checkpoints or looks at held-out texts. Trainer has its own loss and no other term;
moemerge has all of its terms. A mixture of one expert a token gives Trainer no gradient, so it is also given two, as
somebody who trains it must. Each measurement is a process of its own, they take turns, and medians are compared; the
first step of each is not counted. Exit status 1 says that moemerge is slower or takes more memory than Trainer with
what is compared on its line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from moemerge.families import Anatomy
from moemerge.mixture.folder import BuiltFolder, open_moe
from moemerge.mixture.placement import Placement
from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import find_routers
from moemerge.train.attention import use_blocked_attention
from moemerge.train.experts import use_frozen_experts
from moemerge.train.gates import Gates
from moemerge.train.options import TrainOptions
from moemerge.train.routing import TrainedRouting, routing_for
from moemerge.train.rows import Rows, Sampler, tokenise
from moemerge.train.step import step_gradients
from moemerge.train.texts import find_texts

ARMS = ("moemerge", "Trainer, experts as exported", "moemerge, top-2", "Trainer, top-2")
AGAINST = {"moemerge": ARMS[1], "moemerge, top-2": ARMS[3]}


def rows_of(folder: BuiltFolder, options: TrainOptions, steps: int) -> list[Rows]:
    """The rows of each step."""
    tokenizer = folder.tokenizer()
    texts, _ = find_texts(folder, tokenizer, options.data, None, 0)
    domains = [tokenise(t.train, t.expert, tokenizer) for t in sorted(texts, key=lambda t: t.expert)]
    sampler = Sampler(domains, options.context, options.mixed, 0)
    return [sampler.take(options.rows) for _ in range(steps)]


def ours(folder: BuiltFolder, options: TrainOptions, batches: list[Rows], *, mixed: bool) -> list[float]:
    """Seconds of each step of moemerge."""
    model = folder.load(options.placement)
    use_blocked_attention(model, options.context)
    use_frozen_experts(model)
    routers = find_routers(model)
    gates = Gates([module.weight for module in routers.modules], routers.layers, Anatomy(), options)
    how = "top-k" if mixed else routing_for("auto", routers.experts_per_token)
    routing = TrainedRouting(routers, how, slopes=True)
    optimizer = torch.optim.AdamW(gates.parameters, lr=options.learning_rate)
    taken = []
    for rows in batches:
        started = time.perf_counter()
        gradients, _ = step_gradients(model, gates, routing, [rows], options, Processes())
        gates.pull(gradients)
        torch.nn.utils.clip_grad_norm_(gates.parameters, options.clip)
        optimizer.step()
        gates.refresh()
        taken.append(time.perf_counter() - started)
    return taken


def theirs(folder: BuiltFolder, options: TrainOptions, batches: list[Rows], *, mixed: bool) -> list[float]:
    """Seconds of each step of transformers' Trainer."""
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[options.placement.dtype]
    given: dict[str, Any] = {"num_experts_per_tok": 2} if mixed else {}
    model = AutoModelForCausalLM.from_pretrained(folder.path, dtype=dtype, **given)
    model.requires_grad_(False)
    for module in find_routers(model).modules:
        module.weight.requires_grad_(True)
    samples = []
    for rows in batches:
        labels = torch.where(rows.scored, rows.ids, -100)
        for ids, positions, wanted in zip(rows.ids, rows.positions, labels, strict=True):
            samples.append({"input_ids": ids, "position_ids": positions, "labels": wanted})
    taken: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            taken.append(time.perf_counter() - self.started)

    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch, per_device_train_batch_size=options.rows, max_steps=len(batches), report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, optim="adamw_torch",
            dataloader_pin_memory=False, train_sampling_strategy="sequential", learning_rate=options.learning_rate,
        )  # fmt: skip
        Trainer(model=model, args=arguments, train_dataset=samples, callbacks=[Clock()]).train()
    return taken


def child(arguments: argparse.Namespace) -> None:
    """One measurement: prints tokens a second and peak megabytes as JSON."""
    placement = Placement(dtype=arguments.dtype)
    options = TrainOptions(placement=placement, rows=arguments.rows, context=arguments.context, data=arguments.data)
    folder = open_moe(arguments.folder)
    assert isinstance(folder, BuiltFolder)
    batches = rows_of(folder, options, arguments.steps + 1)
    run: Callable[..., list[float]] = ours if arguments.arm.startswith("moemerge") else theirs
    taken = run(folder, options, batches, mixed=arguments.arm.endswith("top-2"))[1:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # KiB on Linux, near enough to kB
    print(json.dumps({"speed": arguments.rows * arguments.context * len(taken) / sum(taken), "peak": peak}))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="The router's training beside transformers' Trainer.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        child(arguments)
        return

    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for _ in range(arguments.rounds):
        for arm in ARMS:
            command = [sys.executable, __file__, *sys.argv[1:], "--arm", arm]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            found[arm].append(json.loads(done.stdout.splitlines()[-1]))
    speed = {arm: statistics.median(one["speed"] for one in found[arm]) for arm in ARMS}
    peak = {arm: statistics.median(one["peak"] for one in found[arm]) for arm in ARMS}
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {arguments.dtype}; steps of "
        f"{arguments.rows} rows of {arguments.context}; {arguments.steps} steps, median of {arguments.rounds} rounds\n"
    )
    print("| training | tokens/s | range | peak MB | times Trainer's speed | times its memory |")
    print("| --- | --- | --- | --- | --- | --- |")
    missed = False
    for arm in ARMS:
        span = [one["speed"] for one in found[arm]]
        other = AGAINST.get(arm)
        ratios = "| | |"
        if other is not None:
            faster, larger = speed[arm] / speed[other], peak[arm] / peak[other]
            missed |= faster < 1 or larger > 1
            ratios = f"| {faster:.2f} | {larger:.2f} |"
        print(f"| {arm} | {speed[arm]:.0f} | {min(span):.0f}-{max(span):.0f} | {peak[arm]:,.0f} {ratios}")
    sys.exit("a bar is missed" if missed else 0)


if __name__ == "__main__":
    main()
