"""The files next to the weights: each that is gone, changed, added or elsewhere is named, whatever the record lists."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import Any

import pytest

from moemerge.sources.beside import OTHER_FILES, TOKENIZER_FILES
from tests.verify.conftest import Folder, set_value

Tamper = Callable[..., Folder]


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
