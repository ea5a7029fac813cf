"""The table of gates, shared merges and expansion on the demo: gain kept on the project's own evaluation texts.

    python benchmarks/gates.py                                  # the demo's three experts
    python benchmarks/gates.py --set experts_per_token=2
    python benchmarks/gates.py --recipe recipes/near-pair.yaml --only discriminant centroid
    python benchmarks/gates.py --also-checkpoint "mergekit-moe 0.1.5=work/mergekit/moe"

One sparse model is built for each way to merge the shared weights; then each gate is fitted as `moemerge build` fits
it, put into that model, and measured by plain transformers. The rows come as they are measured and again as a Markdown
table at the end. "of ceiling" is the gain kept over that of oracle routing on the same shared weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from losses import Losses, gain_interval, gain_kept, mean, read_texts, text_losses  # noqa: E402  # after the path
from moemerge.build.run import build_plan, fit_router  # noqa: E402
from moemerge.build.texts import read_expert_texts  # noqa: E402
from moemerge.dense.models import PlannedModels  # noqa: E402
from moemerge.plan import Plan, sound_plan  # noqa: E402
from moemerge.recipe import load_recipe  # noqa: E402


@dataclass(frozen=True)
class Row:
    """One line of the table: `overrides` are those of `--set`."""

    name: str
    shared: str
    overrides: tuple[str, ...] = ()


SHARED: Mapping[str, tuple[str, ...]] = {
    "mean": ("merge.shared=mean",),
    "base": ("merge.shared=base",),
    "task_arithmetic 0.5": ("merge.shared=task_arithmetic", "merge.scaling=0.5"),
    "ties": ("merge.shared=ties",),
    "dare_ties": ("merge.shared=dare_ties",),
}
PROMPTS = ("gate.expand=off",)
ROWS: tuple[Row, ...] = (
    Row("random", "mean", ("gate.init=random",)),
    Row("uniform", "mean", ("gate.init=uniform",)),
    Row("cheap_embed", "mean", ("gate.init=cheap_embed",)),
    Row("hidden_avg", "mean", ("gate.init=hidden_avg",)),
    Row("mergekit_hidden", "mean", ("gate.init=mergekit_hidden",)),
    Row("centroid, prompts only", "mean", ("gate.init=centroid", *PROMPTS)),
    Row("centred, prompts only", "mean", ("gate.init=centred", *PROMPTS)),
    Row("lda, prompts only", "mean", ("gate.init=lda", *PROMPTS)),
    Row("discriminant, prompts only", "mean", ("gate.init=discriminant", *PROMPTS)),
    Row("discriminant, expand 1000", "mean", ("gate.init=discriminant", "gate.expand=1000")),
    Row("discriminant, expand 4000", "mean", ("gate.init=discriminant", "gate.expand=4000")),
    Row("lda, expand 1000", "mean", ("gate.init=lda", "gate.expand=1000")),
    Row("mergekit_hidden", "base", ("gate.init=mergekit_hidden",)),
    Row("discriminant, prompts only", "base", ("gate.init=discriminant", *PROMPTS)),
    Row("discriminant, prompts only", "task_arithmetic 0.5", ("gate.init=discriminant", *PROMPTS)),
    Row("discriminant, prompts only", "ties", ("gate.init=discriminant", *PROMPTS)),
    Row("discriminant, prompts only", "dare_ties", ("gate.init=discriminant", *PROMPTS)),
)


class Bench:
    """What all rows share: the texts, the baselines, and one sparse model a shared merge."""

    def __init__(self, recipe: Path, work: Path, texts: Path, overrides: Sequence[str] = ()) -> None:
        from transformers import AutoTokenizer

        self.recipe, self.work, self.overrides = recipe, work, tuple(overrides)
        plan = self.plan(())
        self.domains = [expert.name for expert in plan.experts if expert.model != "base"]
        self.texts = read_texts(texts, self.domains)
        self.ceilings: dict[str, Losses] = {}
        self.sparse: dict[str, Any] = {}
        first = self._built("mean")
        self.tokenizer = AutoTokenizer.from_pretrained(first)
        models = PlannedModels(plan)
        self.base = self.losses(models.base)
        self.own = {d: self.measure(models.specialist(i), d) for i, d in self.indexed(plan)}
        self.linear = self.losses(models.linear_merge)

    def plan(self, overrides: Sequence[str]) -> Plan:
        """The plan of the recipe with overrides."""
        loaded = load_recipe(self.recipe, (*self.overrides, *overrides))
        return sound_plan(loaded.recipe, loaded.root)

    def indexed(self, plan: Plan) -> list[tuple[int, str]]:
        """Position and name of the experts that have a domain."""
        return [(i, e.name) for i, e in enumerate(plan.experts) if e.name in self.texts]

    def measure(self, model: Any, domain: str) -> Tensor:
        """The losses of one model on one domain."""
        return text_losses(model, self.tokenizer, self.texts[domain])

    def losses(self, give: Callable[[], Any]) -> Losses:
        """The losses on every domain of the model that a function gives."""
        return {domain: self.measure(give(), domain) for domain in self.domains}

    def _built(self, shared: str) -> Path:
        folder = self.work / shared.replace(" ", "-")
        loaded = load_recipe(self.recipe, (*self.overrides, *SHARED[shared], "gate.init=random"))
        build_plan(sound_plan(loaded.recipe, loaded.root), folder, root=loaded.root, overwrite=True)
        return folder

    def model(self, shared: str) -> Any:
        """The sparse model of a shared merge, by plain transformers; its oracle losses are measured beside it."""
        from transformers import AutoModelForCausalLM

        if shared not in self.sparse:
            self.sparse.clear()  # one at a time: memory
            self.sparse[shared] = AutoModelForCausalLM.from_pretrained(self._built(shared), dtype="auto").eval()
            plan = self.plan(SHARED[shared])
            models = PlannedModels(plan)
            self.ceilings[shared] = {d: self.measure(models.merged(i), d) for i, d in self.indexed(plan)}
        return self.sparse[shared]

    def row(self, row: Row) -> tuple[Losses, float]:
        """Fits the row's gate, puts it into the sparse model, and measures; also the seconds that fitting took."""
        loaded = load_recipe(self.recipe, (*self.overrides, *SHARED[row.shared], *row.overrides))
        plan = sound_plan(loaded.recipe, loaded.root)
        started = time.monotonic()
        fit = fit_router(plan, read_expert_texts(plan, loaded.root))
        seconds = time.monotonic() - started
        model = self.model(row.shared)
        with torch.no_grad():
            for layer, weights in zip(model.model.layers, fit.weights, strict=True):
                layer.mlp.gate.weight.copy_(torch.as_tensor(weights))
                layer.mlp.gate.top_k = plan.recipe.experts_per_token
        return {domain: self.measure(model, domain) for domain in self.domains}, seconds

    def line(self, name: str, shared: str, losses: Losses, seconds: float | None = None) -> str:
        """One Markdown row."""
        low, high = gain_interval(self.base, self.own, losses)
        kept = gain_kept(self.base, self.own, losses)
        ceiling = gain_kept(self.base, self.own, self.ceilings[shared]) if shared in self.ceilings else None
        cells = [
            name,
            shared,
            *(f"{mean(losses[d]):.4f}" for d in self.domains),
            f"{kept:.3f} [{low:.2f}, {high:.2f}]",
            f"{kept / ceiling:.3f}" if ceiling else "",
            f"{seconds:.0f}" if seconds is not None else "",
        ]
        return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Gain kept by gate, shared merge and expansion.")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "demo.yaml")
    parser.add_argument("--texts", type=Path, default=ROOT / "examples" / "eval")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "gates")
    parser.add_argument("--only", nargs="*", metavar="WORD", help="rows whose name begins with one of these")
    parser.add_argument("--also-checkpoint", action="append", default=[], metavar="NAME=FOLDER", help="measure it too")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for `moemerge build`")
    arguments = parser.parse_args()

    transformers.utils.logging.disable_progress_bar()
    bench = Bench(arguments.recipe, arguments.work, arguments.texts, arguments.set)
    lines = [
        "| gate | shared | " + " | ".join(bench.domains) + " | gain kept | of ceiling | fit, s |",
        "| --- | --- |" + " --- |" * (len(bench.domains) + 3),
        bench.line("base model", "", bench.base),
        bench.line("own specialist", "", bench.own),
        bench.line("dense linear merge", "mean", bench.linear),
    ]
    print("\n".join(lines), flush=True)

    def add(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    for row in ROWS:
        if arguments.only and not row.name.startswith(tuple(arguments.only)):
            continue
        known = set(bench.ceilings)
        losses, seconds = bench.row(row)
        if row.shared not in known:
            add(bench.line("oracle routing", row.shared, bench.ceilings[row.shared]))
        add(bench.line(row.name, row.shared, losses, seconds))
    for named in arguments.also_checkpoint:
        from transformers import AutoModelForCausalLM

        name, _, folder = named.partition("=")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        add(bench.line(name, "base", {d: bench.measure(model, d) for d in bench.domains}))
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
