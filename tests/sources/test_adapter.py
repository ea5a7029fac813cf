"""Adapters: how they are opened, what they say, and what they are refused for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moemerge.errors import SourceError
from moemerge.sources import open_checkpoint
from moemerge.sources.adapter_config import parse_adapter_config
from tests.sources.conftest import make_adapter

UP = "base_model.model.model.layers.0.self_attn.q_proj"
MERGE = "merge it with peft (`merge_and_unload`), save the result and name that folder instead"


@pytest.fixture(scope="module")
def made(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain adapter on `llama`."""
    return make_adapter(llama, tmp_path_factory.mktemp("made") / "lora")


@pytest.fixture
def root(llama: Path, made: Path, tmp_path: Path) -> Path:
    """A folder with `base` and a `lora` that a test may spoil."""
    (tmp_path / "base").symlink_to(llama)
    shutil.copytree(made, tmp_path / "lora")
    return tmp_path


def change(root: Path, **values: Any) -> None:
    path = root / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(root: Path, *, drop: str | None = None, **tensors: torch.Tensor) -> None:
    path = root / "lora" / "adapter_model.safetensors"
    held = load_file(path) | tensors
    save_file({name: value for name, value in held.items() if name != drop}, path)


def refusal(root: Path, spec: str = "base+lora", **settings: Any) -> SourceError:
    with pytest.raises(SourceError) as caught:
        open_checkpoint(spec, root=root, **settings)
    return caught.value


def test_what_an_adapter_checkpoint_says(root: Path, llama: Path) -> None:
    """Kind, summary, origins and bytes: untouched tensors are the base's own, folded ones have no bytes."""
    base = open_checkpoint("base", root=root)
    opened = open_checkpoint("lora", root=root, base=base)
    assert (opened.kind, opened.spec, opened.location) == ("adapter", "lora", root / "lora")
    assert opened.adapter == {
        "name": "lora", "rank": 4, "alpha": 8, "rslora": False, "dora": False, "targets": 4, "modules_to_save": [],
        "base": str(llama),
    }  # fmt: skip
    assert json.dumps(opened.adapter)
    assert opened.config == base.config
    assert opened.files == base.files
    assert set(opened.tensors) == set(base.tensors)
    for name, info in opened.tensors.items():
        folded = "q_proj" in name or "down_proj" in name
        assert info.origin == ("folded" if folded else "stored")
        assert opened.bytes_of(name) == (None if folded else base.bytes_of(name))
    assert [problem.message for problem in opened.warnings] == []


def test_both_ways_of_naming_it_are_one(root: Path) -> None:
    """`MODEL+ADAPTER` is the same model as the adapter on that base, under its own name."""
    both = open_checkpoint("base+lora", root=root)
    one = open_checkpoint("lora", root=root, base=open_checkpoint("base", root=root))
    assert (both.spec, one.spec) == ("base+lora", "lora")
    assert both.digest() == one.digest() != open_checkpoint("base", root=root).digest()
    with_base = open_checkpoint("base+lora", root=root, base=open_checkpoint("base", root=root))
    assert with_base.digest() == both.digest()


def test_adapters_stack(root: Path) -> None:
    """An adapter's base may be a model with an adapter on it."""
    first = open_checkpoint("lora", root=root, base=open_checkpoint("base", root=root))
    second = open_checkpoint("lora", root=root, base=first)
    name = "model.layers.0.self_attn.q_proj.weight"
    base = open_checkpoint("base", root=root).read(name)
    torch.testing.assert_close(second.read(name) - base, 2 * (first.read(name) - base), rtol=1e-4, atol=1e-5)


def test_another_base_name_is_a_warning(root: Path) -> None:
    """Models are moved and renamed, so a differing name alone does not stop anything."""
    change(root, base_model_name_or_path="org/other-model")
    base = open_checkpoint("base", root=root)
    warnings = open_checkpoint("lora", root=root, base=base).warnings
    assert [(problem.code, problem.message) for problem in warnings] == [
        ("adapter-base-differs", "Adapter `lora` was trained on `org/other-model` and is used on `base`")
    ]
    change(root, base_model_name_or_path="elsewhere/base")
    assert open_checkpoint("lora", root=root, base=base).warnings == ()


