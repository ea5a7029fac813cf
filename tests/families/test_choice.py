"""`architecture: auto` takes the host that the most runtimes hold rightly, and says so; any that fits can be named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from moemerge.families import HOSTS, DenseConfig, choose_host, hosts_of, why_host
from moemerge.families.runtimes import runtimes_where, traits_of
from tests.families.test_dense import BOUNDS


def dense(family: str, **config: Any) -> DenseConfig:
    """A small model of a family."""
    return DenseConfig.resolve({"model_type": family, **BOUNDS, **config})


@pytest.mark.parametrize(("family", "host"), [
    ("llama", "mixtral"), ("mistral", "mixtral"), ("qwen3", "qwen3_moe"),
    ("granite", "granitemoe"), ("olmo2", "flex_olmo"),
])  # fmt: skip
def test_the_rule_gives_the_usual_hosts(family: str, host: str) -> None:
    """A family's own comes first, and is what `auto` takes: as many other runtimes hold it as any other."""
    assert hosts_of(family)[0].model_type == host
    chosen, _ = choose_host(dense(family), "auto")
    assert chosen is HOSTS[host]


def test_qwen2_goes_where_no_common_runtime_is_silently_wrong() -> None:
    """mlx-lm computes something else of `qwen2_moe`. Tied, it loads neither, and the family's own host stays."""
    for tied, chosen, other in ((False, "glm4_moe", "qwen2_moe"), (True, "qwen2_moe", "glm4_moe")):
        model = dense("qwen2", tie_word_embeddings=tied)
        host, problems = choose_host(model, "auto")
        assert (host, problems) == (HOSTS[chosen], [])
        assert other in str(why_host(model, "auto"))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "seed_oss"])
def test_the_first_is_the_one_that_most_runtimes_hold(family: str) -> None:
    """Exact ones first; of those none is right in more runtimes than the one before it."""
    model = dense(family)
    hosts = hosts_of(family, dense=model)
    ranks = [(host.near is not None, -len(runtimes_where("right", host, traits_of(model, host)))) for host in hosts]
    assert ranks == sorted(ranks)


def test_what_this_very_model_has_counts() -> None:
    """mlx-lm takes Mixtral, and not with every rope; a second way into llama.cpp does not count."""
    every = ("transformers 4", "llama.cpp by `moemerge export`", "mlx-lm", "vLLM")
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    for config, right in (({}, every), ({"rope_parameters": yarn}, (*every[:2], every[3]))):
        traits = traits_of(dense("llama", **config), HOSTS["mixtral"])
        assert runtimes_where("right", HOSTS["mixtral"], traits) == right


def test_where_nothing_like_it_was_tried_the_host_that_plain_models_run_in_best_comes_first() -> None:
    """No run had a Qwen3 with this rope: what is known of plain ones decides, not the order of the files."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    model = dense("qwen3", rope_parameters=rope)
    assert choose_host(model, "auto") == (HOSTS["qwen3_moe"], [])
    said = str(why_host(model, "auto"))
    assert said.startswith("not tried in other runtimes; ")
    assert said.endswith(" would fit too")


def test_a_near_host_comes_after_an_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runtimes hold it."""
    near = replace(HOSTS["mixtral"], near="about 1e-6")
    monkeypatch.setitem(HOSTS, "mixtral", near)  # type: ignore[arg-type]
    assert hosts_of("llama")[0].model_type != "mixtral"
    assert hosts_of("llama")[-1] is near
    assert str(why_host(dense("llama"), "auto")).endswith(", mixtral (near) would fit too")


def test_a_host_that_lacks_something_is_passed_over() -> None:
    """A Llama with biases on its attention goes where the output's has a place."""
    host, problems = choose_host(dense("llama", attention_bias=True), "auto")
    assert host is not None
    assert (host.model_type, problems) == ("granitemoe", [])
    assert why_host(dense("llama", attention_bias=True), "auto") is None


def test_a_named_host_that_lacks_something_points_to_one_that_does_not() -> None:
    """Every problem's hint is the way out."""
    host, problems = choose_host(dense("llama", attention_bias=True), "mixtral")
    assert host is HOSTS["mixtral"]
    assert [problem.message for problem in problems] == [
        "`llama` has biases in the q, k and v projections, and `mixtral` has no place for them",
        "`llama` has biases in the attention output projection, and `mixtral` has no place for them",
    ]
    assert {problem.hint for problem in problems} == {"set `architecture: auto`, which takes `granitemoe`"}


def test_where_none_holds_it_the_one_that_lacks_the_least_is_told_of() -> None:
    """FFN biases have no place anywhere; those of the attention have."""
    (problem,) = choose_host(dense("llama", attention_bias=True, mlp_bias=True), "auto")[1]
    assert problem.message == "`llama` has biases in the FFN (`mlp_bias`), and `granitemoe` has no place for them"
    assert problem.hint == "dropping them would change the model, and no host of moemerge holds them"


def test_windows_have_no_place_in_granitemoe() -> None:
    """Said with how many there are."""
    config = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    (problem,) = choose_host(dense("qwen2", **config), "granitemoe")[1]
    assert problem.message == (
        "`granitemoe` has full attention in all layers, and the base a sliding window: 8 in 3 of 4 layers"
    )
    assert problem.hint == "set `architecture: auto`, which takes `qwen2_moe`"


def test_it_says_why_only_where_there_was_a_choice() -> None:
    """Not where one host fits, nor where the recipe names it."""
    others = ", ".join(
        f"{host.model_type} ({len(runtimes_where('right', host, frozenset()))})"
        for host in hosts_of("llama", dense=dense("llama"))[1:]
    )
    assert why_host(dense("llama"), "auto") == f"4 other runtimes run it correctly; {others} would fit too"
    assert why_host(dense("llama"), "granitemoe") is None
    assert why_host(dense("granite"), "auto") is None
