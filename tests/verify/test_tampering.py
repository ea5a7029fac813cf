"""Whatever is changed in a built folder is found and named: the tensor, the field, the file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moemerge.sources.beside import OTHER_FILES, TOKENIZER_FILES
from moemerge.verify.config import check_config
from moemerge.verify.record import Record, read_record
from tests.verify.conftest import FAMILIES, Builder, Folder

Tamper = Callable[..., Folder]
MIXTRAL = "model.layers.0.block_sparse_moe"
QWEN = "model.layers.1.mlp"


# tensors


def test_one_bit_of_a_copied_tensor(tampered: Tamper) -> None:
    """Byte 1234 of a [48, 32] fp32 matrix lies in element 308, which is [9, 20]."""
    folder = tampered()
    folder.flip(f"{MIXTRAL}.experts.1.w3.weight", byte=1234)
    assert folder.differences() == [
        f"{MIXTRAL}.experts.1.w3.weight: "
        "1 of 6144 bytes differ from `model.layers.0.mlp.up_proj.weight` of `e1`, first at [9, 20]"
    ]


def test_one_bit_of_a_copied_tensor_without_its_source(tampered: Tamper) -> None:
    """The recorded digest is enough to find it."""
    folder = tampered()
    folder.flip(f"{MIXTRAL}.experts.1.w3.weight", byte=1234)
    expected = [f"{MIXTRAL}.experts.1.w3.weight: its bytes changed after the build"]
    assert folder.differences(sources=False) == expected


def test_one_bit_in_the_fused_layout(tampered: Tamper) -> None:
    """The place is that in the whole [3, 96, 32] tensor: expert 2's up projection begins at row 48."""
    folder = tampered("qwen3_moe", output={"layout": "fused"})
    folder.flip(f"{QWEN}.experts.gate_up_proj", byte=4 * (2 * 96 * 32 + 50 * 32 + 7))
    assert folder.differences() == [
        f"{QWEN}.experts.gate_up_proj: "
        "1 of 6144 bytes differ from `model.layers.1.mlp.up_proj.weight` of `e2`, first at [2, 50, 7]"
    ]


def test_one_bit_of_a_merged_tensor(tampered: Tamper) -> None:
    """The highest bit of the fraction changes the value; expected and found are both shown."""
    folder = tampered()
    name = "model.layers.1.self_attn.k_proj.weight"
    folder.flip(name, byte=4 * 37 + 2, bit=6)
    (found,) = folder.differences()
    assert found.startswith(f"{name}: 1 of 512 values are not the mean of `e0`, `e1`, `e2`, first at [1, 5], which is ")
    assert " and should be " in found


def test_the_last_bit_of_a_merged_tensor(tampered: Tamper) -> None:
    """One unit in the last place is within the recomputation's tolerance, and the digest still sees it."""
    folder = tampered()
    folder.flip("model.norm.weight", byte=0)
    assert folder.differences() == ["model.norm.weight: its bytes changed after the build"]


def test_one_bit_of_the_gate(tampered: Tamper) -> None:
    """A fitted tensor has no source: its digest tells."""
    folder = tampered()
    folder.flip(f"{MIXTRAL}.gate.weight", byte=5)
    assert folder.differences() == [f"{MIXTRAL}.gate.weight: its bytes changed after the build"]


