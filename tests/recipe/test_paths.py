"""What a path in a recipe is relative to."""

from __future__ import annotations

from pathlib import Path

import pytest

from moemerge.recipe import file_path, resolve


def test_a_path_is_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute paths and home folders stay what they are."""
    monkeypatch.setenv("HOME", "/home/me")
    assert file_path(tmp_path, "a/b.txt") == tmp_path / "a/b.txt"
    assert file_path(tmp_path, "/a/b.txt") == Path("/a/b.txt")
    assert file_path(tmp_path, "~/b.txt") == Path("/home/me/b.txt")
    assert file_path(tmp_path, "~nobody-of-this-name/b") == tmp_path / "~nobody-of-this-name/b"


def test_a_spec_is_local_by_its_first_character_or_because_it_exists(tmp_path: Path) -> None:
    """Everything else is on the hub, in a package, or the base."""
    (tmp_path / "owner" / "model").mkdir(parents=True)
    (tmp_path / "base").mkdir()
    assert resolve(tmp_path, "owner/model") == tmp_path / "owner/model"
    assert resolve(tmp_path, "owner/other") is None
    assert resolve(tmp_path, "./other") == tmp_path / "other"
    assert resolve(tmp_path, "../other") == tmp_path / "../other"
    assert resolve(tmp_path, "/other") == Path("/other")
    assert resolve(tmp_path, "base") is None
    assert resolve(tmp_path, "./base") == tmp_path / "base"
    assert resolve(tmp_path, "package:x/y.gguf") is None
    assert resolve(tmp_path, "x" * 5000) is None
    assert resolve(tmp_path, "x\0y") is None
