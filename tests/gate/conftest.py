"""Tiny dense models of one base, and texts of domains that share no word."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from moemerge.gate.closed_forms import METHODS
from tests.tiny import tiny_config, write_tokenizer

LAYERS, WIDTH = 2, 32
LABELLED = sorted(set(METHODS) - {"advantage"})
"""Methods that are fitted to the labels of domains."""

WORDS = {
    "code": "def return if else while print list number function class",
    "french": "le la un une est et dans pour avec bonjour monde merci chat chien",
    "math": "sum add minus equals one two three four five six seven eight nine ten",
}


def texts(domain: str, count: int, words: int = 14, seed: int = 0) -> tuple[str, ...]:
    """Texts of a domain: its words in random order."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = WORDS[domain].split()
    return tuple(
        " ".join(vocabulary[i] for i in torch.randint(len(vocabulary), (words,), generator=generator))
        for _ in range(count)
    )


class TinyModels:
    """`DenseModels` over models in memory: the merged weights are the mean, the FFNs an expert's own."""

    def __init__(self, base: Any, specialists: list[Any]) -> None:
        self._base, self._specialists = base, specialists
        states = [s.state_dict() for s in specialists]
        self._mean = {name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]}
        self.calls: list[str] = []

    def merged(self, expert: int) -> Any:
        self.calls.append(f"merged {expert}")
        own = self._specialists[expert].state_dict()
        model = copy.deepcopy(self._base)
        model.load_state_dict({name: own[name] if ".mlp." in name else mean for name, mean in self._mean.items()})
        return model.eval()

    def whole_merged(self, expert: int) -> Any:
        return self.merged(expert)

    def specialist(self, expert: int) -> Any:
        self.calls.append(f"specialist {expert}")
        return self._specialists[expert]

    def base(self) -> Any:
        self.calls.append("base")
        return self._base


def tiny_llama(seed: int = 0, **config: Any) -> Any:
    """A LlamaForCausalLM whose attention and FFN do something beside embeddings that tell the words apart."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config("llama", **config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(40 if "embed" in name else 4)
    return model


@pytest.fixture(scope="session")
def base() -> Any:
    return tiny_llama()


@pytest.fixture(scope="session")
def specialists(base: Any) -> list[Any]:
    """Three fine-tunes of the base: it and some noise."""
    found = []
    for seed in range(3):
        model = copy.deepcopy(base)
        torch.manual_seed(100 + seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter))
        found.append(model)
    return found


@pytest.fixture
def models(base: Any, specialists: list[Any]) -> TinyModels:
    return TinyModels(base, specialists)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return _tokenizer(tmp_path_factory.mktemp("tokenizer"), chat=False)


@pytest.fixture(scope="session")
def chat_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return _tokenizer(tmp_path_factory.mktemp("chat-tokenizer"), chat=True)


def _tokenizer(folder: Path, *, chat: bool) -> Any:
    from transformers import AutoTokenizer

    write_tokenizer(folder, chat=chat)
    return AutoTokenizer.from_pretrained(folder)
