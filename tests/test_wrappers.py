"""Models of more than text: the language model within becomes a mixture, all else stays the base's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from moemerge.api import verify
from moemerge.cli import app
from moemerge.families import TRANSLATIONS, WRAPPERS, hosts_of
from moemerge.plan import make_plan
from tests.moe import build_tiny, forced, recipe_of, relative_error, some_tokens
from tests.tiny import FFN, WORDS, tiny_model
from tests.wrapped import CASES, IMAGE, load_wrapper, seen, tiny_wrapper

BAR = 1e-6
NEAR = {"lfm2_vl": 1e-5}
"""The bars of wrappers whose language model becomes a near host."""
USUAL = ("llava", "qwen3_5", "qwen3_vl")
"""Those that run by default; the others are behind the marker."""
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def behind(kind: str, default: bool, *values: Any) -> Any:
    """A wrapper's case, behind the marker unless it is run by default."""
    return pytest.param(kind, *values, marks=() if default else pytest.mark.families)


KINDS = [behind(kind, kind in USUAL) for kind in CASES]


def identities() -> list[Any]:
    """Every wrapper with each of its language models, tied and not, in both layouts."""
    return [
        behind(
            kind, kind in USUAL and language == CASES[kind].language and (tied, layout) in both, language, tied, layout
        )
        for kind, case in CASES.items()
        for language in (case.language, *case.others)
        for tied in (False, True)
        for layout in ("per_expert", "fused")
        for both in [[(False, "per_expert"), (True, "fused")]]
    ]


@torch.inference_mode()
def logits(model: Any, **inputs: Tensor) -> Tensor:
    """`[batch, length, vocabulary]`. What draws as it listens draws the same each time."""
    torch.manual_seed(0)
    return model(**inputs).logits  # type: ignore[no-any-return]


@torch.inference_mode()
def greedy(model: Any, **inputs: Tensor) -> Tensor:
    """24 greedy tokens with cache after `inputs`, ends of text ignored."""
    torch.manual_seed(0)
    mask = torch.ones_like(inputs["input_ids"])
    result: Tensor = model.generate(
        **inputs, attention_mask=mask, max_new_tokens=24, min_new_tokens=24, do_sample=False
    )
    return result


def texts() -> dict[str, Tensor]:
    """Token ids of texts without images."""
    return {"input_ids": some_tokens() % (IMAGE - 1)}


def path_of(kind: str) -> str:
    """Where the decoder lies in memory."""
    return WRAPPERS[kind].path


def test_every_wrapper_is_run_here() -> None:
    """And each language model that one names is a host, and run."""
    assert set(CASES) == set(WRAPPERS)
    for kind, wrapper in WRAPPERS.items():
        families = (TRANSLATIONS[name].becomes if name in TRANSLATIONS else name for name in languages_of(kind))
        run = {hosts_of(family, wrapper)[0].model_type for family in families}
        assert run == set(wrapper.languages), kind


def languages_of(kind: str) -> tuple[str, ...]:
    """The language models that it is run with."""
    return CASES[kind].language, *CASES[kind].others


