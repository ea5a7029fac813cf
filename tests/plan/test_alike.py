"""Models that differ in how head and embedding hang together, or in their sliding window, and weights saved in part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moemerge.verify import verify_folder
from tests.conftest import TinyMaker
from tests.moe import build_tiny, forced, load, logits, relative_error, some_tokens
from tests.plan.test_plan import changed, plan_of
from tests.sources.conftest import make_adapter

TIED = {"tie_word_embeddings": True}


def verified(folder: Path, **settings: Any) -> list[str]:
    """What a later check finds, with the sources opened anew."""
    return [str(difference) for difference in verify_folder(folder, **settings).differences]


@pytest.mark.parametrize("tied", ["base", "experts", "one expert"])
def test_heads_that_are_tied_and_apart_go_together(tied: str, tiny: TinyMaker, tmp_path: Path) -> None:
    """The mixture has both, and is each specialist exactly where it has its shared weights."""
    apart, together = tiny("llama", 1), tiny("llama", 2, **TIED)
    base = tiny("llama", 3, **TIED) if tied == "base" else tiny("llama", 3)
    one = apart if tied != "experts" else together
    experts = [one, together] if tied == "one expert" else [one, one]
    out = build_tiny(tmp_path / "moe", base, experts)
    moe = load(out)
    assert not moe.config.tie_word_embeddings
    assert verified(out, strict=True) == []
    if tied != "one expert":  # two of one specialist: its shared weights are the mean
        assert relative_error(logits(moe, some_tokens()), logits(load(one), some_tokens())) < 1e-5
    else:
        halves = [load_file(folder / "model.safetensors") for folder in (one, together)]
        mean = (halves[0]["lm_head.weight"].double() + halves[1]["model.embed_tokens.weight"].double()) / 2
        torch.testing.assert_close(moe.state_dict()["lm_head.weight"], mean.float())


def test_heads_apart_are_said_and_counted(tiny: TinyMaker) -> None:
    """Who ties and who does not, and that the result is larger."""
    plan = plan_of(tiny("llama", 3, **TIED), [tiny("llama", 1), tiny("llama", 2, **TIED)])
    assert [(warning.message, warning.hint) for warning in plan.warnings if warning.code == "heads-apart"] == [
        (
            "the embedding is the head in `base_model`, expert `e1` and not in expert `e0`: the mixture has both",
            "that is exact, and as much larger as the head is",
        )
    ]
    assert "lm_head.weight" in {tensor.name for tensor in plan.tensors}


def test_heads_apart_are_checked_where_sources_are_gone(tiny: TinyMaker, tmp_path: Path) -> None:
    """A head that the record has may be that of a source that is absent; where all are there and tied, it is none."""
    base, expert = tmp_path / "base", tmp_path / "expert"
    shutil.copytree(tiny("llama", 3, **TIED), base)
    shutil.copytree(tiny("llama", 1), expert)
    out = build_tiny(tmp_path / "moe", base, [expert, tiny("llama", 2, **TIED)])
    shutil.rmtree(expert)
    assert verified(out) == []
    both = build_tiny(tmp_path / "tied", base, [base, tiny("llama", 2, **TIED)])
    config = json.loads((both / "config.json").read_text(encoding="utf-8"))
    (both / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}), encoding="utf-8")
    assert any("tie_word_embeddings is false, the base has true" in line for line in verified(both))


def test_another_sliding_window_is_refused_with_its_cure(tiny: TinyMaker) -> None:
    """Nothing but the window differs: the recipe may say whose holds."""
    base = tiny("mistral", sliding_window=8)
    (problem,) = plan_of(base, [base, tiny("mistral", 1, sliding_window=None)]).problems
    assert problem.message == "expert `e1` does not fit the base: sliding window is `none`, the base's is `8`"
    assert problem.hint == "if that is the only difference, `sliding_window: base` or an expert's name says whose holds"


@pytest.mark.parametrize(("whose", "window"), [("base", 8), ("e0", None)])
@pytest.mark.parametrize(("family", "host"), [("mistral", "mixtral"), ("qwen2", "qwen2_moe")])
def test_the_recipe_says_whose_sliding_window_holds(
    family: str, host: str, whose: str, window: int | None, tiny: TinyMaker, tmp_path: Path
) -> None:
    """The mixture is the specialist under that window, in all tokens."""
    sliding = {"sliding_window": 8} | (
        {"use_sliding_window": True, "max_window_layers": 1} if family == "qwen2" else {}
    )
    base = tiny(family, **sliding)
    expert = shutil.copytree(tiny(family, 1, sliding_window=None), tmp_path / "expert")
    out = build_tiny(tmp_path / "moe", base, [expert, expert], sliding_window=whose, architecture=host)
    moe = load(out)
    assert (moe.config.sliding_window or None) == window
    assert verified(out, strict=True) == []
    under = changed(tiny(family, 1), tmp_path / "under", **(sliding if whose == "base" else {"sliding_window": None}))
    config = json.loads((under / "config.json").read_text(encoding="utf-8"))
    config.pop("layer_types", None)
    (under / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokens = some_tokens(length=30)
    with forced(moe, 0):
        assert relative_error(logits(moe, tokens), logits(load(under), tokens)) < 1e-5
    shutil.rmtree(expert)
    assert verified(out) == []


def test_the_window_that_is_left_is_said(tiny: TinyMaker) -> None:
    """Whoever was tuned with another one is not quite itself beyond it."""
    base = tiny("mistral", sliding_window=8)
    plan = plan_of(base, [base, tiny("mistral", 1, sliding_window=None)], sliding_window="base")
    said = [warning for warning in plan.warnings if warning.code != "runtime"]
    assert [(warning.message, warning.hint) for warning in said] == [
        (
            "expert `e1` has the sliding window `none`, and is run with `8`, as `base_model`",
            "texts within both windows are read alike",
        )
    ]


UNQUANTISED = "use the unquantised original, or dequantise the model first and save it as plain safetensors"
WRAPPED: dict[str, tuple[Callable[[str], str], str, str]] = {
    "torch.compile": (
        lambda name: f"_orig_mod.{name}",
        "as `torch.compile` wraps them",
        "save the model inside the wrapper: `model._orig_mod.save_pretrained(FOLDER)`",
    ),
    "torch.compile, each layer": (
        lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
        "as `torch.compile` wraps them",
        "save the model inside the wrapper: `model._orig_mod.save_pretrained(FOLDER)`",
    ),
    "DDP": (
        lambda name: f"module.{name}",
        "as DataParallel, DDP and DeepSpeed wrap them",
        "save the model inside the wrapper: `model.module.save_pretrained(FOLDER)`",
    ),
    "DDP round a compiled bare model": (
        lambda name: "module._orig_mod." + name.removeprefix("model."),
        "as DataParallel, DDP and DeepSpeed wrap them",
        "save the model inside the wrapper: `model.module.save_pretrained(FOLDER)`",
    ),
    "FSDP": (
        lambda name: name.replace("layers.1.", "layers.1._fsdp_wrapped_module."),
        "as FSDP wraps them",
        "save the whole model: `fsdp_state_dict_type: FULL_STATE_DICT` and `trainer.save_model()`, or "
        "`save_pretrained(FOLDER, state_dict=accelerator.get_state_dict(model))`",
    ),
    "peft": (
        lambda name: "base_model.model." + name.replace("q_proj.", "q_proj.base_layer."),
        "as peft wraps them",
        "merge the adapter with `merge_and_unload()` and save that, or save the adapter alone",
    ),
    "a class of a training": (
        lambda name: f"student.{name}",
        "as a class wraps them that holds the model as `student`",
        "save the model inside the wrapper: `model.student.save_pretrained(FOLDER)`",
    ),
    "a class round a bare model": (
        lambda name: "model.encoder." + name.removeprefix("model.") if name != "lm_head.weight" else name,
        "as a class wraps them that holds the model as `model.encoder`",
        "save the model inside the wrapper: `model.model.encoder.save_pretrained(FOLDER)`",
    ),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_names_that_a_wrapper_was_left_in(case: str, tiny: TinyMaker, tmp_path: Path) -> None:
    """One problem that names the wrapper, and not what is missing and what is over because of it."""
    renamed, what, cure = WRAPPED[case]
    expert = changed(tiny("llama", 1), tmp_path / "expert")
    state = load_file(expert / "model.safetensors")
    save_file({renamed(name): value for name, value in state.items()}, expert / "model.safetensors")
    other = sorted(renamed(name) for name in state if renamed(name) != name)
    (problem,) = plan_of(tiny("llama"), [tiny("llama"), expert]).problems
    lines = problem.message.splitlines()
    assert lines[0] == f"expert `e1` names its tensors {what}: {len(other)} of 21 tensors:"
    assert lines[1].strip() in other
    assert (problem.code, problem.hint) == ("wrapped-names", cure)


def test_a_class_that_holds_more_than_the_model(tiny: TinyMaker, tmp_path: Path) -> None:
    """What it has beside the model, and what is missing all the same, are problems of their own."""
    expert = changed(tiny("llama", 1), tmp_path / "expert")
    state = {f"student.{name}": value for name, value in load_file(expert / "model.safetensors").items()}
    del state["student.model.norm.weight"]
    save_file(state | {"teacher.norm.weight": torch.ones(2)}, expert / "model.safetensors")
    assert [problem.message for problem in plan_of(tiny("llama"), [tiny("llama"), expert]).problems] == [
        "expert `e1` names its tensors as a class wraps them that holds the model as `student`: 20 of 21 tensors:\n"
        "  student.lm_head.weight\n"
        "  student.model.embed_tokens.weight\n"
        "  student.model.layers.0.input_layernorm.weight\n"
        "  student.model.layers.0.mlp.down_proj.weight\n"
        "  and 16 more",
        "expert `e1` lacks 1 of 21 tensors:\n  model.norm.weight",
        "expert `e1`: `llama` has no place for 1 of 21 tensors:\n  teacher.norm.weight",
    ]


def test_an_adapter_on_such_a_base_is_no_second_problem(tiny: TinyMaker, tmp_path: Path) -> None:
    """The base is wrong, and not the adapter that misses its tensors."""
    base = changed(tiny("llama"), tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "lora")
    state = load_file(base / "model.safetensors")
    save_file({f"_orig_mod.{name}": value for name, value in state.items()}, base / "model.safetensors")
    messages = [problem.message.splitlines()[0] for problem in plan_of(base, [adapter, tiny("llama", 1)]).problems]
    assert messages == ["`base_model` names its tensors as `torch.compile` wraps them: 21 of 21 tensors:"]


def test_weights_that_are_parts(tiny: TinyMaker, tmp_path: Path) -> None:
    """What ZeRO-3 or one process of FSDP leaves is named."""
    zero3 = "are empty, as DeepSpeed ZeRO-3 leaves them, whose processes each hold a part"
    for count, what in ((0, zero3), (2, "are parts, as one process of FSDP holds them")):
        expert = changed(tiny("llama", 1), tmp_path / str(count))
        state = load_file(expert / "model.safetensors")
        parts = {name: value[: len(value) // count].clone() if count else value[:0] for name, value in state.items()}
        save_file(parts, expert / "model.safetensors")
        (problem,) = plan_of(tiny("llama"), [tiny("llama"), expert]).problems
        assert problem.message.splitlines()[0] == f"expert `e1` holds tensors that {what}: 21 of 21 tensors:"
    flat = changed(tiny("llama", 1), tmp_path / "flat", {"model.layers.0._flat_param": torch.zeros(9)})
    (problem,) = plan_of(tiny("llama"), [tiny("llama"), flat]).problems
    assert problem.message == (
        "expert `e1` holds tensors that are parts, as one process of FSDP holds them: 1 of 22 tensors:\n"
        "  model.layers.0._flat_param"
    )


def test_a_model_with_the_value_head_of_a_ppo_training(tiny: TinyMaker, tmp_path: Path) -> None:
    """TRL saves it beside the model's own tensors."""
    head = {"v_head.summary.weight": torch.zeros(1, 32), "v_head.summary.bias": torch.zeros(1)}
    (problem,) = plan_of(tiny("llama"), [tiny("llama"), changed(tiny("llama", 1), tmp_path / "ppo", head)]).problems
    assert (problem.code, problem.message, problem.hint) == (
        "wrapped-names",
        "expert `e1` names its tensors as TRL holds the value head of a PPO training beside the model: "
        "2 of 23 tensors:\n"
        "  v_head.summary.bias\n"
        "  v_head.summary.weight",
        "save the model without it: `model.pretrained_model.save_pretrained(FOLDER)`",
    )


