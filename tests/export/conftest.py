"""Tiny mixtures whose tokenizer llama.cpp knows, and llama.cpp itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from moemerge.console import Silent
from moemerge.export import Exported, export_gguf
from tests.conftest import TinyMaker
from tests.export.vocabularies import ROWS, byte_level, smollm
from tests.moe import build_tiny

Mixture = Callable[..., Path]
Ask = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def mixture(tiny: TinyMaker, tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """Builds a mixture of three of a family, with a router that is soft: no expert takes nearly all the weight."""
    root = tmp_path_factory.mktemp("mixtures")

    def make(family: str, config: dict[str, Any] | None = None, **fields: Any) -> Path:
        number = len(list(root.iterdir()))
        given = {"vocab_size": ROWS, "hidden_size": 64, "intermediate_size": 96, "scale": 4.0, **(config or {})}
        sources = []
        for seed in range(4):
            source = root / f"{number}-{seed}"
            shutil.copytree(tiny(family, seed, **given), source)
            byte_level(source, smollm())
            sources.append(source)
        fields = {"gate": {"init": "random"}, "experts_per_token": 2, **fields}
        return build_tiny(root / f"{number}-out", sources[0], sources[1:], **fields)

    return make


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., Exported]:
    """Exports a folder in F32."""

    def export(folder: Path, kind: str = "f32", **options: Any) -> Exported:
        return export_gguf(folder, tmp_path / f"{folder.name}.{kind}.gguf", kind, Silent(), **options)

    return export


@pytest.fixture(scope="session")
def llama() -> Ask:
    """Asks llama.cpp, in one process for all that is asked at once."""

    def ask(asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("llama_cpp.py"))],
            input=json.dumps(list(asked)), capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        said: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
        return said

    return ask
