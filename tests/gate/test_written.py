"""What specialists wrote is used again where they would write the same, and nowhere else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moemerge.families import Routing
from moemerge.gate import expand as room
from moemerge.gate import written
from moemerge.gate.expand import Expansion
from moemerge.gate.passages import Passage
from tests.gate.conftest import TinyModels, texts
from tests.gate.test_expand import EXPERTS, Notes, run

AGAIN = "Expansion: what `code`, `french` wrote in an earlier build is used again; `--no-cache` has it written anew"


@pytest.fixture
def first(models: TinyModels, tokenizer: Any, tmp_path: Path) -> Expansion:
    """What the specialists write first, which is kept."""
    return run(models, tokenizer, expand=100, kept=tmp_path)


@pytest.fixture
def wrote(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of those that write from now on."""
    seeds: list[int] = []
    write = room._Writer.write

    def noted(self: Any, progress: Any) -> list[Passage]:
        seeds.append(self._seed)
        return write(self, progress)

    monkeypatch.setattr(room._Writer, "write", noted)
    return seeds


@pytest.mark.parametrize("settings", [
    {}, {"experts_per_token": 1}, {"rule": Routing("sigmoid")}, {"ridge": 1.0}, {"max_tokens": 9},
    {"keep_statistics": True},
], ids=str)  # fmt: skip
def test_what_plays_no_part_in_it_has_nothing_written_again(
    first: Expansion, models: TinyModels, tokenizer: Any, tmp_path: Path, wrote: list[int], settings: dict[str, Any]
) -> None:
    """The next build with another gate, host or number of experts per token: the same tokens, and no time is taken."""
    notes = Notes()
    assert run(models, tokenizer, notes, expand=100, kept=tmp_path, **settings) == first
    assert (wrote, notes.said) == ([], [AGAIN])
    assert run(models, tokenizer, expand=100) == first, "and it is what they would write"


def no_more(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "end_tokens", lambda model, tokenizer: [2, 5])


def instructions(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")  # the tests run with AVX2 too


def threads(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)


def processor(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "processor", lambda: "another")


def version(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "9.0")


@pytest.mark.parametrize("change", [no_more, instructions, threads, processor, version])
def test_what_rounds_or_ends_otherwise_has_it_written_again(
    first: Expansion, models: TinyModels, tokenizer: Any, tmp_path: Path, wrote: list[int],
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, pytest.MonkeyPatch], None],
) -> None:  # fmt: skip
    """Another processor, number of threads, instruction set, version of torch, or other ends of text."""
    change(tokenizer, monkeypatch)
    run(models, tokenizer, expand=100, kept=tmp_path)
    assert len(wrote) == 2


@pytest.mark.parametrize("settings", [{"seed": 1}, {"expand": 101}, {"context": 60}], ids=str)
def test_what_is_asked_for_has_it_written_again(
    first: Expansion, models: TinyModels, tokenizer: Any, tmp_path: Path, wrote: list[int], settings: dict[str, Any]
) -> None:
    """Another seed, number of tokens, or longest continuation."""
    found = run(models, tokenizer, **{"expand": 100, "kept": tmp_path, **settings})
    assert len(wrote) == 2
    assert found == run(models, tokenizer, **{"expand": 100, **settings})


def test_only_the_expert_that_changed_writes(
    first: Expansion, models: TinyModels, tokenizer: Any, tmp_path: Path, wrote: list[int]
) -> None:
    """Other prompts, or one weight of its model; the other is used again, and the progress comes to its end."""
    notes = Notes()
    prompts = (*EXPERTS[0].prompts, texts("code", 1, seed=7)[0])
    other = (replace(EXPERTS[0], prompts=prompts), *EXPERTS[1:])
    found = run(models, tokenizer, notes, experts=other, expand=100, kept=tmp_path)
    assert (len(wrote), found.passages[1]) == (1, first.passages[1])
    assert [text.partition(",")[0] for text in notes.said] == [
        "Timing a specialist: 11 tokens", "Expansion: 2 specialists write about 100 tokens each",
        "Specialists write: 200 tokens",
        "Expansion: what `french` wrote in an earlier build is used again; `--no-cache` has it written anew",
    ]  # fmt: skip
    assert notes.told == pytest.approx(11 + 200)

    tuned = copy.deepcopy(models.specialist(1))
    with torch.no_grad():
        tuned.model.norm.weight[3] += 0.01
    changed = TinyModels(models.base(), [models.specialist(0), tuned, models.specialist(2)])
    notes = Notes()
    found = run(changed, tokenizer, notes, expand=100, kept=tmp_path)
    assert (len(wrote), found.passages[0]) == (2, first.passages[0])
    assert "Expansion: 1 specialist writes about 100 tokens each" in notes.said[1]


@pytest.mark.parametrize("damage", [
    "", "[]", "{}", '{"values": 3}', '{"values": [[1, 2]]}', '{"values": [[[1, 2], [1], 0]]}',
    '{"values": [[["a"], [1], 0]]}', '{"values": [[[99999], [1], 0]]}', '{"values": [[[1], [1], null]]}',
], ids=str)  # fmt: skip
def test_what_is_damaged_is_written_again_and_replaced(
    first: Expansion, models: TinyModels, tokenizer: Any, tmp_path: Path, wrote: list[int], damage: str
) -> None:
    """A cache may be lost at any time."""
    files = sorted((tmp_path / written.KIND).iterdir())
    assert len(files) == 2
    before = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    for path in files:
        path.write_text(damage, encoding="utf-8")
    assert run(models, tokenizer, expand=100, kept=tmp_path) == first
    assert len(wrote) == 2
    assert [json.loads(path.read_text(encoding="utf-8")) for path in files] == before


def test_a_folder_that_cannot_be_written_keeps_nothing(
    models: TinyModels, tokenizer: Any, tmp_path: Path, wrote: list[int]
) -> None:
    """The build goes on."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    for _ in range(2):
        run(models, tokenizer, expand=50, kept=tmp_path / "file")
    assert len(wrote) == 4
