"""Chat templates tried on the first text of each expert, so that `plan` knows what `build` would refuse."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from moemerge.build.texts import read_gate_texts
from moemerge.errors import MoemergeError, Problem
from moemerge.plan import Plan, Refused
from moemerge.recipe import file_path
from moemerge.recipe.schema import Data


def rehearsed(plan: Plan, root: Path) -> Plan | Refused:
    """The plan, or what the chat templates make impossible.

    An expert's first prompt and the first conversation of its local file are rendered. A data set of the hub is left
    alone. Where nothing goes through a template no tokenizer is loaded, and neither is torch.
    """
    recipe = plan.recipe
    update = {
        "experts": tuple(expert.model_copy(update={"data": _first(expert.data, root)}) for expert in recipe.experts),
        "gate": recipe.gate.model_copy(update={"data": _first(recipe.gate.data, root)}),
    }
    shorter = replace(plan, recipe=recipe.model_copy(update=update))
    problems: list[Problem] = []
    try:
        texts = read_gate_texts(shorter, root).experts
        if plan.recipe.template == "none" or not any(of_one.prompts for of_one in texts):
            return plan
        from moemerge.dense.models import load_tokenizer
        from moemerge.gate.passages import encode_prompt

        tokenizer = load_tokenizer(plan)
        for of_one in texts:
            try:
                for prompt in of_one.prompts[:1]:
                    encode_prompt(prompt, of_one, tokenizer, plan.recipe.template)
            except MoemergeError as error:
                problems += error.problems
    except MoemergeError as error:
        problems += error.problems
    if not problems:
        return plan
    return Refused(plan.recipe, plan.models, tuple(dict.fromkeys(problems)), plan.warnings, plan.notes)


def _first(data: Data | None, root: Path) -> Data | None:
    """What is read of some data: one document at most."""
    local = data is not None and os.path.isfile(file_path(root, data.path))
    return data.model_copy(update={"limit": 1}) if data is not None and local else None
