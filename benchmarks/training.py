"""What training the router adds on the demo: gain kept on the evaluation texts, before and after, seed by seed.

    python benchmarks/training.py out/demo                                  # every row, seeds 0 1 2; about two hours
    python benchmarks/training.py out/demo --only random centroid --seeds 0
    python benchmarks/training.py out/demo --show                           # the table of what was measured so far

A row is a gate to begin from and the options of `moemerge train-router`. Each training is the command itself, in a
process of its own; it knows the training texts, and stops and chooses by those of `held_out.yaml`, which are of other
sources. Then the evaluation texts are read: once for the start's gate and once for the trained one. The rise is the
difference of the gain kept, its 95 % interval a paired bootstrap over the documents of each domain. What was measured
is kept in `--work` and not measured again, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moemerge.console import Silent
from moemerge.evaluate.domains import find_evaluation, read_domains
from moemerge.evaluate.measures import DomainLosses, Measures
from moemerge.mixture.baselines import Baselines
from moemerge.mixture.folder import MoeFolder, open_moe
from moemerge.mixture.losses import document_losses
from moemerge.mixture.placement import Placement
from moemerge.mixture.windows import Encoded, encode

ROOT = Path(__file__).resolve().parents[1]
TEXTS, HELD_OUT = ROOT / "examples" / "training.yaml", ROOT / "examples" / "held_out.yaml"
STARTS = ("random", "centroid", "fitted")
"""`fitted` is the folder's own: the discriminant gate of the recipe's prompts."""


@dataclass(frozen=True)
class Row:
    """One row of the table: how the start `start` is trained."""

    start: str
    name: str
    options: tuple[str, ...] = ()


ATTENTION, FULL = ("--also", "attention"), ("--method", "full")
ROWS = (
    *(Row(start, "LoRA") for start in STARTS),
    *(Row(start, "full", FULL) for start in STARTS),
    Row("fitted", "LoRA, also attention", ATTENTION),
    Row("random", "LoRA, also attention", ATTENTION),
)


class Bench:
    """The evaluation texts, and the losses of the models on them."""

    def __init__(self, path: Path, work: Path, given: list[str]) -> None:
        self.path, self.work, self.given = path, work, given
        self.folder = open_moe(path)
        evaluation, root = find_evaluation(self.folder, None)
        tokenizer = self.folder.tokenizer()
        domains = read_domains(evaluation.domains, root, self.folder.experts, None, tokenizer)
        self.encoded: dict[str, Encoded] = {
            domain.name: encode(list(domain.texts), tokenizer, 2048, 1024) for domain in domains
        }
        work.mkdir(parents=True, exist_ok=True)

    def _kept(self, name: str, make: Any) -> dict[str, Any]:
        path = self.work / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(make()), encoding="utf-8")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _losses(self, model: Any, names: list[str] | None = None) -> dict[str, list[float]]:
        wanted = self.encoded if names is None else names
        return {name: document_losses(model, self.encoded[name], Silent()).tolist() for name in wanted}

    def reference(self) -> dict[str, Any]:
        """The base's losses and the specialists' on their own domains."""

        def make() -> dict[str, Any]:
            baselines = Baselines(self.folder, Placement(), online=False, allow_pickle=False)
            found: dict[str, Any] = {"base": self._losses(baselines.base())}
            for name in self.folder.experts:
                found[name] = self._losses(baselines.specialist(name), [name])[name]
            return found

        return self._kept("reference", make)

    def _folder_losses(self, folder: MoeFolder) -> dict[str, list[float]]:
        return self._losses(folder.load(Placement()))

    def trained(self, row: Row, seed: int) -> dict[str, Any]:
        """What the command wrote, what it took, and the losses of its output."""

        def make() -> dict[str, Any]:
            output = self.work / "output"
            started = time.monotonic()
            record = self._train(output, ["--start", row.start, *self.given, *row.options, "--seed", str(seed)])
            seconds = time.monotonic() - started
            return {"record": record, "seconds": seconds, "losses": self._folder_losses(open_moe(output))}

        return self._kept(f"{row.start}, {row.name}, {seed}", make)

    def start(self, start: str, seed: int) -> dict[str, list[float]]:
        """The losses with the gate that a start begins from: what the command writes when it takes no step."""

        def make() -> dict[str, Any]:
            output = self.work / "output"
            self._train(output, ["--start", start, "--steps", "0", "--seed", str(seed)])
            return self._folder_losses(open_moe(output))

        seed = 0 if start == "fitted" else seed
        return self._kept(f"{start}, start, {seed}", make)

    def _train(self, output: Path, options: list[str]) -> dict[str, Any]:
        command = [
            sys.executable, "-m", "moemerge", "train-router", str(self.path), "-o", str(output),
            "--overwrite", "--data", str(TEXTS), "--held-out", str(HELD_OUT), "--json", "--quiet", *options,
        ]  # fmt: skip
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def measures(self, **models: dict[str, list[float]]) -> Measures:
        """Of several models, `base` and the specialists beside them."""
        reference = self.reference()

        def tensor(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64)

        return Measures({
            name: DomainLosses(
                name, torch.tensor(encoded.tokens, dtype=torch.float64), sum(encoded.bytes),
                {"base": tensor(reference["base"][name]), f"specialist:{name}": tensor(reference[name])}
                | {key: tensor(losses[name]) for key, losses in models.items()},
            )
            for name, encoded in self.encoded.items()
        })  # fmt: skip

    def line(self, row: Row, seeds: list[int]) -> str:
        """One Markdown row over the seeds that were measured."""
        starts, ends, rises, kept, seconds = [], [], [], [], []
        for seed in seeds:
            path = self.work / f"{row.start}, {row.name}, {seed}.json"
            if not path.exists():
                continue
            found = self.trained(row, seed)
            measures = self.measures(start=self.start(row.start, seed), moe=found["losses"])
            before, after = measures.gain_kept("start"), measures.gain_kept("moe")
            assert before is not None
            assert after is not None
            rise = measures.rise("moe", "start")
            assert rise is not None
            low, high = rise[1]
            starts.append(f"{before[0]:.3f}")
            ends.append(after[0])
            rises.append(f"{rise[0]:+.3f} [{low:+.3f}, {high:+.3f}]")
            kept.append(found["record"]["kept"])
            seconds.append(found["seconds"])
        if not ends:
            return ""
        cells = [
            row.start.replace("fitted", "discriminant"), row.name, ", ".join(dict.fromkeys(starts)),
            ", ".join(f"{value:.3f}" for value in ends), f"{statistics.mean(ends):.3f}", "; ".join(rises),
            f"{kept.count('best')} of {len(kept)}", f"{statistics.median(seconds):.0f}",
        ]  # fmt: skip
        return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measures what is missing and prints the table."""
    parser = argparse.ArgumentParser(description="Gain kept before and after training the router.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=lambda text: Path(text).absolute(), default=ROOT / "work" / "training")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", metavar="START", help="rows that begin from one of these")
    parser.add_argument("--rows", nargs="*", metavar="NAME", help="rows of these names")
    parser.add_argument("--show", action="store_true", help="measures nothing new")
    parser.add_argument("--options", default="", metavar="WORDS", help="of every training, such as '--steps 60'")
    arguments = parser.parse_args()

    bench = Bench(arguments.folder.absolute(), arguments.work, shlex.split(arguments.options))
    rows = [r for r in ROWS if not arguments.only or r.start in arguments.only]
    rows = [r for r in rows if not arguments.rows or r.name in arguments.rows]
    if not arguments.show:
        bench.reference()
        for seed in arguments.seeds:
            for row in rows:
                bench.trained(row, seed)
                bench.start(row.start, seed)
                print(bench.line(row, [seed]), flush=True)
    print(
        "\n| start | training | gain kept at the start | after | mean | rise, 95 % interval | trained gate kept | s |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(filter(None, (bench.line(row, arguments.seeds) for row in rows))))


if __name__ == "__main__":
    main()
