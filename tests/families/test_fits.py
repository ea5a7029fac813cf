"""Which host a dense model goes into, and what no host holds: said before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moemerge.families import HOSTS, DenseConfig, choose_host, hosts_of
from moemerge.plan import Plan, make_plan
from tests.conftest import TinyMaker
from tests.moe import recipe_of
from tests.test_identity import HALF_WINDOW
from tests.tiny import tiny_model


def dense_of(family: str, **values: Any) -> DenseConfig:
    sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
             "num_key_value_heads": 2, "num_hidden_layers": 2}  # fmt: skip
    return DenseConfig.resolve({"model_type": family, **sizes, **values})


def refusals(family: str, architecture: str, **values: Any) -> list[str]:
    return [problem.message for problem in choose_host(dense_of(family, **values), architecture)[1]]


def test_what_most_runtimes_hold_comes_first() -> None:
    """Qwen3 with windows on some layers goes where the first one cannot take it."""
    assert hosts_of("llama")[0].model_type == "mixtral"
    assert hosts_of("qwen3")[0].model_type == "qwen3_moe"
    for values, wanted in (({}, "qwen3_moe"), (HALF_WINDOW, "mellum")):
        host, problems = choose_host(dense_of("qwen3", **values), "auto")
        assert (host, problems) == (HOSTS[wanted], [])


@pytest.mark.parametrize(("family", "architecture", "values", "message"), [
    ("qwen3", "qwen3_moe", HALF_WINDOW,
     "`qwen3_moe` has one sliding window for all layers, and the base's layers differ"),
    ("qwen2", "glm4_moe", HALF_WINDOW,
     "`glm4_moe` has full attention in all layers, and the base a sliding window: 6 in 1 of 2 layers"),
    ("qwen3", "glm4_moe", {"attention_bias": True},
     "`qwen3` has biases in the attention output projection, and `glm4_moe` has no place for them"),
    ("llama", "glm4_moe", {"mlp_bias": True},
     "`llama` has biases in the FFN (`mlp_bias`), and `glm4_moe` has no place for them"),
    ("hunyuan_v1_dense", "mixtral", {}, "`architecture: mixtral` cannot hold `hunyuan_v1_dense`"),
])  # fmt: skip
def test_what_a_host_has_no_place_for(family: str, architecture: str, values: dict[str, Any], message: str) -> None:
    """One problem, in the model's words."""
    assert refusals(family, architecture, **values) == [message]


def test_biases_everywhere_fit_nowhere() -> None:
    """ERNIE 4.5's `use_bias` puts them into q, k and v, the output and the FFN."""
    found = refusals("ernie4_5", "auto", use_bias=True)
    assert [message.partition("biases in the ")[2].partition(", and")[0] for message in found] == [
        "q, k and v projections", "attention output projection", "FFN (`mlp_bias`)",
    ]  # fmt: skip


def test_a_mixture_is_no_dense_model(tmp_path: Path, tiny: TinyMaker) -> None:
    """A class that has both is read by its config: with experts in a layer it is refused, as base and as expert."""
    mixture = tiny_model("glm4_moe", tmp_path / "base", first_k_dense_replace=1, n_routed_experts=2)
    plan = make_plan(recipe_of(mixture, [mixture, mixture]), tmp_path)
    assert not isinstance(plan, Plan)
    assert plan.problems[0].message == (
        "`base_model`: in its config `first_k_dense_replace` is `1`, not the number of layers or more: with experts in "
        "some it is a mixture already"
    )


def test_a_part_of_a_head_is_rotated_as_far_as_the_class_does() -> None:
    """Llama rotates all of it whatever its config says, and what it says must not reach a host that listens."""
    assert dense_of("glm4_moe", first_k_dense_replace=9).rotated == 4
    llama = dense_of("llama", partial_rotary_factor=0.5)
    assert (llama.rotated_share, llama.rotated) == (1.0, 8)
    config = HOSTS["glm4_moe"].host_config(llama, 4, 2, "float32")
    assert config["partial_rotary_factor"] == config["rope_parameters"]["partial_rotary_factor"] == 1.0
    windowed = dense_of("qwen3", partial_rotary_factor=0.5, **HALF_WINDOW)
    config = HOSTS["mellum"].host_config(windowed, 4, 2, "float32")
    whole = {"rope_type": "default", "rope_theta": 10000.0}
    assert config["rope_parameters"] == {"full_attention": whole, "sliding_attention": whole}
    assert "rope_scaling" not in config
