"""Trains the demo's router, never on `examples/eval` nor judged by it, and measures the mixture again.

    make demo-train            or            python examples/demo_train.py

`make demo` must have built out/demo before.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from demo import OUT, ROOT, console, run

TRAINED = OUT.with_name("demo-trained")
MINUTES = "10"


def main() -> None:
    """Runs the training of the demo."""
    if not (OUT / "moemerge.yaml").is_file():
        sys.exit(f"demo-train: there is no {OUT.relative_to(ROOT)} yet\nhint: run `make demo` first")
    started = time.monotonic()
    tool = str(Path(sys.executable).with_name("moemerge"))
    out, trained = str(OUT.relative_to(ROOT)), str(TRAINED.relative_to(ROOT))
    resume = ["--resume"] if TRAINED.with_name(f"{TRAINED.name}.training.safetensors").is_file() else []
    run(
        tool, "train-router", out, "-o", trained, "--data", "examples/training.yaml",
        "--held-out", "examples/held_out.yaml", "--minutes", MINUTES, "--overwrite", *resume,
    )  # fmt: skip
    run(tool, "verify", trained)
    run(tool, "eval", trained, "--html", f"{trained}.html")
    console.print(
        f"done in {time.monotonic() - started:.0f} s; the model is in {trained}, its report in {trained}.html"
    )


if __name__ == "__main__":
    main()
