"""What the merge of the shared weights costs on a hard set, and what rounding it does: losses of oracle routing.

    python benchmarks/hard/hard_merges.py chat                 # development texts
    python benchmarks/hard/hard_merges.py chat --part test     # once, when all choices are made

Every token has its own specialist's expert, so a gate plays no part. "Kept" is the gain kept. "fp32" computes in fp32
with the written numbers, and "unrounded" with what they are rounded from: no other way to round can gain more than the
difference of the two.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial

import torch
from hard_gates import SETS, HardSet, ahead, plan_of

from losses import gain_interval, gain_kept, mean
from moemerge.dense.models import PlannedModels

MERGES: Mapping[str, tuple[str, ...]] = {
    "mean": (),
    "base": ("merge.shared=base",),
    "task arithmetic, 0.5": ("merge.shared=task_arithmetic", "merge.scaling=0.5"),
    "ties": ("merge.shared=ties",),
    "dare_ties": ("merge.shared=dare_ties",),
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Oracle routing by merge of the shared weights, and by rounding.")
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--part", choices=("development", "test"), default="development")
    parser.add_argument("--limit", type=int, default=10, help="documents of a domain [10]")
    parser.add_argument("--tokens", type=int, default=160, help="of a document at most [160]")
    arguments = parser.parse_args()

    bench = HardSet(arguments.set, arguments.part, arguments.limit, arguments.tokens, again=False)
    domains = SETS[arguments.set]
    base, own = ({d: losses[d] for d in domains} for losses in (bench.base, bench.own))
    print(f"linear merge {gain_kept(base, own, bench.linear):.3f}\n\n| shared weights | kept | more than the mean |")
    print("| --- | --- | --- |")
    for label, overrides in MERGES.items():
        models = PlannedModels(plan_of(arguments.set, *overrides))
        losses = bench.measured(f"oracle {label}", partial(bench.by_owner, models.merged))
        low, high = gain_interval(base, own, losses)
        more = "" if label == "mean" else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*ahead(base, own, losses, bench.oracle))
        print(f"| {label} | {gain_kept(base, own, losses):.3f} [{low:.3f}, {high:.3f}] | {more} |", flush=True)
    rounded = PlannedModels(plan_of(arguments.set), dtype=torch.float32)
    exact = PlannedModels(plan_of(arguments.set, "dtype=float32"))
    found = {
        name: bench.measured(f"oracle {name}", partial(bench.by_owner, models.merged))
        for name, models in (("fp32", rounded), ("unrounded", exact))
    }
    print("\n| domain | bf16, nats | fp32 | unrounded | unrounded less fp32 |\n| --- | --- | --- | --- | --- |")
    for domain in domains:
        losses = [mean(one[domain]) for one in (bench.oracle, found["fp32"], found["unrounded"])]
        print("| " + " | ".join((domain, *(f"{one:.4f}" for one in losses), f"{losses[2] - losses[1]:+.5f}")) + " |")


if __name__ == "__main__":
    main()
