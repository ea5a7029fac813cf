"""`moemerge doctor`: what it shows, what it never shows, and when it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moemerge import doctor
from moemerge.cli import app
from moemerge.device import Gpu, check_device, gpus


def test_what_is_there_is_told_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches are counted, and a token is said to be set and never shown."""
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "weights").write_bytes(b"12345")
    for name, value in (("HF_HUB_CACHE", str(hub)), ("HF_TOKEN", "hf_secret"), ("HF_HUB_OFFLINE", "1"),
                        ("MOEMERGE_CACHE", str(tmp_path / "none" / "yet"))):  # fmt: skip
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert "hf_secret" not in result.output
    assert found["hub"] == {"offline": True, "token": True}
    assert found["caches"]["hub"]["bytes"] == 5
    assert found["caches"]["moemerge"]["bytes"] == 0
    assert found["problems"] == []


def test_a_package_that_builds_need_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch nothing can be built: it is said, and the command fails."""
    there = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "torch" else there(name))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert result.stderr == "error: `torch` is not installed\nhint: `pip install 'torch>=2.6'`\n"


def test_a_version_outside_the_range_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the range, and the command that mends it."""
    there = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "4.57.1" if name == "transformers" else there(name))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    message = "error: `transformers` 4.57.1 is installed, and moemerge is made for `<6,>=5`\n"
    assert result.stderr == f"{message}hint: `pip install 'transformers<6,>=5'`\n"


GPUS = (Gpu("cuda:0", "NVIDIA A", 80 * 10**9, True), Gpu("cuda:1", "NVIDIA T", None, False))


@pytest.mark.parametrize(
    ("found", "rows"),
    [
        (GPUS, ["cuda:0           NVIDIA A, 80 GB", "cuda:1           NVIDIA T, without bf16 of its own"]),
        ((), ["GPU              none that torch VERSION can use"]),
    ],
)
def test_gpus_are_asked_for_where_there_are_signs_of_one(
    found: tuple[Gpu, ...], rows: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a row; where torch was built without its driver that is said."""
    monkeypatch.setattr(doctor, "may_have_gpu", lambda: True)
    monkeypatch.setattr(doctor, "gpus", lambda: found)
    result = CliRunner().invoke(app, ["doctor"])
    lines = result.stdout.replace(str(doctor._version("torch")), "VERSION").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("memory"))
    assert lines[first - len(rows) : first] == rows


def test_torch_that_cannot_be_loaded_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that it needs is not there."""

    def broken() -> None:
        raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(doctor, "may_have_gpu", lambda: True)
    monkeypatch.setattr(doctor, "gpus", broken)
    result = CliRunner().invoke(app, ["doctor"])
    message = "error: `torch` cannot be loaded: libcudart.so.12: cannot open shared object file\n"
    assert (result.exit_code, result.stderr.startswith(message)) == (1, True)


def test_this_torch_is_asked() -> None:
    """Whatever it finds here has a name that `--device` takes."""
    for gpu in gpus():
        check_device(gpu.device)


def test_an_extra_that_is_missing_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with the command that installs it."""
    there = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "gguf" else there(name))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "missing gguf: `pip install 'moemerge[gguf]'`" in result.stdout


def test_it_loads_nothing_heavy() -> None:
    """Versions are read from metadata, so the command answers at once where there is no GPU."""
    code = (
        "import sys; from moemerge import doctor as d; d.may_have_gpu = bool; d.diagnose(); "
        "print({'torch', 'peft'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
