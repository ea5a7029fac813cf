"""Adapters as peft itself writes them, on tiny models."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_model

MakeAdapter = Callable[..., Path]


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny fp32 Llama with untied embeddings."""
    return tiny_model("llama", tmp_path_factory.mktemp("llama") / "base", seed=1, tie_word_embeddings=False)


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny fp32 Llama with tied embeddings."""
    return tiny_model("llama", tmp_path_factory.mktemp("tied") / "base", seed=2, tie_word_embeddings=True)


def make_adapter(base: Path, folder: Path, *, dtype: str = "float32", seed: int = 0, **settings: Any) -> Path:
    """Saves a LoRA on `base` whose every trained value is random, as peft's `save_pretrained` writes it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    chosen = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice about tied embeddings and the like is not under test
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), LoraConfig(**chosen))
        with torch.no_grad():
            for name, value in model.named_parameters():
                if value.requires_grad:
                    value.normal_(0.0, 0.2)
                    if "magnitude" in name:
                        value.abs_().add_(0.5)
        model.to(getattr(torch, dtype))
        model.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, adapter: Path) -> tuple[dict[str, Any], Any]:
    """State dict and config of peft's own merge, with the base in its stored dtype."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter)
        merged = model.merge_and_unload(safe_merge=False)
    return merged.state_dict(), merged.config
