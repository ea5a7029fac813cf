"""The plots for the model card."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from moemerge.errors import MoemergeError, WriteError
from moemerge.report import write_plots
from moemerge.report.plots import NAMES
from tests.report.conftest import make


@pytest.mark.parametrize("kind", ["report", "many", "hostile"])
def test_plots_are_pictures(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Three PNG files that decode, and nothing else in the folder."""
    from matplotlib import image

    made = write_plots(request.getfixturevalue(kind), tmp_path / "new" / "plots")
    assert made == tuple(tmp_path / "new" / "plots" / name for name in NAMES)
    assert sorted(made) == sorted((tmp_path / "new" / "plots").iterdir())
    assert all(min(image.imread(path).shape[:2]) > 150 for path in made)


def test_the_same_report_gives_the_same_bytes(report: dict[str, Any], tmp_path: Path) -> None:
    """No date and no version in the files."""
    first = [path.read_bytes() for path in write_plots(report, tmp_path)]
    assert [path.read_bytes() for path in write_plots(report, tmp_path)] == first
    assert not any(b"tEXt" in content for content in first)


def test_a_plot_with_nothing_to_show_is_not_written(
    report: dict[str, Any], foreign: dict[str, Any], tmp_path: Path
) -> None:
    """And an older one of that name goes; other files stay."""
    (tmp_path / "mine.png").write_bytes(b"mine")
    write_plots(report, tmp_path)
    assert [path.name for path in write_plots(foreign, tmp_path)] == list(NAMES[1:])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["mine.png", *NAMES[1:]])
    assert write_plots({}, tmp_path / "empty") == ()


def test_one_expert_in_one_layer(tmp_path: Path) -> None:
    """The smallest MoE."""
    assert len(write_plots(make(("alone",), layers=1), tmp_path)) == 3


def test_without_matplotlib_the_extra_is_named(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written."""
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MoemergeError) as caught:
        write_plots(report, tmp_path / "plots")
    assert caught.value.message == "Plots need matplotlib, which is not installed"
    assert caught.value.hint == "pip install 'moemerge[eval]'"
    assert not (tmp_path / "plots").exists()


def test_a_file_or_folder_in_the_way_is_refused(report: dict[str, Any], tmp_path: Path) -> None:
    """Said before anything is written."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError) as caught:
        write_plots(report, tmp_path / "file")
    assert caught.value.message == f"Cannot write the plots: `{tmp_path / 'file'}` is not a folder"
    (tmp_path / NAMES[2]).mkdir()
    with pytest.raises(WriteError) as caught:
        write_plots(report, tmp_path)
    assert caught.value.message == f"Cannot write the plots: `{tmp_path / NAMES[2]}` is a folder"
    assert not (tmp_path / NAMES[0]).exists()
