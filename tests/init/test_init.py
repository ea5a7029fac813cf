"""`moemerge init`: what it writes, what it makes of models that need a setting, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion
from typer.testing import CliRunner

from moemerge import api
from moemerge.cli import app
from moemerge.init.text import Needed, Seen, recipe_text
from moemerge.init.wanted import Wanted, WantedExpert
from moemerge.recipe import load_recipe, parse_recipe
from tests.conftest import TinyMaker
from tests.sources.conftest import make_adapter
from tests.tiny import write_tokenizer

TO_WRITE = "six to eight beginnings of what this expert should write, one per line"


@pytest.fixture(autouse=True)
def work(tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a base and two full specialists of it."""
    for seed, name in enumerate(("base", "code", "french")):
        shutil.copytree(tiny("llama", seed), tmp_path / "models" / name)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of `moemerge ARGUMENTS`; a traceback fails the test."""
    result = CliRunner().invoke(app, list(arguments), prog_name="moemerge")
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr.replace(str(Path.cwd()), "WORK")


def init(*arguments: str, code: str = "models/code", other: str = "french=models/french") -> tuple[int, str, str]:
    """The same of `init` with a base and two experts."""
    return run("init", "--base", "models/base", "--expert", f"code={code}", "--expert", other, *arguments)


def test_the_recipe_plans(snapshot: SnapshotAssertion) -> None:
    """Models are told in words, prompts suggested by name, and `plan` has nothing to say against it."""
    make_adapter(Path("models/base"), Path("models/lora"))
    assert init(code="models/lora") == (
        0,
        "base    llama, 2 layers, hidden size 32\ncode    a LoRA adapter of rank 4\nfrench  a full checkpoint\n"
        "wrote moe.yaml\nthen: moemerge plan moe.yaml\n",
        "",
    )
    assert Path("moe.yaml").read_text(encoding="utf-8") == snapshot
    status, stdout, stderr = run("plan", "moe.yaml")
    assert (status, stdout.splitlines()[-1], stderr) == (0, "ready to build", "")


def test_the_recipe_builds() -> None:
    """To the end: the output is where the recipe says."""
    assert init("small.yaml", "-q") == (0, "wrote small.yaml\nthen: moemerge plan small.yaml\n", "")
    assert run("build", "small.yaml", "-q", "--gate", "random")[0] == 0
    assert json.loads(Path("out/small/config.json").read_text(encoding="utf-8"))["num_local_experts"] == 2


def test_paths_are_those_of_the_recipes_folder() -> None:
    """Models and prompts, however they were named, are found from where the recipe lies."""
    make_adapter(Path("models/base"), Path("models/lora"))
    Path("recipes").mkdir()
    Path("mine.txt").write_text("one two\n", encoding="utf-8")
    whole = str(Path("models/french").resolve())
    prompts = ["--prompts", "code=mine.txt", "--prompts", "old=italian"]
    assert init("recipes/a.yaml", *prompts, code="models/code+models/lora", other=f"old={whole}")[0] == 0
    recipe = load_recipe(Path("recipes/a.yaml")).recipe
    assert recipe.base_model == "../models/base"
    assert [expert.model for expert in recipe.experts] == ["../models/code+../models/lora", whole]
    assert recipe.experts[0].prompts_file == "../mine.txt"
    assert recipe.experts[1].prompts[0] == "Il museo si trova nel centro della città e"
    assert run("plan", "recipes/a.yaml")[0] == 0


def test_texts_to_measure_on_go_into_the_recipe() -> None:
    """Found from where the recipe lies; an expert without any keeps a line to fill in."""
    Path("recipes").mkdir()
    Path("held.jsonl").write_text('{"text": "one two"}\n', encoding="utf-8")
    assert init("recipes/a.yaml", "--texts", "code=held.jsonl")[0] == 0
    assert load_recipe(Path("recipes/a.yaml")).recipe.eval.domains == {"code": "../held.jsonl"}
    assert "#     french: texts/french.jsonl\n" in Path("recipes/a.yaml").read_text(encoding="utf-8")
    assert init("b.yaml", "--texts", "code=none.jsonl", "--texts", "dutch=held.jsonl", "--texts", "french") == (
        1,
        "",
        "error: `--texts french` does not have the form `NAME=FILE`\n"
        "hint: write `--texts NAME=FILE`, such as `--texts code=texts/code.jsonl`\n"
        "error: `--texts dutch=held.jsonl`: there is no expert `dutch`\n"
        "error: `--texts code=none.jsonl`: there is no such file\n"
        "hint: name a file of texts, such as `texts/code.jsonl`\n",
    )


def test_the_python_door_writes_the_same() -> None:
    """Prompts and texts too."""
    Path("held.jsonl").write_text('{"text": "one two"}\n', encoding="utf-8")
    Path("mine.txt").write_text("one two\n", encoding="utf-8")
    models = {"code": "models/code", "french": "models/french"}
    draft = api.init("a.yaml", "models/base", models, {"code": "mine.txt"}, {"french": "held.jsonl"})
    assert init("b.yaml", "--prompts", "code=mine.txt", "--texts", "french=held.jsonl")[0] == 0
    assert Path("a.yaml").read_text(encoding="utf-8") == draft.text
    assert draft.text.replace("a.yaml", "b.yaml").replace("out/a}", "out/b}") == Path("b.yaml").read_text(
        encoding="utf-8"
    )


def test_a_folder_called_base_is_not_the_base() -> None:
    """From a recipe beside it, it is `./base`; typed as `base` it is refused with that cure."""
    assert init("models/a.yaml", other="general=base", code="models/base")[0] == 0
    recipe = load_recipe(Path("models/a.yaml")).recipe
    assert [recipe.base_model, *(expert.model for expert in recipe.experts)] == ["./base", "./base", "base"]
    assert run("init", "--base", "base", "--expert", "code=models/code", "--expert", "french=models/french") == (
        1,
        "",
        "error: `--base base` names nothing: `base` is the word for the base model itself\n"
        "hint: for a folder of that name write `--base ./base`\n",
    )


def test_prompts_that_only_the_user_can_write() -> None:
    """An unknown name leaves a place to fill in; until it is filled nothing plans, and afterwards all does."""
    status, stdout, _ = init(other="vikings=models/french")
    assert (status, stdout.splitlines()[-2:]) == (
        0, [f"write prompts/vikings.txt: {TO_WRITE}", "then: moemerge plan moe.yaml"],
    )  # fmt: skip
    text = Path("moe.yaml").read_text(encoding="utf-8")
    assert "# IT DOES NOT PLAN YET: write the prompts where it says FILL IN.\n" in text
    message = "error: `experts[1].prompts_file`: Prompts file `WORK/prompts/vikings.txt` does not exist\n"
    hint = "hint: write one prompt per line there, six to eight of them; a path is relative to the recipe's folder\n"
    assert run("plan", "moe.yaml") == (1, "1 problem: nothing can be built\n", message + hint)
    Path("prompts").mkdir()
    Path("prompts/vikings.txt").write_text("one two three\nfour five six\n", encoding="utf-8")
    assert run("plan", "moe.yaml")[0] == 0
    assert init("again.yaml", other="vikings=models/french")[1].splitlines()[-2:] == [
        "wrote again.yaml", "then: moemerge plan again.yaml",
    ]  # fmt: skip
    assert "FILL IN" not in Path("again.yaml").read_text(encoding="utf-8")


def test_the_base_may_be_an_expert() -> None:
    """`general=base`, with prompts of its own."""
    assert init(other="general=base")[1].splitlines()[2] == "general  the base itself"
    assert run("plan", "moe.yaml")[0] == 0


def test_a_narrower_expert_is_padded(tiny: TinyMaker) -> None:
    """What `plan` would ask for is set, and said."""
    shutil.copytree(tiny("llama", 7, intermediate_size=32), "models/narrow")
    status, _, stderr = init(other="french=models/narrow")
    assert (status, stderr) == (
        0,
        "note: expert `french` is narrower than the widest: the recipe pads it, which is exact\n",
    )
    assert "    pad: true   # its FFN" in Path("moe.yaml").read_text(encoding="utf-8")
    assert run("plan", "moe.yaml")[0] == 0


def test_other_sliding_windows_are_settled(tiny: TinyMaker) -> None:
    """The base's holds, and it is said."""
    for name, window in (("a", 8), ("b", 16)):
        shutil.copytree(tiny("mistral", sliding_window=window), f"models/{name}")
    experts = ["--expert", "code=models/b", "--expert", "french=models/a"]
    status, _, stderr = run("init", "--base", "models/a", *experts)
    note = "note: the models' sliding windows differ: the recipe keeps the base's\n"
    assert (status, note in stderr) == (0, True)
    assert load_recipe(Path("moe.yaml")).recipe.sliding_window == "base"
    assert run("plan", "moe.yaml")[0] == 0


