"""How long a build takes beside `cp` of as many bytes, how long its stages take, and the most memory it holds.

    python benchmarks/build_vs_cp.py            # four experts of 1.1 B parameters: 23 GB of disk while it runs
    python benchmarks/build_vs_cp.py --cold     # the same from an empty page cache (root)
    python benchmarks/build_vs_cp.py --adapters # four LoRA adapters of rank 16 on one model: no FFN is copied
    python benchmarks/build_vs_cp.py --small    # the same in seconds, to try the script itself

The sources have TinyLlama's shape and random values; they are made once and used again until `--clean`. Runs of `cp`
and of the whole command `moemerge build RECIPE --gate random` (plan, gate, write, verify; Python's start too) take
turns, once with the mean of the shared weights and once with the base's. `cp` copies the folder that the first wrote.
`timing.py` tells what each run starts from. The memory of the imports is the peak of the same command on models of a
few MB. Exit status 1 says that a bar is missed; builds from adapters, which are computed and load torch, and
small ones, which are mostly Python's start, have none.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path

from sources import SMALL, Shape, make_adapter, make_source, write_recipe
from timing import HEADER, MEGA, MOEMERGE, ROOT, Run, machine, median, row, settle, take_turns, timed

EXPERTS = 4
WHOLE_BAR, WRITE_BAR = 1.6, 1.1
"""Of the whole command and of its write stage, in times `cp`."""
MEMORY_BAR = 150e6
"""Above what the imports take, in bytes."""
BUILDS = {"mean": "`moemerge build --gate random`", "base": "the same, `merge.shared=base`"}


def prepare(work: Path, shape: Shape, experts: int = EXPERTS, *, adapters: bool = False) -> Path:
    """The sources and their recipe in a folder; gives the recipe."""
    if adapters:
        make_source(work / "source-0", shape, seed=0)
        for index in range(1, experts + 1):
            make_adapter(work / f"source-{index}", shape, seed=index)
        return write_recipe(work, experts, first=1)
    for index in range(experts):
        make_source(work / f"source-{index}", shape, seed=index)
    return write_recipe(work, experts)


def build(recipe: Path, shared: str, *, cold: bool) -> Run:
    """A build into `built` beside the recipe, from a settled state."""
    work, output = recipe.parent, recipe.parent / "built"
    shutil.rmtree(output, ignore_errors=True)
    settle(work, sorted(work.glob("source-*")), cold=cold)
    command = [*MOEMERGE, "build", str(recipe), "-o", str(output), "--gate", "random"]
    return timed([*command, "--set", f"merge.shared={shared}"])


def copy(work: Path, *, cold: bool) -> Run:
    """`cp -r` of `built`, from a settled state."""
    shutil.rmtree(work / "copied", ignore_errors=True)
    settle(work, [work / "built"], cold=cold)
    run = timed(["cp", "-r", str(work / "built"), str(work / "copied")])
    shutil.rmtree(work / "copied")
    return run


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def report(runs: dict[str, list[Run]]) -> None:
    """Prints the table, in Markdown."""
    against = median(runs["cp"])
    print(f"{HEADER}\n{row('`cp -r`', runs['cp'], against)}")
    for shared, name in BUILDS.items():
        print(row(name, runs[shared], against))
        for stage in ("write", "verify"):
            print(row(f"{stage}, with `{shared}`", runs[shared], against, stage))


def meets(runs: dict[str, list[Run]], imports: float) -> bool:
    """Prints the bars; tells whether all are met."""
    against = median(runs["cp"])
    met = True
    for shared in BUILDS:
        whole, write = median(runs[shared]) / against, median(runs[shared], "write") / against
        above = max(run.peak for run in runs[shared]) - imports
        met = met and whole <= WHOLE_BAR and write <= WRITE_BAR and above <= MEMORY_BAR
        print(
            f"\nbars, `{shared}`: {whole:.2f} of at most {WHOLE_BAR:g} times `cp`, its write stage {write:.2f} of at "
            f"most {WRITE_BAR:g}; {above / MEGA:,.0f} MB above the imports' {imports / MEGA:,.0f} MB, of at most "
            f"{MEMORY_BAR / MEGA:g} MB"
        )
    return met


def main() -> int:
    """Measures, prints, and gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "bench", help="folder for sources and outputs")
    parser.add_argument("--runs", type=int, default=5, help="turns of each command (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="tiny sources: tries the script, measures Python's start")
    parser.add_argument("--cold", action="store_true", help="empty the page cache before each run (root, Linux)")
    parser.add_argument("--adapters", action="store_true", help="experts are LoRA adapters on one model")
    parser.add_argument("--clean", action="store_true", help="remove the sources too when done")
    arguments = parser.parse_args()

    kind = "adapters" if arguments.adapters else ""
    small, large = arguments.work / f"small{kind}", arguments.work / (kind or "large")
    work = small if arguments.small else large
    try:
        tiny = build(prepare(small, SMALL, adapters=arguments.adapters), "mean", cold=False).peak
        recipe = prepare(work, SMALL if arguments.small else Shape(), adapters=arguments.adapters)
        cases = {
            "mean": partial(build, recipe, "mean", cold=arguments.cold),
            "cp": partial(copy, work, cold=arguments.cold),
            "base": partial(build, recipe, "base", cold=arguments.cold),
        }
        runs = take_turns(cases, arguments.runs)
        written = size(work / "built")
    finally:
        for folder in (small, *([work] if arguments.clean else [work / "built", work / "copied"])):
            shutil.rmtree(folder, ignore_errors=True)
        (work / "hole").unlink(missing_ok=True)
    state = "cold" if arguments.cold else "warm"
    print(
        f"\n{machine(arguments.work)}; {written / 1e9:.2f} GB written, {state} page cache, median of {arguments.runs}\n"
    )
    report(runs)
    return 0 if arguments.small or arguments.adapters or meets(runs, tiny) else 1


if __name__ == "__main__":
    sys.exit(main())