def test_its_own_tokenizer_replaces_the_bases_whole(root: Path) -> None:
    """Trainers save a tokenizer beside the adapter: it is taken whole, never mixed with the base's."""
    (root / "lora" / "tokenizer.json").write_text("{}")
    (root / "lora" / "LICENSE").write_text("x")
    (root / "lora" / "README.md").write_text("---\nlicense: mit\n---\n")
    opened = open_checkpoint("base+lora", root=root)
    assert set(opened.files) == {"tokenizer.json", "generation_config.json"}
    assert opened.files["tokenizer.json"] == root / "lora" / "tokenizer.json"
    assert opened.licence == "mit"


def test_without_weights_of_the_base_there_is_nothing_to_fold(root: Path, llama: Path) -> None:
    """A plan from configs alone has no tensors to match."""
    (root / "base").unlink()
    shutil.copytree(llama, root / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    opened = open_checkpoint("base+lora", root=root)
    assert (opened.kind, opened.has_weights) == ("adapter", False)
    assert opened.config["model_type"] == "llama"


REFUSED_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "ia3": ({"peft_type": "IA3"}, "Adapter `lora` is of type `IA3`; only LoRA adapters can be folded into a model"),
    "type that is a list": (
        {"peft_type": ["LORA"]},
        "Adapter `lora` is of type `['LORA']`; only LoRA adapters can be folded into a model",
    ),
    "prompt tuning": (
        {"peft_type": "PROMPT_TUNING"},
        "Adapter `lora` is of type `PROMPT_TUNING`; only LoRA adapters can be folded into a model",
    ),
    "target_parameters": (
        {"target_parameters": ["mlp.gate.weight"]},
        "Adapter `lora` sets `target_parameters`: it targets bare parameters, whose factors are stored by nesting and "
        "not by name",
    ),
    "layer_replication": (
        {"layer_replication": [[0, 2], [0, 2]]},
        "Adapter `lora` sets `layer_replication`: it repeats layers of its base, so it has another depth",
    ),
    "rank": ({"r": 0}, "Adapter `lora` has the rank `0`, which is not a positive whole number"),
    "rank as a text": (
        {"r": "4"}, "Adapter `lora` has the rank `'4'`, which is not a positive whole number",
    ),
    "alpha": ({"lora_alpha": "x"}, "Adapter `lora` has the alpha `'x'`, which is not a number"),
    "patterns": ({"rank_pattern": ["a"]}, "Adapter `lora` has a `rank_pattern` that is not a map"),
    "regex": (
        {"alpha_pattern": {"(": 2}},
        "Adapter `lora` has the pattern `(` in `alpha_pattern`, which is invalid: missing ), unterminated subpattern "
        "at position 0",
    ),
    "modules_to_save": (
        {"modules_to_save": "head"},
        "Adapter `lora` has a `modules_to_save` that is not a list of names",
    ),
    "pissa": (
        {"init_lora_weights": "pissa_niter_4"},
        "Adapter `lora` sets `init_lora_weights: pissa_niter_4`, which changes the base's weights when it is loaded",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_SETTINGS)
def test_settings_that_cannot_be_folded(case: str, root: Path) -> None:
    """Each is refused by name, with the reason."""
    settings, message = REFUSED_SETTINGS[case]
    change(root, **settings)
    assert refusal(root).message == message


@pytest.mark.parametrize("case", ["rank", "rank as a text", "alpha", "patterns", "regex"])
def test_the_way_out_of_a_malformed_config(case: str, root: Path) -> None:
    """It is a matter of one file."""
    change(root, **REFUSED_SETTINGS[case][0])
    assert refusal(root).hint == "set it right in its `adapter_config.json`, or take that of its training"


def test_the_way_out_of_a_refusal(root: Path) -> None:
    """What cannot be folded here can be merged by peft, if by anyone."""
    change(root, peft_type="LOHA")
    assert refusal(root).hint == MERGE
    change(root, peft_type="PREFIX_TUNING")
    assert refusal(root).hint == (
        "it adds to what the model reads and not to its weights, so nothing can merge it: train a LoRA instead"
    )


def test_an_adapter_of_mlx(root: Path) -> None:
    """It has a config of the same name; peft cannot read it, and mlx_lm makes a model of it."""
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 20.0}, "model": "base"}
    (root / "lora" / "adapter_config.json").write_text(json.dumps(config))
    (root / "lora" / "adapter_model.safetensors").rename(root / "lora" / "adapters.safetensors")
    error = refusal(root)
    assert error.message == "Adapter `lora` is one of MLX, and only those of peft are read"
    assert error.hint == (
        "`mlx_lm.fuse --model BASE --adapter-path ADAPTER --save-path FOLDER` makes a model of it: name that folder"
    )


