"""What llama.cpp would compute otherwise is refused before a byte is written, all of it at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, pre_tokenizers

from moemerge.console import Silent
from moemerge.errors import ExportError, MoemergeError, WriteError
from moemerge.export import Exported, export_gguf
from moemerge.families.gguf_form import ELSEWHERE
from tests.conftest import TinyMaker
from tests.export.conftest import Mixture
from tests.export.vocabularies import byte_level, gpt2, sentencepiece
from tests.moe import build_tiny

LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def refused(folder: Path, target: Path, **options: Any) -> dict[str, str]:
    """The problems by their codes; nothing may have been written, and what else runs it is said in one way."""
    before = sorted(os.listdir(target.parent))
    with pytest.raises(MoemergeError) as caught:
        export_gguf(folder, target, "f32", Silent(), **options)
    assert sorted(os.listdir(target.parent)) == before
    hints = [problem.hint or "" for problem in caught.value.problems]
    assert [hint for hint in hints if "run it" in hint and ELSEWHERE not in hint] == []
    return {problem.code: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("family", "config", "fields", "code", "words"),
    [
        ("llama", {"hidden_act": "gelu"}, {}, "activation", "`silu`, not `gelu`"),
        ("mistral", {"sliding_window": 6}, {}, "window", "this one's is 6 tokens"),
        ("qwen3", {"attention_bias": True}, {}, "biases", "no biases on q, k and v"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            {},
            "rope",
            "`dynamic` is not exported",
        ),
        ("qwen3", {}, {"layers": {"1": "dense"}}, "dense-layers", "`qwen3moe` routes in every layer"),
        (
            "llama",
            {},
            {"architecture": "qwen2_moe", "shared_experts": [{"model": "base"}]},
            "shared-expert",
            "always on",
        ),
        ("qwen3_5_text", {"linear_value_head_dim": 16}, {}, "head-dim", "these are 8 and 16"),
        ("qwen3_5_text", {"attention_bias": True}, {}, "biases", "`qwen35moe` has no biases on q, k and v"),
        ("lfm2", {"conv_bias": False, "head_dim": 24}, {}, "head-dim", "over their number, 16, and these are 24"),
        ("lfm2", {"head_dim": 16}, {}, "no-place", "has no place for `model.layers.0.conv.conv.bias`"),
        ("cohere2", {"attention_bias": True}, {}, "biases", "`cohere2moe` has no biases on `attn_output`"),
        ("ernie4_5", {"rope_parameters": LLAMA3}, {}, "rope", "`llama3` is not exported"),
        ("granitemoehybrid", {"mamba_expand": 1}, {}, "mamba", "and this one 1 times"),
        (
            "granitemoehybrid",
            {"layer_types": ["full_attention"] * 2},
            {"architecture": "granitemoehybrid"},
            "mamba",
            "needs a layer with Mamba",
        ),
        ("deepseek_v3", {"q_lora_rank": None}, {}, "latent", "of 2 layers has a latent of the queries"),
        ("nemotron_h", {"head_dim": 16}, {"layers": {"1": "dense"}}, "dense-layers", "experts in every FFN"),
        ("nemotron_h", {"head_dim": 16, "time_step_min": 0.01}, {}, "time-step", "and this one's is 0.01"),
        ("gemma4_text", {}, {}, "per-layer", "of all tokens, and these are of 128 of 400"),
        (
            "qwen3",
            {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1, "rope_parameters": LINEAR},
            {},
            "rope",
            "in layers with a window, not `linear`",
        ),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "attention_factor": 1.2,
                    "original_max_position_embeddings": 64,
                }
            },
            {},
            "rope",
            "`attention_factor`",
        ),
    ],
)  # fmt: skip
def test_what_it_cannot_compute(
    family: str, config: dict[str, Any], fields: dict[str, Any], code: str, words: str, mixture: Mixture, tmp_path: Path
) -> None:
    """By the reason."""
    folder = mixture(family, config, merge={"shared": "base"}, **fields)
    assert words in refused(folder, tmp_path / "m.gguf")[code]


def test_all_at_once(mixture: Mixture, tmp_path: Path) -> None:
    """A window, an activation and a tokenizer."""
    folder = mixture("mistral", {"sliding_window": 6, "hidden_act": "relu"})
    byte_level(folder, pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\d"), "isolated"), gpt2()]))
    assert refused(folder, tmp_path / "m.gguf").keys() == {"window", "activation", "export"}


def test_a_host_that_it_does_not_know(tiny: TinyMaker, tmp_path: Path) -> None:
    """In the words of the table of runtimes."""
    source = tiny("olmo2")
    folder = build_tiny(tmp_path / "out", source, [source, source])
    assert "`flex_olmo` is not exported" in refused(folder, tmp_path / "m.gguf")["export"]


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (lambda: pre_tokenizers.Whitespace(), "splits text in a way that has no name"),
        (lambda: pre_tokenizers.ByteLevel(add_prefix_space=True), "splits text in a way that has no name"),
    ],
)
def test_an_unknown_split(splits: Callable[[], Any], words: str, mixture: Mixture, tmp_path: Path) -> None:
    """No name for it: other ids, in silence, were the price."""
    folder = mixture("llama")
    byte_level(folder, splits())
    assert words in refused(folder, tmp_path / "m.gguf")["export"]


def test_merges_that_are_not_sentencepieces(mixture: Mixture, tmp_path: Path) -> None:
    """A pair is missing: llama.cpp would merge it all the same."""
    folder = mixture("llama")
    sentencepiece(folder)
    path = folder / "tokenizer.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    whole["model"]["merges"].pop()
    path.write_text(json.dumps(whole), encoding="utf-8")
    assert "not those of SentencePiece" in refused(folder, tmp_path / "m.gguf")["export"]


def test_other_kinds_of_tokenizers(tiny: TinyMaker, tmp_path: Path) -> None:
    """WordLevel, for one."""
    folder = build_tiny(tmp_path / "out", tiny("llama"), [tiny("llama"), tiny("llama", 1)])
    assert "`WordLevel`" in refused(folder, tmp_path / "m.gguf")["export"]


def test_no_file_of_others_is_replaced(mixture: Mixture, exported: Callable[..., Exported], tmp_path: Path) -> None:
    """Without `overwrite` none; with it those of ours."""
    folder = mixture("llama")
    strange = tmp_path / "theirs.gguf"
    strange.write_bytes(b"GGUF of somebody else")
    assert "exists" in refused(folder, strange)["output-exists"]
    assert "was not made by moemerge" in refused(folder, strange, overwrite=True)["write"]
    made = exported(folder)
    assert "exists" in refused(folder, made.path)["output-exists"]
    before = made.path.read_bytes()
    assert exported(folder, overwrite=True).path.read_bytes() == before
    with pytest.raises(WriteError, match="no folder"):
        export_gguf(folder, tmp_path / "no" / "m.gguf", "f32", Silent())


def test_no_modelfile_of_others_is_replaced(mixture: Mixture, tmp_path: Path) -> None:
    """It lies beside the file, whose name is free."""
    theirs = tmp_path / "m.gguf.Modelfile"
    theirs.write_text("FROM ./mine.gguf\n", encoding="utf-8")
    folder = mixture("llama")
    assert "exists" in refused(folder, tmp_path / "m.gguf")["output-exists"]
    assert "was not made by moemerge" in refused(folder, tmp_path / "m.gguf", overwrite=True)["write"]
    assert theirs.read_text(encoding="utf-8") == "FROM ./mine.gguf\n"


def test_a_mixture_that_moemerge_did_not_build(mixture: Mixture, tmp_path: Path) -> None:
    """Another may not divide its weights, or lack what every build writes into its config."""
    folder = mixture("llama")
    (folder / "moemerge.yaml").unlink()
    assert "was not built by moemerge" in refused(folder, tmp_path / "m.gguf")["export"]


def test_a_number_that_f16_cannot_hold(mixture: Mixture, tmp_path: Path) -> None:
    """The tensor is named, and nothing is left behind."""
    from safetensors.torch import load_file, save_file

    folder = mixture("llama")
    path = folder / "model.safetensors"
    state = load_file(path)
    kept = path.read_bytes()
    state["model.layers.1.self_attn.v_proj.weight"][3, 2] = 1e5
    save_file(state, path, metadata={"format": "pt"})
    try:
        with pytest.raises(ExportError, match=r"`blk\.1\.attn_v\.weight` has numbers that `f16` cannot hold"):
            export_gguf(folder, tmp_path / "m.gguf", "f16", Silent())
        assert os.listdir(tmp_path) == []
    finally:
        path.write_bytes(kept)


def test_a_config_that_changed_after_the_build(mixture: Mixture, exported: Callable[..., Exported]) -> None:
    """Half a config would be a traceback, and another one another model."""
    folder = mixture("llama")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["rope_parameters"].pop("rope_type")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ExportError) as caught:
        exported(folder)
    assert caught.value.message == (
        f"`config.json` of `{folder}` changed after the build, so it is not known what would have to hold"
    )
    assert caught.value.hint == (
        f"run `moemerge verify {folder}`, and build the folder again where it does not say why"
    )
