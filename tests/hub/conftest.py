"""A tiny mixture, a hub that can be written to, and figures of an evaluation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moemerge.export.run import OF_RECORD
from moemerge.record.read import record_digest
from tests.conftest import TinyMaker
from tests.hub.server import TOKEN, WritableHub
from tests.moe import build_tiny


@pytest.fixture(scope="session")
def published(tiny: TinyMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of two shards whose sources lie under absolute paths."""
    root = tmp_path_factory.mktemp("published")
    for number in range(2):
        model = shutil.copytree(tiny("llama", number), root / f"model-{number}")
        (model / "README.md").write_text("---\nlicense: mit\nlanguage: [en, fr]\ndatasets: [org/texts]\n---\n")
    models = [root / "model-0", root / "model-1"]
    return build_tiny(root / "moe", models[0], models, output={"shard_size": "40KB"})


@pytest.fixture
def moe(published: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(published, tmp_path / "moe"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    """A running hub, whose user is logged in, and an empty cache."""
    from huggingface_hub import constants

    for name in ("HF_HUB_OFFLINE",):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with WritableHub({}, root=tmp_path / "hub").running() as hub:
        assert isinstance(hub, WritableHub)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


def gguf_of(folder: Path, path: Path) -> Path:
    """A GGUF file of one tensor that says it was exported from a folder."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string(OF_RECORD, record_digest(folder) or "")
    writer.add_tensor("output_norm.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def figures_of(folder: Path, **fields: Any) -> dict[str, Any]:
    """A report as `moemerge eval -o` writes it, with two domains."""
    domains = {
        name: {
            "base": 3.0, "specialist": 2.0, "linear_merge": 2.5, "oracle_routed": 2.0, "random_gate": 2.75, "moe": 2.25,
            "gain_kept": 0.75, "documents": 32, "tokens": 999, "perplexity": {"moe": 9.48773},
        }
        for name in ("code", "french")
    }  # fmt: skip
    return {
        "moemerge": "0.1.0", "record": record_digest(folder), "dtype": "float32", "experts": ["code", "french"],
        "gain_kept": 0.75, "gain_kept_interval": [0.7, 0.8], "baselines": {"linear_merge": {"gain_kept": 0.5}},
        "verdict": "It keeps 75 % of the specialists' gain", "domains": domains, "tasks": {"arc_easy": {"acc": 0.5}},
        **fields,
    }  # fmt: skip


@pytest.fixture
def figures(moe: Path, tmp_path: Path) -> Path:
    """Figures of `moe` in a file."""
    path = tmp_path / "report.json"
    path.write_text(json.dumps(figures_of(moe)))
    return path
