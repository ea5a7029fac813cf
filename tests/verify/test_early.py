"""Checks that begin while a folder is written: they find what checks at the end find, and count for nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import yaml

from moemerge.api import build
from moemerge.errors import VerifyError
from moemerge.execute import blocks
from moemerge.record.schema import Record
from moemerge.sources import Checkpoint, open_checkpoint
from moemerge.verify import EarlyChecks, verify_folder
from moemerge.verify.compare import Comparison
from moemerge.verify.expected import expected_tensors
from moemerge.verify.layout import Place, read_layout
from moemerge.write import weights
from tests.conftest import TinyMaker
from tests.moe import recipe_of
from tests.paging import enter_memory, leave_memory
from tests.verify.conftest import Folder

QUERY = "model.layers.0.self_attn.q_proj.weight"
NORM = "model.norm.weight"
EXPERT = "model.layers.0.block_sparse_moe.experts.0.w1.weight"


class Case:
    """A built folder, looked at as if it were being written."""

    def __init__(self, folder: Folder) -> None:
        self.folder, path = folder, folder.path
        self.record: dict[str, Any] = yaml.safe_load((path / "moemerge.yaml").read_text(encoding="utf-8"))
        self.models: dict[str, Checkpoint] = {
            key: open_checkpoint(source["model"], root=path) for key, source in self.record["sources"].items()
        }
        self.digests: dict[str, str] = self.record["tensors"]
        self.places: dict[str, Place] = read_layout(path, self.record["files"]).places
        self.early = EarlyChecks(path, {**self.record, "tensors": {}, "files": {}}, self.models)

    def wanted(self, name: str) -> Any:
        """What a tensor must hold, as the check at the end derives it."""
        return expected_tensors(Record.model_validate(self.record), self.models["base"], self.models)[name]

    def outcome(self, name: str) -> Any:
        """What is known of a tensor at the end."""
        return self.early.outcome(name, self.places[name], self.wanted(name), self.digests[name])


@pytest.fixture
def case(tampered: Callable[..., Folder]) -> Iterator[Case]:
    """One that may be tampered with."""
    own = Case(tampered())
    with own.early:
        yield own


def test_an_early_check_finds_what_a_late_one_finds(case: Case) -> None:
    """The same counts for a tensor that is merged; nothing for one that is copied, or not written yet."""
    for name in (QUERY, EXPERT):
        case.early.written(name, case.digests[name])
    case.early._checks[QUERY].outcome.result()
    outcome = case.outcome(QUERY)
    assert (outcome.read, outcome.recomputed, outcome.differences) == (case.places[QUERY].length, True, [])
    assert case.outcome(EXPERT) is None
    assert case.outcome(NORM) is None


def test_the_end_of_a_build_takes_what_is_known(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every computed tensor was checked before, so none is read again; the counts are the same."""
    path = case.folder.path
    late = verify_folder(path, level="built", checkpoints=case.models)
    for name, digest in case.digests.items():
        case.early.written(name, digest)
    for check in case.early._checks.values():
        check.outcome.result()
    monkeypatch.setattr(Comparison, "check", None)  # who calls it fails
    found = verify_folder(path, level="built", checkpoints=case.models, early=case.early)
    assert found == late
    assert found.ok


def test_nothing_counts_that_was_found_of_something_else(case: Case) -> None:
    """Another digest, another place or another expectation at the end: the tensor is checked again."""
    case.early.written(QUERY, case.digests[QUERY])
    case.early._checks[QUERY].outcome.result()
    place, wanted, digest = case.places[QUERY], case.wanted(QUERY), case.digests[QUERY]
    assert case.early.outcome(QUERY, place, wanted, digest) is not None
    assert case.early.outcome(QUERY, place, wanted, case.digests[NORM]) is None
    assert case.early.outcome(QUERY, replace(place, offset=place.offset + 8), wanted, digest) is None
    assert case.early.outcome(QUERY, place, case.wanted(NORM), digest) is None
    assert case.early.outcome(QUERY, place, None, digest) is None


