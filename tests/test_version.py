"""Where a commit is known: in a clone, and of what pip installed from git."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from moemerge import __version__, version


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package's folder, where `version` is taken to lie."""
    folder = tmp_path / "moemerge"
    folder.mkdir()
    monkeypatch.setattr(version, "__file__", str(folder / "version.py"))
    return folder


def test_the_commit_of_a_clone(package: Path) -> None:
    """With a `+` as soon as a file of the package differs."""
    (package / "a.py").write_text("one")
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-q", "-m", "first")
    (package.parent / "notes.txt").write_text("beside the package")
    head = git(package.parent, "rev-parse", "HEAD")[:10]
    assert version.full_version() == f"{__version__} ({head})"
    (package / "a.py").write_text("two")
    assert version.commit() == f"{head}+"


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (json.dumps({"url": "x", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}}), "0123456789"),
        (json.dumps({"url": "file:///x", "dir_info": {}}), None),
        ("{", None),
        (None, None),
    ],
)
def test_the_commit_that_was_installed(
    package: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, known: str | None
) -> None:
    """As pip wrote it down; from a folder or an index none is known."""
    monkeypatch.setattr(metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda file: text))
    assert version.commit() == known
    assert version.full_version() == (f"{__version__} ({known})" if known else __version__)