@pytest.mark.parametrize("names", [("w1", "w3", "w2"), None], ids=["mixtral", "qwen2_moe"])
def test_two_experts_swapped(names: tuple[str, ...] | None, tampered: Tamper) -> None:
    """Each matrix is named with the one whose bytes lie in its place."""
    folder = tampered("mixtral" if names else "qwen2_moe")
    block, names = (MIXTRAL, names) if names else (QWEN, ("gate_proj", "up_proj", "down_proj"))
    layer = block.split(".")[2]
    expected = []
    for name in names:
        folder.swap(f"{block}.experts.0.{name}.weight", f"{block}.experts.2.{name}.weight")
    for expert, other in ((0, 2), (2, 0)):
        for name, dense in zip(names, ("gate", "up", "down"), strict=True):
            source = f"model.layers.{layer}.mlp.{dense}_proj.weight"
            expected.append(
                (
                    f"{block}.experts.{expert}.{name}.weight: ",
                    f" of 6144 bytes differ from `{source}` of `e{expert}`, first at [0, 0]: "
                    f"they are those of `{block}.experts.{other}.{name}.weight`",
                )
            )
    found = folder.differences()
    assert len(found) == len(expected)
    for line, (start, end) in zip(found, expected, strict=True):
        assert line.startswith(start)
        assert line.endswith(end)


def test_gate_and_up_of_one_expert_swapped(tampered: Tamper) -> None:
    """The same shape, the same expert, the wrong role."""
    folder = tampered("qwen3_moe")
    gate, up = f"{QWEN}.experts.1.gate_proj.weight", f"{QWEN}.experts.1.up_proj.weight"
    folder.swap(gate, up)
    found = folder.differences()
    assert [line.split(": ")[0] for line in found] == [gate, up]
    assert found[0].endswith(f"of `e1`, first at [0, 0]: they are those of `{up}`")
    assert found[1].endswith(f"of `e1`, first at [0, 0]: they are those of `{gate}`")


def test_a_wrong_build_is_not_believed(tampered: Tamper) -> None:
    """A swap that the record agrees with, as a mistake in `families` would make it, is found in the sources."""
    import yaml

    folder = tampered()
    gate, up = (f"{MIXTRAL}.experts.0.{name}.weight" for name in ("w1", "w3"))
    folder.swap(gate, up)
    record = yaml.safe_load((folder.path / "moemerge.yaml").read_text())
    record["tensors"][gate], record["tensors"][up] = record["tensors"][up], record["tensors"][gate]
    (folder.path / "moemerge.yaml").write_text(yaml.safe_dump(record))
    assert folder.differences(sources=False) == []
    found = folder.differences(level="full")
    assert len(found) == 2
    assert found[0].startswith(f"{gate}: ")
    assert found[0].endswith(
        "of `e0`, first at [0, 0]; its digest is the recorded one, so the source changed or the build was wrong"
    )


