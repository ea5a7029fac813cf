"""llama.cpp, by the prebuilt wheel of xllamacpp, as the tests of `moemerge export` ask it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import xllamacpp
from answers import answer_all

ASKING = Path(__file__).parents[3] / "tests" / "export" / "llama_cpp.py"


def _asking() -> Any:
    spec = importlib.util.spec_from_file_location("llama_cpp", ASKING)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Everything in fp32."""
    rows = [asked["tokens"][:length] for length in asked["lengths"]]
    about = {"gguf": asked["model"], "rows": rows, "texts": asked["texts"], "vocabulary": asked["vocabulary"],
             "plain": asked["plain"]}  # fmt: skip
    said = _asking().answer(xllamacpp, about)
    listed = [[row[token] for token in range(asked["vocabulary"])] for row in said["logprobs"]]
    return {"logprobs": listed, "ids": said["ids"]}


if __name__ == "__main__":
    answer_all(answer)
