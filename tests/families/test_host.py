"""What a host's file may say is heeded: constants of their own dtype, a near miss, the class that loads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from moemerge.console import Silent
from moemerge.errors import Problem
from moemerge.families import HOSTS, Constant, DenseConfig, auto_class_of, choose_host
from moemerge.families.dense_layers import first_layers
from moemerge.plan import Plan, make_plan
from moemerge.write.card import model_card
from moemerge.write.shards import lay_out
from moemerge.write.weights import write_weights
from tests.conftest import TinyMaker
from tests.moe import recipe_of
from tests.tiny import tiny_config

CORRECTION = "model.layers.{layer}.block_sparse_moe.e_score_correction_bias"


def _corrected(dense: DenseConfig, experts: int, layer: int) -> Iterator[Constant]:
    yield Constant(CORRECTION.format(layer=layer), (experts,), 0.1, "F32")


@pytest.fixture
def plan(tiny: TinyMaker, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Of three experts, into a class that has a correction in fp32, is not exact and has an Auto class of its own."""
    other = replace(HOSTS["mixtral"], constants=_corrected, near="about 1e-6", auto_class="AutoModelForImageTextToText")
    monkeypatch.setitem(HOSTS, "mixtral", other)  # type: ignore[arg-type]
    base = tiny("llama", 0, dtype="bfloat16")
    plan = make_plan(
        recipe_of(base, [base, tiny("llama", 1, dtype="bfloat16"), base], architecture="mixtral"), base.parent
    )
    assert isinstance(plan, Plan), plan.problems
    return plan


def test_a_constant_keeps_its_dtype(plan: Plan, tmp_path: Path) -> None:
    """A tenth in fp32 between bf16 tensors: bf16 would have rounded it."""
    shards = lay_out(plan.tensors, 5 << 30)
    gates = np.zeros((plan.dense.layers, len(plan.experts), plan.dense.hidden_size), np.float32)
    write_weights(tmp_path, shards, plan, gates, Silent(), lambda name, digest: None)
    state = {name: value for shard in shards for name, value in load_file(tmp_path / shard.name).items()}
    for layer in range(plan.dense.layers):
        assert torch.equal(state[CORRECTION.format(layer=layer)], torch.full((3,), 0.1))
    assert state["model.norm.weight"].dtype == torch.bfloat16


def test_a_near_miss_is_said(plan: Plan) -> None:
    """Its law, before anything is built."""
    warning = next(warning for warning in plan.warnings if warning.code == "near-miss")
    assert warning.message == "`mixtral` does not hold `llama` exactly: about 1e-6"


def test_the_class_that_loads_it_is_named(plan: Plan) -> None:
    """In the model card, and to whatever loads the folder."""
    card = model_card(plan, {"init": "random"}, "out")
    assert "AutoModelForImageTextToText.from_pretrained(model_id" in card
    assert "AutoModelForCausalLM" not in card
    assert auto_class_of(plan.config) == "AutoModelForImageTextToText"
    assert auto_class_of({"model_type": "olmoe"}) == "AutoModelForCausalLM"


@pytest.mark.parametrize(("changed", "host"), [
    ({"layer_types": ["full_attention"] * 2, "position_embedding_type": "rope"}, "granitemoe"),
    ({"layer_types": ["full_attention"] * 2}, "granitemoehybrid"),
    ({"position_embedding_type": "rope"}, "granitemoehybrid"),
])  # fmt: skip
def test_a_granite_4_goes_where_more_runtimes_know_it(changed: dict[str, Any], host: str) -> None:
    """To `granitemoe` with attention and rope alone, which the other holds as well; it is the only one for the rest."""
    dense = DenseConfig.resolve(tiny_config("granitemoehybrid", **changed).to_dict())
    chosen, problems = choose_host(dense, "auto")
    assert chosen is not None
    assert (chosen.model_type, problems) == (host, [])
    assert not choose_host(dense, "granitemoehybrid")[1]
    refused = choose_host(dense, "granitemoe")[1]
    assert bool(refused) == (host != "granitemoe")
    assert all("`granitemoehybrid`" in str(problem.hint) for problem in refused)


def test_hosts_that_keep_their_first_layers_dense() -> None:
    """They say how many; a gap, or a later layer, is refused."""
    marks, dense = first_layers("first_k_dense_replace"), DenseConfig.resolve({"model_type": "llama"})
    assert marks(replace(dense, kept=frozenset({0, 1}))) == {"first_k_dense_replace": 2}
    refusal = Problem(
        "dense-layers", "`layers`: this host keeps its first layers dense, and no others",
        "name layers from 0 on, without a gap, such as `{0-1: dense}`",
    )  # fmt: skip
    assert marks(replace(dense, kept=frozenset({1}))) == marks(replace(dense, kept=frozenset({0, 2}))) == refusal
    host = replace(HOSTS["mixtral"], dense_layers=marks)
    assert host.problems(replace(dense, kept=frozenset({1}))) == [refusal]
    assert host.host_config(replace(dense, kept=frozenset({0})), 2, 1, "float32")["first_k_dense_replace"] == 1
