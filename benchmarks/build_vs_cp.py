"""How long a build takes beside `cp` of as many bytes, and the most memory it holds.

    python benchmarks/build_vs_cp.py            # four experts of 1.1 B parameters: 23 GB of disk while it runs
    python benchmarks/build_vs_cp.py --small    # the same in seconds, to try the script itself

The sources have TinyLlama's shape and random values; they are made once and used again until `--clean`. Runs of `cp`
and of the whole command `moemerge build RECIPE --gate random` (plan, gate, write, verify; Python's start too) take
turns, so that a busy moment of the machine meets both. `cp` copies the folder that a build wrote. Before each timed
run its input is read once, so that both find in memory what fits there; `--cold` (root) empties the page cache
instead. Exit status 1 says that a bar is missed: 2 times `cp`, 800 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
EXPERTS = 4
RATIO_BAR = 2.0
MEMORY_BAR = 800e6
MEGA = 1e6


@dataclass(frozen=True)
class Shape:
    """The shape of a Llama; the default is TinyLlama's, 1.1 B parameters."""

    hidden: int = 2048
    intermediate: int = 5632
    layers: int = 22
    heads: int = 32
    kv_heads: int = 4
    vocabulary: int = 32000

    def config(self) -> dict[str, object]:
        """The model's `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "bfloat16",
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor, in the order of the layers."""
        wide, kv = self.hidden, self.hidden // self.heads * self.kv_heads
        yield "model.embed_tokens.weight", (self.vocabulary, wide)
        for layer in range(self.layers):
            name = f"model.layers.{layer}"
            yield f"{name}.input_layernorm.weight", (wide,)
            yield f"{name}.self_attn.q_proj.weight", (wide, wide)
            yield f"{name}.self_attn.k_proj.weight", (kv, wide)
            yield f"{name}.self_attn.v_proj.weight", (kv, wide)
            yield f"{name}.self_attn.o_proj.weight", (wide, wide)
            yield f"{name}.post_attention_layernorm.weight", (wide,)
            yield f"{name}.mlp.gate_proj.weight", (self.intermediate, wide)
            yield f"{name}.mlp.up_proj.weight", (self.intermediate, wide)
            yield f"{name}.mlp.down_proj.weight", (wide, self.intermediate)
        yield "model.norm.weight", (wide,)
        yield "lm_head.weight", (self.vocabulary, wide)


SMALL = Shape(hidden=256, intermediate=704, layers=4, heads=8, kv_heads=2, vocabulary=1024)


@dataclass(frozen=True)
class Run:
    """One timed command.

    Attributes:
        seconds: wall clock.
        processor: seconds of processor time, user's and kernel's.
        peak: the most memory it held (resident), in bytes; at least what this script held when it started it.
    """

    seconds: float
    processor: float
    peak: float


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer without merges: real, small, the same for all sources."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(letters[:3])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_weights(path: Path, shape: Shape, seed: int) -> None:
    """Writes a bf16 safetensors file of random values, as fast as the disk takes it.

    The values come from a pool of 16 MiB that is read round and round. Sign and fraction are random, the exponent is
    one of two, so every value is finite and its size between 2^-7 and 2^-5.
    """
    pool = np.random.default_rng(seed).integers(0, 1 << 16, size=(1 << 23) - 59, dtype=np.uint16)
    stream = memoryview(((pool & 0x80FF) | 0x3C00).tobytes())
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dimensions in shape.tensors():
        start, end = end, end + 2 * int(np.prod(dimensions))
        header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while end:
            end -= file.write(stream[:end])