@pytest.mark.parametrize("value", [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff"], ids=["nan", "-inf"])
def test_nan_and_inf(value: bytes, tampered: Tamper) -> None:
    """Found even where nothing else is known of the value: in the gate."""
    folder = tampered()
    folder.write(f"{MIXTRAL}.gate.weight", value, at=4 * 40)
    assert folder.differences() == [f"{MIXTRAL}.gate.weight: holds NaN or Inf, first at [1, 8]"]


def test_nan_in_copied_and_merged_tensors(tampered: Tamper) -> None:
    """The comparison says what is wrong, the scan what is there."""
    folder = tampered()
    for name in ("model.norm.weight", f"{MIXTRAL}.experts.0.w2.weight"):
        folder.write(name, b"\x00\x00\xc0\x7f", at=4)
    found = folder.differences()
    assert found[1] == f"{MIXTRAL}.experts.0.w2.weight: holds NaN or Inf, first at [0, 1]"
    assert found[2].startswith(
        "model.norm.weight: 1 of 32 values are not the mean of `e0`, `e1`, `e2`, first at [1], which is nan "
    )
    assert found[3] == "model.norm.weight: holds NaN or Inf, first at [1]"


def test_the_silent_shared_expert_must_be_silent(tampered: Tamper) -> None:
    """qwen2_moe's shared expert adds nothing only where its down projection is exactly zero."""
    folder = tampered("qwen2_moe")
    name = f"{QWEN}.shared_expert.down_proj.weight"
    folder.write(name, b"\x01\x00\x00\x00", at=4 * 50)
    expected = f"{name}: 1 of 1536 values are not 0, first at [1, 2], which is 1.40129846e-45 and should be 0"
    assert folder.differences() == [expected]


# config


def set_value(*keys: str, value: Any) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


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
        (("mlp_only_layers",), [1], "mlp_only_layers is [1], `qwen2_moe` needs []"),
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


@pytest.mark.parametrize("host", FAMILIES)
def test_every_key_must_be_there_with_its_value(host: str, built: Builder) -> None:
    """Of each host: a key that is gone is a difference, and another value too."""
    record = read_record(built(host))
    assert isinstance(record, Record)
    config = json.loads((built(host) / "config.json").read_text())
    base = json.loads((Path(record.sources["base"].model) / "config.json").read_text())
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


# tokenizer and other files


def test_one_token_changed(tampered: Tamper) -> None:
    """Two tokens with each other's ids, in the tokenizer's own vocabulary."""

    def exchange(tokenizer: Any) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["chat"], vocabulary["chien"] = vocabulary["chien"], vocabulary["chat"]

    folder = tampered()
    vocabulary = json.loads((folder.path / "tokenizer.json").read_text())["model"]["vocab"]
    chat, chien = vocabulary["chat"], vocabulary["chien"]
    folder.edit("tokenizer.json", exchange)
    assert folder.differences() == [
        f"tokenizer.json: 2 tokens differ: `chat` is {chien}, the base has {chat}; "
        f"`chien` is {chat}, the base has {chien}"
    ]


def test_another_way_of_splitting(tampered: Tamper) -> None:
    """The same vocabulary and other ids: another pre-tokenizer."""
    folder = tampered()
    folder.edit("tokenizer.json", set_value("pre_tokenizer", value={"type": "WhitespaceSplit"}))
    (found,) = folder.differences()
    assert found.startswith("tokenizer.json: gives 'The quick brown fox jump' the ids [")


def test_a_special_token_that_is_none(tampered: Tamper) -> None:
    """`special` decides whether decoding skips a token."""
    folder = tampered()
    folder.edit("tokenizer.json", lambda tokenizer: tokenizer["added_tokens"][2].update(special=False))
    assert folder.differences() == ["tokenizer.json: the added tokens [2] are not special as in the base"]


def test_a_tokenizer_written_otherwise(tampered: Tamper) -> None:
    """The same tokenizer in other bytes is a change, though not of any id."""
    folder = tampered()
    path = folder.path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert folder.differences() == ["tokenizer.json: changed after the build"]


def test_a_tokenizer_that_is_none(tampered: Tamper) -> None:
    """A damaged file is a difference, not a traceback."""
    folder = tampered()
    (folder.path / "tokenizer.json").write_text("{")
    (found,) = folder.differences()
    assert found.startswith("tokenizer.json: cannot be read: ")


def test_missing_and_changed_files(tampered: Tamper) -> None:
    """Each recorded file is there, unchanged."""
    folder = tampered()
    (folder.path / "tokenizer_config.json").unlink()
    (folder.path / "README.md").write_text("another card")
    assert sorted(folder.differences()) == ["README.md: changed after the build", "tokenizer_config.json: is missing"]


def test_an_adapter_beside_the_model(tampered: Tamper) -> None:
    """transformers would apply it without a word."""
    folder = tampered()
    (folder.path / "adapter_config.json").write_text("{}")
    assert folder.differences() == [
        "adapter_config.json: does not belong in it: transformers would apply that adapter on loading"
    ]


@pytest.mark.parametrize(
    "name",
    [
        "chat_template.jinja", "added_tokens.json", "special_tokens_map.json", "tokenizer.model", "vocab.json",
        "additional_chat_templates/x.jinja",
    ],
)  # fmt: skip
def test_a_file_that_transformers_takes_up(name: str, tampered: Tamper) -> None:
    """Nothing of that kind may be added: prompts and ids would change with every tensor in its place."""
    folder = tampered()
    (folder.path / name).parent.mkdir(exist_ok=True)
    (folder.path / name).write_text("{}")
    (folder.path / "notes.txt").write_text("mine")  # nobody reads that
    assert folder.differences() == [f"{name}: was added after the build: transformers may take it up"]


def test_a_generation_config_that_the_base_has_not(tampered: Tamper) -> None:
    """One that the build wrote is its own; one that the record forgot is somebody else's."""
    folder = tampered()
    path = folder.path / "moemerge.yaml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("  generation_config.json:")))
    expected = "generation_config.json: was added after the build: transformers may take it up"
    assert folder.differences() == [expected]


@pytest.mark.parametrize(
    "name",
    [
        "modeling_mixtral.py", "custom_generate/generate.py", "pytorch_model.bin", "pytorch_model.bin.index.json",
        "tf_model.h5", "inner/model.safetensors", "a/b/model.safetensors.index.json", "preprocessor_config.json",
        "model.safetensors.index.json",
    ],
)  # fmt: skip
def test_code_and_other_weights(name: str, tampered: Tamper) -> None:
    """What is not weights of this model, wherever it lies, is named; what nobody reads is left alone."""
    folder = tampered()
    (folder.path / name).parent.mkdir(exist_ok=True, parents=True)
    (folder.path / name).write_text("{}")
    (folder.path / "notes").mkdir()
    (folder.path / "notes" / "results.json").write_text("{}")
    (folder.path / "model-q4.gguf").write_text("an export of mine")
    found = folder.differences()
    assert f"{name}: was added after the build: transformers may take it up" in found
    assert {line.partition(":")[0] for line in found} == {name}


def test_code_behind_a_link(tampered: Tamper) -> None:
    """A folder of code need not lie in the folder."""
    folder = tampered()
    (folder.path / "custom_generate").symlink_to(folder.path.parent)
    assert folder.differences() == ["custom_generate: was added after the build: transformers may take it up"]


@pytest.mark.parametrize(
    "name",
    [
        "chat_template.jinja", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
        "additional_chat_templates/x.jinja", "LICENSE",
    ],
)  # fmt: skip
def test_a_recorded_file_that_the_base_has_not(name: str, tampered: Tamper) -> None:
    """That the record lists it does not make it the base's."""
    folder = tampered()
    (folder.path / name).parent.mkdir(exist_ok=True)
    (folder.path / name).write_text("{}")
    folder.record_file(name)
    assert folder.differences() == [f"{name}: is in the record, and the base has no such file"]
    assert folder.differences(sources=False) == []  # only the base could tell


def test_without_the_base_whatever_a_build_may_copy_may_be_there(tampered: Tamper) -> None:
    """All the files that `sources` finds beside a model's weights."""
    folder = tampered()
    for name in (*TOKENIZER_FILES, *OTHER_FILES, "LICENSE", "LICENCE.txt", "NOTICE", "USE_POLICY.md"):
        path = folder.path / name
        if not path.exists():
            path.write_text("{}")
            folder.record_file(name)
    assert folder.differences(sources=False) == []


@pytest.mark.parametrize(
    "name",
    [
        "preprocessor_config.json", "modeling_mixtral.py", "pytorch_model.bin", "inner/model.safetensors",
        "gate_statistics.safetensors", "moemerge-training.svg", "NOTES.txt",
    ],
)  # fmt: skip
def test_a_recorded_file_that_no_build_writes(name: str, tampered: Tamper) -> None:
    """Nor the build's: statistics that the recipe does not keep, the plot of no training."""
    folder = tampered()
    (folder.path / name).parent.mkdir(exist_ok=True)
    (folder.path / name).write_text("{}")
    folder.record_file(name)
    expected = [f"{name}: is in the record, and no build writes such a file"]
    assert folder.differences() == folder.differences(sources=False) == expected


def test_weights_that_the_record_lists_as_a_file(tampered: Tamper) -> None:
    """transformers would load `model.safetensors` before what the index names."""
    folder = tampered(output={"shard_size": "50KB"})
    (folder.path / "model.safetensors").write_bytes(b"old")
    folder.record_file("model.safetensors")
    assert folder.differences() == ["model.safetensors: is in the record, and no build writes such a file"]


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "tokenizer.json"])
def test_a_recorded_file_that_the_base_has_otherwise(name: str, tampered: Tamper) -> None:
    """Byte for byte, though the record agrees and the ids of a tokenizer are the same."""
    folder = tampered()
    path = folder.path / name
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    folder.record_file(name)
    assert folder.differences() == [f"{name}: differs from the base's"]


