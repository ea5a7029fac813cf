"""How quick this checkout is beside another one: start-up, plan, builds and the gate, in turns.

    git worktree add --detach ../before COMMIT
    python benchmarks/beside.py ../before            # 20 GB of disk; `--small` tries the script itself in a minute

Both run with this environment's packages and compiled modules, from the same sources. `--help` and `plan` are timed by
the seconds of processor time that they take, builds of four experts of 1.1 B parameters by the clock, and so is the
gate: the stage that fits it while the demo is built with 32 prompts an expert and without expansion.
"""

from __future__ import annotations

import argparse
import compileall
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from build_vs_cp import BUILDS, prepare
from gate_vs_forward import PROMPTS, more_prompts
from sources import SMALL, Shape
from timing import ROOT, Run, machine, settle, take_turns, timed


@dataclass(frozen=True)
class Row:
    """What is timed.

    Attributes:
        name: in the table.
        run: one run of a checkout.
        of: the seconds that count, of such a run.
        turns: how often each checkout runs.
    """

    name: str
    run: Callable[[Path], Run]
    of: Callable[[Run], float]
    turns: int


def command(checkout: Path, *arguments: str) -> Run:
    """`moemerge` as a checkout has it."""
    return timed([sys.executable, "-m", "moemerge", *arguments], {"PYTHONPATH": str(checkout)}, cwd=checkout)


def build(checkout: Path, recipe: Path, options: Sequence[str] = ()) -> Run:
    """A build from a settled state, whose output goes."""
    output = recipe.parent / "built"
    shutil.rmtree(output, ignore_errors=True)
    settle(recipe.parent, sorted(recipe.parent.glob("source-*")), cold=False)
    run = command(checkout, "build", str(recipe), "-o", str(output), *options)
    shutil.rmtree(output)
    return run


def demo_with_prompts(work: Path) -> Path:
    """The demo's recipe with 32 prompts an expert and no expansion."""
    source = ROOT / "recipes" / "demo.yaml"
    recipe = yaml.safe_load(source.read_text(encoding="utf-8"))
    for expert in recipe["experts"]:
        expert["model"] = str((source.parent / expert["model"]).resolve())
        expert["prompts"] = more_prompts(expert["name"], expert.pop("prompts", []), PROMPTS)
    recipe.pop("eval", None)
    recipe["gate"] = recipe.get("gate", {}) | {"expand": "off"}
    path = work / "gate" / "demo.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def rows(work: Path, *, small: bool) -> Sequence[Row]:
    """What is timed, from sources that are made in `work`."""
    demo, prompts = str(ROOT / "recipes" / "demo.yaml"), demo_with_prompts(work)
    recipe = prepare(work / ("small" if small else "large"), SMALL if small else Shape())
    turns = 2 if small else 7
    return (
        Row("`moemerge --help`, processor s", lambda at: command(at, "--help"), lambda run: run.processor, 3 * turns),
        Row("`moemerge plan`, processor s", lambda at: command(at, "plan", demo), lambda run: run.processor, turns),
        *(
            Row(
                f"{name}, s",
                partial(build, recipe=recipe, options=("--gate", "random", "--set", f"merge.shared={shared}")),
                lambda run: run.seconds,
                turns,
            )
            for shared, name in BUILDS.items()
        ),
        Row(
            "gate of the demo, 32 prompts, s",
            partial(build, recipe=prompts),
            lambda run: run.stages["Fitting the gate"],
            turns,
        ),
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path, help="another checkout of this repository")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "bench", help="folder for sources and outputs")
    parser.add_argument("--small", action="store_true", help="tiny sources and few turns: tries the script")
    parser.add_argument("--only", default="", help="the rows whose names have this in them")
    parser.add_argument("--turns", type=int, help="how often each checkout runs [7; `--help` 21]")
    arguments = parser.parse_args()
    other = arguments.other.resolve()
    compileall.compile_dir(other / "moemerge", quiet=1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    found = []
    for row in rows(arguments.work, small=arguments.small):
        if arguments.only not in row.name:
            continue
        turns = arguments.turns or row.turns
        runs = take_turns({"other": partial(row.run, other), "this": partial(row.run, ROOT)}, turns)
        before, after = (statistics.median(map(row.of, runs[at])) for at in ("other", "this"))
        found.append(f"| {row.name} | {before:.2f} | {after:.2f} | {after / before:.2f} |")
    print(f"\n{machine(arguments.work)}; medians\n\n| | other | this | times |\n|---|---|---|---|", *found, sep="\n")


if __name__ == "__main__":
    main()
