"""The build of a test, and how it is made to fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from moemerge.cli import app

RECIPE = """\
base_model: models/base
experts:
  - {name: code, model: models/code, prompts: [def reverse list return print number]}
  - {name: math, model: models/math, prompts: [sum of two and three minus one equals four]}
gate: {init: random}
"""
UP = "model.layers.1.mlp.up_proj.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"

WITHOUT_ROOTS_RIGHTS = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, right, 0, 0, 0):
        sys.exit(77)
os.execv(sys.executable, [sys.executable, "-m", "moemerge", *sys.argv[1:]])
"""
"""Runs the command so that permissions hold for root too."""

Disk = Callable[[str], None]


def normal(text: str) -> str:
    """Messages with the working folder as `WORK`."""
    return text.replace(str(Path.cwd()), "WORK")


def build(*options: str, recipe: str = RECIPE, out: str = "out") -> tuple[int, str, str]:
    """Status, stdout and stderr of a build."""
    Path("recipe.yaml").write_text(recipe, encoding="utf-8")
    result = CliRunner().invoke(app, ["build", "recipe.yaml", "-o", out, *options])
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result.exit_code, normal(result.stdout), normal(result.stderr)


def refused(*options: str, recipe: str = RECIPE, out: str = "out") -> str:
    """The exact stderr of a build that must fail, print no result and leave nothing; a plan must know it before."""
    said = refused_by_build(*options, recipe=recipe, out=out)
    planned = CliRunner().invoke(app, ["plan", "-q", "recipe.yaml", *options])
    assert planned.exit_code == 1, planned.stdout
    assert normal(planned.stderr).startswith(said), planned.stderr
    return said


def refused_by_build(*options: str, recipe: str = RECIPE, out: str = "out") -> str:
    """The same of what no plan can know: the weights' values, and where the output goes."""
    Path("recipe.yaml").write_text(recipe, encoding="utf-8")
    before = sorted(Path().rglob("*"))
    status, stdout, stderr = build("-q", *options, recipe=recipe, out=out)
    assert (status, stdout) == (1, ""), stderr
    assert sorted(Path().rglob("*")) == before, "something was left"
    return stderr


def refused_in_a_process(recipe: str = RECIPE, out: str = "out", **environment: str) -> str:
    """The same in a process of its own, without root's rights and with environment variables."""
    Path("recipe.yaml").write_text(recipe, encoding="utf-8")
    command = [sys.executable, "-c", WITHOUT_ROOTS_RIGHTS, "build", "recipe.yaml", "-q", "-o", out]
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if done.returncode == 77:
        pytest.skip("root's rights cannot be dropped here")
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert not Path(out).exists()
    assert not list(Path(out).parent.glob(".*moemerge*"))
    return normal(done.stderr)


def change_tensors(model: str, changes: dict[str, Tensor | None]) -> None:
    """Replaces, adds or (None) removes tensors of a model."""
    path = Path("models", model, "model.safetensors")
    state = load_file(path) | changes
    save_file({name: value for name, value in state.items() if value is not None}, path, {"format": "pt"})


def change_config(model: str, **values: object) -> None:
    path = Path("models", model, "config.json")
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def write_adapter(trained_on: str, out: int, into: int) -> None:
    """`adapter`: a LoRA of rank 2 on one query projection, as peft stores it."""
    folder = Path("adapter")
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["model.layers.0.self_attn.q_proj"],
        "bias": "none",
    }
    config |= {"base_model_name_or_path": trained_on}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    prefix = f"base_model.model.{QUERY.removesuffix('.weight')}"
    factors = {"lora_A": torch.ones(2, into), "lora_B": torch.ones(out, 2)}
    save_file({f"{prefix}.{name}.weight": v for name, v in factors.items()}, folder / "adapter_model.safetensors")
