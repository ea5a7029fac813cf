"""How fast this CPU runs the demo's model in each dtype, as it is and held to AVX2; and what `auto` takes.

    python benchmarks/dtypes.py

Each setting is a process of its own, since the variables are read when torch is loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DTYPES = ("float32", "bfloat16", "float16")
SETTINGS = {
    "as it is": {},
    "held to AVX-512 without bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "held to AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
ROWS = 40
"""Rows that are decoded at once, as when specialists write."""


def measure() -> dict[str, dict[str, float]]:
    """Tokens a second of the demo's code specialist, by dtype: read, written as one row, written as `ROWS`."""
    import torch

    from moemerge.dense.models import PlannedModels
    from moemerge.evaluate.speed import measure_speed
    from moemerge.plan import sound_plan
    from moemerge.recipe import load_recipe

    loaded = load_recipe(ROOT / "recipes" / "demo.yaml")
    plan = sound_plan(loaded.recipe, loaded.root)
    found = {}
    for dtype in DTYPES:
        model = PlannedModels(plan, dtype=getattr(torch, dtype)).specialist(0)
        rates = measure_speed({"it": model}).rates["it"]
        found[dtype] = {"read": rates.prefill, "written": rates.decode, "together": together(model)}
    return found


def together(model: Any) -> float:
    """Tokens a second of `ROWS` rows that are written at once."""
    from moemerge.dense.generation import continuations

    prompts = [[1, 2, 3, 4]] * ROWS
    taken = []
    for new in (1, 1, 17):
        started = time.perf_counter()
        continuations(model, prompts, (), do_sample=False, max_new_tokens=new)
        taken.append(time.perf_counter() - started)
    return 16 * ROWS / (taken[2] - taken[1])


def main() -> None:
    """Prints the table."""
    if sys.argv[1:] == ["--measure"]:
        from moemerge.device import fast_dtypes

        print(json.dumps({"rates": measure(), "fast": sorted(fast_dtypes())}))
        return
    from moemerge.device import processor, processors

    print(f"{processor()}, {processors()} cores; tokens a second\n")
    print("| setting | dtype | read, 512 at once | written, one row | written, 40 rows | `auto` |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, variables in SETTINGS.items():
        command = [sys.executable, __file__, "--measure"]
        run = subprocess.run(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(run.stdout)
        for dtype, rates in found["rates"].items():
            takes = dtype if dtype in found["fast"] else "float32"
            cells = (f"{rates[kind]:,.0f}" for kind in ("read", "written", "together"))
            print(f"| {name} | {dtype} | {' | '.join(cells)} | {takes} |")


if __name__ == "__main__":
    main()
