"""llama.cpp itself, on what was exported: probabilities at several positions, and ids of texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from moemerge.console import Silent
from moemerge.export import Exported, export_gguf
from tests.export.conftest import Ask, Mixture
from tests.export.vocabularies import BYTE_LEVEL, ROWS, byte_level, sentencepiece
from tests.moe import load, logits, some_tokens

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
ALWAYS_ON: dict[str, Any] = {"shared_experts": [{"model": "base"}], "merge": {"shared": "base"}}
FIRST_DENSE: dict[str, Any] = {"layers": {"0": "dense"}, "merge": {"shared": "base"}}
WINDOWED = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
KINDS = ["full_attention", "linear_attention", "linear_attention"]
SECTIONS = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0, "mrope_section": [10, 4, 2]}
LITE = {"num_hidden_layers": 27, "first_k_dense_replace": 99, "q_lora_rank": None, "rope_interleave": False}
FUSED = {"output": {"layout": "fused"}}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mixtral": ("llama", {}, {}),
    "mixtral top-1, tied, llama3 rope": (
        "llama", {"tie_word_embeddings": True, "head_dim": 24, "rope_parameters": LLAMA3}, {"experts_per_token": 1}),
    "mixtral yarn, fused": ("mistral", {"sliding_window": None, "rope_parameters": YARN}, FUSED),
    "mixtral linear rope": ("llama", {"rope_parameters": LINEAR}, {}),
    "qwen2_moe": ("qwen2", {}, {"architecture": "qwen2_moe"}),
    "qwen2_moe tied, fused": ("qwen2", {"tie_word_embeddings": True, "rope_parameters": YARN}, FUSED),
    "qwen2_moe of llamas": ("llama", {"rope_parameters": LLAMA3}, {"architecture": "qwen2_moe"}),
    "qwen3_moe": ("qwen3", {"head_dim": 24}, {}),
    "qwen3_moe tied, top-1": ("qwen3", {"tie_word_embeddings": True}, {"experts_per_token": 1}),
    "granitemoe": ("granite", {}, {}),
    "granitemoe head_dim, biases, tied": (
        "granite", {"head_dim": 24, "attention_bias": True, "tie_word_embeddings": True}, {}),
    "glm4_moe first layer dense": ("glm4_moe", {}, FIRST_DENSE),
    "glm4_moe tied, top-1": ("glm4_moe", {"tie_word_embeddings": True}, {"experts_per_token": 1}),
    "glm4_moe always on": ("glm4_moe", {}, ALWAYS_ON),
    "glm4_moe of qwen3": ("qwen3", {"head_dim": 24, "rope_parameters": YARN}, {"architecture": "glm4_moe"}),
    "qwen3_5_moe_text tied": ("qwen3_5_text", {"tie_word_embeddings": True}, {}),
    "qwen3_5_moe_text always on, top-1": ("qwen3_5_text", {}, {**ALWAYS_ON, "experts_per_token": 1}),
    "qwen3_5_moe_text other kinds and sections": (
        "qwen3_5_text",
        {"num_hidden_layers": 3, "layer_types": KINDS, "head_dim": 32, "rope_parameters": SECTIONS}, {}),
    "granitemoehybrid": ("granitemoehybrid", {}, {}),
    "granitemoehybrid tied, rope, biases": (
        "granitemoehybrid",
        {"position_embedding_type": "rope", "tie_word_embeddings": True, "attention_bias": True, "head_dim": 24,
         "mamba_n_groups": 1}, {}),
    "ernie4_5_moe first layer dense": ("ernie4_5", {"tie_word_embeddings": False, "head_dim": 24}, FIRST_DENSE),
    "ernie4_5_moe tied": ("ernie4_5", {}, {}),
    "hunyuan_v1_moe": (
        "hunyuan_v1_dense",
        {"rope_parameters": {"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0, "rope_theta": 10000.0}}, {}),
    "hunyuan_v1_moe tied, always on": ("hunyuan_v1_dense", {"tie_word_embeddings": True, "head_dim": 24}, ALWAYS_ON),
    "cohere2_moe tied": ("cohere2", {}, {}),
    "cohere2_moe untied": (
        "cohere2", {"tie_word_embeddings": False, "head_dim": 24, "num_hidden_layers": 4,
                    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]}, {}),
    "lfm2_moe first layer dense": ("lfm2", {"conv_bias": False, "head_dim": 16}, FIRST_DENSE),
    "lfm2_moe untied": ("lfm2", {"conv_bias": False, "head_dim": 16, "tie_word_embeddings": False}, {}),
    "mellum tied": ("qwen3", {**WINDOWED, "tie_word_embeddings": True, "head_dim": 24}, {}),
    "mellum without a window": ("qwen3", {"rope_parameters": YARN}, {"architecture": "mellum"}),
    "nemotron_h": ("nemotron_h", {"head_dim": 16}, {}),
    "nemotron_h always on": (
        "nemotron_h",
        {"head_dim": 16, "mamba_num_heads": 8,
         "layers_block_type": ["mlp", "full_attention", "mlp", "linear_attention", "linear_attention"]}, ALWAYS_ON),
    "deepseek_v3 halves, first layer dense": ("deepseek_v3", {"rope_interleave": False}, FIRST_DENSE),
    "deepseek_v3 tied, always on": ("deepseek_v3", {"tie_word_embeddings": True}, ALWAYS_ON),
    "deepseek_v3 without the queries' latent": ("deepseek_v3", LITE, {}),
}  # fmt: skip
DEFAULT = ("mixtral top-1, tied, llama3 rope", "qwen2_moe", "qwen3_moe", "granitemoe head_dim, biases, tied",
           "glm4_moe first layer dense", "qwen3_5_moe_text tied", "granitemoehybrid", "ernie4_5_moe first layer dense",
           "hunyuan_v1_moe", "cohere2_moe tied", "lfm2_moe first layer dense", "mellum tied", "nemotron_h",
           "deepseek_v3 halves, first layer dense")  # fmt: skip
BAR = 2e-5
"""Nats; what was measured is below 4e-6, and with linear attention below 1e-5."""
TEXTS = (
    "def add(a, b):\n    return a + b  # 12 + 34567\n\n\n\tprint('x')",
    "L’été à Noël; it's WE'LL they've 你好世界 Привет 😀",
    " leading and trailing  spaces \r\n\r\n",
    "</s>after an end<s>",
)


def largest_difference(
    folder: Path,
    file: Path,
    llama: Ask,
    lengths: tuple[int, ...] = (1, 3, 9, 20),
    load: Callable[[Path], Any] = load,
) -> float:
    """Of the logprobs of llama.cpp and of transformers, in nats, over the vocabulary and several positions."""
    tokens = some_tokens(1, 20, ROWS)
    expected = logits(load(folder), tokens)[0].log_softmax(-1)
    rows = [tokens[0, :length].tolist() for length in lengths]
    plain = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("a")
    (said,) = llama([{"gguf": str(file), "rows": rows, "texts": [], "vocabulary": ROWS, "plain": plain}])
    differences = []
    for length, found in zip(lengths, said["logprobs"], strict=True):
        assert len(found) == ROWS
        mine = torch.tensor([found[str(token)] for token in range(ROWS)])
        differences.append(float((mine - expected[length - 1]).abs().max()))
    return max(differences)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in DEFAULT else pytest.mark.families) for case in CASES]
)
def test_llama_cpp_gives_the_same_probabilities(
    case: str, mixture: Mixture, exported: Callable[..., Exported], llama: Ask
) -> None:
    """With a soft router, every weight in F32."""
    family, config, fields = CASES[case]
    folder = mixture(family, config, **fields)
    assert largest_difference(folder, exported(folder).path, llama) <= BAR


@pytest.mark.parametrize(
    ("family", "part"),
    [
        ("ernie4_5", "mlp.moe_statics.e_score_correction_bias"),
        pytest.param("glm4_moe", "mlp.gate.e_score_correction_bias", marks=pytest.mark.families),
        pytest.param("deepseek_v3", "mlp.gate.e_score_correction_bias", marks=pytest.mark.families),
    ],
)
def test_what_a_training_adds_to_scores_goes_along(
    family: str, part: str, mixture: Mixture, exported: Callable[..., Exported], llama: Ask
) -> None:
    """Corrections that are not zero change which experts are chosen, and not their weights."""
    folder = mixture(family)
    before = logits(load(folder), some_tokens(1, 20, ROWS))
    path = folder / "model.safetensors"
    state = load_file(path)
    for layer in range(2):
        name = f"model.layers.{layer}.{part}"
        state[name] = torch.linspace(0.3, -0.3, state[name].numel()).reshape(state[name].shape)
    save_file(state, path, metadata={"format": "pt"})
    assert (logits(load(folder), some_tokens(1, 20, ROWS)) - before).abs().max() > 100 * BAR
    assert largest_difference(folder, exported(folder).path, llama) <= BAR


@pytest.mark.families
def test_short_steps_of_time_move_little(mixture: Mixture, exported: Callable[..., Exported], llama: Ask) -> None:
    """transformers lifts those of `nemotron_h` below `time_step_min` to it, and llama.cpp takes them as they are."""
    folder = mixture("nemotron_h", {"head_dim": 16})
    path = folder / "model.safetensors"
    state = load_file(path)
    for name in state:
        if name.endswith("mixer.dt_bias"):
            state[name].fill_(-9.0)
        if name.endswith("mixer.in_proj.weight"):
            state[name][-4:] *= 0.1
    save_file(state, path, metadata={"format": "pt"})
    assert 5e-6 < largest_difference(folder, exported(folder).path, llama) < 5e-5


GEMMA: dict[str, dict[str, Any]] = {
    "tied": {"vocab_size_per_layer_input": ROWS},
    "untied, keys shared": {
        "vocab_size_per_layer_input": ROWS, "tie_word_embeddings": False, "num_hidden_layers": 4,
        "num_kv_shared_layers": 2, "use_double_wide_mlp": True,
    },
    "no embeddings of layers": {"hidden_size_per_layer_input": 0, "final_logit_softcapping": None,
                                "attention_k_eq_v": False},
}  # fmt: skip


def _by_table(exact: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """GELU as llama.cpp has it: of 16-bit numbers to such, and what is 10 or more as it is."""
    return torch.where(x < 10, exact(x.half().float()).half().float(), x)


@pytest.mark.families
@pytest.mark.parametrize("case", [case for case in GEMMA if case != "tied"])
def test_gemma_4_is_near(case: str, mixture: Mixture, exported: Callable[..., Exported], llama: Ask) -> None:
    """By what the next test is about. A number between two entries of the table may fall to either, so that no table of
    ours gives just the same here."""
    folder = mixture("gemma4_text", GEMMA[case])
    assert largest_difference(folder, exported(folder).path, llama) < 5e-3


def test_gemma_4_differs_by_its_table_of_gelu_alone(
    mixture: Mixture, exported: Callable[..., Exported], llama: Ask
) -> None:
    """llama.cpp looks GELU up by numbers of 16 bits. With such a one in transformers, the probabilities are equal."""
    folder = mixture("gemma4_text", GEMMA["tied"])
    file = exported(folder).path
    assert 10 * BAR < largest_difference(folder, file, llama) < 5e-3

    def by_table(folder: Path) -> Any:
        model = load(folder)
        for module in model.modules():
            if (exact := getattr(module, "act_fn", None)) is not None:
                module._modules.pop("act_fn", None)
                object.__setattr__(module, "act_fn", partial(_by_table, exact))
        return model

    assert largest_difference(folder, file, llama, load=by_table) <= BAR


def test_the_comparison_can_fail(mixture: Mixture, exported: Callable[..., Exported], llama: Ask) -> None:
    """Another mixture of the same shapes is far away."""
    one, other = mixture("llama"), mixture("llama", experts_per_token=1)
    assert largest_difference(one, exported(other).path, llama, (9,)) > 100 * BAR


@pytest.mark.families
@pytest.mark.parametrize(("kind", "bar"), [("f16", 2e-2), ("bf16", 1e-1), ("q8_0", 2e-1)])
def test_smaller_types_are_near(
    kind: str, bar: float, mixture: Mixture, exported: Callable[..., Exported], llama: Ask
) -> None:
    """By their precision."""
    folder = mixture("llama")
    assert 1e-5 < largest_difference(folder, exported(folder, kind).path, llama) < bar


def test_llama_cpp_gives_texts_the_same_ids(mixture: Mixture, tmp_path: Path, llama: Ask) -> None:
    """For each way to split text that is recognised, and SentencePiece's with and without a space before."""
    folder = mixture("llama")
    makers: dict[str, Callable[[], None]] = {
        name: lambda splits=splits, whole=whole: byte_level(folder, splits(), ignore_merges=whole)
        for name, (splits, whole) in BYTE_LEVEL.items()
    }
    makers |= {"begins": lambda: byte_level(folder, BYTE_LEVEL["qwen2"][0](), begins=True)}
    makers |= {f"pieces {space}": lambda space=space: sentencepiece(folder, space=space) for space in (True, False)}
    asked, expected = [], []
    for name, make in makers.items():
        make()
        file = tmp_path / f"{name}.gguf"
        export_gguf(folder, file, "f32", Silent())
        tokenizer = AutoTokenizer.from_pretrained(folder)
        expected.append([tokenizer(text)["input_ids"] for text in TEXTS])
        asked.append({"gguf": str(file), "rows": [], "texts": TEXTS, "vocabulary": ROWS, "plain": 70})
    found = [said["ids"] for said in llama(asked)]
    assert dict(zip(makers, found, strict=True)) == dict(zip(makers, expected, strict=True))