@pytest.mark.parametrize(("kind", "language", "tied", "layout"), identities())
def test_identical_experts_are_the_wrapper(kind: str, language: str, tied: bool, layout: str, tmp_path: Path) -> None:
    """On texts, and on a picture or a sound among the tokens: logits and greedy tokens with cache are equal.

    No key is missing or over, the mixture lies where the language model was, `verify` derives the same, and the
    processor is there byte for byte.
    """
    base = tiny_wrapper(kind, tmp_path / "base", tied=tied, language=language)
    out = build_tiny(tmp_path / "out", base, [base] * 3, experts_per_token=2, output={"layout": layout})
    sparse, dense, inputs = load_wrapper(out), load_wrapper(base), seen(kind)
    assert sparse.get_submodule(path_of(kind)).config.model_type in WRAPPERS[kind].languages
    assert relative_error(logits(sparse, **texts()), logits(dense, **texts())) <= NEAR.get(kind, BAR)
    wanted = logits(dense, **inputs)
    assert relative_error(logits(sparse, **inputs), wanted) <= NEAR.get(kind, BAR)
    assert relative_error(logits(sparse, **seen(kind, 2)), wanted) > 1000 * BAR  # another one makes a difference
    assert torch.equal(greedy(sparse, **inputs), greedy(dense, **inputs))
    assert verify(out).differences == ()
    name = "preprocessor_config.json"
    assert (out / name).read_bytes() == (base / name).read_bytes()
    card, wrapper = (out / "README.md").read_text(encoding="utf-8"), WRAPPERS[kind]
    assert f"pipeline_tag: {wrapper.task}\n" in card
    assert f"from transformers import {wrapper.auto_class}, AutoTokenizer" in card
    assert "`AutoProcessor.from_pretrained(" in card


KEPT_WITHIN = {
    "llava_onevision": ("mlp_only_layers", [1]),
    "qwen3_vl": ("mlp_only_layers", [1]),
    "aya_vision": ("mlp_layer_types", ["sparse", "dense"]),
}
"""Wrappers whose mixtures are built with a dense layer, and what the config then says."""


@pytest.mark.parametrize(
    ("kind", "key", "value"), [behind(kind, kind != "aya_vision", *said) for kind, said in KEPT_WITHIN.items()]
)
def test_a_layer_within_stays_dense(kind: str, key: str, value: list[Any], tmp_path: Path) -> None:
    """Identical experts give the wrapper, on text and what is seen; the language model's part of the config says so."""
    base = tiny_wrapper(kind, tmp_path / "base")
    out = build_tiny(tmp_path / "out", base, [base] * 3, layers={"1": "dense"})
    sparse, dense = load_wrapper(out), load_wrapper(base)
    assert getattr(sparse.config.text_config, key) == value
    for inputs in (texts(), seen(kind)):
        assert relative_error(logits(sparse, **inputs), logits(dense, **inputs)) <= BAR
    assert verify(out).differences == ()


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_is_a_whole_model_an_adapter_or_a_language_model(kind: str, tmp_path: Path) -> None:
    """Forced to expert i, the mixture is the base with i's FFNs, as transformers or peft has them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base, case = tiny_wrapper(kind, tmp_path / "base"), CASES[kind]
    whole = tiny_wrapper(kind, tmp_path / "whole", seed=1)
    inner = path_of(kind)
    pattern = rf"{inner}.*(q_proj|gate_proj|up_proj|down_proj|w1|w2|w3)"
    torch.manual_seed(3)
    tuned = get_peft_model(load_wrapper(base), LoraConfig(r=4, target_modules=pattern, init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter")
    own = {key: value for key, value in case.inner.items() if case.text is None or key != "rope_parameters"}
    family = case.text or case.language
    text = tiny_model(family, tmp_path / "text", seed=5, scale=4.0, **{"num_hidden_layers": 2, **own})
    experts = [whole, tmp_path / "adapter", text]
    out = build_tiny(tmp_path / "out", base, experts, experts_per_token=1, merge={"shared": "base"})
    assert verify(out).differences == ()
    sparse, reference = load_wrapper(out), load_wrapper(base)
    alone = AutoModelForCausalLM.from_pretrained(text, dtype=torch.float32).state_dict()
    states = [
        load_wrapper(whole).state_dict(),
        tuned.merge_and_unload().state_dict(),
        {f"{inner}.{name.removeprefix('model.')}": value for name, value in alone.items()},
    ]
    for index, state in enumerate(states):
        ffn = {name: value for name, value in state.items() if name.startswith(inner) and FFN.search(name)}
        assert ffn
        reference.load_state_dict({**reference.state_dict(), **ffn})
        with forced(sparse, index):
            for inputs in (texts(), seen(kind)):
                assert relative_error(logits(sparse, **inputs), logits(reference, **inputs)) <= NEAR.get(kind, BAR)


def test_what_sees_stays_the_base_s(tmp_path: Path) -> None:
    """Its tensors keep names and values, whatever the experts have; an adapter that changed them is told of."""
    from peft import LoraConfig, get_peft_model

    base = tiny_wrapper("llava", tmp_path / "base")
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    get_peft_model(load_wrapper(base), config).save_pretrained(tmp_path / "adapter")
    recipe = recipe_of(base, [tmp_path / "adapter", tiny_wrapper("llava", tmp_path / "other", seed=1)])
    plan = make_plan(recipe, tmp_path)
    assert [w.message for w in plan.warnings if w.code == "beside-left-out"] == [
        "expert `e0` also trained 2 tensors of what sees or hears: these stay the base's"
    ]
    assert plan.notes == (
        "`base_model`: of the `llava` the language model becomes a mixture; what sees or hears stays the base's",
    )
    out = build_tiny(tmp_path / "out", base, [tmp_path / "adapter", tmp_path / "other"])
    ours, theirs = load_file(out / "model.safetensors"), load_file(base / "model.safetensors")
    beside = [name for name in theirs if not name.startswith("language_model.")]
    assert beside
    assert all(torch.equal(ours[name], theirs[name]) for name in beside)


def test_a_language_model_that_was_never_run_within(tmp_path: Path) -> None:
    """Refused, with what may be within."""
    base = tiny_wrapper("llava", tmp_path / "base", language="olmo2")
    (problem,) = make_plan(recipe_of(base, [base, base]), tmp_path).problems
    assert problem.message == "`base_model`: a `llava` around a `flex_olmo` was never run"
    assert problem.hint == "its language model may become one of `mixtral`, `qwen2_moe`, `qwen3_moe`"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(image_token_index=5), "image_token_index is 5, not 127"),
        (lambda config: config.update(model_type="mistral3"), "model_type is 'mistral3', not 'llava'"),
        (lambda config: config.update(new_key=1), "new_key does not belong in it"),
        (lambda config: config["text_config"].update(rms_norm_eps=0.5), "rms_norm_eps is 0.5, the base has 1e-06"),
    ],
)
def test_a_config_that_was_changed(change: Any, message: str, tmp_path: Path) -> None:
    """Outside the language model's part and within."""
    base = tiny_wrapper("llava", tmp_path / "base")
    out = build_tiny(tmp_path / "out", base, [base, base])
    path = out / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")
    assert message in [difference.message for difference in verify(out).differences]


