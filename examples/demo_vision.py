"""The vision demo: one mixture that reads texts and pictures. Plans, builds, verifies, shows and measures it.

    make demo-vision            or            python examples/demo_vision.py

The three specialists of `make demo` become experts beside one that was taught to answer questions about pictures
(`train_vision.py`). The text-only mixture of `make demo` is built too where it is not there, to compare with.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rich.table import Table

from demo import OUT as TEXT_ONLY
from demo import RECIPE as TEXT_RECIPE
from demo import ROOT, console, run

RECIPE = ROOT / "recipes" / "vision.yaml"
OUT = ROOT / "out" / "vision"
BASE = ROOT / "out" / "vision-base"
COLUMNS = ("base", "specialist", "linear_merge", "text-only MoE", "moe")


def text_losses(report: Path) -> Table:
    """The text domains' losses, from the report of `moemerge eval`, beside those of the text-only mixture."""
    table = Table(title="Texts: next-token loss in nats, the lower the better")
    table.add_column("domain")
    for column in COLUMNS:
        table.add_column(column.replace("_", " ").replace("moe", "MoE with pictures"), justify="right")
    for domain, found in json.loads(report.read_text(encoding="utf-8"))["domains"].items():
        losses = {**found, "text-only MoE": found["compared"]["text-only"]["nats"]}
        table.add_row(domain, *(f"{losses[column]:.3f}" for column in COLUMNS))
    return table


def main() -> None:
    """Runs the demo."""
    started = time.monotonic()
    tool = str(Path(sys.executable).with_name("moemerge"))
    recipe, out, base = (str(path.relative_to(ROOT)) for path in (RECIPE, OUT, BASE))
    run(sys.executable, "examples/vision_model.py", base)
    run(tool, "plan", recipe)
    run(tool, "build", recipe, "-o", out, "--overwrite")
    run(tool, "verify", out)
    run(sys.executable, "examples/look.py", out)
    run(sys.executable, "examples/measure_vision.py", base, out)
    text_only = str(TEXT_ONLY.relative_to(ROOT))
    if not (TEXT_ONLY / "moemerge.yaml").is_file():
        run(tool, "build", str(TEXT_RECIPE.relative_to(ROOT)), "-o", text_only)
    report = f"{out}.json"
    run(
        tool, "eval", out, "--compare", f"text-only={text_only}", "--without", "samples,chat,questions,speed",
        "-o", report, "--html", f"{out}.html",
    )  # fmt: skip
    console.print(text_losses(ROOT / report))
    console.print(f"done in {time.monotonic() - started:.0f} s; the model is in {out}, its report in {out}.html")


if __name__ == "__main__":
    main()
