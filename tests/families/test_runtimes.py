"""What is said of other runtimes is what was measured, and nothing is said without a run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from moemerge.families import HOSTS, WRAPPERS, DenseConfig, choose_host
from moemerge.families.reference import account
from moemerge.families.runtimes import (
    BAR,
    RUNTIMES,
    Run,
    Runs,
    measured,
    run_as,
    runtimes_where,
    silently_wrong,
    traits_of,
)
from moemerge.families.runtimes_page import markdown
from moemerge.plan import Plan, make_plan
from tests.conftest import TinyMaker
from tests.moe import recipe_of
from tests.tiny import as_read

ROOT = Path(__file__).parents[2]
KEPT = [(runtime.name, run) for runtime, runs in measured().items() for run in runs.runs]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The cases that runtimes are given."""
    spec = importlib.util.spec_from_file_location("cases", ROOT / "benchmarks" / "runtimes" / "cases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(*traits: str, difference: float | None = 0.0) -> Run:
    """Of a host `h`."""
    return Run("case", "h", frozenset(traits), difference, "no" if difference is None else None, None)


def runs(*listed: Run) -> Runs:
    return Runs({}, "", "", listed)


def test_the_page_is_current() -> None:
    """docs/runtimes.md is what `make docs` writes."""
    assert (ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8") == markdown(), "run `make docs`"


def test_every_runtime_was_tried() -> None:
    """On every host that stands alone but for lm-eval, which runs transformers 5; on some within others."""
    alone = {host.model_type for host in HOSTS.values() if host.alone}
    assert list(measured()) == list(RUNTIMES)
    for runtime, kept in measured().items():
        untried = alone - {one.host for one in kept.runs}
        hint = f"add them to HOMES, then `make runtimes RUNTIME={runtime.name}` (step 7 of CONTRIBUTING.md)"
        assert not untried or runtime.name == "lmeval", f"{untried} were not tried in {runtime.name}: {hint}"
    by_name = {runtime.name: kept for runtime, kept in measured().items()}
    within = {one.host for one in by_name["llamacpp"].runs} - alone
    assert {"qwen3_vl_moe_text in qwen3_vl_moe", "qwen3_5_moe_text in qwen3_5_moe", "mixtral in llava"} <= within


def test_right_and_wrong_are_far_apart() -> None:
    """The bar decides nothing by a hair, and where probabilities are right the ids of texts are."""
    known = [(name, one) for name, one in KEPT if one.difference is not None]
    tabled = {one.case for _, one in known if one.host.startswith("gemma4_text")}  # a GELU of 16-bit numbers
    others = [float(one.difference or 0.0) for _, one in known if one.case not in tabled]
    assert [difference for difference in others if 5e-5 < difference < BAR * 2] == []
    assert {one.state for _, one in known if one.case in tabled} == {"right"}
    assert [(name, one.case) for name, one in known if not one.ids] == []


def test_runs_are_of_the_mixtures_that_are_built_today(benchmark: ModuleType) -> None:
    """Host and traits of every run are those that the code gives its case."""
    today: dict[str, tuple[str, frozenset[str]]] = {}
    for case, one in benchmark.cases().items():
        dense = DenseConfig.resolve(as_read(benchmark.config_of(one.family, **one.config)))
        fields, wrapper = one.fields, None if one.within is None else WRAPPERS[one.within]
        layers = fields.get("layers", {})
        host, problems = choose_host(dense, fields.get("architecture", "auto"), wrapper)
        assert host is not None
        assert problems == []
        found = traits_of(
            dense, host, layout=fields.get("output", {}).get("layout", "per_expert"),
            experts_per_token=fields.get("experts_per_token", 2), shared="shared_experts" in fields,
        )  # fmt: skip
        today[case] = (
            run_as(host if wrapper is None else wrapper.around(host)),
            found | ({"dense layers"} if layers else set()),
        )
    assert [(name, one.case) for name, one in KEPT if today.get(one.case) != (one.host, one.traits)] == []


@pytest.mark.parametrize(("known", "traits", "state"), [
    ([run()], (), "right"),
    ([run()], ("tied",), None),
    ([run(), run("tied")], ("tied",), "right"),
    ([run(), run("tied", difference=None)], ("tied",), "fails"),
    ([run(difference=1.0)], ("tied",), "wrong"),
    ([run(difference=1.0), run("tied", difference=None)], ("tied",), "fails"),
    ([run(difference=None), run("tied")], ("tied",), "right"),
    ([run("tied"), run("biases")], ("tied", "biases"), "right"),
    ([run("tied"), run("biases", difference=1.0)], ("tied", "biases"), "wrong"),
    ([run("tied"), run("biases")], ("tied", "biases", "fused"), None),
    ([run("tied")], (), None),
])  # fmt: skip
def test_the_nearest_runs_speak(known: list[Run], traits: tuple[str, ...], state: str | None) -> None:
    """The worst of them; right alone is what they cover whole."""
    found = runs(*known).nearest("h", frozenset(traits))
    assert (found.state if found is not None else None) == state
    assert runs(*known).nearest("other", frozenset(traits)) is None


def plan_of(tiny: TinyMaker, family: str, config: dict[str, Any], **fields: Any) -> Plan:
    base = tiny(family, **config)
    made = make_plan(recipe_of(base, [base, base], **fields), Path.cwd())
    assert isinstance(made, Plan)
    return made


def test_a_plan_warns_where_a_runtime_is_silently_wrong(tiny: TinyMaker) -> None:
    """By name, version and how far it was off; with what else to run it."""
    plan = plan_of(tiny, "qwen2", {}, architecture="qwen2_moe")
    assert plan.traits == {"biases"}
    by_name = {runtime.name: known for runtime, known in measured().items()}
    off = {name: by_name[name].nearest("qwen2_moe", plan.traits) for name in ("llamacpp_converter", "mlx")}
    (warning,) = (warning for warning in plan.warnings if warning.code == "runtime")
    assert warning.message == (
        "silently wrong in llama.cpp by its own converter "
        f"(0.1.1, logprobs up to {off['llamacpp_converter'].difference:.1g} nats off); "  # type: ignore[union-attr]
        f"mlx-lm (0.32.2, logprobs up to {off['mlx'].difference:.1g} nats off): "  # type: ignore[union-attr]
        "such mixtures load there and compute something else"
    )
    assert warning.hint == (
        "run it with one that was right: transformers 5, transformers 4, llama.cpp by `moemerge export`, vLLM"
    )


def test_a_fused_plan_says_what_transformers_4_makes_of_it(tiny: TinyMaker) -> None:
    """It loads, with experts at random."""
    plan = plan_of(tiny, "llama", {}, output={"layout": "fused"})
    (warning,) = (warning for warning in plan.warnings if warning.code == "runtime")
    assert warning.message.startswith("silently wrong in transformers 4 (4.57.6, logprobs up to ")
    assert warning.hint == ("leave out `output.layout: fused`: more runtimes hold experts that are stored one by one")


def test_nothing_is_said_where_nothing_is_wrong(tiny: TinyMaker) -> None:
    """A Llama, whose host every runtime holds."""
    plan = plan_of(tiny, "llama", {})
    assert [warning for warning in plan.warnings if warning.code == "runtime"] == []
    assert silently_wrong(HOSTS["mixtral"], frozenset({"unheard of"})) is None
    assert runtimes_where("right", HOSTS["mixtral"], frozenset()) == (
        "transformers 4", "llama.cpp by `moemerge export`", "mlx-lm", "vLLM",
    )  # fmt: skip


def test_the_command_says_what_was_measured() -> None:
    """A line a runtime, with its version."""
    said = "\n".join(account("mixtral"))
    assert "  transformers 4 (4.57.6): right; wrong with fused\n" in said
    assert "  vLLM (0.32.0): right; does not run with fused" in said
