"""Fine-tunes of tiny models whose tokenizers have tokens more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ENDS = ("model.embed_tokens.weight", "lm_head.weight")
BASE = 128
"""Rows and tokens of the tiny base."""


def fine_tune(
    source: Path, folder: Path, tokens: Sequence[str] = (), *, rows: int | None = None, gap: int = 0, seed: int = 1
) -> Path:
    """A copy of a model whose tokenizer has tokens more, each with its own random row in embedding and head.

    Args:
        source: the model.
        folder: where the copy goes.
        tokens: what its tokenizer adds, in this order.
        rows: of the copy; as many as its tokens need when None. Rows of no token are random too.
        gap: how many padding tokens lie before the added ones.
        seed: of the rows.
    """
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    shutil.copytree(source, folder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"additional_special_tokens": [*(f"<pad-{i}>" for i in range(gap)), *tokens]})
    tokenizer.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    random = torch.Generator().manual_seed(seed)
    height = rows or max(len(tokenizer), BASE)
    for name in ENDS:
        if name in state:
            new = torch.randn(height, state[name].shape[1], generator=random)
            kept = min(height, BASE)
            new[:kept] = state[name][:kept]
            state[name] = new.contiguous()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    write(folder / "config.json", vocab_size=height)
    return folder


def write(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")
