"""Qwen3-VL: what its mixture class has of its own, and the traps of its fused experts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moemerge.api import verify
from moemerge.plan import make_plan
from tests import wrapped
from tests.conftest import TinyMaker
from tests.moe import build_tiny, recipe_of, relative_error
from tests.test_wrappers import BAR, logits
from tests.wrapped import CASES, load_wrapper, seen, tiny_wrapper

KIND = "qwen3_vl"


@pytest.mark.parametrize("width", [16, pytest.param(32, marks=pytest.mark.families)])
def test_its_loader_cannot_take_them_for_transposed_ones(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fused experts of 2I = H (16) and I = H (32) look the same transposed: those on disk are as in memory."""
    case = CASES[KIND]
    monkeypatch.setitem(wrapped.CASES, KIND, replace(case, inner={**case.inner, "intermediate_size": width}))
    base = tiny_wrapper(KIND, tmp_path / "base")
    out = build_tiny(tmp_path / "out", base, [base, base])
    assert relative_error(logits(load_wrapper(out), **seen(KIND)), logits(load_wrapper(base), **seen(KIND))) <= BAR


def test_what_the_tower_adds_to_later_layers_is_seen(tmp_path: Path) -> None:
    """Without its deepstack the mixture says something else, so that the equal logits elsewhere have it."""
    base = tiny_wrapper(KIND, tmp_path / "base")
    sparse = load_wrapper(build_tiny(tmp_path / "out", base, [base, base]))
    whole = logits(sparse, **seen(KIND))
    with torch.no_grad():
        for parameter in sparse.model.visual.deepstack_merger_list.parameters():
            parameter.zero_()
    assert relative_error(logits(sparse, **seen(KIND)), whole) > 0.1


def test_a_config_as_it_lies_on_the_hub(tmp_path: Path) -> None:
    """Rope by its older names, and a tower that has the whole model's type."""
    base = tiny_wrapper(KIND, tmp_path / "base")
    path = base / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["vision_config"]["model_type"] = "qwen3_vl"
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    path.write_text(json.dumps(config), encoding="utf-8")
    out = build_tiny(tmp_path / "out", base, [base, base])
    assert verify(out).differences == ()
    assert relative_error(logits(load_wrapper(out), **seen(KIND)), logits(load_wrapper(base), **seen(KIND))) <= BAR


def test_its_language_model_is_no_model_by_itself(tiny: TinyMaker, tmp_path: Path) -> None:
    """A Qwen3 goes into `qwen3_moe`, also where the recipe asks for the other; Qwen3-VL goes nowhere else."""
    text = tiny("qwen3")
    (problem,) = make_plan(recipe_of(text, [text, text], architecture="qwen3_vl_moe_text"), tmp_path).problems
    assert problem.message == "`architecture: qwen3_vl_moe_text` cannot hold `qwen3`"
    assert problem.hint == "set `architecture: auto`, or one of `qwen3_moe`, `glm4_moe`, `mellum`"
    base = tiny_wrapper(KIND, tmp_path / "base")
    (problem,) = make_plan(recipe_of(base, [base, base], architecture="qwen3_moe"), tmp_path).problems
    assert problem.message == "`base_model`: a `qwen3_vl` around a `qwen3_moe` was never run"


def test_a_rope_that_differs_in_more_than_pictures(tiny: TinyMaker, tmp_path: Path) -> None:
    """A text model need not say how pictures are placed; another theta is refused, and so are other places."""
    base = tiny_wrapper(KIND, tmp_path / "base")
    other = tiny("qwen3", rope_parameters={"rope_type": "default", "rope_theta": 5e4})
    moved = tiny_wrapper(KIND, tmp_path / "moved")
    path = moved / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace("true", "false"), encoding="utf-8")
    problems = make_plan(recipe_of(base, [base, other, moved]), tmp_path).problems
    assert [problem.code for problem in problems] == ["rope-differs", "rope-differs"]