def test_what_is_wrong_early_is_said_in_full_at_the_end(case: Case) -> None:
    """Another tensor's bytes: only the end knows all digests, and with them whose bytes these are."""
    other = "model.layers.1.self_attn.q_proj.weight"
    case.folder.write(QUERY, case.folder.read(other))
    for name, digest in case.digests.items():
        case.early.written(name, digest)
    assert case.early._checks[QUERY].outcome.result().differences
    found = verify_folder(case.folder.path, level="built", checkpoints=case.models, early=case.early)
    assert [d.where for d in found.differences] == [QUERY]
    assert found.differences[0].message.endswith(f": they are those of `{other}`")


def test_a_check_that_waits_its_turn_is_left_to_who_asks(case: Case) -> None:
    """All threads busy: nobody waits for them."""
    free = Event()
    busy = [case.early._pool.submit(free.wait) for _ in range(8)]
    try:
        case.early.written(QUERY, case.digests[QUERY])
        assert case.outcome(QUERY) is None
        assert verify_folder(case.folder.path, level="built", checkpoints=case.models, early=case.early).ok
    finally:
        free.set()
    assert all(future.result() for future in busy)


def test_a_record_that_is_wrong_is_left_to_the_end(case: Case) -> None:
    """Nothing is derived from it."""
    broken = {**case.record, "experts": []}
    with EarlyChecks(case.folder.path, broken, case.models) as early:
        early.written(QUERY, case.digests[QUERY])
        assert early.outcome(QUERY, case.places[QUERY], case.wanted(QUERY), case.digests[QUERY]) is None


def test_a_build_whose_arithmetic_is_wrong_is_not_kept(
    tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mean that forgets a source: the check, which shares no code with it, finds it, and the folder goes."""
    own = blocks.Blocks._mean
    monkeypatch.setattr(blocks.Blocks, "_mean", lambda self, sources, *span: own(self, sources[:-1], *span))
    with pytest.raises(VerifyError, match="the build does not verify, so nothing was kept") as caught:
        build(recipe_of(tiny("llama"), [tiny("llama", 1), tiny("llama", 2)]), tmp_path / "out")
    assert "values are not the mean of `e0`, `e1`" in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_build_whose_disk_forgets_is_not_kept(
    tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are not those that were digested."""

    def forget(target: int, data: memoryview, offset: int) -> None:
        write_all(target, memoryview(bytes(len(data))), offset)

    write_all = weights.write_all
    monkeypatch.setattr(weights, "write_all", forget)
    with pytest.raises(VerifyError, match="the build does not verify"):
        build(recipe_of(tiny("llama"), [tiny("llama", 1), tiny("llama", 2)]), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["mean", "ties"])
@pytest.mark.parametrize("cold", [False, True])
def test_builds_from_the_disk_are_checked_early(
    tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, cold: bool
) -> None:
    """Tensors are handed over as they are written, once something had to be fetched, and none where all is at hand."""
    sources = [Path(shutil.copytree(tiny("llama", seed), tmp_path / f"m{seed}")) for seed in range(3)]
    for path in sources:
        if not (leave_memory if cold else enter_memory)(path / "model.safetensors"):
            pytest.skip("this file system does not let go of files, or does not say what it holds")
    told: dict[str, str] = {}
    own = EarlyChecks.written
    monkeypatch.setattr(EarlyChecks, "written", lambda self, *tensor: (told.update([tensor]), own(self, *tensor))[1])
    done = build(recipe_of(sources[0], sources[1:], merge={"shared": method}), tmp_path / "out")
    record = yaml.safe_load((tmp_path / "out" / "moemerge.yaml").read_text(encoding="utf-8"))
    assert told.items() <= record["tensors"].items()
    assert bool(told) is cold
    assert done.verification.checked == verify_folder(tmp_path / "out", level="built").checked
