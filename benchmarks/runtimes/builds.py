"""Builds the mixtures, and says what transformers 5 computes of each."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from cases import ROWS, Case, settings
from transformers import AutoTokenizer
from transformers.utils import logging

from moemerge.api import build
from moemerge.errors import MoemergeError
from moemerge.families import auto_class_of
from moemerge.families.runtimes import run_as
from moemerge.plan import Plan, make_plan
from moemerge.recipe import Recipe
from tests.export.vocabularies import BYTE_LEVEL, byte_level
from tests.tiny import tiny_model
from tests.wrapped import tiny_wrapper

LENGTHS = (1, 3, 9, 20)
"""After how many tokens the next one's probabilities are compared."""
TEXTS = ("def add(a, b):\n    return a + b  # 12 + 345", "L'été à Noël; it's WE'LL 你好世界", " leading  spaces \n\n")
SPLITS = {"qwen3_5_text": "qwen35"}
"""How the tokenizer of a family splits texts, where transformers does it its own way whatever `tokenizer.json` says."""
PROMPTS = (
    ["def add(a, b):", "return a + b", "print(a)", "It's what"], ["12 + 345 = 357", "1,000 reasons", "3 + 4", "12"],
    ["Le chat dort", "et l'été est là", "le chat", "là"], ["The quick brown fox", "fox jumps", "we'll do", "they've"],
)  # fmt: skip
"""Of each expert: words of what the tokenizer was trained on."""


@dataclass(frozen=True)
class Built:
    """A mixture and what it computes.

    Attributes:
        name: the case's.
        folder: the mixture's.
        host: its class.
        traits: what it has that not every runtime holds.
        tokens: a row of ids.
        logprobs: by transformers 5 in fp32, of the token after each of `LENGTHS`, `[4, vocabulary]`.
        ids: of `TEXTS`.
    """

    name: str
    folder: Path
    host: str
    traits: tuple[str, ...]
    tokens: list[int]
    logprobs: list[list[float]]
    ids: list[list[int]]


def build_all(cases: Mapping[str, Case], work: Path) -> list[Built]:
    """Builds what is not there yet; a folder of builds is good for the code that made them alone."""
    logging.disable_progress_bar()
    found = []
    for number, (name, case) in enumerate(cases.items()):
        said = work / f"{name}.json"
        if not said.exists():
            print(f"building {number + 1} of {len(cases)}: {name}", flush=True)
            said.write_text(json.dumps(_built(name, case, work)), encoding="utf-8")
        found.append(Built(**{**json.loads(said.read_text(encoding="utf-8")), "folder": work / name}))
    return found


def _built(name: str, case: Case, work: Path) -> dict[str, Any]:
    """Four experts whose weights are all random, of which each token goes to two, by a gate that is soft."""
    sources = _sources(case, work / "sources")
    experts = [
        {"name": f"e{number}", "model": str(source), "prompts": prompts}
        for number, (source, prompts) in enumerate(zip(sources[1:], PROMPTS, strict=True))
    ]
    values = {"base_model": str(sources[0]), "experts": experts, "experts_per_token": 2, "gate": {"init": "random"}}
    recipe = Recipe.model_validate({**values, **case.fields})
    plan = make_plan(recipe, work)
    if not isinstance(plan, Plan):
        raise MoemergeError(f"{name}: {[problem.message for problem in plan.problems]}")
    folder = work / name
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
    build(recipe, folder, root=work)
    tokens = torch.randint(4, ROWS, (1, max(LENGTHS)), generator=torch.Generator().manual_seed(7))
    logprobs = _logprobs(folder, tokens)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return {
        "name": name,
        "folder": "",
        "host": run_as(plan.host),
        "traits": sorted(plan.traits),
        "tokens": tokens[0].tolist(),
        "logprobs": logprobs[torch.tensor(LENGTHS) - 1].tolist(),
        "ids": [tokenizer(text)["input_ids"] for text in TEXTS],
    }  # fmt: skip


@torch.inference_mode()
def _logprobs(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """Of the token after each, `[length, vocabulary]`, by plain loops of transformers 5."""
    auto: Any = getattr(transformers, auto_class(folder))
    model = auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.set_experts_implementation("eager")
    found: torch.Tensor = model.eval()(tokens).logits[0].log_softmax(-1)
    return found


def auto_class(folder: Path) -> str:
    """The class of transformers that loads a mixture."""
    return auto_class_of(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _sources(case: Case, root: Path) -> list[Path]:
    """A base and four specialists, made once for all cases that have the same."""
    family, given = case.family, settings(case.family, **case.config)
    split = SPLITS.get(family, "smollm")
    tokenizer = root / f"tokenizer-{split}"
    if not tokenizer.exists():
        tokenizer.mkdir(parents=True)
        byte_level(tokenizer, BYTE_LEVEL[split][0]())
        config = tokenizer / "tokenizer_config.json"  # as transformers 5 names it; transformers 4 knows no such class
        said = json.loads(config.read_text(encoding="utf-8"))
        config.write_text(json.dumps({**said, "tokenizer_class": "TokenizersBackend"}), encoding="utf-8")
    about = json.dumps([case.within, case.config], sort_keys=True)
    digest = hashlib.sha256(about.encode()).hexdigest()[:8]
    sources = [root / f"{family}-{digest}-{seed}" for seed in range(5)]
    for seed, source in enumerate(sources):
        if not source.exists():
            if case.within is None:
                tiny_model(family, source, seed=seed, scale=4.0, **given)
            else:
                tied = given["tie_word_embeddings"]
                rest = {key: value for key, value in given.items() if key != "tie_word_embeddings"}
                tiny_wrapper(case.within, source, seed=seed, tied=tied, language=family, **rest)
            shutil.copytree(tokenizer, source, dirs_exist_ok=True)
    return sources
