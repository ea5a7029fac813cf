"""Folding an adapter gives peft's merge, bit for bit, for every option that can be folded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from moemerge.sources import Checkpoint, open_checkpoint
from tests.sources.conftest import make_adapter, merged_by_peft
from tests.tiny import tiny_model

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "every linear layer": {"target_modules": "all-linear", "r": 3, "lora_alpha": 5},
    "rank and alpha patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"layers.0.self_attn.q_proj": 2, "down_proj": 6, r".*\.1\.mlp\.up_proj": 3},
        "alpha_pattern": {"^model.layers.1.self_attn.k_proj": 32, "q_proj": 3},
    },
    "rslora": {"use_rslora": True, "rank_pattern": {"down_proj": 7}},
    "dora": {"use_dora": True, "target_modules": "all-linear"},
    "dora and rslora": {"use_dora": True, "use_rslora": True},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "modules_to_save": {"modules_to_save": ["lm_head", "embed_tokens", "norm"]},
    "modules_to_save of a layer": {"modules_to_save": ["input_layernorm", "mlp"], "target_modules": ["q_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "embedding with dora": {"target_modules": ["embed_tokens", "v_proj"], "use_dora": True},
    "head": {"target_modules": ["lm_head"]},
    "some layers": {"layers_to_transform": [1]},
    "regex": {"target_modules": r".*layers\.0\.mlp\.(up|gate)_proj"},
    "gaussian start": {"init_lora_weights": "gaussian"},
}


def assert_same(ours: Checkpoint, theirs: dict[str, Any]) -> None:
    """Every tensor of the checkpoint equals peft's to the last bit, in dtype and shape too."""
    tied = "lm_head.weight" not in ours.tensors
    assert set(ours.tensors) == set(theirs) - ({"lm_head.weight"} if tied else set())
    for name in ours.tensors:
        value = ours.read(name)
        assert value.dtype == theirs[name].dtype, name
        assert value.shape == theirs[name].shape == torch.Size(ours.tensors[name].shape), name
        assert torch.equal(value, theirs[name]), (name, (value.double() - theirs[name].double()).abs().max())


@pytest.mark.parametrize(
    ("option", "dtype"),
    [(option, dtype) for option in OPTIONS for dtype in ("float32", "bfloat16")]
    + [(option, "float16") for option in ("plain", "dora", "embedding", "modules_to_save")],
)
def test_option(option: str, dtype: str, tmp_path: Path) -> None:
    """Each option on bases of each dtype, adapters saved in fp32."""
    base = tiny_model("llama", tmp_path / "base", seed=3, dtype=dtype, tie_word_embeddings=False)
    adapter = make_adapter(base, tmp_path / "adapter", **OPTIONS[option])
    ours = open_checkpoint("base+adapter", root=tmp_path)
    assert_same(ours, merged_by_peft(base, adapter)[0])
    changed = [
        name for name, info in ours.tensors.items() if info.origin == "folded" or "adapter" in _file_of(ours, name)
    ]
    assert changed, "the adapter must do something"


def _file_of(checkpoint: Checkpoint, name: str) -> str:
    place = checkpoint.bytes_of(name)
    return place.path.name if place else ""


@pytest.mark.parametrize("saved", ["bfloat16", "float16"])
@pytest.mark.parametrize("option", ["plain", "dora", "embedding", "modules_to_save"])
def test_adapters_saved_in_half_precision(option: str, saved: str, tmp_path: Path) -> None:
    """Factors saved in 16 bits are widened to fp32 before the product, as peft does, on a bf16 base."""
    base = tiny_model("llama", tmp_path / "base", seed=3, dtype="bfloat16", tie_word_embeddings=False)
    adapter = make_adapter(base, tmp_path / "adapter", dtype=saved, **OPTIONS[option])
    assert_same(open_checkpoint("base+adapter", root=tmp_path), merged_by_peft(base, adapter)[0])


@pytest.mark.parametrize("bias", ["all", "lora_only"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trained_biases(bias: str, dtype: str, tmp_path: Path) -> None:
    """Biases that were trained beside the factors (`bias: all` and `lora_only`) replace the base's."""
    base = tiny_model("qwen2", tmp_path / "base", seed=4, dtype=dtype, tie_word_embeddings=False)
    adapter = make_adapter(base, tmp_path / "adapter", bias=bias, target_modules=["q_proj", "o_proj"])
    ours = open_checkpoint("base+adapter", root=tmp_path)
    assert_same(ours, merged_by_peft(base, adapter)[0])
    before = open_checkpoint("base", root=tmp_path)
    name = "model.layers.0.self_attn.q_proj.bias"
    assert not torch.equal(ours.read(name), before.read(name))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_bias(dtype: str, tmp_path: Path) -> None:
    """`lora_bias` adds the scaled bias of B to the base's bias."""
    base = tiny_model("qwen2", tmp_path / "base", seed=5, dtype=dtype, tie_word_embeddings=False)
    adapter = make_adapter(base, tmp_path / "adapter", lora_bias=True, target_modules=["q_proj", "v_proj"])
    assert_same(open_checkpoint("base+adapter", root=tmp_path), merged_by_peft(base, adapter)[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["lm_head", "embed_tokens"]},
        {"target_modules": ["lm_head"], "use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
    ],
    ids=str,
)
def test_tied_embeddings(settings: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    """On a tied base, peft's merge changes the shared tensor or unties it; so does ours, and says so."""
    base = tiny_model("llama", tmp_path / "base", seed=6, dtype=dtype, tie_word_embeddings=True)
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    ours = open_checkpoint("base+adapter", root=tmp_path)
    theirs, config = merged_by_peft(base, adapter)
    assert_same(ours, theirs)
    assert ours.config["tie_word_embeddings"] == config.tie_word_embeddings
    if not config.tie_word_embeddings:
        assert "lm_head.weight" in ours.tensors
        assert [problem.code for problem in ours.warnings] == ["embeddings-untied"]
    else:
        assert torch.equal(theirs["lm_head.weight"], ours.read("model.embed_tokens.weight"))
        assert {problem.code for problem in ours.warnings} == {"tied-embedding-adapted"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "option", ["every linear layer", "dora", "embedding", "embedding with dora", "modules_to_save"]
)
def test_blocks_of_rows(option: str, dtype: str, tmp_path: Path) -> None:
    """Any block of rows equals those rows of the whole, bit for bit, in a tensor of one block and in one of several."""
    size = {"vocab_size": 2500, "intermediate_size": 2500}
    base = tiny_model("llama", tmp_path / "base", seed=7, dtype=dtype, tie_word_embeddings=False, **size)
    make_adapter(base, tmp_path / "adapter", **OPTIONS[option])
    for name, info in open_checkpoint("base+adapter", root=tmp_path).tensors.items():
        ours = open_checkpoint("base+adapter", root=tmp_path)  # nothing is kept from reading the whole
        blocks = [(0, 1), (3, 17), (info.shape[0] - 5, None), (5, 5), (1000, 2200), (2499, 2500)]
        read = [ours.read(name, slice(*block)) for block in blocks]
        whole = ours.read(name)
        for (start, stop), block in zip(blocks, read, strict=True):
            assert block.is_contiguous()
            assert torch.equal(block, whole[start:stop]), (name, start, stop)


def test_other_families(tmp_path: Path) -> None:
    """qwen3, with norms on queries and keys, folds as peft merges it."""
    base = tiny_model("qwen3", tmp_path / "base", seed=8, dtype="bfloat16")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules="all-linear", modules_to_save=["q_norm"])
    assert_same(open_checkpoint("base+adapter", root=tmp_path), merged_by_peft(base, adapter)[0])
