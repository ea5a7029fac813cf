"""Adapters as trainers leave them: read as peft reads them, or named for what they are with the way to save them right.

Each kind was reported in public: LLaMA-Factory#3125, unsloth#3444 (modules stored twice), OpenRLHF#436 (ZeRO-3),
Soup#335 (no effect), axolotl#2277 (embeddings resized).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moemerge.errors import SourceError
from moemerge.sources import open_checkpoint
from tests.sources.conftest import make_adapter, merged_by_peft
from tests.sources.test_adapter_parity import assert_same

Q = "model.layers.0.self_attn.q_proj"
PREFIX = "base_model.model."


@pytest.fixture(scope="module")
def made(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA on every linear layer of `llama`."""
    return make_adapter(llama, tmp_path_factory.mktemp("made") / "lora", target_modules="all-linear")


@pytest.fixture
def root(llama: Path, made: Path, tmp_path: Path) -> Path:
    """A folder with `base` and a `lora` that a test may spoil."""
    (tmp_path / "base").symlink_to(llama)
    shutil.copytree(made, tmp_path / "lora")
    return tmp_path


def configure(root: Path, **values: Any) -> None:
    path = root / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rename(root: Path, renamed: Callable[[str], str | None], **more: torch.Tensor) -> int:
    """Renames the adapter's tensors, None for those that go, and adds others; how many there are now."""
    path = root / "lora" / "adapter_model.safetensors"
    state = {new: value for name, value in load_file(path).items() if (new := renamed(name))} | more
    save_file(state, path, {"format": "pt"})
    return len(state)


def said(root: Path) -> list[tuple[str, str]]:
    return [(problem.code, problem.message) for problem in open_checkpoint("base+lora", root=root).warnings]


def refusal(root: Path) -> SourceError:
    with pytest.raises(SourceError) as caught:
        open_checkpoint("base+lora", root=root)
    return caught.value


ENDS = {"target_modules": [f"{end}_proj" for end in ("q", "k", "v", "o", "gate", "up", "down")]}
TARGETS: dict[str, tuple[dict[str, Any], str]] = {
    "fewer": ({"target_modules": ["q_proj"]}, "12 modules such as `model.layers.0.mlp.down_proj`"),
    "a pattern": ({"target_modules": r".*\.(q_proj|down_proj)"}, "10 modules such as `model.layers.0.mlp.gate_proj`"),
    "a pattern with a flag": (
        {"target_modules": r"(?i).*\.Q_PROJ"}, "12 modules such as `model.layers.0.mlp.down_proj`",
    ),
    "null": ({"target_modules": None}, "10 modules such as `model.layers.0.mlp.down_proj`"),
    "excluded": ({"exclude_modules": ["q_proj"]}, "2 modules such as `model.layers.0.self_attn.q_proj`"),
    "excluded by pattern": ({"exclude_modules": r".*0\.mlp.*"}, "3 modules such as `model.layers.0.mlp.down_proj`"),
    "one layer": ({**ENDS, "layers_to_transform": [0]}, "7 modules such as `model.layers.1.mlp.down_proj`"),
    "a layer of a pattern": (
        {**ENDS, "layers_to_transform": 1, "layers_pattern": "layers"},
        "7 modules such as `model.layers.0.mlp.down_proj`",
    ),
    "one whole name": ({"target_modules": [Q]}, "13 modules such as `model.layers.0.mlp.down_proj`"),
}  # fmt: skip


@pytest.mark.parametrize("case", TARGETS)
def test_what_the_config_does_not_name_is_left_out(case: str, root: Path, llama: Path) -> None:
    """peft puts a LoRA where the config says, whatever else the file has: so it is here, and it is said."""
    settings, left = TARGETS[case]
    configure(root, **settings)
    assert_same(open_checkpoint("base+lora", root=root), merged_by_peft(llama, root / "lora")[0])
    assert said(root) == [
        (
            "targets-differ",
            f"Adapter `lora` has a LoRA on {left}, which its `target_modules` do not name: left out, as by peft",
        )
    ]


