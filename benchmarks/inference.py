"""Tokens a second of generation and prefill over the number of experts: the cost goes with the active parameters.

    python benchmarks/inference.py                      # 2, 4, 8, 16 experts in bf16; 3 GB of disk and of memory
    python benchmarks/inference.py --dtype float32      # twice the memory
    python benchmarks/inference.py --experts 2 4 --new 4 --prompt 32 --runs 1         # tries the script

Mixtures of the demo's base are built into a temporary folder by moemerge, the demo's adapters in turn as experts, two a
token, with a random gate, so that tokens spread over all of them. transformers computes the experts in one of three
ways (`experts_implementation`; `grouped_mm` is its default). `batched_mm` copies an expert's weights for every token,
which a prompt has no memory for, so it is measured at generation alone. All of it takes turns; medians are compared.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from turns import medians

from moemerge.api import build
from moemerge.mixture.baselines import Baselines
from moemerge.mixture.folder import open_moe
from moemerge.mixture.placement import Placement
from moemerge.mixture.routers import find_routers
from moemerge.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("eager", "grouped_mm", "batched_mm")
START = 8
"""Tokens of the prompt that generation begins from."""


def build_mixture(folder: Path, experts: int) -> Path:
    """So many experts of the demo's base, two a token."""
    loaded = load_recipe(ROOT / "recipes" / "demo.yaml")
    models = [expert.model for expert in loaded.recipe.experts]
    recipe = Recipe.model_validate({
        "base_model": loaded.recipe.base_model,
        "experts": [{"name": f"e{n}", "model": models[n % len(models)]} for n in range(experts)],
        "experts_per_token": 2,
        "gate": {"init": "random"},
    })  # fmt: skip
    return build(recipe, folder / str(experts), root=loaded.root).path


def generate(model: Any, way: str | None, k: int, tokens: int) -> None:
    """Greedy, one row."""
    choose(model, way, k)
    ids = torch.arange(100, 100 + START)[None]
    model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
        pad_token_id=0,
    )  # fmt: skip


@torch.inference_mode()
def prefill(model: Any, way: str | None, k: int, tokens: int) -> None:
    """One row, as far as the logits of the last position."""
    choose(model, way, k)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 40_000, (1, tokens), generator=generator)
    model(input_ids=ids, use_cache=True, logits_to_keep=1)


def choose(model: Any, way: str | None, k: int) -> None:
    """How a mixture computes its experts, and how many a token; nothing where `way` is None: a dense model."""
    if way is not None:
        model.set_experts_implementation(way)
        for router in find_routers(model).modules:
            router.top_k = k


def main() -> None:
    """Builds, measures, prints the table."""
    parser = argparse.ArgumentParser(description="Tokens a second over the number of experts.")
    parser.add_argument("--experts", type=int, nargs="*", default=[2, 4, 8, 16])
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=256, metavar="TOKENS", help="of the prefill")
    parser.add_argument("--new", type=int, default=16, metavar="TOKENS", help="that are generated")
    parser.add_argument("--work", type=Path, help="keeps the mixtures here, and takes them from here")
    arguments = parser.parse_args()

    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        measure(arguments, arguments.work or Path(temporary))


def measure(arguments: argparse.Namespace, work: Path) -> None:
    """See `main`."""
    placement = Placement(dtype=arguments.dtype)
    calls: dict[str, Callable[[], Any]] = {}
    rows: list[tuple[str, str, float, str]] = []

    def add(title: str, model: Any, active: int, way: str | None, k: int) -> None:
        name = f"{title}, {way or 'dense'}"
        rows.append((title, way or "", active / 1e6, name))
        calls[f"{name}, new"] = partial(generate, model, way, k, arguments.new)
        if way != "batched_mm":
            calls[f"{name}, prompt"] = partial(prefill, model, way, k, arguments.prompt)

    for number, experts in enumerate(arguments.experts):
        path = work / str(experts)
        folder = open_moe(path if path.exists() else build_mixture(work, experts))
        if not number:
            base = Baselines(folder, placement, online=False, allow_pickle=False).base()
            dense = sum(parameter.numel() for parameter in base.parameters())
            add("the dense base", base, dense, None, 0)
        model = folder.load(placement)
        total = sum(parameter.numel() for parameter in model.parameters())
        routed = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
        for k in (2, 1) if experts in (arguments.experts[0], arguments.experts[-1]) else (2,):
            active = total - routed + routed * k // experts
            for way in WAYS:
                add(f"{experts} experts, top-{k}", model, active, way, k)

    taken = medians(calls, arguments.runs)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, {arguments.dtype}; {arguments.new} new tokens after {START}, a "
        f"prompt of {arguments.prompt}; median of {arguments.runs} interleaved runs\n"
    )
    print("| model | experts | active, M | generation, tokens/s | prefill, tokens/s |")
    print("| --- | --- | --- | --- | --- |")
    for title, way, millions, name in rows:
        new = arguments.new / taken[f"{name}, new"]
        prompt = f"{arguments.prompt / taken[f'{name}, prompt']:.0f}" if f"{name}, prompt" in taken else ""
        print(f"| {title} | {f'`{way}`' if way else ''} | {millions:.0f} | {new:.1f} | {prompt} |")


if __name__ == "__main__":
    main()