@pytest.mark.parametrize("name", ["config.json", "README.md"])
def test_a_file_that_the_record_forgot(name: str, tampered: Tamper) -> None:
    """Without its digest nobody sees it change."""
    folder = tampered()
    folder.record(lambda record: record["files"].pop(name))
    assert folder.differences() == [f"{name}: is not in the record"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "moemerge.yaml"])
def test_a_file_that_is_a_link_out_of_the_folder(name: str, tampered: Tamper) -> None:
    """What lies elsewhere is no part of the folder, whatever it holds."""
    folder = tampered()
    outside = folder.path.parent / "elsewhere.json"
    (folder.path / name).rename(outside)
    (folder.path / name).symlink_to(outside)
    assert folder.differences() == [f"{name}: is a link out of the folder, to `{outside}`"]


@pytest.mark.parametrize("name", ["config.json", "README.md", "tokenizer.json", "model.safetensors"])
def test_a_pipe_in_place_of_a_file(name: str, tampered: Tamper) -> None:
    """It is a difference, where reading it would wait for ever."""
    folder = tampered()
    (folder.path / name).unlink()
    os.mkfifo(folder.path / name)
    (found,) = folder.differences()
    assert re.fullmatch(rf"{name}: cannot be read: (\[Errno 22\] )?not a regular file", found)


