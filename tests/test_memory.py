"""The plan's peak memory is what a build takes."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moemerge.dense import layerwise
from moemerge.execute import blocks
from moemerge.families import DenseConfig
from moemerge.gate import capture, fit, passages
from moemerge.plan import cost, make_plan, peak_memory
from tests.conftest import TinyMaker
from tests.moe import recipe_of

PROGRAM = """
import json, sys
from pathlib import Path
from moemerge.api import build
from moemerge.recipe import Recipe
build(Recipe.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]), root=Path.cwd())
status = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")))
"""
"""`ru_maxrss` would count what the parent held when it forked."""

WIDE = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 512, "num_hidden_layers": 1, "vocab_size": 16000,
    "num_attention_heads": 32, "tie_word_embeddings": True, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two specialists of one layer, whose embedding is 524 MB in fp64."""
    folders = []
    for seed in range(3):
        folder = tmp_path_factory.mktemp("wide")
        (folder / "config.json").write_text(json.dumps(WIDE), encoding="utf-8")
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            name: torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
            for name, shape in DenseConfig.resolve(WIDE).tensors()
        }
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        folders.append(folder)
    return folders


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
@pytest.mark.parametrize("method", ["mean", "slerp", "ties", "dare_ties"])
def test_the_estimate_holds_for_large_tensors(method: str, wide: list[Path], tmp_path: Path) -> None:
    """Resident memory at its peak, verification included, is at most 1.3 times what the plan says."""
    recipe = recipe_of(wide[0], wide[1:], merge={"shared": method})
    command = [sys.executable, "-c", PROGRAM, recipe.model_dump_json(), str(tmp_path / "out")]
    run = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    estimate = peak_memory(make_plan(recipe, Path.cwd()))
    print(f"{method}: {int(run.stdout):,} bytes, the plan says {estimate:,}")
    assert int(run.stdout) < 1.3 * estimate, f"{int(run.stdout):,} bytes, the plan says {estimate:,}"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
def test_the_estimate_knows_builds_without_torch(tiny: TinyMaker, tmp_path: Path) -> None:
    """Copies, means of stored tensors and a random gate; the command line takes some more than this, and is counted."""
    models = [tiny("llama", seed=seed) for seed in range(3)]
    recipe = recipe_of(models[0], models[1:], gate={"init": "random"})
    command = [sys.executable, "-c", PROGRAM, recipe.model_dump_json(), str(tmp_path / "out")]
    run = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    estimate = peak_memory(make_plan(recipe, Path.cwd()))
    assert estimate / 1.5 < int(run.stdout) < 1.3 * estimate, f"{int(run.stdout):,} bytes, the plan says {estimate:,}"
    folded = recipe_of(models[0], models[1:], gate={"init": "random"}, merge={"shared": "slerp"})
    assert peak_memory(make_plan(folded, Path.cwd())) > estimate + (150 << 20)


def test_the_caps_are_those_of_the_gate() -> None:
    """The plan room may not import the gate room, so its numbers are held equal here."""
    assert (cost.KEPT, cost.BATCH) == (fit.KEPT_BYTES, capture.BATCH_TOKENS)
    assert (cost.SIDE_BY_SIDE, cost.SQUARES - cost.FOLDS) == (fit.SIDE_BY_SIDE, fit.ROOM)
    assert (cost.FOLDS, cost.READERS) == (passages.FOLDS, layerwise.READERS)
    assert cost.ELEMENTS == blocks.ELEMENTS


def test_a_gate_takes_one_layer_and_not_the_model(tiny: TinyMaker, tmp_path: Path) -> None:
    """With texts given, more layers take no more memory; a specialist that writes is held whole."""
    peaks = {}
    for expand_, layers in product(("off", "auto"), (2, 8)):
        base = tiny("llama", num_hidden_layers=layers, hidden_size=64, intermediate_size=1024, vocab_size=16000)
        recipe = recipe_of(base, ["base", base], gate={"expand": expand_, "ridge": 0.1})
        peaks[expand_, layers] = peak_memory(make_plan(recipe, tmp_path))
    kept = 4 * cost._tokens(make_plan(recipe, tmp_path)) * 6 * 64
    assert peaks["off", 8] - peaks["off", 2] < kept
    assert peaks["auto", 8] - peaks["auto", 2] >= 6 * 3 * 64 * 1024 * 4


def test_kept_statistics_count(tiny: TinyMaker, tmp_path: Path) -> None:
    """They are bytes on the disk and three times so many in memory."""
    from moemerge.api import build
    from moemerge.write.folder import needed_bytes

    base, other = tiny("llama"), tiny("llama", 1)
    gates = [{"expand": "off", "keep_statistics": kept} for kept in (False, True)]
    without, kept = (recipe_of(base, ["base", other], gate=gate) for gate in gates)
    plans = [make_plan(recipe, tmp_path) for recipe in (without, kept)]
    size = cost.statistics_bytes(plans[1])
    assert needed_bytes(plans[1]) - needed_bytes(plans[0]) == size
    assert peak_memory(plans[1]) - peak_memory(plans[0]) == 3 * size
    written = (build(kept, tmp_path / "out").path / "gate_statistics.safetensors").stat().st_size
    assert 0 <= written - size < 1000
