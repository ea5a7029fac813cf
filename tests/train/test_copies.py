"""A mixture of copies of one model has no domains of its own: it is trained on texts of any."""

from __future__ import annotations

from pathlib import Path

import pytest

from moemerge.api import build, verify
from moemerge.errors import MoemergeError
from moemerge.recipe import Recipe
from moemerge.train.log import TrainingLog
from moemerge.train.options import TrainOptions
from tests.evaluate.conftest import Trio, sentences
from tests.train.conftest import Notes, Trainer, write


@pytest.fixture(scope="module")
def copies(trio: Trio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four, half of whose channels are drawn anew."""
    folder = tmp_path_factory.mktemp("copies")
    expert = {"name": "copy", "model": "base", "copies": 4, "reinitialise": 0.5}
    recipe = {"base_model": str(trio.root / "base"), "experts": [expert], "gate": {"init": "uniform"}}
    return build(Recipe.model_validate(recipe), folder / "moe", root=folder).path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Texts of two domains, of which no expert has the name."""
    return write(tmp_path, code=sentences("code", 12, 9), math=sentences("math", 12, 9))


def test_it_is_trained_on_any_texts(copies: Path, data: Path, trained: Trainer, tmp_path: Path) -> None:
    """Router and LoRA on the experts; the record has the domains, no token counts as right, `verify` passes."""
    result = trained(copies, data=data, also=("experts",), rate=0.02)
    assert result.start.accuracy == 0.0
    assert set(result.best.by_domain) == {"code", "math"}
    assert verify(tmp_path / "out").ok


def test_held_out_texts_are_of_the_same_domains(copies: Path, data: Path, trained: Trainer, tmp_path: Path) -> None:
    """What is missing is named."""
    (tmp_path / "held").mkdir()
    held = write(tmp_path / "held", math=sentences("math", 4, 3))
    with pytest.raises(MoemergeError) as caught:
        trained(copies, data=data, held_out=held)
    assert [problem.message for problem in caught.value.problems] == [
        f"`{held}` has no texts for the domain `code`, which is trained on"
    ]


def test_another_start_is_refused(copies: Path, data: Path, trained: Trainer) -> None:
    """With the option to leave out."""
    with pytest.raises(MoemergeError) as caught:
        trained(copies, data=data, start="lda")
    (problem,) = caught.value.problems
    assert problem.message == (
        "`--start lda` asks for each expert's own domain, and these experts are copies of one model"
    )
    assert problem.hint == "leave `--start` out"


def test_texts_are_asked_for(copies: Path, trained: Trainer) -> None:
    """The recipe has none."""
    with pytest.raises(MoemergeError, match="the recipe has no texts for them"):
        trained(copies, data=None)


def test_the_load_of_many_experts_is_told_in_a_few_words() -> None:
    """The busiest, and how many do nothing."""
    notes = Notes()
    names, shares = [f"copy-{number}" for number in range(64)], [1 / 32] * 32 + [0.0] * 32
    log = TrainingLog(names, TrainOptions(), notes, None)
    assert log._load(shares) == "copy-0 3 copy-1 3 copy-2 3 % at most, 32 idle"
    assert log._load([0.5, 0.5, *[0.0] * 62]).startswith("copy-0 50 copy-1 50 ")
