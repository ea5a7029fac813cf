"""The demo: plans, builds and verifies a real mixture of three specialists, lets it write, and measures it.

    make demo            or            python examples/demo.py

Everything up to the measurement is what a user types; each command is printed before it runs.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RECIPE = ROOT / "recipes" / "demo.yaml"
OUT = ROOT / "out" / "demo"

console = Console(width=min(Console().width, 120))


def run(*command: str) -> None:
    """Prints and runs a command; the demo ends where one fails."""
    shown = shlex.join([Path(command[0]).name, *command[1:]]).replace(f"{ROOT}/", "")
    console.print(f"\n[bold cyan]$ {shown}[/]", highlight=False)
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(f"demo: `{shown}` failed")


def measure() -> None:
    """Prints the losses of base, specialists, linear merge and MoE on the project's own evaluation texts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from losses import Losses, gain_interval, gain_kept, mean, read_texts, text_losses
    from moemerge.models import PlannedModels
    from moemerge.plan import make_plan
    from moemerge.recipe import load_recipe

    logging.disable_progress_bar()
    loaded = load_recipe(RECIPE)
    plan = make_plan(loaded.recipe, loaded.root)
    models = PlannedModels(plan)
    tokenizer = AutoTokenizer.from_pretrained(OUT)
    domains = [expert.name for expert in plan.experts]
    texts = read_texts(HERE / "eval", domains)

    base: Losses = {d: text_losses(models.base(), tokenizer, texts[d]) for d in domains}
    own: Losses = {d: text_losses(models.specialist(i), tokenizer, texts[d]) for i, d in enumerate(domains)}
    linear: Losses = {d: text_losses(models.linear_merge(), tokenizer, texts[d]) for d in domains}
    moe = AutoModelForCausalLM.from_pretrained(OUT, dtype="auto").eval()
    ours: Losses = {d: text_losses(moe, tokenizer, texts[d]) for d in domains}

    table = Table(title="mean next-token loss (nats) on unseen texts; lower is better")
    for head in ("", *domains, "gain kept", "95 % interval"):
        table.add_column(head, justify="right" if head else "left")
    for name, losses in (("base", base), ("own specialist", own), ("linear merge", linear), ("MoE", ours)):
        low, high = gain_interval(base, own, losses)
        kept = f"{gain_kept(base, own, losses):.3f}"
        interval = f"[{low:.2f}, {high:.2f}]" if name in ("linear merge", "MoE") else ""
        table.add_row(name, *(f"{mean(losses[d]):.4f}" for d in domains), kept, interval)
    console.print()
    console.print(table)
    console.print("gain kept: share of the specialists' gain over the base; 1 = the right specialist for every text")


def main() -> None:
    """Runs the demo."""
    started = time.monotonic()
    tool = str(Path(sys.executable).with_name("moemerge"))
    recipe, out = str(RECIPE.relative_to(ROOT)), str(OUT.relative_to(ROOT))
    run(tool, "plan", recipe)
    run(tool, "build", recipe, "-o", out, "--overwrite")
    run(tool, "verify", out)
    run(sys.executable, "examples/say.py", out)
    measure()
    console.print(f"done in {time.monotonic() - started:.0f} s; the model is in {out}")


if __name__ == "__main__":
    main()
