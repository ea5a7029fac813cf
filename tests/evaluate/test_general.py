"""Text of no specialist: what the report and the verdict say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from moemerge.evaluate.measures import HARMLESS, DomainLosses, Measures, general_account
from moemerge.evaluate.options import PARTS
from moemerge.evaluate.verdict import verdict
from moemerge.report import grids
from tests.evaluate.conftest import Trio, measure, sentences


def with_general(trio: Trio, folder: Path, *, base: bool) -> dict[str, Any]:
    """The report of two specialists and, with `base`, the base for everything else; French is nobody's."""
    experts: list[dict[str, Any]] = [
        {"name": name, "model": str(trio.experts[name]), "prompts": sentences(name, 12, 1)} for name in ("code", "math")
    ]
    if base:
        experts.append({"name": "general", "model": "base", "prompts": sentences("french", 12, 1)})
    domains = {"code": str(trio.texts["code"]), "math": str(trio.texts["math"]), "general": str(trio.texts["french"])}
    return measure(trio.build(folder, experts=experts, eval={"domains": domains}), without=PARTS)


def test_the_base_among_the_experts_keeps_general_text(trio: Trio, tmp_path: Path) -> None:
    """Its figures follow from those of the domain, and its gain is not asked for."""
    found = with_general(trio, tmp_path / "moe", base=True)
    domain, general = found["domains"]["general"], found["general"]
    assert general["domains"] == general["base_experts"] == ["general"]
    assert general["difference"] == pytest.approx(domain["moe"] - domain["base"])
    assert general["share"] == found["routing"]["confusion"]["general"]["general"] > 0.9
    assert domain["gain_kept_note"] == "its specialist is the base itself"
    assert "On `general`, text of no specialist, it is" in found["verdict"]
    assert "`model: base`" not in found["verdict"]  # it is there already
    against = grids.against(found)
    assert against is not None
    assert [cell.text for cell in against.rows[-1]][::3] == ["base, general text", general["standing"]]
    assert against.rows[-1][0].small.endswith("of the tokens at the base's expert")


def test_without_the_base_general_text_may_lose_and_that_is_said(trio: Trio, tmp_path: Path) -> None:
    found = with_general(trio, tmp_path / "moe", base=False)
    general = found["general"]
    assert (general["domains"], general["base_experts"], general["share"]) == (["general"], [], None)
    assert general["difference"] > HARMLESS
    assert general["standing"] == "behind"
    said = f"On `general`, text of no specialist, it is {general['difference']:.3f} nats worse than the base"
    assert f"{said}: an expert more with `model: base` keeps such text" in found["verdict"].split(". ")


def test_no_general_text_is_no_part_of_the_report(built: Path) -> None:
    found = measure(built, limit=5, without=PARTS)
    assert found["general"] is None
    assert "text of no specialist" not in found["verdict"]
    assert grids.against(found) != grids.against(found | {"general": {"difference": 0.1}})


@pytest.mark.parametrize(
    ("more", "standing", "said"),
    [
        (0.0, "level", "it is level with the base"),
        (HARMLESS / 2, "level", "it is level with the base"),
        (
            2 * HARMLESS,
            "behind",
            "0.040 nats worse than the base: give the base's expert texts (`data:` in the recipe)",
        ),
        (-HARMLESS, "ahead", "it is 0.020 nats better than the base"),
    ],
)
def test_how_much_general_text_may_lose(more: float, standing: str, said: str) -> None:
    """By losses that differ evenly, so that any interval is narrow."""
    tokens = torch.full((20,), 100.0, dtype=torch.float64)
    base = torch.linspace(200, 300, 20, dtype=torch.float64)
    sums = {"base": base, "specialist:calm": base.clone(), "specialist:wild": base + 9, "moe": base + 100 * more}
    domains = {"calm": DomainLosses("calm", tokens, 1000, sums)}
    general = general_account(Measures(domains), domains, {"calm": {"calm": 0.75, "wild": 0.25}})
    assert general is not None
    assert (general["standing"], general["base_experts"], general["share"]) == (standing, ["calm"], 0.75)
    report: dict[str, Any] = {
        "general": general,
        "gain_kept": None,
        "missing": {},
        "mend": None,
        "best_specialist": None,
    }
    report |= {"domains": {"calm": {"expert": None, "gain_kept_note": "-"}}, "idle_experts": 0, "routing": {}}
    report |= {"against": dict.fromkeys(("base", "best_specialist", "linear_merge"))}
    report |= {"parameters": {"total": 1, "active": 1, "base": None}}
    assert verdict(report).endswith(said)
    assert json.loads(json.dumps(general)) == general