def test_float16_without_room_becomes_bfloat16(tiny: TinyMaker) -> None:
    """Gemma 4's experts are multiplied by 2^-12, for which fp16 has no room."""
    for seed, name in enumerate("ab"):
        shutil.copytree(tiny("gemma4_text", seed, dtype="float16"), f"models/{name}")
    status, _, stderr = run("init", "--base", "models/a", "--expert", "code=models/b", "--expert", "general=base")
    note = "note: float16 has no room for these experts: the recipe writes bfloat16\n"
    assert (status, note in stderr) == (0, True)
    assert load_recipe(Path("moe.yaml")).recipe.dtype == "bfloat16"
    assert run("plan", "moe.yaml")[0] == 0


def test_a_chat_template_is_pointed_out() -> None:
    """As a line that takes one sign to switch on."""
    write_tokenizer(Path("models/base"), chat=True)
    init()
    text = Path("moe.yaml").read_text(encoding="utf-8")
    assert "\n# template: chat\n" in text
    assert parse_recipe(text.replace("# template", "template")).recipe.template == "chat"


WANTED = Wanted(
    "base: #1", (WantedExpert("a", 'l\'été "x"\n# y', "code"), WantedExpert("true", "~", file="- a, b: {c}"))
)


def test_whatever_a_path_holds_is_read_back() -> None:
    """YAML's own signs, quotation marks and line ends are names like others."""
    text = recipe_text(WANTED, Needed(), Seen({"base": "x", "a": "y", "true": "z"}, True), Path("x.yaml"))
    recipe = parse_recipe(text).recipe
    assert recipe.base_model == WANTED.base
    assert [(expert.name, expert.model) for expert in recipe.experts] == [(e.name, e.model) for e in WANTED.experts]
    assert recipe.experts[1].prompts_file == "- a, b: {c}"


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_nothing_is_overwritten(kind: str) -> None:
    """A file, a link that leads nowhere, a folder: each stays as it is."""
    path = Path("moe.yaml")
    {"file": lambda: path.write_text("mine"), "link": lambda: path.symlink_to("away"), "folder": path.mkdir}[kind]()
    assert init() == (1, "", "error: `moe.yaml` exists, and is not overwritten\nhint: name another file\n")
    assert path.is_symlink() or path.is_dir() or path.read_text(encoding="utf-8") == "mine"
    assert not Path("away").exists()


