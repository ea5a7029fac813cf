"""Inputs that failed once, or of whose kinds users told: none may fail again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from moemerge import templates
from moemerge.errors import MoemergeError
from tests.conftest import TinyMaker
from tests.fuzz.targets import TARGETS, prepare

CORPUS = Path(__file__).parent / "corpus"
INPUTS = sorted(path.relative_to(CORPUS).as_posix() for path in CORPUS.glob("*/*"))


@pytest.fixture(scope="module")
def work(tiny: TinyMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all of them are tried in."""
    return prepare(tmp_path_factory.mktemp("corpus"), tiny)


@pytest.mark.filterwarnings("default")  # transformers may warn of what it is given
@pytest.mark.parametrize("name", INPUTS)
def test_an_input_that_failed_once(name: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused in so many words, or what is made of it is sound."""
    monkeypatch.chdir(work)
    monkeypatch.setattr(templates, "SECONDS", 0.5)
    with suppress(MoemergeError):
        TARGETS[Path(name).parent.name].run(work, (CORPUS / name).read_bytes())