def test_a_model_with_its_adapter_inside(tiny: TinyMaker, tmp_path: Path) -> None:
    """What a state dict of a PeftModel has in one file is one problem too."""
    expert = changed(tiny("llama", 1), tmp_path / "expert")
    state = load_file(expert / "model.safetensors")
    inside = {f"base_model.model.{name.replace('q_proj.', 'q_proj.base_layer.')}": state[name] for name in state}
    factor = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    save_file(inside | {factor: torch.zeros(4, 32)}, expert / "model.safetensors")
    (problem,) = plan_of(tiny("llama"), [tiny("llama"), expert]).problems
    assert problem.message.splitlines()[0] == "expert `e1` names its tensors as peft wraps them: 22 of 22 tensors:"


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "bool", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickle"])
def test_whole_numbers_are_no_weights(dtype: str, pickled: bool, tiny: TinyMaker, tmp_path: Path) -> None:
    """Whatever they are stored as, and wherever; a buffer that nobody reads may be."""
    name = "model.layers.0.mlp.up_proj.weight"
    integers = torch.ones(48, 32).to(getattr(torch, dtype))
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4, dtype=torch.int64)}
    expert = changed(tiny("llama", 1), tmp_path / "expert", {name: integers, **buffer})
    if pickled:
        torch.save(load_file(expert / "model.safetensors"), expert / "pytorch_model.bin")
        (expert / "model.safetensors").unlink()
    (problem,) = plan_of(tiny("llama"), [tiny("llama"), expert], allow_pickle=True).problems
    code = {"int": "I", "uin": "U", "boo": "BOOL"}[dtype[:3]] + "".join(filter(str.isdigit, dtype))
    assert problem.message == f"expert `e1` is quantised (whole numbers): 1 of 21 tensors:\n  {name}: {code}"
    assert problem.hint == UNQUANTISED