def test_a_folder_that_is_not_there() -> None:
    """It is not made in passing."""
    assert init("new/a.yaml") == (1, "", "error: There is no folder `new`\nhint: make it: `mkdir -p new`\n")


def test_models_that_make_no_mixture_are_refused(tiny: TinyMaker) -> None:
    """Every problem that `plan` finds, and nothing is written."""
    status, stdout, stderr = init(code=str(tiny("llama", hidden_size=64)), other=f"french={tiny('qwen2')}")
    assert (status, stdout, Path("moe.yaml").exists()) == (1, "", False)
    assert "error: expert `code` does not fit the base: hidden size is `64`, the base's is `32`\n" in stderr
    assert "error: expert `french` does not fit the base: model type is `qwen2`, the base's is `llama`\n" in stderr


def test_all_mistakes_come_at_once(snapshot: SnapshotAssertion) -> None:
    """What was typed is checked whole, before a model is opened."""
    experts = ("code=models/code", "python=./nowhere", "none", "_x=models/code", "base=models/code", "code=models/b")
    prompts = ("viking=x.txt", "code=absent.txt", "python=code")
    arguments = [word for text in experts for word in ("--expert", text)]
    arguments += [word for text in prompts for word in ("--prompts", text)]
    status, stdout, stderr = run("init", *arguments)
    assert (status, stdout) == (1, "")
    assert stderr == snapshot
    assert run("init", "--base", "models/base", "--expert", "code=models/code") == (
        1,
        "",
        "error: A mixture has two experts at least, and `code` is one\n"
        "hint: give `--expert NAME=MODEL` for each; `general=base` makes the base one of them\n",
    )


def test_what_is_missing_is_asked_for_on_a_terminal() -> None:
    """A base, names, models, and what an unknown name writes; a model that is not there is asked for again."""
    pty: Any = pytest.importorskip("pty")
    master, terminal = pty.openpty()
    answers = ["models/base", "code", "./nowhere", "models/code", "vikings", "models/french", "", "writing"]
    os.write(master, ("\n".join(answers) + "\n").encode())
    done = subprocess.run(
        [sys.executable, "-m", "moemerge", "init"], stdin=terminal, stderr=terminal, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "NO_COLOR": "1"}, timeout=120, check=False,
    )  # fmt: skip
    os.close(terminal)
    asked = os.read(master, 10_000).decode()
    os.close(master)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "then: moemerge plan moe.yaml")
    assert "error: Model `./nowhere` does not exist" in asked
    assert [expert.name for expert in load_recipe(Path("moe.yaml")).recipe.experts] == ["code", "vikings"]
    assert run("plan", "moe.yaml")[0] == 0
