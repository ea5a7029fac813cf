"""`make demo-train`: what it trains on, and what it says where there is no demo yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
KINDS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}


def test_it_trains_on_no_evaluation_text() -> None:
    """And holds out none; each of exactly the demo's domains."""
    data, held_out = (
        yaml.safe_load((ROOT / "examples" / name).read_text(encoding="utf-8"))
        for name in ("training.yaml", "held_out.yaml")
    )
    recipe = yaml.safe_load((ROOT / "recipes" / "demo.yaml").read_text(encoding="utf-8"))
    assert list(data) == list(held_out) == [expert["name"] for expert in recipe["experts"]]
    assert {str(Path(path).parent) for path in data.values()} == {"calibration", "training"}
    assert {str(Path(path).parent) for path in held_out.values()} == {"held_out"}
    assert all((ROOT / "examples" / path).is_file() for path in (*data.values(), *held_out.values()))


def test_without_the_demo_it_says_what_to_run(tmp_path: Path) -> None:
    """Before anything else, in a copy that has no `out/demo`."""
    (tmp_path / "examples").mkdir()
    for name in ("demo.py", "demo_train.py"):
        (tmp_path / "examples" / name).write_bytes((ROOT / "examples" / name).read_bytes())
    command = [sys.executable, str(tmp_path / "examples" / "demo_train.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "demo-train: there is no out/demo yet\nhint: run `make demo` first\n"


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_accelerates_files_are_read(name: str) -> None:
    """accelerate's own reader takes them, and knows every key."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / "recipes" / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == 2
    assert config.distributed_type.value == KINDS[name]
