"""Nothing that moemerge did not make is lost, nothing that it made is left over: real builds, real kills."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from moemerge.api import build
from moemerge.errors import WriteError
from tests.conftest import TinyMaker
from tests.moe import build_tiny, load, recipe_of

ROOT = Path(__file__).parents[2]
SHARDED = {"output": {"shard_size": "60KB"}}

HOOKED = """
import os, sys, time
from pathlib import Path
out = Path(sys.argv[-1])
seen = []
def hook(event, arguments):
    text = str(arguments)
{hook}
sys.addaudithook(hook)
from moemerge.cli import app
app(["build", "recipe.yaml", "--overwrite", "-o", str(out)])
"""
"""The real command, with something that happens at one of its system calls."""


@pytest.fixture
def base(tiny: TinyMaker) -> Path:
    """A model to build from."""
    return tiny("llama")


@pytest.fixture
def out(base: Path, tmp_path: Path) -> Path:
    """An output of two experts in shards, and a recipe of three beside it for the command."""
    recipe = {"base_model": str(base), "gate": {"init": "random"}}
    recipe |= {"experts": [{"name": f"e{i}", "model": str(base)} for i in range(3)]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    (tmp_path / "in").mkdir()
    return build_tiny(tmp_path / "in" / "out", base, [base, base], **SHARDED)


def start(out: Path, hook: str) -> subprocess.Popen[str]:
    """Starts `build recipe.yaml --overwrite -o OUT` with the body of an audit hook."""
    body = "".join(f"    {line}\n" for line in hook.strip().splitlines())
    return subprocess.Popen(
        [sys.executable, "-c", HOOKED.replace("{hook}", body), str(out)],
        cwd=out.parent.parent, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(out: Path, hook: str) -> tuple[int, str]:
    """Exit status and stderr of the same."""
    process = start(out, hook)
    stderr = process.communicate(timeout=120)[1]
    return process.returncode, stderr


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def experts(out: Path) -> int:
    """How many the output has."""
    count: int = json.loads((out / "config.json").read_text(encoding="utf-8"))["num_local_experts"]
    return count


def overwrite(out: Path, base: Path) -> None:
    build(recipe_of(base, [base] * 3), out, overwrite=True)


# what is somebody's own


def lora(out: Path) -> None:
    (out / "my-lora").mkdir()
    (out / "my-lora" / "adapter_model.safetensors").write_bytes(b"mine")


def link(out: Path) -> None:
    (out.parent / "elsewhere").mkdir()
    (out / "link").symlink_to(out.parent / "elsewhere")


def linked_weights(out: Path) -> None:
    moved = (out / "model-00001-of-00003.safetensors").rename(out.parent / "moved")
    (out / "model-00001-of-00003.safetensors").symlink_to(moved)


def other_index(out: Path) -> None:
    shard = "model-00009-of-00009.safetensors"
    (out / shard).write_bytes(b"mine")
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": shard}}), encoding="utf-8")


STRANGERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "adapter in a folder": (lora, "`my-lora/`"),
    "trained router": (lambda out: (out / "trained-router.safetensors").write_bytes(b"mine"),
                       "`trained-router.safetensors`"),
    "one file of weights beside the shards": (lambda out: (out / "model.safetensors").write_bytes(b"mine"),
                                              "`model.safetensors`"),
    "a shard too many": (lambda out: (out / "model-00004-of-00004.safetensors").write_bytes(b"mine"),
                         "`model-00004-of-00004.safetensors`"),
    "link to a folder": (link, "`link`"),
    "empty folder": (lambda out: (out / "empty").mkdir(), "`empty/`"),
    "pipe": (lambda out: os.mkfifo(out / "pipe"), "`pipe`"),
    "weights that are a link": (linked_weights, "`model-00001-of-00003.safetensors`"),
    "an index of somebody's own": (
        other_index,
        "`model-00001-of-00003.safetensors`, `model-00002-of-00003.safetensors`, `model-00003-of-00003.safetensors`, "
        "`model-00009-of-00009.safetensors`",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("add", "names"), STRANGERS.values(), ids=STRANGERS)
def test_what_moemerge_did_not_make_stops_an_overwrite(
    add: Callable[[Path], Any], names: str, out: Path, base: Path
) -> None:
    """Named, and everything stays as it was."""
    add(out)
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(WriteError) as caught:
        overwrite(out, base)
    assert caught.value.message == f"output `{out}` holds files that moemerge did not write: {names}"
    assert caught.value.hint == "move them away before overwriting"
    assert sorted(out.parent.rglob("*")) == before
    assert experts(out) == 2


def test_everything_that_a_build_writes_can_be_overwritten(base: Path, tmp_path: Path) -> None:
    """Shards, templates in a folder, statistics and samples: all are known, and all go."""
    own = Path(shutil.copytree(base, tmp_path / "base"))
    (own / "additional_chat_templates").mkdir()
    (own / "additional_chat_templates" / "tool.jinja").write_text("{{ x }}", encoding="utf-8")
    gate = {"init": "discriminant", "expand": 64, "keep_statistics": True}
    (tmp_path / "in").mkdir()
    out = build_tiny(tmp_path / "in" / "out", own, [own, base], gate=gate, **SHARDED)
    names = {"additional_chat_templates", "gate_samples.jsonl", "gate_statistics.safetensors"}
    assert names | {"model.safetensors.index.json", "model-00002-of-00003.safetensors"} <= set(listed(out))
    overwrite(out, base)
    assert listed(out.parent) == ["out"]
    assert not names & set(listed(out))


@pytest.mark.parametrize(
    "damage",
    [
        {"files": None}, {"files": ["x"]}, {"files": {"x": 1}}, {"tensors": None}, {"tensors": [1]},
        {"architecture": ["mixtral"]}, {"architecture": None}, {"format": 2}, {"format": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_record_is_a_refusal(damage: dict[str, Any], out: Path, base: Path) -> None:
    """A record that is not this version's says nothing about who made the files."""
    record = yaml.safe_load((out / "moemerge.yaml").read_text(encoding="utf-8")) | damage
    (out / "moemerge.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    with pytest.raises(WriteError) as caught:
        overwrite(out, base)
    why = "has a `moemerge.yaml` that this moemerge cannot read"
    assert caught.value.message == f"output `{out}` {why}, so it is not overwritten"
    assert caught.value.hint == "remove it yourself, or choose another with `-o`"


@pytest.mark.parametrize("text", ["a: [", "\0", "[" * 20000, "2001-99-99", "- 1"], ids=range(5))
def test_a_record_of_any_text_is_a_refusal(text: str, out: Path, base: Path) -> None:
    """No traceback from what YAML makes of it."""
    (out / "moemerge.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(WriteError, match="that this moemerge cannot read, so it is not overwritten"):
        overwrite(out, base)


@pytest.mark.parametrize("name", ["../victim", "/victim", "my/../../victim"])
def test_a_record_leads_to_no_file_outside(name: str, out: Path, base: Path) -> None:
    """A forged record that claims files elsewhere has none of them removed."""
    victim = out.parent / "victim"
    victim.write_text("mine", encoding="utf-8")
    record = yaml.safe_load((out / "moemerge.yaml").read_text(encoding="utf-8"))
    record["files"][name.replace("/victim", str(victim)) if name == "/victim" else name] = "0" * 32
    (out / "moemerge.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    overwrite(out, base)
    assert listed(out.parent) == ["out", "victim"]


# what appears while it is replaced

FIRST_RENAME = """
if event == "os.rename" and str(arguments[0]) == str(out):
    (out / "late.txt").write_text("mine")
"""
SECOND_RENAME = """
if event == "os.rename" and str(arguments[1]) == str(out) and not seen:
    seen.append(1)
    (Path(arguments[0]).parent / "replaced" / "late.txt").write_text("mine")
"""


def test_a_file_that_appears_before_the_output_is_moved_stops_it(out: Path) -> None:
    """Between the check and the rename: the old output is put back, the file in it."""
    status, stderr = run(out, FIRST_RENAME)
    assert status == 1
    assert f"error: output `{out}` holds files that moemerge did not write: `late.txt`\n" in stderr
    assert listed(out.parent) == ["out"]
    assert (out / "late.txt").read_text(encoding="utf-8") == "mine"
    assert experts(out) == 2


def test_a_file_that_appears_while_the_output_is_replaced_is_kept(out: Path) -> None:
    """Later still, by a process that had the folder open: it is kept in plain sight and named."""
    status, stderr = run(out, SECOND_RENAME)
    assert status == 0
    assert experts(out) == 3
    name, kept = listed(out.parent)
    assert (name, kept[:9]) == ("out", "out.kept-")
    assert listed(out.parent / kept) == ["late.txt"]
    assert f"warning: kept `late.txt` of the former `{out}` in `{out.parent / kept}`" in stderr.splitlines()


# what goes wrong after the output is in its place


def test_an_old_output_that_cannot_be_removed_is_a_warning(out: Path, base: Path) -> None:
    """The new one is complete, so the build is done; the next one removes the rest."""
    status, stderr = run(out, 'if event == "os.remove" and "/discarded/" in text:\n    raise OSError(5, "disk")')
    assert status == 0
    assert experts(out) == 3
    hidden, name = listed(out.parent)
    assert (name, hidden[:14]) == ("out", ".out.moemerge-")
    assert f"warning: `{out.parent / hidden}` could not be removed: disk" in stderr.splitlines()
    overwrite(out, base)
    assert listed(out.parent) == ["out"]


def test_a_folder_that_cannot_be_forced_to_the_disk_is_a_warning(out: Path) -> None:
    """The same of the last call to the disk."""
    status, stderr = run(
        out, 'if event == "open" and str(arguments[0]) == str(out.parent):\n    raise OSError(5, "disk")'
    )
    assert status == 0
    assert experts(out) == 3
    assert f"warning: `{out.parent}` could not be forced to the disk: disk" in stderr.splitlines()
    assert listed(out.parent) == ["out"]


# kills


def test_a_build_killed_at_its_rename_is_found(out: Path, base: Path) -> None:
    """Complete and not yet in its place: the next build names and removes it."""
    new = out.parent / "new"
    process = run(new, 'if event == "os.rename" and str(arguments[1]) == str(out):\n    os._exit(9)')
    assert process[0] == 9
    assert len(listed(out.parent)) == 2
    build_tiny(new, base, [base, base])
    assert listed(out.parent) == ["new", "out"]


def test_a_kill_between_the_renames_of_an_overwrite_loses_and_leaves_nothing(out: Path, base: Path) -> None:
    """The old output comes back before the next build looks, and the new copy goes."""
    assert run(out, 'if event == "os.rename" and str(arguments[1]) == str(out):\n    os._exit(9)')[0] == 9
    assert not out.exists()
    with pytest.raises(WriteError, match="exists"):
        build_tiny(out, base, [base] * 3)
    assert experts(out) == 2
    load(out)
    overwrite(out, base)
    assert experts(out) == 3
    assert listed(out.parent) == ["out"]


@pytest.mark.parametrize("old", [False, True], ids=["first", "overwriting"])
def test_a_kill_at_any_step_loses_and_leaves_nothing(old: bool, out: Path, base: Path, tmp_path: Path) -> None:
    """Before every call that changes a file: see `tests.write.killed`."""
    new = build_tiny(tmp_path / "new", base, [base] * 3)
    (tmp_path / "steps").mkdir()
    command = [sys.executable, "-m", "tests.write.killed", str(tmp_path / "steps"), str(new), *[str(out)] * old]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15


def test_a_build_does_not_remove_what_another_is_beginning(out: Path, base: Path) -> None:
    """One waits between making its lock and holding it, another builds meanwhile: both end well."""
    at_lock, go = out.parent.parent / "at-lock", out.parent.parent / "go"
    hook = f"""
if event == "fcntl.flock" and not seen:
    seen.append(1)
    Path({str(at_lock)!r}).touch()
    while not Path({str(go)!r}).exists():
        time.sleep(0.01)
"""
    process = start(out, hook)
    deadline = time.monotonic() + 60
    while not at_lock.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    build(recipe_of(base, [base] * 4), out, overwrite=True)
    assert experts(out) == 4
    go.touch()
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 0, stderr
    assert experts(out) == 3
    assert listed(out.parent) == ["out"]