# shards


SHARDED = {"output": {"shard_size": "50KB"}}


def test_a_missing_shard(tampered: Tamper) -> None:
    """Named with the number of tensors that are gone with it; the others are still compared."""
    folder = tampered(**SHARDED)
    weight_map = json.loads((folder.path / "model.safetensors.index.json").read_text())["weight_map"]
    shard = weight_map["model.norm.weight"]
    (folder.path / shard).unlink()
    first = f"{MIXTRAL}.experts.0.w1.weight"
    folder.flip(first, byte=0)
    found = folder.differences()
    assert found[0] == f"{shard}: is missing, and {list(weight_map.values()).count(shard)} tensors with it"
    assert found[1].startswith(f"{first}: 1 of 6144 bytes differ")
    assert len(found) == 2


def test_a_truncated_shard(tampered: Tamper) -> None:
    """Shorter than its header says."""
    folder = tampered()
    path = folder.path / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    assert folder.differences() == [
        f"model.safetensors: is truncated: its header promises {size} bytes, it has {size - 10}"
    ]


def test_a_shard_that_is_too_long(tampered: Tamper) -> None:
    """Bytes after the last tensor belong to nothing."""
    folder = tampered()
    path = folder.path / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"more")
    expected = f"model.safetensors: is too long: its header promises {size} bytes, it has {size + 4}"
    assert folder.differences() == [expected]


def test_a_stale_file_beside_the_index(tampered: Tamper) -> None:
    """`model.safetensors` beats an index in transformers."""
    folder = tampered(**SHARDED)
    (folder.path / "model.safetensors").write_bytes(b"old")
    (folder.path / "model-00001-of-00002.safetensors").write_bytes(b"older")
    assert folder.differences() == [
        "model-00001-of-00002.safetensors: is stale: the index does not name it",
        "model.safetensors: is stale: the index does not name it, and transformers would load it instead",
    ]