def test_a_config_that_names_no_kind(root: Path) -> None:
    """What an adapter is cannot be guessed."""
    change(root, peft_type=None)
    error = refusal(root)
    assert error.message == "Adapter `lora` has no `peft_type` in its `adapter_config.json`"
    assert error.hint == "save it with peft's `save_pretrained`"


@pytest.mark.parametrize("start", ["pissa", "olora", "corda", "lora_ga", "loftq", "mica"])
def test_starts_that_are_no_plain_lora(start: str, root: Path) -> None:
    """Those that peft can save as a plain LoRA are sent there, the others to its merge."""
    change(root, init_lora_weights=start)
    error = refusal(root)
    why = "which changes the base's weights when it is loaded"
    if start == "mica":
        why = "which is not folded here as exactly as peft merges it"
    assert error.message == f"Adapter `lora` sets `init_lora_weights: {start}`, {why}"
    plain = "save it with peft's `path_initial_model_for_weight_conversion`, which makes it a plain LoRA"
    assert error.hint == (MERGE if start in ("loftq", "mica") else plain)


def test_settings_that_are_worth_a_word(root: Path) -> None:
    """`fan_in_fan_out` and settings of a future peft are said."""
    change(root, fan_in_fan_out=True, use_warp=True)
    assert [(problem.code, problem.message) for problem in open_checkpoint("base+lora", root=root).warnings] == [
        ("fan-in-fan-out-ignored", "Adapter `lora` sets `fan_in_fan_out`, which peft ignores for linear layers"),
        ("adapter-setting-unknown", "Adapter `lora` has settings that moemerge does not know and ignores: `use_warp`"),
    ]


def test_peft_writes_no_setting_that_is_unknown(root: Path) -> None:
    """Every field of peft's own config is either read, harmless or refused."""
    from dataclasses import fields

    from peft import LoraConfig

    from moemerge.sources.adapter_config import HARMLESS, REFUSED

    names = {field.name for field in fields(LoraConfig)}
    assert names - HARMLESS - set(REFUSED) == set()


BASE = (
    "it is not the model that the adapter was trained on, though it is called so: another size, or another vocabulary"
)
KIND = (
    "it is not the model that the adapter was trained on, though it is called so: another kind of model, or one with "
    "more to it"
)
BIAS = (
    "`lora_bias: true` trains biases, and the base has none to add them to; peft cannot merge it either: train it with "
    "`lora_bias: false`"
)
FILE = "save it again with peft's `save_pretrained`"
CONFIG = "its `adapter_config.json` is of another training than its weights: take both from one folder"
ROWS = (
    "it was trained on a base with resized embeddings; save both ends with it (`save_embedding_layers=True`), or merge "
    "it with peft where it was trained"
)