def make_sources(work: Path, shape: Shape) -> Path:
    """Makes the sources that are not there yet, and the recipe; gives the recipe's path."""
    for index in range(EXPERTS):
        folder = work / f"source-{index}"
        if (folder / "config.json").exists():
            continue
        print(f"making {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        write_tokenizer(folder)
        write_weights(folder / "model.safetensors", shape, seed=index)
        (folder / "config.json").write_text(json.dumps(shape.config(), indent=1), encoding="utf-8")
    recipe = work / "recipe.yaml"
    experts = "".join(f"  - {{name: expert-{index}, model: source-{index}}}\n" for index in range(EXPERTS))
    recipe.write_text(f"base_model: source-0\nexperts:\n{experts}experts_per_token: 2\n", encoding="utf-8")
    return recipe


def settle(inputs: Sequence[Path], *, cold: bool) -> None:
    """Brings disk and page cache to the state that each timed run starts from."""
    os.sync()
    if cold:
        Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
        return
    for file in (file for folder in inputs for file in sorted(folder.iterdir())):
        with file.open("rb", buffering=0) as stream:
            while stream.read(1 << 24):
                pass


def timed(command: Sequence[str], log: Path) -> Run:
    """Runs a command; its output goes to `log`, and is shown where it fails."""
    with log.open("wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"`{' '.join(command)}` failed with {process.returncode}:\n{log.read_text(encoding='utf-8')}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measure(work: Path, recipe: Path, runs: int, *, cold: bool) -> tuple[list[Run], list[Run], int]:
    """Builds and copies in turn; gives the runs of `cp`, those of the build, and the bytes that each writes."""
    built, copied = work / "built", work / "copied"
    moemerge = str(Path(sys.executable).with_name("moemerge"))
    sources = [work / f"source-{index}" for index in range(EXPERTS)]
    copies: list[Run] = []
    builds: list[Run] = []
    for turn in range(runs):
        for folder in (built, copied):
            shutil.rmtree(folder, ignore_errors=True)
        settle(sources, cold=cold)
        builds.append(timed([moemerge, "build", str(recipe), "-o", str(built), "--gate", "random"], work / "build.log"))
        settle([built], cold=cold)
        copies.append(timed(["cp", "-r", str(built), str(copied)], work / "cp.log"))
        print(f"turn {turn + 1} of {runs}: build {builds[-1].seconds:.2f} s, cp {copies[-1].seconds:.2f} s", flush=True)
    return copies, builds, size(built)


def machine(work: Path) -> str:
    """The machine, the disk and the versions, in a line."""
    cpu, memory = platform.processor() or platform.machine(), ""
    if Path("/proc/cpuinfo").exists():
        names = [
            line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line
        ]
        cpu = names[0].partition(": ")[2] if names else cpu
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(work)], capture_output=True, text=True, check=False
    ).stdout.strip()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("moemerge", "torch"))
    return (
        f"{cpu}, {os.cpu_count()} cores{memory}, {kind or 'unknown'} file system, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {libraries}"
    )


def report(copies: list[Run], builds: list[Run], written: int) -> tuple[float, float]:
    """Prints the table, in Markdown; gives the ratio of the medians and the build's highest peak in bytes."""

    def row(name: str, runs: list[Run], ratio: str, peak: str) -> str:
        seconds = [run.seconds for run in runs]
        median = statistics.median(seconds)
        processor = statistics.median(run.processor for run in runs)
        return (
            f"| {name} | {median:.2f} | {min(seconds):.2f}-{max(seconds):.2f} | {processor:.2f} "
            f"| {written / median / MEGA:,.0f} | {ratio} | {peak} |"
        )

    peak = max(run.peak for run in builds)
    ratio = statistics.median(run.seconds for run in builds) / statistics.median(run.seconds for run in copies)
    print(f"| {written / 1e9:.2f} GB written | median s | range s | processor s | MB/s | times `cp` | peak MB |")
    print("|---|---|---|---|---|---|---|")
    print(row("`cp -r`", copies, "1", ""))
    print(row("`moemerge build --gate random`", builds, f"{ratio:.2f}", f"{peak / MEGA:,.0f}"))
    return ratio, peak


def main() -> int:
    """Measures, prints, and gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "bench", help="folder for sources and outputs")
    parser.add_argument("--runs", type=int, default=5, help="turns of each command (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="tiny sources: tries the script, measures Python's start")
    parser.add_argument("--cold", action="store_true", help="empty the page cache before each run (root, Linux)")
    parser.add_argument("--clean", action="store_true", help="remove the sources too when done")
    arguments = parser.parse_args()

    work = arguments.work / ("small" if arguments.small else "large")
    recipe = make_sources(work, SMALL if arguments.small else Shape())
    try:
        copies, builds, written = measure(work, recipe, arguments.runs, cold=arguments.cold)
    finally:
        for folder in [work / "built", work / "copied", *([work] if arguments.clean else [])]:
            shutil.rmtree(folder, ignore_errors=True)
    print(
        f"\n{machine(arguments.work)}; {'cold' if arguments.cold else 'warm'} page cache; median of {arguments.runs}\n"
    )
    ratio, peak = report(copies, builds, written)
    if arguments.small:
        return 0
    print(
        f"\nbars: {ratio:.2f} of at most {RATIO_BAR:g} times `cp`; "
        f"{peak / MEGA:,.0f} MB of at most {MEMORY_BAR / MEGA:g} MB"
    )
    return int(ratio > RATIO_BAR or peak > MEMORY_BAR)


if __name__ == "__main__":
    sys.exit(main())
