"""A build beside those of mergekit-moe 0.1.5 and MixtureKit 1.1.1: four experts of 1.1 B parameters, gates at random.

    make bench-rivals-build
    python benchmarks/build_vs_rivals.py --only mergekit

Each tool is run as its own command, in an environment of its own, and writes bf16 on the CPU. mergekit-moe takes the
shared weights from the base, MixtureKit averages them: each is beside our build that does the same. Nothing of theirs
is imported here. The commands and `cp -r` take turns, from a settled page cache; `timing.py` tells why.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from build_vs_cp import BUILDS, EXPERTS, build, copy, prepare
from sources import Shape
from timing import HEADER, ROOT, Run, machine, median, row, settle, take_turns, timed

CONSTRAINTS = ROOT / "benchmarks" / "mergekit" / "constraints.txt"
RIVALS = {"mergekit": ("mergekit==0.1.5", "base"), "mixturekit": ("mixturekit==1.1.1", "mean")}
"""What pip installs, and which of our builds makes the same of the shared weights."""
FASTER_BAR = 2.5
"""Times as fast as mergekit-moe."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}


def install(rival: str, venvs: Path) -> Path:
    """The folder of programs of a rival's environment, which is made where there is none."""
    programs = venvs.resolve() / rival / "bin"
    package, _ = RIVALS[rival]
    if not (programs / {"mergekit": "mergekit-moe"}.get(rival, rival)).exists():
        print(f"installing {package} into {programs.parent}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(programs.parent)], check=True)
        pip = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--constraint", str(CONSTRAINTS), "torch"], check=True)
        subprocess.run([*pip, "--constraint", str(CONSTRAINTS), package], check=True)
    return programs


def mergekit(programs: Path, work: Path) -> Run:
    """A run of mergekit-moe."""
    sources = [work / f"source-{index}" for index in range(EXPERTS)]
    listed = "".join(f"  - {{source_model: {source}, positive_prompts: [text]}}\n" for source in sources)
    recipe = work / "mergekit.yml"
    head = f"base_model: {sources[0]}\ngate_mode: random\ndtype: bfloat16\nexperts_per_token: 2\nexperts:\n"
    recipe.write_text(head + listed, encoding="utf-8")
    return _rival(work, [str(programs / "mergekit-moe"), str(recipe), str(work / "rival"), "--quiet"])


def mixturekit(programs: Path, work: Path) -> Run:
    """A run of MixtureKit's streaming build."""
    recipe = work / "mixturekit.yml"
    sources = [work / f"source-{index}" for index in range(EXPERTS)]
    listed = "".join(f"  - {{expert_name: {source.name}, model_id: {source}}}\n" for source in sources)
    head = "moe_method: traditional\nmodel_type: mixture_bench\nnum_experts_per_tok: 2\nexperts:\n"
    recipe.write_text(head + listed, encoding="utf-8")
    return _rival(work, [str(programs / "mixturekit"), "build", str(recipe), "--output", str(work / "rival")])


def _rival(work: Path, command: list[str]) -> Run:
    shutil.rmtree(work / "rival", ignore_errors=True)
    settle(work, sorted(work.glob("source-*")), cold=False)
    run = timed(command, OFFLINE)
    shutil.rmtree(work / "rival")
    return run


def main() -> int:
    """Measures, prints, and gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "bench", help="folder for sources and outputs")
    parser.add_argument("--venvs", type=Path, default=ROOT / "work" / "venvs", help="folder of their environments")
    parser.add_argument("--runs", type=int, default=5, help="turns of each command (default: %(default)s)")
    parser.add_argument("--only", choices=sorted(RIVALS), help="one of the two")
    arguments = parser.parse_args()

    chosen = [arguments.only] if arguments.only else list(RIVALS)
    programs = {rival: install(rival, arguments.venvs) for rival in chosen}
    work = arguments.work / "large"
    recipe = prepare(work, Shape())
    run = {"mergekit": mergekit, "mixturekit": mixturekit}
    cases = {shared: partial(build, recipe, shared, cold=False) for shared in {RIVALS[rival][1] for rival in chosen}}
    cases["cp"] = partial(copy, work, cold=False)
    cases |= {rival: partial(run[rival], programs[rival], work) for rival in chosen}
    try:
        runs = take_turns(cases, arguments.runs)
    finally:
        for name in ("built", "copied", "rival"):
            shutil.rmtree(work / name, ignore_errors=True)
        (work / "hole").unlink(missing_ok=True)

    print(f"\n{machine(arguments.work)}; warm page cache, median of {arguments.runs}\n\n{HEADER}")
    against = median(runs["cp"])
    print(row("`cp -r`", runs["cp"], against))
    for shared in BUILDS:
        if shared in runs:
            print(row(f"`moemerge build --gate random`, `merge.shared={shared}`", runs[shared], against))
    met = True
    for rival in chosen:
        package, shared = RIVALS[rival]
        faster = median(runs[rival]) / median(runs[shared])
        print(row(f"{package.replace('==', ' ')} ({faster:.1f} times as long)", runs[rival], against))
        met = met and (rival != "mergekit" or faster >= FASTER_BAR)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
