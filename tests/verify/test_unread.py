"""Tensors that a class of transformers passes over."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from moemerge.api import verify
from tests.moe import build_tiny, load, logits, relative_error, some_tokens
from tests.tiny import tiny_model


def test_heads_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    """Qwen3.5 has `mtp.*` beside its weights, which its class does not read: nor does the mixture have them."""
    base = tiny_model("qwen3_5_text", tmp_path / "base", scale=4.0)
    weights = load_file(base / "model.safetensors")
    save_file({**weights, "mtp.fc.weight": torch.ones(4, 8)}, base / "model.safetensors", {"format": "pt"})
    out = build_tiny(tmp_path / "out", base, [base, base])
    assert verify(out).differences == ()
    assert "mtp.fc.weight" not in load_file(out / "model.safetensors")
    tokens = some_tokens()
    assert relative_error(logits(load(out), tokens), logits(load(base), tokens)) <= 1e-6
