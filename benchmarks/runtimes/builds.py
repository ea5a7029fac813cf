"""Builds the mixtures, and says what transformers 5 computes of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cases import ROWS, Case, settings
from transformers import AutoTokenizer
from transformers.utils import logging

from moemerge.api import build
from moemerge.errors import MoemergeError
from moemerge.families.runtimes import traits_of
from moemerge.plan import Plan, make_plan
from tests.export.vocabularies import byte_level, smollm
from tests.moe import load, logits, recipe_of, some_tokens
from tests.tiny import tiny_model

LENGTHS = (1, 3, 9, 20)
"""After how many tokens the next one's probabilities are compared."""
TEXTS = ("def add(a, b):\n    return a + b  # 12 + 345", "L'été à Noël; it's WE'LL 你好世界 😀", " leading  spaces \n\n")


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
    family, config, fields = case
    sources = [work / f"{name} from {seed}" for seed in range(5)]
    for seed, source in enumerate(sources):
        tiny_model(family, source, seed=seed, scale=4.0, **settings(family, **config))
        byte_level(source, smollm())
    recipe = recipe_of(sources[0], sources[1:], **{"experts_per_token": 2, **fields})
    plan = make_plan(recipe, work)
    if not isinstance(plan, Plan):
        raise MoemergeError(f"{name}: {[problem.message for problem in plan.problems]}")
    folder = work / name
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
    build(recipe, folder, root=work)
    for source in sources:
        shutil.rmtree(source)
    tokens = some_tokens(1, max(LENGTHS), ROWS)
    logprobs = logits(load(folder), tokens)[0].float().log_softmax(-1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return {
        "name": name,
        "folder": "",
        "host": plan.host.model_type,
        "traits": sorted(
            traits_of(plan.dense, plan.host, layout=recipe.output.layout, experts_per_token=recipe.experts_per_token,
                      shared=plan.shared_expert is not None)
        ),
        "tokens": tokens[0].tolist(),
        "logprobs": logprobs[torch.tensor(LENGTHS) - 1].tolist(),
        "ids": [tokenizer(text)["input_ids"] for text in TEXTS],
    }  # fmt: skip