@pytest.mark.parametrize("kind", [behind(kind, kind == "llava") for kind in CASES])
def test_it_is_evaluated_traced_and_trained(kind: str, tmp_path: Path) -> None:
    """By the commands, on texts; attention and experts beside the router; the result verifies and loads."""
    import random

    base, other = tiny_wrapper(kind, tmp_path / "base"), tiny_wrapper(kind, tmp_path / "other", seed=1)
    out = build_tiny(
        tmp_path / "out", base, [base, other], experts_per_token=1, gate={"init": "discriminant"},
        merge={"shared": "base"},
    )  # fmt: skip
    draw = random.Random(1)
    for name in ("e0", "e1"):
        rows = [json.dumps({"text": " ".join(draw.choices(WORDS, k=30))}) for _ in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    domains = tmp_path / "domains.yaml"
    domains.write_text("e0: e0.jsonl\ne1: e1.jsonl\n", encoding="utf-8")
    trained = str(tmp_path / "trained")
    for command in (
        ["eval", str(out), "--domains", str(domains), "-q"],
        ["trace", str(out), "def reverse le chat", "-q"],
        ["train-router", str(out), "-o", trained, "--data", str(domains), "--steps", "2", "--context", "32",
         "--also", "attention,experts", "-q"],
        ["verify", trained, "-q"],
    ):  # fmt: skip
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (command[0], result.stderr, result.exception)
    load_wrapper(Path(trained))
