"""What the gate of four experts of 7 B takes: seconds and peak memory.

    python benchmarks/gate_memory.py             # 14 GB of disk; some minutes on 2 cores
    python benchmarks/gate_memory.py --layers 4  # tries the script: 2 GB
    python benchmarks/gate_memory.py --clean     # removes what it made

The source has Llama-2-7B's shape and random weights in bf16, and stands for the base and the four experts by hard
links. The gate is the discriminant on 32 prompts an expert, without expansion, the shared weights their mean. Peaks are
those of the process that fits the gate: anonymous memory, and all that is resident, which counts mapped files too.
Exit status 1 says that the bar is missed: 8 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from moemerge.families import DenseConfig

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.tiny import WORDS, write_tokenizer  # noqa: E402  # after the path

BAR = 8e9
EXPERTS, PROMPTS, LENGTH = 4, 32, 12
SHAPE = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096, "dtype": "bfloat16",
}  # fmt: skip
PROGRAM = """
import json, sys, time
from pathlib import Path
from moemerge.build.run import fit_router
from moemerge.build.texts import read_expert_texts
from moemerge.plan import make_plan, peak_memory
from moemerge.recipe import Recipe
plan = make_plan(Recipe.model_validate(json.loads(sys.argv[1])), Path.cwd())
texts = read_expert_texts(plan, Path.cwd())
started = time.perf_counter()
fit = fit_router(plan, texts)
print(json.dumps({"seconds": time.perf_counter() - started, "planned": peak_memory(plan), "tokens": sum(fit.tokens)}))
"""


def write_source(folder: Path, layers: int) -> None:
    """A checkpoint of one file a layer; its numbers are windows of one pool of normal draws."""
    folder.mkdir(parents=True)
    config = SHAPE | {"num_hidden_layers": layers}
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    pool = (0.02 * torch.randn(1 << 24, generator=generator)).bfloat16()
    shards: dict[str, dict[str, torch.Tensor]] = {}
    weight_map = {}
    for name, shape in DenseConfig.resolve(config).tensors():
        parts = name.split(".")
        shard = f"layer-{parts[2]}.safetensors" if parts[1] == "layers" else f"{parts[-2]}.safetensors"
        size = torch.Size(shape).numel()
        start = int(torch.randint(len(pool), (1,), generator=generator))
        repeated = pool.roll(start).repeat(-(-size // len(pool)))[:size]
        shards.setdefault(shard, {})[name] = torch.ones(shape).bfloat16() if "norm" in name else repeated.reshape(shape)
        weight_map[name] = shard
        if name.endswith("down_proj.weight") or parts[1] != "layers":
            save_file(shards.pop(shard), folder / shard, {"format": "pt"})
    for shard, tensors in shards.items():
        save_file(tensors, folder / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def sources(work: Path, layers: int) -> list[Path]:
    """The base, and each expert as hard links to it."""
    base = work / f"base-{layers}"
    if not (base / "model.safetensors.index.json").exists():
        shutil.rmtree(base, ignore_errors=True)
        write_source(base, layers)
    folders = [base]
    for number in range(EXPERTS):
        folders.append(work / f"expert-{number}-{layers}")
        shutil.rmtree(folders[-1], ignore_errors=True)
        shutil.copytree(base, folders[-1], copy_function=os.link)
    return folders


def recipe(folders: list[Path]) -> dict[str, Any]:
    """Prompts of random words, each expert's from its own part of the vocabulary."""
    generator = torch.Generator().manual_seed(1)
    share = len(WORDS) // EXPERTS
    experts = []
    for number, folder in enumerate(folders[1:]):
        words = WORDS[number * share : (number + 1) * share]
        draws = torch.randint(share, (PROMPTS, LENGTH), generator=generator).tolist()
        prompts = [" ".join(words[draw] for draw in row) for row in draws]
        experts.append({"name": f"e{number}", "model": str(folder), "prompts": prompts})
    return {"base_model": str(folders[0]), "experts": experts, "gate": {"expand": "off"}}


def watched(command: list[str]) -> tuple[dict[str, Any], int, int]:
    """What a command prints, its peak of anonymous memory (looked at 20 times a second) and of resident memory."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    anonymous = resident = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        sizes = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.endswith("kB")}
        anonymous = max(anonymous, int(sizes.get("RssAnon", 0)) * 1024)
        resident = max(resident, int(sizes.get("VmHWM", 0)) * 1024)
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"the gate failed with {process.returncode}")
    assert process.stdout is not None
    return json.loads(process.stdout.read()), anonymous, resident


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Memory of the gate of a model that does not fit.")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "gate-memory")
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    parser.add_argument("--prepare", action="store_true", help="writes the source and no more")
    parser.add_argument("--clean", action="store_true", help="removes all that was written")
    arguments = parser.parse_args()
    if arguments.clean:
        shutil.rmtree(arguments.work, ignore_errors=True)
        return
    folders = sources(arguments.work, arguments.layers)
    size = sum(file.stat().st_size for file in folders[0].glob("*.safetensors"))
    if arguments.prepare:
        return
    found, anonymous, resident = watched([sys.executable, "-c", PROGRAM, json.dumps(recipe(folders))])
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; {EXPERTS} experts of "
        f"{size / 1e9:.1f} GB, {found['tokens']:,} tokens\n\n"
        "| seconds | anonymous, GB | resident, GB | the plan says, GB |\n|---|---|---|---|\n"
        f"| {found['seconds']:.0f} | {anonymous / 1e9:.2f} | {resident / 1e9:.2f} | "
        f"{found['planned'] / 1e9:.2f} |"
    )
    sys.exit(f"the bar of {BAR / 1e9:.0f} GB is missed" if resident > BAR else 0)


if __name__ == "__main__":
    main()
