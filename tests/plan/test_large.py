"""Planning is about headers: it stays quick however large the models are."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from moemerge.families import DenseConfig
from moemerge.plan import make_plan, plan_json
from moemerge.plan.model import Copy
from moemerge.sources.safetensors_file import SafetensorsStore
from tests.moe import recipe_of
from tests.tiny import write_tokenizer

DENSE = {
    "model_type": "mistral", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 40,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 32000, "sliding_window": None,
    "torch_dtype": "bfloat16", "max_position_embeddings": 32768,
}  # fmt: skip


def large_model(folder: Path) -> Path:
    """A model of 35 B parameters: a config, a tokenizer, and shards of holes, which take no room on the disk."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(DENSE), encoding="utf-8")
    write_tokenizer(folder)
    weight_map: dict[str, str] = {}
    tensors = list(DenseConfig.resolve(DENSE).tensors())
    shards = [tensors[start : start + 60] for start in range(0, len(tensors), 60)]
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor, shape in shard:
            begin, end = end, end + 2 * math.prod(shape)
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
            weight_map[tensor] = name
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("large")
    return [large_model(root / str(number)) for number in range(9)]


def test_a_plan_of_220_billion_parameters_reads_no_weights(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor has its place in a file and its size; not one value is read."""

    def refuse(*_: object) -> None:
        raise AssertionError("a plan reads headers")

    monkeypatch.setattr(SafetensorsStore, "read", refuse)
    plan = make_plan(recipe_of(folders[0], folders[1:]), Path.cwd())
    assert plan.ok, plan.problems
    assert 220e9 < plan.parameters.total < 240e9
    assert len(plan.tensors) == 40 * (6 + 1 + 3 * 8) + 3
    for tensor in plan.of_group("expert"):
        (part,) = tensor.parts
        assert isinstance(part, Copy)
        place = plan.models[part.source.model].bytes_of(part.source.name)
        assert place is not None
        assert place.length == tensor.nbytes
    assert json.dumps(plan_json(plan))


@pytest.mark.slow
def test_a_plan_of_220_billion_parameters_takes_less_than_two_seconds(folders: list[Path]) -> None:
    """CPU time, as other work on the machine is nobody's fault."""
    recipe = recipe_of(folders[0], folders[1:])
    started = time.process_time()
    plan = make_plan(recipe, Path.cwd())
    plan_json(plan)
    taken = time.process_time() - started
    print(f"{taken:.2f} s of CPU time")
    assert plan.ok
    assert taken < 2.0
