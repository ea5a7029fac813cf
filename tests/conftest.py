"""Session fixtures: tiny real models, made once."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from moemerge import templates

# What CI says must not hang on a draw, and nowhere on how busy the machine is.
settings.register_profile("usual", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("usual"), derandomize=True)
settings.load_profile("usual")
if os.environ.get("CI"):
    settings.load_profile("ci")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_CACHE = tempfile.TemporaryDirectory(prefix="moemerge-tests-")
os.environ["MOEMERGE_CACHE"] = _CACHE.name  # never the user's: what an earlier run kept would hide what this one does

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads only wait for one another

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job, whose children would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)

TinyMaker = Callable[..., Path]

COMPUTING = (
    "bad_input/test_values.py", "evaluate", "export/test_llama_cpp.py", "gate", "test_build.py", "test_choose.py",
    "test_identity.py", "test_layerwise.py", "train",
)  # fmt: skip
"""Tests of what models compute, which depends on the CPU: `make test-avx2` runs them as on another one."""

SLOW_STARTS = ("evaluate/test_tasks.py", "train/test_processes.py", "train/test_resume.py")
"""Those of them that start many processes, and compute little in each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of `COMPUTING`."""
    root = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(root).as_posix()
        if path.startswith(COMPUTING) and not path.startswith(SLOW_STARTS):
            item.add_marker(pytest.mark.computing)


@pytest.fixture(autouse=True)
def _every_template_is_new() -> None:
    """What a template did in one test counts against it in no other."""
    templates._ends.clear()
    templates._over.clear()


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were allowed for each conversation that the process apart was asked for, in turn."""
    found: list[float] = []
    ask = templates.ask

    def counted(job: str, *, seconds: float, **values: Any) -> Any:
        found.append(seconds)
        return ask(job, seconds=seconds, **values)

    monkeypatch.setattr(templates, "ask", counted)
    return found


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyMaker:
    """Makes `tiny(family, seed=0, **config)` once for each set of arguments and returns its folder."""
    from tests.tiny import tiny_model

    root = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}

    def make(family: str, seed: int = 0, **config: Any) -> Path:
        key = repr((family, seed, sorted(config.items(), key=str)))
        if key not in made:
            made[key] = tiny_model(family, root / f"{family}-{len(made)}", seed=seed, **config)
        return made[key]

    return make


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a dense model that has learnt the texts of tests/evaluate/talker.py by heart."""
    from tests.evaluate.talker import make_talker

    return make_talker(tmp_path_factory.mktemp("talker"))


@pytest.fixture(scope="session")
def letters(talker: Path) -> Any:
    """The talker's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(talker)


@pytest.fixture(scope="session")
def talking_moe(talker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a mixture of two copies of the talker: it says what the talker says."""
    from tests.moe import build_tiny

    return build_tiny(tmp_path_factory.mktemp("talking") / "moe", talker, [talker, talker])


@pytest.fixture
def talking(talking_moe: Path) -> Any:
    """That mixture, loaded."""
    from tests.moe import load

    return load(talking_moe)
