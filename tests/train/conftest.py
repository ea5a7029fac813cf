"""A trio whose router has learnt nothing, and texts to train it on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moemerge.console import Silent
from moemerge.mixture.processes import Processes
from moemerge.train.options import TrainOptions
from moemerge.train.run import TrainResult, train_folder
from tests.evaluate.conftest import WORDS, Trio, sentences, trio, words

__all__ = ["trio", "words"]  # fixtures of the neighbours
Trainer = Callable[..., TrainResult]


class Notes(Silent):
    """Keeps what the user would read."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        """See `Progress`."""
        self.said.append(text)


def write(folder: Path, **texts: Any) -> Path:
    """A file of domains whose texts are given."""
    lines = []
    for domain, rows in texts.items():
        (folder / f"{domain}.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in rows), encoding="utf-8")
        lines.append(f"{domain}: {domain}.jsonl")
    path = folder / "data.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def texts(trio: Trio) -> Path:
    """A file of training texts by domain; none of them is an evaluation text."""
    for domain in WORDS:
        rows = [json.dumps({"text": text}) for text in sentences(domain, 80, 5)]
        (trio.root / f"train-{domain}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    path = trio.root / "train.yaml"
    path.write_text("\n".join(f"{domain}: train-{domain}.jsonl" for domain in WORDS), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def unrouted(trio: Trio) -> Path:
    """The trio's mixture with a random gate, one expert per token."""
    return trio.build(trio.root / "unrouted", gate={"init": "random"})


@pytest.fixture
def trained(unrouted: Path, texts: Path, tmp_path: Path) -> Trainer:
    """Makes `trained(**options)`: trains the random gate into a new folder, a few steps unless told otherwise."""

    def make(
        folder: Path = unrouted, output: Path = tmp_path / "out", progress: Any = None, **given: Any
    ) -> TrainResult:
        flags = {name: given.pop(name) for name in ("overwrite", "resume") if name in given}
        options = TrainOptions(
            **{"data": texts, "steps": 6, "judge_every": 3, "context": 64, "rows": 4, "domain_weight": 1.0} | given
        )
        return train_folder(folder, output, options, progress or Silent(), Processes(), **flags)

    return make
