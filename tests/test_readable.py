"""Whether transformers reads a model's files is asked once for the same files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from moemerge.build import readable
from moemerge.build.run import build_plan
from moemerge.errors import PlanError
from moemerge.kept import cache_folder
from moemerge.plan import Plan, make_plan
from tests.conftest import TinyMaker
from tests.moe import recipe_of


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The jobs that the process apart is given; the cache is empty."""
    jobs: list[str] = []
    ask = readable.ask

    def counted(job: str, **values: Any) -> Any:
        jobs.append(job)
        return ask(job, **values)

    monkeypatch.setattr(readable, "ask", counted)
    monkeypatch.setenv("MOEMERGE_CACHE", str(tmp_path / "cache"))
    return jobs


def plan_of(tiny: TinyMaker, base: Path, **settings: Any) -> Plan:
    """A plan of two experts."""
    plan = make_plan(recipe_of(base, [tiny("llama", seed=1), tiny("llama", seed=2)], **settings), base.parent)
    assert isinstance(plan, Plan)
    return plan


def test_the_same_files_are_asked_for_once(tiny: TinyMaker, tmp_path: Path, asked: list[str]) -> None:
    """A file that changed is asked for again, and the answer is that of the first time."""
    base = Path(shutil.copytree(tiny("llama"), tmp_path / "base"))
    first = readable.check_readable(plan_of(tiny, base), cache_folder())
    jobs = list(asked)
    assert jobs
    assert readable.check_readable(plan_of(tiny, base), cache_folder()) == first
    assert asked == jobs

    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "top_k": 7}))
    assert readable.check_readable(plan_of(tiny, base), cache_folder()) == first
    assert len(asked) > len(jobs)


def test_a_refusal_is_not_kept(tiny: TinyMaker, tmp_path: Path, asked: list[str]) -> None:
    """The library may read next time what it could not."""
    base = Path(shutil.copytree(tiny("llama"), tmp_path / "base"))
    (base / "generation_config.json").write_text(json.dumps({"max_new_tokens": -1}))
    for _ in range(2):
        before = len(asked)
        with pytest.raises(PlanError, match="generation_config"):
            readable.check_readable(plan_of(tiny, base), cache_folder())
        assert len(asked) > before


def test_without_a_cache_it_is_asked_anew(tiny: TinyMaker, tmp_path: Path, asked: list[str]) -> None:
    """`build --no-cache` neither takes an earlier answer nor keeps its own."""
    plan = plan_of(tiny, tiny("llama"), gate={"init": "uniform"})
    build_plan(plan, tmp_path / "kept", root=tmp_path)
    jobs = list(asked)
    build_plan(plan, tmp_path / "anew", root=tmp_path, cache=False)
    assert asked == jobs * 2
    shutil.rmtree(cache_folder())
    build_plan(plan, tmp_path / "again", root=tmp_path, cache=False)
    assert not cache_folder().exists()