TENSOR_CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "shape": (
        {f"{UP}.lora_A.weight": torch.zeros(4, 16)},
        f"  {UP}.lora_A.weight: adapter (4, 16), expected (4, 32) for rank 4 and base (32, 32)",
        BASE,
    ),
    "rank": (
        {f"{UP}.lora_A.weight": torch.zeros(8, 32)},
        f"  {UP}.lora_A.weight: adapter (8, 32), expected (4, 32) for rank 4 and base (32, 32)",
        FILE,
    ),
    "no such module": (
        {UP.replace("layers.0", "layers.7") + ".lora_A.weight": torch.zeros(4, 32)},
        f"  {UP.replace('layers.0', 'layers.7')}.lora_A.weight: the base has no matrix "
        "`model.layers.7.self_attn.q_proj.weight`",
        BASE,
    ),
    "no such tensor": (
        {"base_model.model.score.weight": torch.zeros(4)},
        "  base_model.model.score.weight: the base has no `score.weight`",
        KIND,
    ),
    "whole tensor of another shape": (
        {"base_model.model.lm_head.weight": torch.zeros(130, 32)},
        "  base_model.model.lm_head.weight: adapter (130, 32), base (128, 32)",
        ROWS,
    ),
    "half a LoRA": ({"drop": f"{UP}.lora_B.weight"}, f"  {UP}: the adapter lacks its lora_B.weight", FILE),
    "another rank in its config": (
        {f"{UP}.lora_A.weight": torch.zeros(8, 32), f"{UP}.lora_B.weight": torch.zeros(32, 8)},
        f"  {UP}.lora_A.weight: adapter (8, 32), expected (4, 32) for rank 4 and base (32, 32)\n"
        f"  {UP}.lora_B.weight: adapter (32, 8), expected (32, 4) for rank 4 and base (32, 32)",
        CONFIG,
    ),
    "whole numbers": (
        {f"{UP}.lora_A.weight": torch.zeros(4, 32, dtype=torch.int8)},
        f"  {UP}.lora_A.weight: stored as I8, which no weight is",
        FILE,
    ),
    "another prefix": (
        {"q_proj.lora_A": torch.zeros(1)},
        "  q_proj.lora_A: its name does not begin with `base_model.model.`",
        FILE,
    ),
    "magnitude without DoRA": (
        {f"{UP}.lora_magnitude_vector": torch.zeros(32)},
        f"  {UP}.lora_magnitude_vector: not a part of this kind of adapter",
        CONFIG,
    ),
    "bias that the base lacks": (
        {f"{UP}.lora_B.bias": torch.zeros(32)},
        f"  {UP}.lora_B.bias: the base has no `model.layers.0.self_attn.q_proj.bias` to add it to",
        BIAS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSOR_CASES)
def test_tensors_that_do_not_fit(case: str, root: Path) -> None:
    """An adapter tensor that fits nothing in the base is named, with both shapes and the true reason."""
    tensors, line, hint = TENSOR_CASES[case]
    change_tensors(root, **tensors)
    error = refusal(root)
    held = len(load_file(root / "lora" / "adapter_model.safetensors"))
    assert error.message == f"Adapter `lora` does not fit base `base`: {line.count(':')} of {held} tensors\n{line}"
    assert error.hint == hint
    assert error.code == "adapter-mismatch"


def test_the_base_that_it_was_trained_on_is_named_where_it_is_another(root: Path) -> None:
    """Only where the names differ too, and only for what another base explains."""
    change(root, base_model_name_or_path="org/larger")
    change_tensors(root, **{f"{UP}.lora_A.weight": torch.zeros(4, 16)})
    assert refusal(root).hint == "it was trained on `org/larger`"
    change_tensors(root, **{f"{UP}.lora_A.weight": torch.zeros(4, 32)}, drop=f"{UP}.lora_B.weight")
    assert refusal(root).hint == FILE


def test_a_lora_bias_on_a_base_without_biases(llama: Path, tmp_path: Path) -> None:
    """The reason is the training, and not the base."""
    (tmp_path / "base").symlink_to(llama)
    make_adapter(llama, tmp_path / "lora", lora_bias=True, target_modules=["layers.0.self_attn.q_proj"])
    error = refusal(tmp_path)
    assert error.message == (
        "Adapter `lora` does not fit base `base`: 1 of 3 tensors\n"
        f"  {UP}.lora_B.bias: the base has no `model.layers.0.self_attn.q_proj.bias` to add it to"
    )
    assert error.hint == BIAS


