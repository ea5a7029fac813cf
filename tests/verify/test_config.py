"""`config.json` is derived whole: each key that is gone, changed or added is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moemerge.record.read import read_record
from moemerge.record.schema import Record
from moemerge.sources import open_checkpoint
from moemerge.verify.config import check_config
from moemerge.verify.hosts import HOSTS
from moemerge.verify.stored import as_dense
from tests.hosts import every
from tests.verify.conftest import Builder, Folder, set_value

Tamper = Callable[..., Folder]


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("rope_parameters", "rope_theta"), 10000.0, "rope_parameters.rope_theta is 10000.0, the base has 100000.0"),
        (("rope_parameters", "factor"), 4.0, "rope_parameters.factor is 4.0, the base has 2.0"),
        (("rope_parameters", "attention_factor"), 0.5, "rope_parameters.attention_factor is 0.5, the base has null"),
        (("rope_parameters", "rope_type"), "default", 'rope_parameters.rope_type is "default", the base has "linear"'),
        (("rope_theta",), 10000.0, "rope_theta is 10000.0, the base has 100000.0"),
        (("rope_scaling",), None, 'rope_scaling is null, the base has {"factor": 2.0, "rope_type": "linear"}'),
        (("head_dim",), 8, "head_dim is 8, the base has 12"),
        (("rms_norm_eps",), 1e-5, "rms_norm_eps is 1e-05, the base has 1e-06"),
        (("vocab_size",), 129, "vocab_size is 129, the base has 128"),
        (("sliding_window",), 16, "sliding_window is 16, the base has null"),
        (("num_local_experts",), 4, "num_local_experts is 4, the recipe has 3"),
        (("num_experts_per_tok",), 1, "num_experts_per_tok is 1, the recipe asks for 2"),
        (("tie_word_embeddings",), True, "tie_word_embeddings is true, the base has false"),
        (("eos_token_id",), 5, "eos_token_id is 5, the base has 2"),
        (("hidden_act",), "gelu", 'hidden_act is "gelu", the base has "silu"'),
        (("dtype",), "bfloat16", 'dtype is "bfloat16", the record says "float32"'),
        (("router_jitter_noise",), 0.1, "router_jitter_noise is 0.1, `mixtral` needs 0.0"),
        (("auto_map",), {"AutoModel": "x.Y"}, "auto_map does not belong in it: it asks for remote code"),
    ],
)
def test_one_field_of_a_mixtral_config(keys: tuple[str, ...], value: Any, message: str, tampered: Tamper) -> None:
    """Every field that changes the model is compared, rope value by value."""
    rope = {"rope_type": "linear", "rope_theta": 100000.0, "factor": 2.0}
    folder = tampered("mixtral", {"rope_parameters": rope, "head_dim": 12})
    folder.edit("config.json", set_value(*keys, value=value))
    assert folder.differences() == [f"config.json: {message}"]


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("layer_types",), ["full_attention"] * 2,
         'layer_types is ["full_attention", "full_attention"], the base has ["full_attention", "sliding_attention"]'),
        (("use_sliding_window",), False, "use_sliding_window is false, the base has true"),
        (("norm_topk_prob",), False, "norm_topk_prob is false, `qwen2_moe` needs true"),
        (("qkv_bias",), False, "qkv_bias is false, the base has true"),
        (("mlp_only_layers",), [1], "mlp_only_layers is [1], the record says []"),
        (("shared_expert_intermediate_size",), 64, "shared_expert_intermediate_size is 64, the shared expert has 48"),
        (("moe_intermediate_size",), 40, "moe_intermediate_size is 40, the experts have 48"),
    ],
)  # fmt: skip
def test_one_field_of_a_qwen2_moe_config(keys: tuple[str, ...], value: Any, message: str, tampered: Tamper) -> None:
    """What qwen2_moe alone has."""
    folder = tampered("qwen2_moe", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1})
    folder.edit("config.json", set_value(*keys, value=value))
    assert folder.differences() == [f"config.json: {message}"]


def test_a_field_that_is_gone(tampered: Tamper) -> None:
    """A default of the host is not the base's value."""
    folder = tampered("qwen3_moe")
    folder.edit("config.json", lambda config: config.pop("head_dim"))
    assert folder.differences() == ["config.json: head_dim is missing, the base has 8"]


def test_a_config_written_otherwise(tampered: Tamper) -> None:
    """What no comparison names, the file's digest does."""
    folder = tampered()
    path = folder.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert folder.differences() == ["config.json: changed after the build"]


ADDED: dict[str, tuple[Any, str]] = {
    "transformers_weights": ("b.safetensors", "transformers would read the weights from the file that it names"),
    "is_causal": (False, "it says whether a token sees those after it"),
    "_attn_implementation": (
        "somebody/kernel",
        "it has transformers compute attention in another way, which may be code from the hub",
    ),
    "configuration_files": (
        ["config.5.0.0.json"],
        "transformers would read the config from the files that it names",
    ),
    "quantization_config": ({"bits": 4}, "the weights are not quantised"),
    "layer_types": (["full_attention"] * 2, "a `mixtral` that moemerge builds has no such key"),
    "transformers_version": ("4.0.0", "a `mixtral` that moemerge builds has no such key"),
    "note": (None, "a `mixtral` that moemerge builds has no such key"),
}


@pytest.mark.parametrize("sources", [None, False], ids=["sources", "no-sources"])
@pytest.mark.parametrize("key", ADDED)
def test_a_key_that_no_build_writes(key: str, sources: bool | None, tampered: Tamper) -> None:
    """Known to be dangerous or not, and though the record agrees; without the sources too."""
    value, why = ADDED[key]
    folder = tampered()
    folder.edit("config.json", set_value(key, value=value))
    folder.record_file("config.json")
    assert folder.differences(sources=sources) == [f"config.json: {key} does not belong in it: {why}"]


@pytest.mark.parametrize("host", every())
def test_every_key_must_be_there_with_its_value(host: str, built: Builder) -> None:
    """Of each host: a key that is gone is a difference, and another value too."""
    record = read_record(built(host), HOSTS, ())
    assert isinstance(record, Record)
    config = json.loads((built(host) / "config.json").read_text())
    base = as_dense(open_checkpoint(record.sources["base"].model, root=Path("/"))).config
    assert check_config(config, record, base) == []
    for key in config:
        without = {other: value for other, value in config.items() if other != key}
        (gone,) = check_config(without, record, base)
        assert gone.message.startswith(f"{key} is missing, ")
        assert any(d.message.startswith(f"{key} is missing") for d in check_config(without, record, None))
        changed = check_config({**config, key: "other"}, record, base)
        assert [d.message.startswith(f'{key} is "other", ') for d in changed] == [True]


def test_true_is_not_one(tampered: Tamper) -> None:
    """JSON has numbers and truth values, and Python takes one for the other."""
    folder = tampered("qwen2_moe")
    folder.edit("config.json", set_value("decoder_sparse_step", value=True))
    assert folder.differences() == ["config.json: decoder_sparse_step is true, `qwen2_moe` needs 1"]


def test_a_config_that_is_no_json(tampered: Tamper) -> None:
    """A damaged file is a difference, not a traceback."""
    folder = tampered()
    (folder.path / "config.json").write_text('{"model_type": "mixtral"')
    assert folder.differences() == ["config.json: cannot be read: Expecting ',' delimiter: line 1 column 25 (char 24)"]
