"""transformers' own class has the last word on names and shapes, and on what a config means."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from moemerge.verify.host import check_class
from moemerge.verify.hosts import HOSTS
from moemerge.verify.layout import read_layout
from moemerge.verify.names import in_memory
from tests.hosts import every
from tests.verify.conftest import Builder

FIRST = "model.layers.0.mlp.experts"


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name: place.shape for name, place in read_layout(folder, {}).places.items()}


def said(folder: Path, shapes: dict[str, tuple[int, ...]], host: str, base: Any = None) -> list[str]:
    return [f"{d.where}: {d.message}" for d in check_class(folder, shapes, HOSTS[host], base)]


@pytest.mark.parametrize("layout", ["per_expert", "fused"])
@pytest.mark.parametrize("host", every())
def test_names_on_disk_become_names_in_memory(host: str, layout: str, built: Builder) -> None:
    """Both layouts, every host: nothing missing, nothing over."""
    folder = built(host, output={"layout": layout})
    assert said(folder, shapes_of(folder), host) == []


def test_one_missing_matrix_of_one_expert(built: Builder) -> None:
    """The fused tensor that it belongs to cannot be put together."""
    shapes = shapes_of(built("qwen3_moe"))
    del shapes[f"{FIRST}.1.up_proj.weight"]
    assert said(built("qwen3_moe"), shapes, "qwen3_moe") == [
        f"{FIRST}.gate_up_proj: is not there, and `Qwen3MoeForCausalLM` needs it"
    ]


def test_one_expert_too_many(built: Builder) -> None:
    """The config's number of experts decides."""
    shapes = shapes_of(built("qwen3_moe"))
    for name in ("gate", "up", "down"):
        shapes[f"{FIRST}.3.{name}_proj.weight"] = shapes[f"{FIRST}.0.{name}_proj.weight"]
    assert said(built("qwen3_moe"), shapes, "qwen3_moe") == [
        f"{FIRST}.gate_up_proj: has the shape (4, 96, 32), `Qwen3MoeForCausalLM` needs (3, 96, 32)",
        f"{FIRST}.down_proj: has the shape (4, 32, 48), `Qwen3MoeForCausalLM` needs (3, 32, 48)",
    ]


def test_a_tensor_without_a_place(built: Builder) -> None:
    """What the class would ignore."""
    shapes = {**shapes_of(built()), "model.layers.0.self_attn.q_proj.bias": (32,)}
    assert said(built(), shapes, "mixtral") == [
        "model.layers.0.self_attn.q_proj.bias: has no place in `MixtralForCausalLM`"
    ]


def test_a_config_that_transformers_reads_otherwise(built: Builder, tmp_path: Path) -> None:
    """A default that the host has and the dense model has not shows in transformers' reading."""
    folder = Path(shutil.copytree(built("qwen3_moe"), tmp_path / "out"))
    config = json.loads((folder / "config.json").read_text())
    base = {**config, "model_type": "qwen3"}
    for key in ("rope_parameters", "rope_theta", "rope_scaling"):
        del config[key]
    base["rope_parameters"] = {"rope_type": "default", "rope_theta": 77.0}
    (folder / "config.json").write_text(json.dumps(config))
    (found,) = said(folder, shapes_of(folder), "qwen3_moe", base)
    assert found.startswith("config.json: rope_parameters is read by transformers as {")
    assert "'rope_theta': 77.0" in found


def test_a_config_of_no_model(built: Builder, tmp_path: Path) -> None:
    """Whatever transformers raises is a difference."""
    folder = Path(shutil.copytree(built(), tmp_path / "out"))
    (folder / "config.json").write_text('{"model_type": "nothing"}')
    (found,) = said(folder, {}, "mixtral")
    assert found.startswith("config.json: transformers builds no model from it: ValueError: ")


def test_experts_of_different_shapes_are_not_fused() -> None:
    """Gate and up of all experts have one shape."""
    shapes = {
        f"{FIRST}.{e}.{p}_proj.weight": (8, 4 + e) if p != "down" else (4, 8)
        for e in (0, 1)
        for p in ("gate", "up", "down")
    }
    assert in_memory(shapes, HOSTS["qwen2_moe"]) == {f"{FIRST}.down_proj": (2, 4, 8)}
