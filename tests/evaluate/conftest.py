"""Tiny mixtures of all three hosts, not built but drawn at random, so that their gates have something to say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import DEFAULTS, write_tokenizer

Mixture = Callable[..., Any]
HOSTS = ("mixtral", "qwen2_moe", "qwen3_moe")


def host_config(host: str, experts: int, k: int, **config: Any) -> dict[str, Any]:
    """The settings of a tiny host with `experts` experts, of which each token goes to k."""
    own = {
        "mixtral": {"num_local_experts": experts},
        "qwen2_moe": {"num_experts": experts, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 24},
        "qwen3_moe": {"num_experts": experts, "moe_intermediate_size": 48, "head_dim": 8},
    }[host]
    return {**DEFAULTS, "num_experts_per_tok": k, **own, **config}


@pytest.fixture(scope="session")
def mixture() -> Mixture:
    """Makes the model `mixture(host, experts=4, k=2, **config)` once for each set of arguments."""
    made: dict[str, Any] = {}

    def make(host: str, experts: int = 4, k: int = 2, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        key = repr((host, experts, k, dtype, sorted(config.items(), key=str)))
        if key not in made:
            torch.manual_seed(0)
            settings = AutoConfig.for_model(host, **host_config(host, experts, k, **config))
            model = AutoModelForCausalLM.from_config(settings, dtype=dtype).eval()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.normal_(0.0, 0.3) if "norm" not in name else parameter.normal_(1.0, 0.1)
            made[key] = model
        return made[key]

    return make


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The word-level tokenizer of the tiny models; it adds no special tokens."""
    from transformers import AutoTokenizer

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def byte_level() -> Any:
    """A byte-level BPE as Llama 3 and Qwen have it, with few merges: a letter beyond ASCII is several tokens.

    It puts `<s>` before the text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["def reverse(list): return list", "bonjour le monde"] * 9, trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)]),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