def test_all_linear_is_every_linear_layer(root: Path, llama: Path) -> None:
    """As a config says that was written before peft spelled the modules out."""
    configure(root, target_modules="all-linear")
    assert_same(open_checkpoint("base+lora", root=root), merged_by_peft(llama, root / "lora")[0])
    assert said(root) == []


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_what_the_file_lacks_stays_the_bases(root: Path, llama: Path) -> None:
    """A module that the config names and the file does not hold is the base's own, and it is said."""
    rename(root, lambda name: name if "q_proj" in name else None)
    assert_same(open_checkpoint("base+lora", root=root), merged_by_peft(llama, root / "lora")[0])
    assert said(root) == [
        (
            "targets-differ",
            "Adapter `lora` names 12 modules such as `model.layers.0.mlp.down_proj` in its `target_modules`, of which "
            "it holds no LoRA: the base's own are used, as by peft",
        )
    ]


@pytest.mark.parametrize("label", ["default", "code"])
def test_one_label_within_names_is_passed_over(label: str, root: Path, llama: Path, made: Path) -> None:
    """`lora_A.default.weight` is what a state dict has; peft loads it."""
    rename(root, lambda name: name.replace(".weight", f".{label}.weight"))
    assert_same(open_checkpoint("base+lora", root=root), merged_by_peft(llama, made)[0])


def test_two_adapters_in_one_file_are_refused(root: Path) -> None:
    """Nothing says which of them is meant."""
    path = root / "lora" / "adapter_model.safetensors"
    state = load_file(path)
    save_file(
        {name.replace(".weight", f".{label}.weight"): state[name].clone() for name in state for label in ("a", "b")},
        path,
    )
    error = refusal(root)
    assert error.message == "Adapter `lora` holds several adapters in one file: `a`, `b`"
    assert error.hint == "save one with `save_pretrained(FOLDER, selected_adapters=[NAME])`"


