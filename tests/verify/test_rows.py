"""A family is a row: what the checker knows of dense families and hosts, and that a new one needs no more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from moemerge import families
from moemerge.verify.families import FAMILIES, DenseRow, asks_for_biases, no_windows
from moemerge.verify.host import check_class
from moemerge.verify.hosts import HOSTS, HostRow
from tests.tiny import tiny_config
from tests.verify.conftest import FAMILIES as BUILT

VERIFY = Path(__file__).parents[2] / "moemerge" / "verify"

OLMO2 = DenseRow(
    "olmo2",
    {"vocab_size": 50304, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "pad_token_id": 1,
     "eos_token_id": 50279},
    bias=asks_for_biases,
    windows=no_windows,
    norms=("post_attention_layernorm", "post_feedforward_layernorm", "self_attn.q_norm", "self_attn.k_norm"),
)  # fmt: skip
FLEX_OLMO = HostRow(
    "flex_olmo",
    "FlexOlmoForCausalLM",
    router="model.layers.{layer}.mlp.gate.weight",
    expert=(
        "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight",
        "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight",
        "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight",
    ),
    fixed={"norm_topk_prob": True},
    counts=("num_experts",),
    widths=("intermediate_size",),
    from_base={"attention_bias": lambda dense: dense.bias},
)


def test_every_family_of_the_build_has_its_row() -> None:
    """And every host is built and verified by the tests of this folder."""
    assert set(HOSTS) == set(families.HOSTS) == set(BUILT)
    assert set(FAMILIES) == set(families.DENSE_FAMILIES)


@pytest.mark.parametrize("row", [*FAMILIES.values(), OLMO2], ids=lambda row: row.model_type)
def test_every_tensor_of_a_family_has_its_group(row: DenseRow) -> None:
    """Each tensor of transformers' class is in a group or of the FFN, whatever its norms are called."""
    import torch
    from transformers import AutoModelForCausalLM

    biases = {"attention_bias": True} if row.model_type in ("llama", "qwen3", "olmo2") else {}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config(row.model_type, **biases))
    for name in model.state_dict():
        group = row.group_of(name)
        if row.is_ffn(name):
            assert group is None
        elif "norm" in name:
            assert group == "norms"
        elif "self_attn" in name:
            assert group == "attention"
            assert row.is_projection(name) == name.endswith(".weight")
        else:
            assert group == {"model.embed_tokens.weight": "embeddings", "lm_head.weight": "lm_head"}[name]


def test_a_name_of_another_family_has_no_group() -> None:
    """A row knows its own norms and no others."""
    assert OLMO2.group_of("model.layers.0.input_layernorm.weight") is None
    assert FAMILIES["llama"].group_of("model.layers.0.post_feedforward_layernorm.weight") is None
    assert FAMILIES["llama"].group_of("model.layers.0.self_attn.q_norm.weight") is None
    assert FAMILIES["llama"].group_of("model.layers.0.input_layernorm.bias") is None


def test_a_host_to_come_is_one_row(tmp_path: Path) -> None:
    """flex_olmo as transformers saves it, checked with a row that is written here and nowhere else."""
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config: Any = tiny_config("flex_olmo", num_experts=3, num_experts_per_tok=2, norm_topk_prob=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert FLEX_OLMO.expert_of(1, 2)[0] in shapes
    assert FLEX_OLMO.router_of(0) in shapes
    assert check_class(tmp_path, shapes, FLEX_OLMO, None) == []
    del shapes["model.layers.1.post_feedforward_layernorm.weight"]
    assert [f"{d.where}: {d.message}" for d in check_class(tmp_path, shapes, FLEX_OLMO, None)] == [
        "model.layers.1.post_feedforward_layernorm.weight: is not there, and `FlexOlmoForCausalLM` needs it"
    ]


def test_a_class_that_is_another(built: Any) -> None:
    """The row names the class that the Auto class must find."""
    found = check_class(built("qwen3_moe"), {}, HOSTS["qwen2_moe"], None)
    assert found[0].message == "transformers builds a `Qwen3MoeForCausalLM` from it"


def test_no_file_but_the_rows_names_a_family() -> None:
    """What is true of one family stands in its row."""
    names = re.compile(r'"(' + "|".join([*FAMILIES, *HOSTS]) + ')"')
    others = [path for path in VERIFY.glob("*.py") if path.name not in ("families.py", "hosts.py")]
    assert [path.name for path in others if names.search(path.read_text(encoding="utf-8"))] == []
