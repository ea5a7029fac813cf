"""A whole build with a fitted gate beside mergekit-moe's with `hidden`, on the same checkpoints and prompts.

    python benchmarks/mergekit/run.py                            # first: writes the checkpoints and the recipe
    python benchmarks/build_vs_mergekit.py                       # with the demo's prompts, and with 32 an expert

Ours is the discriminant gate without expansion, verified, once with the mean of the shared weights (the default) and
once with the base's, which is what mergekit-moe takes. Whole commands take turns; `timing.py` tells how they are timed.
Exit status 1 says that a build with the mean takes more time or more memory than mergekit-moe.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from gate_vs_forward import PROMPTS, more_prompts
from timing import MOEMERGE, ROOT, Run, machine, median, row, take_turns, timed

HEADER = "| build | median s | range s | processor s | times mergekit-moe | peak MB |\n|---|---|---|---|---|---|"
OFFLINE = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}


def recipes(theirs: dict[str, Any], prompts: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our recipe and mergekit's, with so many prompts an expert (None: those that there are)."""
    experts = []
    for expert in theirs["experts"]:
        name, own = Path(expert["source_model"]).name, expert["positive_prompts"]
        experts.append((name, expert["source_model"], own if prompts is None else more_prompts(name, own, prompts)))
    ours = {
        "base_model": theirs["base_model"],
        "experts_per_token": theirs["experts_per_token"],
        "experts": [{"name": name, "model": model, "prompts": list(own)} for name, model, own in experts],
        "gate": {"expand": "off"},
    }
    listed = [{"source_model": model, "positive_prompts": list(own)} for _, model, own in experts]
    return ours, {**theirs, "experts": listed}


def run(command: list[str], output: Path, environment: dict[str, str]) -> Run:
    """A command that writes `output`, which is removed before."""
    shutil.rmtree(output, ignore_errors=True)
    return timed(command, environment)


def main() -> int:
    """Measures, prints, and gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", type=Path, default=ROOT / "work" / "mergekit" / "moe-hidden.yml")
    parser.add_argument("--venv", type=Path, default=ROOT / "work" / "venvs" / "mergekit")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    theirs = yaml.safe_load(arguments.recipe.read_text(encoding="utf-8"))
    program, met = str((arguments.venv / "bin" / "mergekit-moe").absolute()), True
    for prompts in (None, PROMPTS):
        with tempfile.TemporaryDirectory(prefix="moemerge-versus-") as folder:
            work = Path(folder)
            for name, recipe in zip(("ours", "theirs"), recipes(theirs, prompts), strict=True):
                (work / f"{name}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
            build = [*MOEMERGE, "build", str(work / "ours.yaml"), "-o", str(work / "ours"), "-q"]
            other = [program, str(work / "theirs.yaml"), str(work / "theirs"), "--quiet"]
            runs = take_turns(
                {
                    "mean": partial(run, build, work / "ours", {}),
                    "base": partial(run, [*build, "--set", "merge.shared=base"], work / "ours", {}),
                    "mergekit": partial(run, other, work / "theirs", OFFLINE),
                },
                arguments.runs,
            )
            print(
                f"\n{machine(work)}; {prompts or 'its own'} prompts an expert, median of {arguments.runs}\n\n{HEADER}"
            )
        against = median(runs["mergekit"])
        print(row("moemerge, discriminant, verified, `merge.shared=mean`", runs["mean"], against))
        print(row("the same, `merge.shared=base`", runs["base"], against))
        print(row("mergekit-moe 0.1.5, hidden", runs["mergekit"], against), "\n")
        peaks = {name: max(one.peak for one in of) for name, of in runs.items()}
        met = met and median(runs["mean"]) < against and peaks["mean"] < peaks["mergekit"]
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