def test_a_stale_shard_beside_a_single_file(tampered: Tamper) -> None:
    """Left by an earlier build of another size."""
    folder = tampered()
    (folder.path / "model-00001-of-00002.safetensors").write_bytes(b"older")
    expected = "model-00001-of-00002.safetensors: is stale: `model.safetensors` holds the weights"
    assert folder.differences() == [expected]


def test_a_missing_index(tampered: Tamper) -> None:
    """Without it transformers finds no weights, though they are all there."""
    folder = tampered(**SHARDED)
    (folder.path / "model.safetensors.index.json").unlink()
    assert folder.differences() == ["model.safetensors.index.json: is missing"]


def test_no_weights_at_all(tampered: Tamper) -> None:
    """One line, and not one a tensor."""
    folder = tampered()
    (folder.path / "model.safetensors").unlink()
    assert folder.differences() == ["model.safetensors: is missing"]


def test_a_wrong_total(tampered: Tamper) -> None:
    """`total_size` is the bytes of the tensors."""
    folder = tampered(**SHARDED)
    folder.edit("model.safetensors.index.json", set_value("metadata", "total_size", value=7))
    assert folder.differences() == [
        "model.safetensors.index.json: metadata.total_size is 7, the tensors have 169344 bytes"
    ]


def test_an_index_that_names_the_wrong_shard(tampered: Tamper) -> None:
    """Each tensor is in the shard where the index places it."""
    folder = tampered(**SHARDED)
    index = json.loads((folder.path / "model.safetensors.index.json").read_text())["weight_map"]
    right, wrong = index["model.norm.weight"], index["model.embed_tokens.weight"]
    folder.edit("model.safetensors.index.json", set_value("weight_map", "model.norm.weight", value=wrong))
    assert folder.differences() == [
        f"model.norm.weight: is in `{right}`, the index places it in `{wrong}`",
        "model.safetensors.index.json: changed after the build",
    ]


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/model.safetensors", 7])
def test_an_index_that_leads_out_of_the_folder(name: Any, tampered: Tamper) -> None:
    """Nothing outside is opened."""
    folder = tampered(**SHARDED)
    folder.edit("model.safetensors.index.json", set_value("weight_map", "model.norm.weight", value=name))
    found = folder.differences()
    assert found[0] == (
        f"model.safetensors.index.json: places `model.norm.weight` in `{name}`, "
        "which is not the plain name of a safetensors file"
    )


def test_a_shard_that_is_a_link_out_of_the_folder(tampered: Tamper) -> None:
    """A link elsewhere is not followed."""
    folder = tampered()
    outside = folder.path.parent / "outside.safetensors"
    (folder.path / "model.safetensors").rename(outside)
    (folder.path / "model.safetensors").symlink_to(outside)
    assert folder.differences() == [f"model.safetensors: is a link out of the folder, to `{outside}`"]


def rewrite_header(folder: Folder, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the header of `model.safetensors`, its length kept by spaces."""
    path = folder.path / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_a_renamed_tensor(tampered: Tamper) -> None:
    """One is missing, one is over."""
    folder = tampered()
    name = f"{MIXTRAL}.experts.2.w2.weight"
    rewrite_header(folder, lambda header: header.update({"extra.weight": header.pop(name)}))
    assert folder.differences() == [f"{name}: is missing", "extra.weight: is no tensor of this model"]


def test_a_transposed_tensor(tampered: Tamper) -> None:
    """As many bytes, another shape."""
    folder = tampered()
    name = f"{MIXTRAL}.experts.2.w2.weight"
    rewrite_header(folder, lambda header: header[name]["shape"].reverse())
    assert folder.differences() == [f"{name}: has the shape (48, 32), not (32, 48)"]


def test_a_header_without_its_format(tampered: Tamper) -> None:
    """transformers refuses a file whose metadata do not say `pt`."""
    folder = tampered()
    rewrite_header(folder, lambda header: header.pop("__metadata__"))
    assert folder.differences() == [
        'model.safetensors: lacks the metadata `{"format": "pt"}`, without which transformers does not load it'
    ]
