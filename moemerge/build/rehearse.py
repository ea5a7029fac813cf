"""What `build` would refuse before it runs a model, asked of a plan: its texts, chat templates and files are tried."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from moemerge.build.readable import begin_check
from moemerge.build.texts import read_gate_texts, reads_texts, text_problems
from moemerge.errors import MoemergeError, Problem
from moemerge.kept import cache_folder
from moemerge.plan import Plan, Refused
from moemerge.plan.output_files import has_tokenizer
from moemerge.recipe import file_path
from moemerge.recipe.schema import Data

if TYPE_CHECKING:
    from moemerge.gate import GateTexts


def rehearsed(plan: Plan, root: Path) -> Plan | Refused:
    """The plan, or what makes its build impossible.

    transformers reads what the output takes from the models; the prompts and the first conversation of each local file
    are rendered. A data set of the hub is left alone. The tokenizer is loaded here, and torch with it, only where a
    text goes through a template, or could hold a token without a row, or an expert has no texts.
    """
    recipe = plan.recipe
    update = {
        "experts": tuple(expert.model_copy(update={"data": _first(expert.data, root)}) for expert in recipe.experts),
        "gate": recipe.gate.model_copy(update={"data": _first(recipe.gate.data, root)}),
    }
    shorter = replace(plan, recipe=recipe.model_copy(update=update))
    problems: list[Problem] = []
    check_readable = begin_check(plan, cache_folder())
    try:
        texts = _without_remote(plan, read_gate_texts(shorter, root))
        if reads_texts(plan) and _wants_tokenizer(plan, texts, check_readable()):
            problems += text_problems(plan, texts)
    except MoemergeError as error:
        problems += error.problems
    try:
        check_readable()
    except MoemergeError as error:
        problems += error.problems
    if not problems:
        return plan
    return Refused(plan.recipe, plan.models, tuple(dict.fromkeys(problems)), plan.warnings, plan.notes)


def _wants_tokenizer(plan: Plan, texts: GateTexts, highest: int) -> bool:
    """Whether one must be loaded to know more; `highest` is the highest id of its tokens."""
    templated = plan.recipe.template == "chat" and any(of_one.prompts or of_one.negative for of_one in texts.experts)
    general = plan.recipe.gate.data is None and any(of_one.general for of_one in texts.experts)
    return templated or general or highest >= plan.dense.vocab_size or not has_tokenizer(plan)


def _without_remote(plan: Plan, texts: GateTexts) -> GateTexts:
    """The texts without those of experts whose texts are on the hub, and not read."""
    pairs = zip(texts.experts, plan.recipe.experts, strict=True)
    read = tuple(of_one for of_one, expert in pairs if expert.data is None or not of_one.general)
    return replace(texts, experts=read)


def _first(data: Data | None, root: Path) -> Data | None:
    """What is read of some data: one document at most."""
    local = data is not None and os.path.isfile(file_path(root, data.path))
    return data.model_copy(update={"limit": 1}) if data is not None and local else None
