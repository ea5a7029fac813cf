"""Exports the demo as a GGUF file and lets llama.cpp answer in each of its domains.

    make demo-gguf             or            python examples/demo_gguf.py

`make demo` must have built out/demo before. llama.cpp is the prebuilt wheel `xllamacpp`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from demo import OUT, ROOT, console, run

FILE = OUT.with_suffix(".gguf")
QUESTIONS = (
    "Write a Python function that reverses a list.",
    "A box holds 12 pens and Lea buys 3 boxes. How many pens does she have?",
    "Comment afficher la liste des fichiers ?",
)


def main() -> None:
    """Exports, loads and asks."""
    if not (OUT / "moemerge.yaml").is_file():
        sys.exit(f"demo-gguf: there is no {OUT.relative_to(ROOT)} yet\nhint: run `make demo` first")
    tool = str(Path(sys.executable).with_name("moemerge"))
    out, file = str(OUT.relative_to(ROOT)), str(FILE.relative_to(ROOT))
    run(tool, "export", out, "--gguf", file, "--type", "q8_0", "--overwrite")
    import xllamacpp as llama

    settings: Any = llama.CommonParams()
    settings.model.path = str(FILE)
    settings.n_ctx, settings.n_parallel, settings.warmup, settings.verbosity = 1024, 1, False, 0
    server: Any = llama.Server(settings)
    for question in QUESTIONS:
        asked = {"messages": [{"role": "user", "content": question}], "max_tokens": 48, "temperature": 0}
        answer = server.handle_chat_completions(asked)["choices"][0]["message"]["content"]
        console.print(f"[bold]{question}[/bold]")
        console.print(answer.strip(), markup=False)


if __name__ == "__main__":
    main()
