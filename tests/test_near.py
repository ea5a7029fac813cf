"""Hosts that are near: what is said of them, measured, recorded, refused and checked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from moemerge.api import build
from moemerge.console import Silent
from moemerge.errors import PlanError
from moemerge.families import HOSTS
from moemerge.gate import GateTexts
from moemerge.plan import make_plan
from moemerge.verify import verify_folder
from moemerge.verify.hosts import HOSTS as ROWS
from tests.conftest import TinyMaker
from tests.moe import build_tiny, load, logits, recipe_of, relative_error, some_tokens

NEAR = ("gemma3_text", "lfm2")


def recorded(folder: Path) -> dict[str, Any]:
    """The record."""
    found: dict[str, Any] = yaml.safe_load((folder / "moemerge.yaml").read_text(encoding="utf-8"))
    return found


def test_build_and_checker_agree_on_who_is_near() -> None:
    """Each host's law in `families` has its flag in `verify`."""
    assert {name for name, host in HOSTS.items() if host.near} == {name for name, row in ROWS.items() if row.near}


@pytest.mark.parametrize("family", NEAR)
def test_the_plan_says_the_law_and_the_record_and_card_the_error(family: str, tiny: TinyMaker, tmp_path: Path) -> None:
    """What is recorded is what plain transformers shows on other texts, within a few times."""
    source = tiny(family, scale=4.0)
    recipe = recipe_of(source, [source] * 3)
    plan = make_plan(recipe, tmp_path)
    (warning,) = [w for w in plan.warnings if w.code == "near-miss"]
    law = plan.host.near  # type: ignore[union-attr]
    assert warning.message == f"`{plan.host.model_type}` does not hold `{family}` exactly: {law}"  # type: ignore[union-attr]
    out = build(recipe, tmp_path / "out", root=tmp_path).path
    near = recorded(out)["near"]
    seen = relative_error(logits(load(out), some_tokens()), logits(load(source), some_tokens()))
    assert 0 < near["error"] < 1e-4
    assert seen / 20 < near["error"] < seen * 20
    card = (out / "README.md").read_text(encoding="utf-8")
    assert (
        f"its logits were {near['error']:.1e} off those of the dense model, relative, on {near['tokens']} tokens"
        in card
    )
    assert verify_folder(out).differences == ()


def test_a_near_host_without_a_tokenizer_is_measured_on_random_tokens(tiny: TinyMaker, tmp_path: Path) -> None:
    """Where the gate reads no text either."""
    source = Path(shutil.copytree(tiny("lfm2", scale=4.0), tmp_path / "bare"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    out = build_tiny(tmp_path / "out", source, [source] * 2, gate={"init": "random"})
    assert recorded(out)["near"]["tokens"] == 512


def test_an_exact_host_measures_nothing(tiny: TinyMaker, tmp_path: Path) -> None:
    """No field in its record."""
    source = tiny("llama")
    assert "near" not in recorded(build_tiny(tmp_path / "out", source, [source] * 2))


def test_what_rounding_costs_is_refused_and_can_be_wanted(tiny: TinyMaker, tmp_path: Path) -> None:
    """In bf16 a norm's weight plus 1 is rounded: above 1e-3 nothing is built, unless `near: true`, and that is told."""
    source = tiny("gemma3_text", scale=4.0, dtype="bfloat16")
    with pytest.raises(PlanError) as caught:
        build(recipe_of(source, [source] * 2), tmp_path / "out", root=tmp_path)
    (problem,) = caught.value.problems
    assert problem.code == "near-miss"
    assert problem.message.startswith("the logits of `beam` with all experts alike are ")
    assert problem.message.endswith(" off the dense model's, relative: more than 0.001")
    assert problem.hint is not None
    assert problem.hint.startswith("`near: true` in the recipe builds it all the same")
    assert not (tmp_path / "out").exists()
    out = build_tiny(tmp_path / "out", source, [source] * 2, near=True)
    assert recorded(out)["near"]["error"] > 1e-3
    assert verify_folder(out).differences == ()
    exact = build_tiny(tmp_path / "exact", source, [source] * 2, dtype="float32")
    assert recorded(exact)["near"]["error"] < 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("near"), "`near` is missing: `lfm2_moe` is not exact, and its error is measured"),
        (lambda record: record["near"].update(error=0.5),
         "`near.error` is 0.5, and without `near: true` no more than 0.001 is built"),
    ],
)  # fmt: skip
def test_a_record_without_a_bound_is_not_believed(change: Any, message: str, tiny: TinyMaker, tmp_path: Path) -> None:
    """The measured error is there, and allowed."""
    source = tiny("lfm2")
    out = build_tiny(tmp_path / "out", source, [source] * 2)
    record = recorded(out)
    change(record)
    (out / "moemerge.yaml").write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")
    assert [d.message for d in verify_folder(out).differences] == [message]


