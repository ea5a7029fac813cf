"""A tiny mixture whose specialists have really learned something, and mixtures of all hosts drawn at random."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from moemerge.api import build
from moemerge.console import Silent
from moemerge.evaluate.options import PARTS, EvalOptions
from moemerge.evaluate.run import evaluate_folder
from moemerge.mixture.processes import Processes
from moemerge.recipe import Recipe
from tests.hosts import host_config
from tests.tiny import FFN, tiny_model, write_tokenizer

Mixture = Callable[..., Any]
WORDS: Mapping[str, str] = {
    "code": "def return if else while print list number reverse function class",
    "math": "sum add minus equals one two three four five six seven",
    "french": "le la un une est et dans pour avec bonjour monde merci chat chien",
}
STEPS, ROWS = 60, 8


def sentences(domain: str, count: int, seed: int) -> list[str]:
    """Texts in which each word says much about the next: the domain's words in a fixed order, now and then a leap."""
    words, draw = WORDS[domain].split(), random.Random(f"{domain} {seed}")
    texts = []
    for _ in range(count):
        place, text = draw.randrange(len(words)), []
        for _ in range(draw.randrange(12, 24)):
            text.append(words[place])
            place = (place + 1 if draw.random() < 0.85 else draw.randrange(len(words))) % len(words)
        texts.append(" ".join(text))
    return texts


def train(folder: Path, target: Path, texts: list[str], *, ffn_only: bool) -> Path:
    """A copy of a tiny model that has seen some texts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not ffn_only or bool(FFN.search(name)))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    draw = random.Random(0)
    for _ in range(STEPS):
        rows = [torch.tensor(tokenizer(text)["input_ids"]) for text in draw.sample(texts, ROWS)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        loss = model(input_ids=ids, labels=ids.masked_fill(ids == 0, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    shutil.copytree(folder, target)
    model.save_pretrained(target)
    return target


@dataclass(frozen=True)
class Trio:
    """Base, specialists (by domain), files of held-out texts (by domain), and the folder that holds all of it."""

    root: Path
    base: Path
    experts: Mapping[str, Path]
    texts: Mapping[str, Path]

    def recipe(self, **fields: Any) -> Recipe:
        """A recipe of them, one expert per token unless `fields` say otherwise."""
        values: dict[str, Any] = {
            "base_model": str(self.base),
            "experts": [
                {"name": name, "model": str(path), "prompts": sentences(name, 12, 1)}
                for name, path in self.experts.items()
            ],
            "experts_per_token": 1,
            "gate": {"init": "discriminant", "expand": "off"},
            "eval": {"domains": {name: str(path) for name, path in self.texts.items()}},
        }
        return Recipe.model_validate(values | fields)

    def build(self, folder: Path, **fields: Any) -> Path:
        """Builds the mixture."""
        return build(self.recipe(**fields), folder, root=self.root).path


@pytest.fixture(scope="session")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """Specialists that differ from their base in the FFNs alone, so that oracle routing gives them exactly."""
    root = tmp_path_factory.mktemp("trio")
    torch.manual_seed(0)
    mixed = [text for domain in WORDS for text in sentences(domain, 20, 2)]
    raw = tiny_model("llama", root / "raw", seed=0)
    base = train(raw, root / "base", mixed[::3] + mixed[1::3], ffn_only=False)
    experts = {d: train(base, root / d, sentences(d, 60, 3), ffn_only=True) for d in WORDS}
    texts = {}
    for domain in WORDS:
        texts[domain] = root / f"{domain}.jsonl"
        rows = [json.dumps({"text": text}) for text in sentences(domain, 40, 4)]
        texts[domain].write_text("\n".join(rows), encoding="utf-8")
    return Trio(root, base, experts, texts)


@pytest.fixture(scope="session")
def built(trio: Trio) -> Path:
    """The mixture of the trio; never changed."""
    return trio.build(trio.root / "moe")


@pytest.fixture
def moe(built: Path, trio: Trio) -> Iterator[Path]:
    """A copy beside it, which a test may damage: the record's relative paths still hold."""
    folder = trio.root / "copy"
    shutil.copytree(built, folder)
    yield folder
    shutil.rmtree(folder)


def measure(folder: Path, **options: Any) -> dict[str, Any]:
    """The report of a folder: the losses alone, without a cache, unless `options` say otherwise."""
    settings: dict[str, Any] = {"cache": None, "without": frozenset(PARTS), **options}
    return evaluate_folder(folder, EvalOptions(**settings), Silent(), Processes())


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
                    if name.endswith("per_expert_scale"):  # 1 in every folder of ours
                        parameter.fill_(1.0)
                for name, buffer in model.named_buffers():
                    if "correction" in name:
                        buffer.normal_(0.0, 0.3)
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