def test_weights_of_eight_bits_are_named(tiny: TinyMaker, tmp_path: Path) -> None:
    """FP8 without scales beside it, as a cast leaves it; other tensors may be whole numbers."""
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(2)]
    for dtypes, kinds in (
        ({"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}, "FP8"),
        ({"F8_E4M3": torch.float8_e4m3fn, "I8": torch.int8}, "FP8 and whole numbers"),
    ):
        folder = tmp_path / kinds
        cast = {name: torch.ones(48, 32).to(dtype) for name, dtype in zip(names, dtypes.values(), strict=True)}
        (problem,) = plan_of(tiny("llama"), [tiny("llama"), changed(tiny("llama", 1), folder, cast)]).problems
        lines = "".join(f"\n  {name}: {code}" for name, code in zip(names, dtypes, strict=True))
        assert problem.message == f"expert `e1` is quantised ({kinds}): 2 of 21 tensors:{lines}"
        assert problem.hint == UNQUANTISED


def test_baselines_of_models_that_differ_so(tiny: TinyMaker, tmp_path: Path) -> None:
    """The linear merge is the mean of heads and embeddings; the specialists are what they were."""
    from moemerge.mixture.baselines import Baselines
    from moemerge.mixture.folder import open_moe
    from moemerge.mixture.placement import Placement

    apart, together = tiny("llama", 1), tiny("llama", 2, **TIED)
    out = build_tiny(tmp_path / "moe", tiny("llama", 3, **TIED), [apart, together])
    baselines = Baselines(open_moe(out), Placement(device="cpu", dtype="float32"))
    assert baselines.other_config() == []
    assert baselines.strangers() == []
    tokens = some_tokens()
    assert relative_error(logits(baselines.specialist("e1"), tokens), logits(load(together), tokens)) < 1e-5
    head = baselines.linear_merge().lm_head.weight
    states = [load_file(folder / "model.safetensors") for folder in (apart, together)]
    torch.testing.assert_close(head, (states[0]["lm_head.weight"] + states[1]["model.embed_tokens.weight"]) / 2)
    assert baselines.content("linear merge") != baselines.content("base")
