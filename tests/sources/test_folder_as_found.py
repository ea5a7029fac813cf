"""Checkpoints as trainers leave them: names that transformers sees through, several sets of weights, other files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moemerge.sources import open_checkpoint
from moemerge.sources.saved import other_weights, part_of
from tests.sources.test_folder import shard

INDEX = "model.safetensors.index.json"


@pytest.fixture
def model(llama: Path, tmp_path: Path) -> Path:
    """A copy of a tiny model that a test may spoil."""
    return Path(shutil.copytree(llama, tmp_path / "model"))


NAMES: dict[str, Callable[[str], str]] = {
    "no prefix": lambda name: name.removeprefix("model."),
    "no prefix in one layer": lambda name: name.removeprefix("model.") if ".layers.1." in name else name,
    "no prefix on the norm": lambda name: name.removeprefix("model.") if name == "model.norm.weight" else name,
    "prefix twice": lambda name: f"model.{name}" if name != "lm_head.weight" else name,
    "prefix on the head": lambda name: f"model.{name}" if name == "lm_head.weight" else name,
    "prefix on all": lambda name: f"model.{name}",
}


def rename(folder: Path, renamed: Callable[[str], str]) -> None:
    path = folder / "model.safetensors"
    save_file({renamed(name): value for name, value in load_file(path).items()}, path, {"format": "pt"})


def to_shards(folder: Path) -> None:
    shard(folder)


def to_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def to_pickled_shards(folder: Path) -> None:
    index = shard(folder)
    (folder / INDEX).unlink()
    names = {}
    for name in sorted(set(index["weight_map"].values())):
        names[name] = "pytorch_" + name.replace(".safetensors", ".bin")
        torch.save(load_file(folder / name), folder / names[name])
        (folder / name).unlink()
    index["weight_map"] = {tensor: names[name] for tensor, name in index["weight_map"].items()}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def as_it_is(folder: Path) -> None:
    """One safetensors file."""


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("stored", [as_it_is, to_shards, to_pickle, to_pickled_shards])
def test_names_that_transformers_sees_through(case: str, stored: Callable[[Path], None], model: Path) -> None:
    """A prefix that is missing, or there twice, is no obstacle: every tensor is what transformers loads."""
    from transformers import AutoModelForCausalLM

    rename(model, NAMES[case])
    stored(model)
    loaded, info = AutoModelForCausalLM.from_pretrained(model, output_loading_info=True)
    assert not any(info.values())
    ours = open_checkpoint("model", root=model.parent, allow_pickle=True)
    theirs = loaded.state_dict()
    assert set(ours.tensors) == set(theirs)
    for name, info in ours.tensors.items():
        assert info.name == name
        assert torch.equal(ours.read(name), theirs[name])
        assert torch.equal(ours.read(name, slice(1, 3)), theirs[name][1:3])


def test_copies_stay_copies_under_other_names(model: Path, llama: Path) -> None:
    """A view over names: the bytes are where they were, and the digest is of the file."""
    rename(model, NAMES["no prefix"])
    ours = open_checkpoint("model", root=model.parent)
    for name in ours.tensors:
        place = ours.bytes_of(name)
        assert place is not None
        stored = place.path.read_bytes()[place.offset : place.offset + place.length]
        assert stored == ours.read(name).numpy().tobytes()
    assert ours.digest() != open_checkpoint(str(llama), root=model.parent).digest()


def test_two_tensors_of_one_name_keep_theirs(model: Path) -> None:
    """Which of them is meant is not guessed; the plan refuses the one that has no place."""
    state = load_file(model / "model.safetensors")
    save_file(state | {"norm.weight": torch.ones(32)}, model / "model.safetensors")
    assert {"norm.weight", "model.norm.weight"} <= set(open_checkpoint("model", root=model.parent).tensors)


@pytest.mark.parametrize(
    ("there", "message", "hint"),
    [
        (
            ("model.safetensors", INDEX),
            "Model `model` holds several sets of weights: `model.safetensors` is read, as transformers does",
            f"if `model.safetensors` is the old one, remove it; if not, remove `{INDEX}`",
        ),
        (
            ("model.safetensors", "pytorch_model.bin"),
            "Model `model` holds several sets of weights: `model.safetensors` is read, as transformers does",
            "if `model.safetensors` is the old one, remove it; if not, remove `pytorch_model.bin`",
        ),
        (
            (INDEX, "pytorch_model.bin"),
            f"Model `model` holds several sets of weights: `{INDEX}` is read, as transformers does",
            f"if `{INDEX}` is the old one, remove it; if not, remove `pytorch_model.bin`",
        ),
        (
            ("model.safetensors", INDEX, "pytorch_model.bin"),
            "Model `model` holds several sets of weights: `model.safetensors` is read, as transformers does",
            f"if `model.safetensors` is the old one, remove it; if not, remove `{INDEX}` and `pytorch_model.bin`",
        ),
    ],
)
def test_several_sets_of_weights_are_said(there: tuple[str, ...], message: str, hint: str, model: Path) -> None:
    """Which one is read is transformers' choice; the others may be newer."""
    from transformers import AutoModelForCausalLM

    single = (model / "model.safetensors").read_bytes()
    if INDEX in there:
        shard(model)
        for path in model.glob("model-*.safetensors"):
            save_file({name: value + 1 for name, value in load_file(path).items()}, path, {"format": "pt"})
    (model / "model.safetensors").write_bytes(single)
    if "pytorch_model.bin" in there:
        torch.save({"model.norm.weight": torch.zeros(32)}, model / "pytorch_model.bin")
    if "model.safetensors" not in there:
        (model / "model.safetensors").unlink()
    ours = open_checkpoint("model", root=model.parent)
    assert [(problem.message, problem.hint) for problem in ours.warnings] == [(message, hint)]
    theirs = AutoModelForCausalLM.from_pretrained(model).state_dict()
    assert all(torch.equal(ours.read(name), theirs[name]) for name in ours.tensors)


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (
            ["zero_to_fp32.py", "latest"],
            "`zero_to_fp32.py` is DeepSpeed's own checkpoint: `python zero_to_fp32.py . . --safe_serialization` in "
            "that folder writes `model.safetensors`",
        ),
        (
            ["global_step100", "pytorch_model.bin.index"],
            "`global_step100` is DeepSpeed's own checkpoint: `python zero_to_fp32.py . . --safe_serialization` in that "
            "folder writes `model.safetensors`",
        ),
        (
            ["__0_0.distcp", ".metadata"],
            "`.metadata` holds the parts of FSDP's processes: `accelerate merge-weights PARTS FOLDER` puts them "
            "together",
        ),
        (
            ["pytorch_model_fsdp_0", "optimizer_0"],
            "`pytorch_model_fsdp_0` holds the parts of FSDP's processes: `accelerate merge-weights PARTS FOLDER` puts "
            "them together",
        ),
        (
            ["model_world_size_2_rank_0.pt", "optim_world_size_2_rank_0.pt"],
            "`model_world_size_2_rank_0.pt` is what one process of a training held: save the whole model: "
            "`fsdp_state_dict_type: FULL_STATE_DICT`",
        ),
        (
            ["model-00001-of-00002.safetensors"],
            "`model-00001-of-00002.safetensors` is a shard, and the index that names them all is missing: copy or "
            "download the index too",
        ),
        (
            ["consolidated.00.pth"],
            "`consolidated.00.pth` is in the form of its maker: convert it with the script that transformers has for "
            "it",
        ),
        (
            ["flax_model.msgpack"],
            "`flax_model.msgpack` is of TensorFlow or Flax: transformers 4 reads it (`from_pretrained(FOLDER, "
            "from_tf=True)` or `from_flax=True`) and saves it as safetensors (`save_pretrained`)",
        ),
        (
            ["optimizer.pt", "weights.safetensors"],
            "`weights.safetensors` does not have the expected name: load it where it was made and save it with "
            "`save_pretrained`",
        ),
        (
            ["my_model.safetensors"],
            "`my_model.safetensors` does not have the expected name: load it where it was made and save it with "
            "`save_pretrained`",
        ),
        (
            ["finetuned_model.bin"],
            "`finetuned_model.bin` does not have the expected name: load it where it was made and save it with "
            "`save_pretrained`",
        ),
        (["model.safetensors", "adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin"], None),
        (["optimizer.pt", "training_args.bin", "rng_state.pth", "tokenizer.json"], None),
    ],
)
def test_weights_under_other_names_are_named(names: list[str], hint: str | None, tmp_path: Path) -> None:
    """What lies in a folder that has no weights to read is said, with the way to save them right."""
    for name in names:
        (tmp_path / name).touch()
    assert other_weights(tmp_path) == hint


@pytest.mark.parametrize(
    ("shapes", "cause"),
    [
        ([((0,), (4, 8)), ((0,), (8,))], "empty"),
        ([((16,), (4, 8)), ((0,), (8, 8)), ((64,), (8, 16))], "parts"),
        ([((2, 8), (4, 8)), ((4, 4), (8, 4)), ((4,), (8,))], "parts"),
        ([((3, 8), (9, 8)), ((4, 4), (10, 4))], "parts"),
        ([((3, 8), (4, 8)), ((7, 4), (8, 4))], None),
        ([((2, 8), (4, 8)), ((8, 2), (8, 4))], None),
        ([((2, 8), (4, 8))], None),
        ([], None),
    ],
)
def test_shapes_tell_of_a_save_in_parts(shapes: list[Any], cause: str | None) -> None:
    """Only where one number of processes explains every shape."""
    found = part_of(shapes)
    assert (found.what.split()[1].rstrip(",") if found else None) == cause
