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
from moemerge.families import HOSTS, WRAPPERS
from moemerge.plan import make_plan
from tests.moe import build_tiny, forced, recipe_of, relative_error, some_tokens
from tests.tiny import WORDS, tiny_model
from tests.wrapped import IMAGE, LANGUAGES, load_wrapper, tiny_wrapper

BAR = 1e-6
KINDS = [pytest.param(kind, marks=() if kind in ("llava", "qwen3_5") else pytest.mark.families) for kind in LANGUAGES]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@torch.inference_mode()
def logits(model: Any, **inputs: Tensor) -> Tensor:
    """`[batch, length, vocabulary]`."""
    return model(**inputs).logits  # type: ignore[no-any-return]


def texts() -> dict[str, Tensor]:
    """Token ids of texts without images."""
    return {"input_ids": some_tokens() % (IMAGE - 1)}


def path_of(kind: str) -> str:
    """Where the decoder lies in memory."""
    return WRAPPERS[kind].path


def test_every_wrapper_is_run_here() -> None:
    """And each language model that one names is a host."""
    assert set(LANGUAGES) == set(WRAPPERS)
    assert {host for wrapper in WRAPPERS.values() for host in wrapper.languages} <= set(HOSTS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layout", ["per_expert", "fused"])
def test_identical_experts_are_the_wrapper(kind: str, tied: bool, layout: str, tmp_path: Path) -> None:
    """Logits equal, no key missing or over, and `verify` derives the same; the processor is there byte for byte."""
    base = tiny_wrapper(kind, tmp_path / "base", tied=tied)
    out = build_tiny(tmp_path / "out", base, [base] * 3, experts_per_token=2, output={"layout": layout})
    assert relative_error(logits(load_wrapper(out), **texts()), logits(load_wrapper(base), **texts())) <= BAR
    assert verify(out).differences == ()
    name = "preprocessor_config.json"
    assert (out / name).read_bytes() == (base / name).read_bytes()
    card, wrapper = (out / "README.md").read_text(encoding="utf-8"), WRAPPERS[kind]
    assert f"pipeline_tag: {wrapper.task}\n" in card
    assert f"from transformers import {wrapper.auto_class}, AutoTokenizer" in card
    assert "`AutoProcessor.from_pretrained(" in card


@pytest.mark.parametrize("language", ["llama", pytest.param("qwen3", marks=pytest.mark.families)])
def test_an_image_is_seen_as_the_base_sees_it(language: str, tmp_path: Path) -> None:
    """Four patches of an image among the tokens."""
    base = tiny_wrapper("llava", tmp_path / "base", language=language)
    out = build_tiny(tmp_path / "out", base, [base] * 2)
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "input_ids": torch.tensor([[5, *[IMAGE] * 4, 9, 17, 33]]),
        "pixel_values": torch.randn(1, 3, 28, 28, generator=generator),
    }
    seen, blind = logits(load_wrapper(out), **inputs), {**inputs, "pixel_values": torch.zeros(1, 3, 28, 28)}
    assert relative_error(seen, logits(load_wrapper(base), **inputs)) <= BAR
    assert relative_error(logits(load_wrapper(out), **blind), seen) > 100 * BAR


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_is_a_whole_model_an_adapter_or_a_language_model(kind: str, tmp_path: Path) -> None:
    """Forced to expert i, the mixture is the base with i's FFNs, as transformers or peft has them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = tiny_wrapper(kind, tmp_path / "base")
    whole = tiny_wrapper(kind, tmp_path / "whole", seed=1)
    inner = path_of(kind)
    pattern = rf"{inner}.*(q_proj|gate_proj|up_proj|down_proj)"
    torch.manual_seed(3)
    tuned = get_peft_model(load_wrapper(base), LoraConfig(r=4, target_modules=pattern, init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter")
    text = tiny_model(LANGUAGES[kind], tmp_path / "text", seed=5, scale=4.0, num_hidden_layers=2)
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
        ffn = {name: value for name, value in state.items() if name.startswith(inner) and ".mlp." in name}
        assert ffn
        reference.load_state_dict({**reference.state_dict(), **ffn})
        with forced(sparse, index):
            assert relative_error(logits(sparse, **texts()), logits(reference, **texts())) <= BAR


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


@pytest.mark.parametrize(
    "kind", [KINDS[0], *(pytest.param(k, marks=pytest.mark.families) for k in list(LANGUAGES)[1:])]
)
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
