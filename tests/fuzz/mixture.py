"""What users do with a built folder: one of its verbs, which one follows from the spoilt bytes."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest.mock import patch

from moemerge import api
from moemerge.errors import MoemergeError
from moemerge.evaluate import extras
from moemerge.evaluate.chat import sample_reply
from moemerge.evaluate.options import EvalOptions
from moemerge.evaluate.trace import trace_text
from moemerge.export.vocabulary import read_vocabulary
from moemerge.mixture.folder import open_moe
from moemerge.mixture.placement import Placement
from moemerge.mixture.routers import find_routers
from moemerge.train.options import TrainOptions
from moemerge.train.state import remove_state, state_path
from moemerge.write.made import made_by_build
from tests.export.vocabularies import ROWS, byte_level, smollm

WORDS = {"code": "def reverse list return class function", "math": "sum of two and three add six to seven"}
_FP32 = Placement(dtype="float32")


def write_texts(work: Path) -> Path:
    """A few texts of each domain, and the YAML that names them."""
    for name, words in WORDS.items():
        rows = (json.dumps({"text": f"{words} {words} {number}"}) for number in range(10))
        (work / f"{name}.jsonl").write_text("\n".join(rows))
    path = work / "domains.yaml"
    path.write_text("".join(f"{name}: {{path: {name}.jsonl, field: text}}\n" for name in WORDS))
    return path


def _verify(work: Path, folder: Path) -> None:
    made_by_build(folder)
    api.verify(folder)


def _evaluate(work: Path, folder: Path) -> None:
    """Its replies are short: a reply's later tokens find nothing that its first ones do not."""
    options = EvalOptions(
        domains=work / "domains.yaml", context=16, limit=2, without=("speed",), placement=_FP32, cache=None
    )
    with patch.object(extras, "sample_reply", partial(sample_reply, max_new_tokens=4)):
        api.evaluate(folder, options)


def _trace(work: Path, folder: Path) -> None:
    opened = open_moe(folder)
    opened.parameters()
    tokenizer, model = opened.tokenizer(), opened.load(_FP32)
    trace_text(model, tokenizer, find_routers(model), "def add two to three", opened.experts)


def _train(work: Path, folder: Path, *, adapter_only: bool) -> None:
    """Leaves nothing, lest the next training be refused for it. An adapter is trained beside changed files too."""
    options = TrainOptions(
        data=work / "domains.yaml", steps=1, context=16, rows=2, placement=_FP32, adapter_only=adapter_only
    )
    output = work / "trained"
    try:
        api.train_router(folder, output, options)
    finally:
        remove_state(state_path(output))
        shutil.rmtree(output, ignore_errors=True)


def _export(work: Path, folder: Path) -> None:
    api.export(folder, work / "exported.gguf", overwrite=True)


VERBS: tuple[Callable[[Path, Path], None], ...] = (
    _evaluate, _trace, partial(_train, adapter_only=False), partial(_train, adapter_only=True), _export,
)  # fmt: skip


def use_mixture(work: Path, data: bytes) -> None:
    """Verifies the folder whose file has these bytes, and does one thing more with it."""
    folder = work / "built"
    with suppress(MoemergeError):
        _verify(work, folder)
    VERBS[zlib.crc32(data) % len(VERBS)](work, folder)


def exported_tokenizers(work: Path) -> list[bytes]:
    """A `tokenizer.json` that llama.cpp knows."""
    folder = work / "known"
    folder.mkdir(exist_ok=True)
    byte_level(folder, smollm())
    return [(folder / "tokenizer.json").read_bytes()]


def export_tokenizer(work: Path, data: bytes) -> None:
    """What an export makes of it."""
    path = work / "known" / "tokenizer.json"
    path.write_bytes(data)
    files = {name: work / "known" / name for name in ("tokenizer.json", "tokenizer_config.json")}
    read_vocabulary({name: path for name, path in files.items() if path.exists()}, ROWS, [2])
