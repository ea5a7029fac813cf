"""A family is a row: what the checker knows of dense families and hosts, and that a new one needs no more."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from moemerge import families
from moemerge.verify.dense_row import DenseRow
from moemerge.verify.families import FAMILIES
from moemerge.verify.host import check_class
from moemerge.verify.hosts import HOSTS
from moemerge.verify.stored import STORED
from moemerge.verify.wrapped import MIXED, WRAPPED
from tests.hosts import HOSTS as BUILT
from tests.tiny import as_read, tiny_config

VERIFY = Path(__file__).parents[2] / "moemerge" / "verify"


def test_every_family_of_the_build_has_its_row() -> None:
    """And every host is built and verified by the tests of this folder; those that stand in a wrapper alone, by
    `tests/test_wrappers.py`."""
    assert set(HOSTS) == set(families.HOSTS)
    assert set(BUILT) == {name for name, host in families.HOSTS.items() if host.alone}
    assert {name for wrapper in families.WRAPPERS.values() for name in wrapper.languages} >= set(HOSTS) - set(BUILT)
    assert set(FAMILIES) == set(families.DENSE_FAMILIES)
    assert set(STORED) == set(families.TRANSLATIONS)
    assert set(WRAPPED) == set(families.WRAPPERS)
    assert set(MIXED) == set(families.WRAPPED)


@pytest.mark.parametrize("row", [*FAMILIES.values()], ids=lambda row: row.model_type)
def test_every_tensor_of_a_family_has_its_group(row: DenseRow) -> None:
    """Each tensor of transformers' class is in a group or of the FFN, whatever its norms are called."""
    import torch
    from transformers import AutoModelForCausalLM

    asked = families.DENSE_FAMILIES[row.model_type].qkv_bias == "attention_bias"
    biases = {"attention_bias": True} if asked else {}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config(row.model_type, **biases))
    dense = families.DenseConfig.resolve(as_read(model.config.to_dict()))
    for name in chain.from_iterable(map(dense.held_by, model.state_dict())):
        group = row.group_of(name)
        if row.is_ffn(name):
            assert group == "ffn"
        elif "norm" in name:
            assert group == "norms"
        elif name in row.once or re.sub(r"^model\.layers\.\d+\.|\.(weight|bias)$", "", name) in row.instead:
            assert group is not None
            assert not row.is_projection(name)
        elif "attn" in name or "mixer" in name:
            assert group == "attention"
            full = "self_attn" in name or re.search(r"mixer\.[qkvo]_proj", name)
            assert row.is_projection(name) == bool(full and name.endswith(".weight"))
        else:
            assert group == {"model.embed_tokens.weight": "embeddings", "lm_head.weight": "lm_head"}[name]


def test_a_name_of_another_family_has_no_group() -> None:
    """A row knows its own norms and no others."""
    assert FAMILIES["olmo2"].group_of("model.layers.0.input_layernorm.weight") is None
    assert FAMILIES["llama"].group_of("model.layers.0.post_feedforward_layernorm.weight") is None
    assert FAMILIES["llama"].group_of("model.layers.0.self_attn.q_norm.weight") is None
    assert FAMILIES["llama"].group_of("model.layers.0.input_layernorm.bias") is None


def test_a_class_that_is_another(built: Any) -> None:
    """The row names the class that the Auto class must find."""
    found = check_class(built("qwen3_moe"), {}, HOSTS["qwen2_moe"], None)
    assert found[0].message == "transformers builds a `Qwen3MoeForCausalLM` from it"


def test_no_file_but_the_rows_names_a_family() -> None:
    """What is true of one family stands in its row."""
    names = re.compile(r'"(' + "|".join([*FAMILIES, *HOSTS, *STORED]) + ')"')
    rows = ("families.py", "hosts.py", "stored.py", "wrapped.py")
    others = [path for path in VERIFY.glob("*.py") if not path.name.endswith(rows)]
    assert [path.name for path in others if names.search(path.read_text(encoding="utf-8"))] == []
