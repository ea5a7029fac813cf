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
    assert result.stderr == "error: `torch` is not installed\nhint: `pip install torch`\n"


def test_an_extra_that_is_missing_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with the command that installs it."""
    there = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "gguf" else there(name))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "missing gguf: `pip install 'moemerge[gguf]'`" in result.stdout


def test_it_loads_nothing_heavy() -> None:
    """Versions are read from metadata, so the command answers at once."""
    code = "import sys; from moemerge import doctor as d; d.diagnose(); print({'torch', 'peft'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
