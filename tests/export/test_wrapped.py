"""The language model of a mixture that sees or hears, in llama.cpp. Its tower is not in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from typer.testing import CliRunner

from moemerge.cli import app
from moemerge.export import Exported
from tests.export.conftest import Ask
from tests.export.test_llama_cpp import BAR, largest_difference
from tests.export.test_refusals import refused
from tests.export.vocabularies import ROWS, byte_level, smollm
from tests.moe import build_tiny
from tests.wrapped import CASES, load_wrapper, tiny_wrapper

DEFAULT = (("qwen3_vl", False), ("qwen3_vl", True), ("qwen3_5", True), ("llava", False))
_ROUNDED = 1e-4
NEAR = {"gemma4": 5e-3, **dict.fromkeys(("minicpm_ocr", "minicpmv4_6", "minicpmv4_7"), _ROUNDED)}
"""Gemma 4's GELU is read from a table there, as the text model's own tests say. Of the others' linear attention
transformers itself gives in fp32 what is 1.2e-5 off its own in fp64, and llama.cpp 3.7e-5."""
HELD = {"gemma4_text": {"vocab_size_per_layer_input": ROWS}, "lfm2": {"conv_bias": False}}
"""What a language model has beside, so that llama.cpp can hold it."""


def within(kind: str, root: Path, language: str, *, tied: bool = False, **config: Any) -> Path:
    """A mixture of two, with a soft router, whose tokenizer llama.cpp knows."""
    given = {"vocab_size": ROWS, "num_hidden_layers": 3, **HELD.get(language, {}), **config}
    sources = [
        tiny_wrapper(kind, root / f"{language}-{seed}", seed=seed, tied=tied, language=language, **given)
        for seed in range(3)
    ]
    for source in sources:
        byte_level(source, smollm())
    return build_tiny(root / f"{language}-out", sources[0], sources[1:], experts_per_token=2)


@pytest.mark.parametrize(
    ("kind", "tied"),
    [
        pytest.param(kind, tied, marks=() if (kind, tied) in DEFAULT else pytest.mark.families)
        for kind in CASES
        for tied in (False, True)
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_texts_have_the_same_probabilities(
    kind: str, tied: bool, tmp_path: Path, exported: Callable[..., Exported], llama: Ask
) -> None:
    """As the whole model gives them without a picture; also where its class scales no logits, or otherwise."""
    languages = (CASES[kind].language, *CASES[kind].others)[: 1 if (kind, tied) in DEFAULT else None]
    for language in languages:
        folder = within(kind, tmp_path, language, tied=tied)
        found = largest_difference(folder, exported(folder).path, llama, load=load_wrapper)
        assert found <= NEAR.get(kind, BAR), language


@pytest.mark.families
def test_sections_that_leave_pairs_out_are_made_whole(
    tmp_path: Path, exported: Callable[..., Exported], llama: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp does not turn those pairs on text; Qwen3-VL's own sections leave some, here half as many of half."""
    given = [12, 10, 10]
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_interleaved": True, "mrope_section": given}
    folder = within("qwen3_vl", tmp_path, "qwen3_vl_text", head_dim=64, rope_parameters=rope)
    assert largest_difference(folder, exported(folder).path, llama, load=load_wrapper) <= BAR
    own = "moemerge.families.hosts.qwen3_vl_moe_text.sections"
    monkeypatch.setattr(own, lambda config, pairs: [*given, 0])
    file = exported(folder, overwrite=True).path
    assert largest_difference(folder, file, llama, load=load_wrapper) > 5 * BAR


def test_what_is_not_in_the_file_is_said(tmp_path: Path) -> None:
    """By the command; the file has no tensor of the tower, and says how many layers that one adds to."""
    folder = within("qwen3_vl", tmp_path, "qwen3_vl_text")
    done = CliRunner().invoke(app, ["export", str(folder), "--gguf", str(tmp_path / "m.gguf"), "--type", "f32"])
    assert done.stdout.splitlines()[1] == (
        "note: its language model alone is in the file: there it reads text, and neither pictures nor sounds"
    )
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert reader.fields["general.architecture"].contents() == "qwen3vlmoe"
    assert reader.fields["qwen3vlmoe.n_deepstack_layers"].contents() == 2
    assert {tensor.name.split(".")[0] for tensor in reader.tensors} == {"token_embd", "blk", "output_norm", "output"}
    assert len(reader.tensors) == 3 + 3 * 12


def test_a_tower_that_adds_to_all_layers(tmp_path: Path) -> None:
    """llama.cpp would stop the whole program."""
    folder = within("qwen3_vl", tmp_path, "qwen3_vl_text", num_hidden_layers=2)
    assert refused(folder, tmp_path / "m.gguf")["deepstack"] == (
        "llama.cpp's `qwen3vlmoe` lets the tower add to all layers but the last, and this one's adds to 2 of 2"
    )
