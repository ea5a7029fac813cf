"""The demo: plans, builds and verifies a real mixture of three specialists, lets it write, and measures it.

    make demo            or            python examples/demo.py

All of it is what a user types; each command is printed before it runs.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "demo.yaml"
OUT = ROOT / "out" / "demo"

console = Console(width=min(Console().width, 120))


def run(*command: str) -> None:
    """Prints and runs a command; the demo ends where one fails."""
    shown = shlex.join([Path(command[0]).name, *command[1:]]).replace(f"{ROOT}/", "")
    console.print(f"\n[bold cyan]$ {shown}[/]", highlight=False)
    child = subprocess.Popen(command, cwd=ROOT)
    while True:
        try:
            status = child.wait()
            break
        except KeyboardInterrupt:  # the command has heard it too, and tidies up
            continue
    if status in (130, -2):
        sys.exit(130)
    if status:
        sys.exit(f"demo: `{shown}` failed")


def main() -> None:
    """Runs the demo."""
    started = time.monotonic()
    tool = str(Path(sys.executable).with_name("moemerge"))
    recipe, out = str(RECIPE.relative_to(ROOT)), str(OUT.relative_to(ROOT))
    run(tool, "plan", recipe)
    run(tool, "build", recipe, "-o", out, "--overwrite")
    run(tool, "verify", out)
    run(sys.executable, "examples/say.py", out)
    run(tool, "eval", out, "--html", f"{out}.html")
    console.print(f"done in {time.monotonic() - started:.0f} s; the model is in {out}, its report in {out}.html")


if __name__ == "__main__":
    main()
