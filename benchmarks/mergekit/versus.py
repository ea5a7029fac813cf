"""The whole build beside mergekit-moe's on the same checkpoints and prompts: seconds and peak memory, in turns.

    python benchmarks/mergekit/run.py --venv work/venvs/mergekit      # first: writes the checkpoints and the recipe
    python benchmarks/mergekit/versus.py --venv work/venvs/mergekit

Ours is the discriminant gate without expansion, verified; mergekit's is `hidden`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def run(command: list[str], output: Path, python_path: str) -> tuple[float, float]:
    """Seconds and peak resident megabytes of a command that writes `output`."""
    shutil.rmtree(output, ignore_errors=True)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": python_path}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"`{' '.join(command)}` failed with {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="The whole build beside mergekit-moe's.")
    parser.add_argument("--recipe", type=Path, default=ROOT / "work" / "mergekit" / "moe-hidden.yml")
    parser.add_argument("--venv", type=Path, default=ROOT / "work" / "venvs" / "mergekit")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    theirs = yaml.safe_load(arguments.recipe.read_text(encoding="utf-8"))
    experts = [
        {
            "name": Path(expert["source_model"]).name,
            "model": expert["source_model"],
            "prompts": expert["positive_prompts"],
        }
        for expert in theirs["experts"]
    ]
    ours = {
        "base_model": theirs["base_model"],
        "experts_per_token": theirs["experts_per_token"],
        "experts": experts,
        "gate": {"expand": "off"},
    }
    with tempfile.TemporaryDirectory(prefix="moemerge-versus-") as folder:
        work = Path(folder)
        (work / "ours.yaml").write_text(yaml.safe_dump(ours), encoding="utf-8")
        program = str(arguments.venv / "bin" / "mergekit-moe")
        build = [sys.executable, "-m", "moemerge", "build", str(work / "ours.yaml"), "-o", str(work / "ours"), "-q"]
        ways = {
            "moemerge build, discriminant": (build, work / "ours", str(ROOT)),
            "mergekit-moe, hidden": (
                [program, str(arguments.recipe), str(work / "theirs"), "--quiet"],
                work / "theirs",
                "",
            ),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(arguments.runs):
            for name, (command, output, path) in ways.items():
                found[name].append(run(command, output, path))
    print("| build | median s | range s | peak MB |\n|---|---|---|---|")
    for name, runs in found.items():
        times = [seconds for seconds, _ in runs]
        print(
            f"| {name} | {statistics.median(times):.1f} | {min(times):.1f}-{max(times):.1f} | "
            f"{max(peak for _, peak in runs):,.0f} |"
        )


if __name__ == "__main__":
    main()
