"""What training the router adds on a hard set: gain kept before and after.

    python benchmarks/hard/hard_texts.py
    python benchmarks/hard/hard_router.py mixed                      # development texts: for every choice
    python benchmarks/hard/hard_router.py mixed --part test          # once, when all choices are made

The recipe's gate is fitted to six prompts an expert. Each training is `moemerge train-router` itself. It knows the
texts that gates from data are fitted to. It stops and chooses by the first half of the development texts, so these
flatter it and the test texts do not. "More" is the paired difference to the start, with its 95 % interval. What was
trained and measured is kept in work/hard.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import transformers
import yaml
from hard_gates import SETS, HardSet, ahead, documents, gate_documents, recipe_path
from hard_texts import ROOT, WORK
from transformers import AutoModelForCausalLM

from losses import gain_interval, gain_kept, mean

STARTS = {"discriminant": (), "advantage": ("--set", "gate.init=advantage"), "random": ("--gate", "random")}
TRAININGS = {
    "LoRA": (),
    "LoRA, also attention": ("--also", "attention"),
}
WITHOUT_BASE = ("trio", "many-8", "many-16")
"""Sets of which the base is no expert: nothing would be trained for general text."""
HELD_OUT = 12
"""Development texts of a domain that decide what is kept."""


def texts_of(name: str, folder: Path, built: Path) -> tuple[Path, Path]:
    """The files of training texts and of those that are held out, each of the domains that an expert has.

    Nobody gave the general expert texts: it has what the base wrote when the gate was fitted.
    """
    lines = (built / "gate_samples.jsonl").read_text(encoding="utf-8").splitlines()
    written = [sample["text"] for sample in map(json.loads, lines) if sample["expert"] == "general"]
    names = [domain for domain in (*SETS[name], "general") if domain != "mixed"]
    training = {domain: [str(text) for text in gate_documents(domain)] or written for domain in names}
    held_out = {domain: [pieces[0][1] for pieces in documents(domain, "development")[:HELD_OUT]] for domain in names}
    return put(training, folder / "training"), put(held_out, folder / "held-out")


def put(texts: Mapping[str, Sequence[str]], path: Path) -> Path:
    """A YAML file of domains, and their texts beside it."""
    for domain, own in texts.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in own)
        path.with_name(f"{path.name}-{domain}.jsonl").write_text(lines, encoding="utf-8")
    file = path.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({domain: f"{path.name}-{domain}.jsonl" for domain in texts}), encoding="utf-8")
    return file


def made(output: Path, *words: object) -> Path:
    """What a command of moemerge writes, unless it is there."""
    if not output.exists():
        command = [sys.executable, "-m", "moemerge", *map(str, words), "--output", str(output), "--quiet"]
        subprocess.run(command, check=True, cwd=ROOT)
    return output


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Gain kept before and after training the router on a hard set.")
    parser.add_argument("set", choices=[name for name in SETS if name not in WITHOUT_BASE])
    parser.add_argument("--part", choices=("development", "test"), default="development")
    parser.add_argument("--starts", nargs="*", choices=STARTS, default=STARTS)
    parser.add_argument("--trainings", nargs="*", choices=TRAININGS, default=TRAININGS)
    parser.add_argument("--limit", type=int, default=12, help="documents of a domain [12]")
    parser.add_argument("--tokens", type=int, default=160, help="of a document at most [160]")
    arguments = parser.parse_args()

    transformers.utils.logging.disable_progress_bar()
    name = arguments.set
    folder = WORK / "router" / name
    folder.mkdir(parents=True, exist_ok=True)
    written = made(folder / "discriminant", "build", recipe_path(name))
    training, held_out = texts_of(name, folder, written)
    bench = HardSet(name, arguments.part, arguments.limit, arguments.tokens, again=False)
    base, own = ({domain: losses[domain] for domain in SETS[name]} for losses in (bench.base, bench.own))
    most = gain_kept(base, own, bench.oracle)
    print("| start | training | gain kept | of oracle | general | more |")
    print("| --- | --- | --- | --- | --- | --- |")
    for start in arguments.starts:
        built = made(folder / start, "build", recipe_path(name), *STARTS[start])
        first = None
        for row in ("none", *arguments.trainings):
            output = folder / f"{start}, {row}"
            if row == "none":
                output = built
            else:
                texts = ("--data", training, "--held-out", held_out)
                made(output, "train-router", built, *texts, *TRAININGS[row])
            model = AutoModelForCausalLM.from_pretrained(output, dtype="auto").eval()
            model.set_experts_implementation("eager")  # as `hard_gates.py` measures
            losses = bench.measured(f"router {start}, {row}", partial(bench.losses, model))
            low, high = gain_interval(base, own, losses)
            kept = gain_kept(base, own, losses)
            more = "" if first is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*ahead(base, own, losses, first))
            general = mean(losses["general"]) - mean(bench.base["general"])
            cells = (
                start,
                row,
                f"{kept:.3f} [{low:.2f}, {high:.2f}]",
                f"{kept / most:.3f}",
                f"{general:+.3f}",
                more,
            )
            print("| " + " | ".join(cells) + " |", flush=True)
            first = first or losses


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