WRAPPED: dict[str, tuple[Callable[[str], str], str, str]] = {
    "torch.compile": (
        lambda name: name.replace(PREFIX, f"{PREFIX}_orig_mod."),
        "as `torch.compile` wraps them",
        "save the model inside the wrapper: `model._orig_mod.save_pretrained(FOLDER)`",
    ),
    "torch.compile, each layer": (
        lambda name: name.replace(".self_attn", "._orig_mod.self_attn").replace(".mlp", "._orig_mod.mlp"),
        "as `torch.compile` wraps them",
        "save the model inside the wrapper: `model._orig_mod.save_pretrained(FOLDER)`",
    ),
    "DDP": (
        lambda name: f"module.{name}",
        "as DataParallel, DDP and DeepSpeed wrap them",
        "save the model inside the wrapper: `model.module.save_pretrained(FOLDER)`",
    ),
    "FSDP": (
        lambda name: name.replace("base_model.", "base_model._fsdp_wrapped_module."),
        "as FSDP wraps them",
        "save the whole model: `fsdp_state_dict_type: FULL_STATE_DICT` and `trainer.save_model()`, or "
        "`save_pretrained(FOLDER, state_dict=accelerator.get_state_dict(model))`",
    ),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_wrappers_are_named(case: str, root: Path) -> None:
    """peft loads none of these, without a word; here they are named for what they are."""
    renamed, what, cure = WRAPPED[case]
    count = rename(root, renamed)
    error = refusal(root)
    assert error.message.splitlines()[0] == f"Adapter `lora` names its tensors {what}: {count} of {count} tensors"
    assert (error.hint, error.code) == (cure, "wrapped-names")


def reshape(root: Path, reshaped: Callable[[torch.Tensor], torch.Tensor]) -> None:
    path = root / "lora" / "adapter_model.safetensors"
    save_file({name: reshaped(value).clone() for name, value in load_file(path).items()}, path)


GATHER = (
    "save with the parts gathered: `stage3_gather_16bit_weights_on_model_save: true`, or `zero_to_fp32.py` on the "
    "training's own checkpoint"
)
WHOLE = (
    "save the whole: `fsdp_state_dict_type: FULL_STATE_DICT`, or `accelerate merge-weights` on the parts of all "
    "processes"
)
PARTS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str, str]] = {
    "ZeRO-3": (
        lambda value: value[:0, 0],
        "are empty, as DeepSpeed ZeRO-3 leaves them, whose processes each hold a part",
        GATHER,
    ),
    "FSDP, flat": (
        lambda value: value.flatten()[: value.numel() // 2],
        "are parts, as one process of FSDP holds them",
        WHOLE,
    ),
    "FSDP, rows": (lambda value: value[: len(value) // 2], "are parts, as one process of FSDP holds them", WHOLE),
}


@pytest.mark.parametrize("case", PARTS)
def test_parts_are_named(case: str, root: Path) -> None:
    """What one process of a sharded training holds is no other base's adapter."""
    reshaped, what, cure = PARTS[case]
    reshape(root, reshaped)
    error = refusal(root)
    assert error.message.splitlines()[0] == f"Adapter `lora` holds tensors that {what}: 28 of 28 tensors"
    assert (error.hint, error.code) == (cure, "parts-of-tensors")


def test_an_adapter_that_changes_nothing_is_said(root: Path) -> None:
    """Every `lora_B` is zero as at the start of a training; one number that is not is enough."""
    path = root / "lora" / "adapter_model.safetensors"
    state = {name: value * ("lora_B" not in name) for name, value in load_file(path).items()}
    save_file(state, path)
    nothing = "Adapter `lora` changes nothing: each of its `lora_B` is all zero"
    assert said(root) == [("adapter-without-effect", nothing)]
    state[f"{PREFIX}model.layers.1.self_attn.v_proj.lora_B.weight"][-1, -1] = 1e-3
    save_file(state, path)
    assert said(root) == []
    configure(root, lora_alpha=0)
    assert said(root) == [("adapter-without-effect", "Adapter `lora` changes nothing: `lora_alpha` is 0")]


def stored_twice(root: Path) -> None:
    """Adds what peft writes beside the embeddings of `modules_to_save` after a resize."""
    path = root / "lora" / "adapter_model.safetensors"
    state = load_file(path)
    for name in (f"{PREFIX}model.embed_tokens", f"{PREFIX}lm_head"):
        state[f"{name}.modules_to_save.weight"] = state[f"{name}.weight"].clone()
        state[f"{name}.original_module.weight"] = state[f"{name}.weight"] + 1
    save_file(state, path, {"format": "pt"})


def test_modules_that_are_stored_twice(llama: Path, tmp_path: Path) -> None:
    """peft takes the module, and neither the copy nor the original; so it is here."""
    (tmp_path / "base").symlink_to(llama)
    make_adapter(llama, tmp_path / "lora", modules_to_save=["embed_tokens", "lm_head"])
    stored_twice(tmp_path)
    assert_same(open_checkpoint("base+lora", root=tmp_path), merged_by_peft(llama, tmp_path / "lora")[0])
    once = merged_by_peft(llama, tmp_path / "lora")[0]
    rename(tmp_path, lambda name: name if "modules_to_save" in name or "lora_" in name else None)
    assert_same(open_checkpoint("base+lora", root=tmp_path), once)  # which peft does not load, and is as clear
    configure(tmp_path, modules_to_save=None)
    assert_same(open_checkpoint("base+lora", root=tmp_path), merged_by_peft(llama, tmp_path / "lora")[0])


@pytest.mark.parametrize("saved", [True, False], ids=["trained", "untrained"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("rows", [131, 120])
def test_embeddings_of_a_base_that_was_resized(saved: bool, tied: bool, rows: int, tmp_path: Path) -> None:
    """The result is what peft's merge on the resized base is, its vocabulary with it."""
    from transformers import AutoModelForCausalLM

    from tests.tiny import tiny_model

    base = tiny_model("llama", tmp_path / "base", seed=2, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(tmp_path / "resized")
    ends = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    make_adapter(tmp_path / "resized", tmp_path / "lora", **({"modules_to_save": ends} if saved and not tied else {}))
    state = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    for name, value in load_file(tmp_path / "resized" / "model.safetensors").items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            state.setdefault(f"{PREFIX}{name}", value)  # as `save_embedding_layers` does
    save_file(state, tmp_path / "lora" / "adapter_model.safetensors", {"format": "pt"})
    ours = open_checkpoint("base+lora", root=tmp_path)
    theirs, config = merged_by_peft(tmp_path / "resized", tmp_path / "lora")
    assert_same(ours, theirs)
    assert ours.config["vocab_size"] == config.vocab_size == rows
    configure(tmp_path, base_model_name_or_path="base")
    assert said(tmp_path) == [
        (
            "embeddings-resized",
            f"Adapter `lora` stores embeddings of {rows} rows, and base `base` has 128: they take its place, as in "
            "peft once the base is resized",
        )
    ]


@pytest.mark.parametrize("saved", [True, False])
def test_a_lora_on_embeddings_of_a_base_that_was_resized(saved: bool, llama: Path, tmp_path: Path) -> None:
    """peft keeps the resized ends beside it unless it is told not to (mergekit#328); without them there is nothing to
    put it on."""
    from transformers import AutoModelForCausalLM

    (tmp_path / "base").symlink_to(llama)
    model = AutoModelForCausalLM.from_pretrained(llama)
    model.resize_token_embeddings(131, mean_resizing=False)
    model.save_pretrained(tmp_path / "resized")
    make_adapter(tmp_path / "resized", tmp_path / "lora", target_modules=["embed_tokens", "lm_head", "q_proj"])
    if saved:
        assert_same(
            open_checkpoint("base+lora", root=tmp_path), merged_by_peft(tmp_path / "resized", tmp_path / "lora")[0]
        )
        return
    count = rename(tmp_path, lambda name: None if "base_layer" in name else name)
    error = refusal(tmp_path)
    assert error.message == (
        f"Adapter `lora` does not fit base `base`: 2 of {count} tensors\n"
        f"  {PREFIX}model.embed_tokens.lora_embedding_A: adapter (4, 131), expected (4, 128) for rank 4 and base "
        f"(128, 32)\n  {PREFIX}lm_head.lora_B.weight: adapter (131, 4), expected (128, 4) for rank 4 and base (128, 32)"
    )
    assert error.hint == (
        "it was trained on a base with resized embeddings; save both ends with it (`save_embedding_layers=True`), or "
        "merge it with peft where it was trained"
    )


def test_only_one_end_of_a_resized_base_is_refused(llama: Path, tmp_path: Path) -> None:
    """The head would be of one size and the embedding of another."""
    (tmp_path / "base").symlink_to(llama)
    make_adapter(llama, tmp_path / "lora")
    count = rename(tmp_path, lambda name: name, **{f"{PREFIX}lm_head.weight": torch.zeros(131, 32)})
    error = refusal(tmp_path)
    assert error.message == (
        f"Adapter `lora` does not fit base `base`: 1 of {count} tensors\n"
        f"  {PREFIX}lm_head.weight: adapter (131, 32), base (128, 32)"
    )
    assert error.hint == (
        "it was trained on a base with resized embeddings; save both ends with it (`save_embedding_layers=True`), or "
        "merge it with peft where it was trained"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": []}, "Adapter `lora` has no `target_modules`, so peft puts it on nothing"),
        (
            {"target_modules": 3},
            "Adapter `lora` has a `target_modules` that is neither a name nor a list of names",
        ),
        (
            {"target_modules": "("},
            "Adapter `lora` has the pattern `(` in `target_modules`, which is invalid: missing ), unterminated "
            "subpattern at position 0",
        ),
        (
            {"modules_to_save": ["(?i)head"]},
            "Adapter `lora` has the pattern `(?i)head` in `modules_to_save`, which is invalid: global flags not at the "
            "start of the expression at position 1",
        ),
        ({"layers_to_transform": ["a"]}, "Adapter `lora` has a `layers_to_transform` that is not a list of layers"),
        (
            {"target_modules": ["nothing"]},
            "Adapter `lora` changes nothing: its `target_modules` name none of the modules that it has a LoRA on",
        ),
    ],
)
def test_targets_that_are_none(settings: dict[str, Any], message: str, root: Path) -> None:
    """Each is refused for what it is."""
    configure(root, **settings)
    assert refusal(root).message == message


def test_two_files_of_weights_are_said(root: Path) -> None:
    """peft reads the safetensors file."""
    shutil.copy(root / "lora" / "adapter_model.safetensors", root / "lora" / "adapter_model.bin")
    assert said(root) == [
        (
            "several-sets",
            "Adapter `lora` holds several sets of weights: `adapter_model.safetensors` is read, as transformers does",
        )
    ]