def test_an_adapter_of_a_classifier(llama: Path, tmp_path: Path) -> None:
    """It was trained on this very base, for another task: its head is what no expert has."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    (tmp_path / "base").symlink_to(llama)
    classifier = AutoModelForSequenceClassification.from_pretrained(llama)
    settings = LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=["q_proj"])
    get_peft_model(classifier, settings).save_pretrained(tmp_path / "lora")
    for name in (str(llama), "org/another"):
        change(tmp_path, base_model_name_or_path=name)
        error = refusal(tmp_path)
        assert error.message == (
            "Adapter `lora` does not fit base `base`: 1 of 5 tensors\n"
            "  base_model.model.score.weight: the base has no `score.weight`"
        )
        assert error.hint == (
            "it was trained for another task (`task_type: SEQ_CLS`), and an expert writes text: train it as `CAUSAL_LM`"
        )


def test_many_tensors_that_do_not_fit_are_counted(root: Path) -> None:
    """A dozen are shown, the rest counted."""
    change_tensors(root, **{f"base_model.model.x{i}.weight": torch.zeros(1) for i in range(20)})
    error = refusal(root)
    assert error.message.splitlines()[0] == "Adapter `lora` does not fit base `base`: 20 of 28 tensors"
    assert error.message.splitlines()[-1] == "  and 8 more"


def test_modules_that_are_promised_but_absent(root: Path) -> None:
    """`modules_to_save` whose tensors are not in the file would be silently the base's."""
    change(root, modules_to_save=["lm_head"])
    assert refusal(root).message.endswith("\n  lm_head: in `modules_to_save`, but the adapter holds no tensor of it")


def test_adapters_that_cannot_be_opened(root: Path) -> None:
    """No base, no weights, no tensors, pickled weights, a model in an adapter's place."""
    error = refusal(root, "lora")
    assert error.message == "Model `lora` is an adapter and needs a base"
    assert "+lora`, or make it an expert of a recipe with a `base_model`" in str(error.hint)
    assert refusal(root, "base+base").message == "Model `base+base` names `base` as an adapter, but it is a whole model"
    state = load_file(root / "lora" / "adapter_model.safetensors")
    save_file({}, root / "lora" / "adapter_model.safetensors")
    error = refusal(root)
    assert (error.message, error.hint) == ("Adapter `lora` holds no tensors", FILE)
    (root / "lora" / "adapter_model.safetensors").unlink()
    assert (
        refusal(root).message == f"Adapter `lora` is incomplete: `{root / 'lora'}` holds no `adapter_model.safetensors`"
    )
    torch.save(state, root / "lora" / "adapter_model.bin")
    settings = (root / "lora" / "adapter_config.json").read_text()
    (root / "lora" / "adapter_config.json").unlink()
    error = refusal(root)
    assert error.message == (
        f"Adapter `lora` is incomplete: `{root / 'lora'}` holds `adapter_model.bin` and no `adapter_config.json`"
    )
    assert error.hint == (
        "copy or download its `adapter_config.json` too: it says the rank, the scaling and the modules"
    )
    (root / "lora" / "adapter_config.json").write_text(settings)
    assert refusal(root).message == (
        "Adapter `lora` has its weights in pickled `.bin` files only, which can run code when they are read"
    )
    opened = open_checkpoint("base+lora", root=root, allow_pickle=True)
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file(state, root / "lora" / "adapter_model.safetensors")
    assert torch.equal(opened.read(name), open_checkpoint("base+lora", root=root).read(name))


def test_saved_modules_of_the_bases_dtype_are_bytes(llama: Path, tmp_path: Path) -> None:
    """A module that was stored whole is copied from the adapter's file where it has the base's dtype."""
    (tmp_path / "base").symlink_to(llama)
    make_adapter(llama, tmp_path / "lora", modules_to_save=["lm_head"])
    opened = open_checkpoint("base+lora", root=tmp_path)
    place = opened.bytes_of("lm_head.weight")
    assert place is not None
    assert (opened.tensors["lm_head.weight"].origin, place.path.name) == ("stored", "adapter_model.safetensors")
    make_adapter(llama, tmp_path / "half", modules_to_save=["lm_head"], dtype="bfloat16")
    opened = open_checkpoint("base+half", root=tmp_path)
    assert (opened.tensors["lm_head.weight"].origin, opened.bytes_of("lm_head.weight")) == ("folded", None)
    assert opened.read("lm_head.weight").dtype == torch.float32


@pytest.mark.parametrize(
    ("module", "scaling"),
    [("a.q_proj", 5.0), ("q_proj", 5.0), ("a.xq_proj", 2.0), ("b.1.up", 6.0), ("b.1.up.x", 2.0)],
)
def test_patterns_match_as_in_peft(module: str, scaling: float) -> None:
    """A pattern matches a whole name or a tail after a dot; the first in the file wins."""
    config = parse_adapter_config(
        {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": {"q_proj": 10, r"b\.\d\.up": 12, r".*up": 1}},
        "x",
    )
    assert config.scaling_of(module) == scaling