def test_a_measured_error_of_an_exact_host_does_not_belong(tiny: TinyMaker, tmp_path: Path) -> None:
    """It was not measured."""
    source = tiny("llama")
    out = build_tiny(tmp_path / "out", source, [source] * 2)
    record = recorded(out)
    record["near"] = {"error": 0.0, "tokens": 5}
    (out / "moemerge.yaml").write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")
    assert [d.message for d in verify_folder(out).differences] == ["`near` does not belong in it: `mixtral` is exact"]


def test_the_error_is_that_of_the_logits_with_all_experts_alike(
    tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured layer by layer is what the two whole models give on the same tokens, to a percent."""
    from moemerge.build import near

    source = tiny("gemma3_text", scale=4.0, dtype="bfloat16", num_hidden_layers=4)
    out = build_tiny(tmp_path / "out", source, [source] * 2, near=True)
    ids = some_tokens(1, 40)
    monkeypatch.setattr(near, "_rows", lambda *_: iter([ids[0]]))
    plan = make_plan(recipe_of(source, [source] * 2), tmp_path)
    gates = torch.randn(4, 2, 32, generator=torch.Generator().manual_seed(1))
    found = near.measure_near(plan, GateTexts(()), gates, None, "cpu", Silent())  # type: ignore[arg-type]
    seen = relative_error(logits(load(out), ids), logits(load(source), ids))
    assert found.tokens == 40
    assert found.error == pytest.approx(seen, rel=1e-2)


def test_ministral_3_is_told_of_its_border(tiny: TinyMaker, tmp_path: Path) -> None:
    """Exact up to the length that its queries are scaled from, as the identity tests have it; past it `plan` warns."""
    source = tiny("ministral3")
    plan = make_plan(recipe_of(source, [source] * 2), tmp_path)
    (warning,) = [w for w in plan.warnings if w.code == "long-queries"]
    assert "up to 64 tokens the host is exact, past them it is not" in warning.message
    out = build_tiny(tmp_path / "out", source, [source] * 2)
    rope = json.loads((out / "config.json").read_text(encoding="utf-8"))["rope_parameters"]
    assert "llama_4_scaling_beta" not in rope
    short, long = some_tokens(1, 60), some_tokens(1, 200)
    assert relative_error(logits(load(out), short), logits(load(source), short)) <= 1e-6
    assert relative_error(logits(load(out), long), logits(load(source), long)) > 1e-5


def test_gemma_4_in_float16_is_refused(tiny: TinyMaker, tmp_path: Path) -> None:
    """Its experts are multiplied by 2^-12, for which fp16 has no room."""
    source = tiny("gemma4_text")
    (problem,) = make_plan(recipe_of(source, [source] * 2, dtype="float16"), tmp_path).problems
    assert problem.code == "dtype"
    assert problem.hint == "set `dtype: bfloat16`, which has the same size"


def test_gemma_4_keeps_tokens_that_every_layer_has_a_row_for(tiny: TinyMaker, tmp_path: Path) -> None:
    """Another vocabulary is refused, since rows of the layers' embeddings are not moved."""
    source = tiny("gemma4_text")
    plan = make_plan(recipe_of(source, [source] * 2, tokenizer={"pad_to_multiple_of": 100}), tmp_path)
    (problem,) = plan.problems
    assert problem.code == "tokens-per-layer"


def test_a_gemma_4_with_experts_is_a_mixture_already(tiny: TinyMaker, tmp_path: Path) -> None:
    """Told by `enable_moe_block`, as it has the dense model's `model_type`."""
    source = tiny("gemma4_text")
    out = build_tiny(tmp_path / "out", source, [source] * 2)
    (problem,) = make_plan(recipe_of(out, [out] * 2), tmp_path).problems
    assert problem.code == "bad-config"
    assert "`enable_moe_block`" in problem.message
    assert "with experts it is a mixture already" in problem.message
