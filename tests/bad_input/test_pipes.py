"""Pipes in place of files, which reading would wait for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bad_input.command import RECIPE, refused, write_adapter


def make_pipe(name: str) -> None:
    """Puts a pipe that nobody writes into where a file was."""
    Path(name).unlink(missing_ok=True)
    os.mkfifo(name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"])
def test_a_pipe_in_place_of_a_file(name: str) -> None:
    """It is refused, where reading it would wait for ever."""
    make_pipe(f"models/code/{name}")
    assert refused() == f"error: expert `code`: `WORK/models/code/{name}` is not a regular file\n"


def test_a_pipe_in_place_of_an_index() -> None:
    """The same of what is read to find the weights."""
    Path("models/code/model.safetensors").unlink()
    make_pipe("models/code/model.safetensors.index.json")
    assert refused() == (
        "error: expert `code`: `WORK/models/code/model.safetensors.index.json` is not a regular file\n"
    )


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_pipe_in_place_of_an_adapters_file(name: str) -> None:
    """The same of an adapter."""
    write_adapter("models/base", 32, 32)
    make_pipe(f"adapter/{name}")
    recipe = RECIPE.replace("models/code", "adapter")
    assert refused(recipe=recipe) == f"error: expert `code`: `WORK/adapter/{name}` is not a regular file\n"


def test_a_pipe_in_place_of_texts() -> None:
    """Prompts and data are files; the recipe itself may come from a pipe."""
    make_pipe("texts.txt")
    prompts = "prompts: [def reverse list return print number]"
    assert refused(recipe=RECIPE.replace(prompts, "prompts_file: texts.txt")) == (
        "error: `experts[0].prompts_file`: Prompts file `WORK/texts.txt` is not a regular file\n"
        "hint: save its text in a file\n"
    )
    recipe = RECIPE.replace(prompts, "data: {path: texts.txt}")
    assert refused("--gate", "discriminant", recipe=recipe) == (
        "error: `experts[0].data`: `WORK/texts.txt` is not a regular file\nhint: save its text in a file\n"
    )


def test_a_recipe_from_a_pipe() -> None:
    """`<(...)` of a shell, and `/dev/stdin`."""
    command = [sys.executable, "-m", "moemerge", "plan", "/dev/stdin", "-q"]
    recipe = RECIPE.replace("models/", f"{Path.cwd()}/models/")
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, input=recipe, capture_output=True, text=True, env=variables, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
