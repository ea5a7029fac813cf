"""Where a wrapper's class does what its language model alone does not, or other than it is told."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moemerge.api import evaluate, verify
from moemerge.evaluate.options import EvalOptions
from moemerge.plan import make_plan
from tests.hosts import host_config
from tests.moe import build_tiny, recipe_of
from tests.tiny import WORDS
from tests.wrapped import CASES, load_wrapper, tiny_wrapper

pytestmark = pytest.mark.filterwarnings("ignore")


def changed_config(folder: Path, **values: Any) -> Path:
    """The folder with other values in its config."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        "granite_speech",
        "hyperclovax_vision_v2",
        *(pytest.param(kind, marks=pytest.mark.families) for kind in ("llava", "aya_vision")),
    ],
)
def test_the_base_is_measured_as_it_runs_within(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Granite alone divides its logits; its wrapper does not, in the base no more than in the mixture.

    That of HyperCLOVA X multiplies them, as its language model alone does too.
    """
    monkeypatch.setenv("MOEMERGE_CACHE", str(tmp_path / "cache"))
    base = tiny_wrapper(kind, tmp_path / "base")
    out = build_tiny(tmp_path / "out", base, [base, base])
    draw = random.Random(1)
    rows = [json.dumps({"text": " ".join(draw.choices(WORDS, k=30))}) for _ in range(4)]
    (tmp_path / "e0.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "domains.yaml").write_text("e0: e0.jsonl\n", encoding="utf-8")
    report = evaluate(out, EvalOptions(domains=str(tmp_path / "domains.yaml")))
    losses = report["domains"]["e0"]
    for name in ("base", "specialist", "linear_merge"):
        assert losses[name] == pytest.approx(losses["moe"], abs=1e-6)
    assert not [note for note in report["notes"] if "config.json" in note]


def test_a_lora_that_a_class_turns_on_for_sound_alone(tmp_path: Path) -> None:
    """Granite Speech 3 has one beside its weights: no mixture holds it. Where the config is silent there is one."""
    base = tiny_wrapper("granite_speech", tmp_path / "base")
    for values in ({"has_lora_adapter": True}, {}):
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        config.pop("has_lora_adapter", None)
        (base / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")
        (problem,) = make_plan(recipe_of(base, [base, base]), tmp_path).problems
        assert problem.message == (
            "`base_model`: a `granite_speech` with a LoRA for sounds (`has_lora_adapter`) has no mixture: its class "
            "turns it on where there is sound, and off for text"
        )


def test_counts_of_batch_norms_are_copied(tmp_path: Path) -> None:
    """Whole numbers that the class reads: as the base has them, in bf16 too; `verify` sees another one."""
    base = tiny_wrapper("granite_speech", tmp_path / "base")
    state = load_file(base / "model.safetensors")
    (first, *_) = (name for name in state if name.endswith("num_batches_tracked"))
    save_file({**state, first: torch.tensor(12345)}, base / "model.safetensors", metadata={"format": "pt"})
    out = build_tiny(tmp_path / "out", base, [base, base], dtype="bfloat16")
    held = load_file(out / "model.safetensors")
    assert held[first].dtype == torch.int64
    assert int(held[first]) == 12345
    assert verify(out).differences == ()
    load_wrapper(out)
    base.rename(tmp_path / "gone")  # without its sources a folder is checked too
    assert verify(out).differences == ()
    (tmp_path / "gone").rename(base)
    path = out / "model.safetensors"
    data, value = path.read_bytes(), (12345).to_bytes(8, "little")
    path.write_bytes(data.replace(value, (12346).to_bytes(8, "little")))
    assert [(d.where, d.message) for d in verify(out).differences] == [
        (first, f"1 of 8 bytes differ from `model.{first}` of `base`, first at []")
    ]


def _exchanged(kind: str, mixture: str, towers: Mapping[str, Any]) -> Any:
    """What a class makes of a config whose language model is a mixture, on the meta device."""
    import transformers

    inner = {"model_type": mixture, **host_config(mixture, 4, 2)}
    config = transformers.AutoConfig.for_model(kind, text_config=inner, **towers)
    with torch.device("meta"):
        return transformers.AutoModelForImageTextToText.from_config(config)


_EYES = {"vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48}}
_SIGLIP = {"vision_config": {**CASES["llava_onevision"].config["vision_config"]}}


@pytest.mark.parametrize(("kind", "towers"), [("qwen2_vl", _EYES), ("qwen2_5_vl", _EYES), ("gemma3", _SIGLIP)])
def test_a_class_that_throws_its_language_model_away(kind: str, towers: dict[str, Any], tmp_path: Path) -> None:
    """Told of a mixture, it makes its own dense model without a word; so `plan` refuses it. LLaVA's makes it."""
    import transformers

    made = _exchanged(kind, "qwen2_moe", towers)
    names = [name for name, _ in made.named_parameters() if ".mlp." in name and "language_model" in name]
    assert names
    assert not [name for name in names if "experts" in name]
    assert type(made.config.text_config).__name__ != type(transformers.AutoConfig.for_model("qwen2_moe")).__name__
    other = _exchanged("llava", "qwen2_moe", CASES["llava"].config)
    assert [name for name, _ in other.named_parameters() if ".mlp.experts." in name]
    base = changed_config(tiny_wrapper("llava", tmp_path / "base"), model_type=kind)
    (problem,) = make_plan(recipe_of(base, [base, base]), tmp_path).problems
    assert "holds a language model of its own" in problem.message
