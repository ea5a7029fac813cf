"""The notebook of examples/, run from its first cell to its last on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import TinyMaker
from tests.sources.conftest import make_adapter

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_mixture.ipynb"


def test_the_notebook_runs(
    tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With other models in its cell of parameters; and as it is, those that this cell names are there."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    (parameters,) = (cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    written: dict[str, dict[str, str]] = {}
    exec("".join(parameters["source"]), written)
    named = [*written["EXPERTS"].values(), *written["TEXTS"].values()]
    assert [path for path in named if not (NOTEBOOK.parent / path).exists()] == []
    base = tiny("llama")
    models = {name: str(make_adapter(base, tmp_path / name, seed=seed)) for seed, name in enumerate(written["EXPERTS"])}
    for name in models:
        (tmp_path / f"{name}.txt").write_text("the sum of two and three\n\nprint one two\n", encoding="utf-8")
    names = {"BASE": str(base), "EXPERTS": models, "TEXTS": {name: f"{name}.txt" for name in models}, "WORK": "work"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOEMERGE_CACHE", str(tmp_path / "cache"))
    for cell in cells:
        assert (cell["outputs"], cell["execution_count"]) == ([], None)  # what one machine wrote is no other's
        if cell is not parameters:
            exec("".join(cell["source"]), names)
    printed = capsys.readouterr().out
    assert (tmp_path / "work" / "out" / "moe" / "config.json").is_file()
    assert "prompts:   # suggested for maths" in printed
    assert "gain kept:" in printed
