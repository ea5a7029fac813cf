"""Whether transformers can read what a build takes from the base and hands on, asked before any work.

A plan checks what moemerge itself reads of a config. transformers is stricter: it looks at the type of every value of
a `config.json`, and at the files that a build copies as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moemerge.dense.models import TOKENIZERS, load_tokenizer
from moemerge.errors import MoemergeError, PlanError, Problem
from moemerge.plan.model import Plan
from moemerge.sources.strict_json import read_object

GENERATION = "generation_config.json"
_LONGEST = 300
"""Characters of an exception that are shown."""


def check_readable(plan: Plan) -> None:
    """Has transformers read the base's config, the mixture's, the generation config and the tokenizer.

    Args:
        plan: a plan without problems.

    Raises:
        PlanError: it cannot read one of them.
    """
    from transformers import AutoConfig, GenerationConfig

    base = plan.models["base"]
    asked: dict[str, Callable[[], Any]] = {
        "its `config.json`": lambda: AutoConfig.for_model(**base.config),
        "the mixture's `config.json` that is made of its own": lambda: AutoConfig.for_model(**plan.config),
    }
    if GENERATION in base.files:
        path = base.files[GENERATION]
        asked[f"its `{GENERATION}`"] = lambda: GenerationConfig.from_dict(read_object(path, str(path)))
    if TOKENIZERS & base.files.keys():
        asked["its tokenizer"] = lambda: load_tokenizer(plan)
    problems = []
    for what, read in asked.items():
        try:
            read()
        except MoemergeError as error:
            problems.append(Problem("bad-tokenizer", f"`base_model`: {error.message}", error.hint))
        except Exception as error:  # whatever a value of a wrong type makes transformers raise
            message = f"`base_model`: transformers cannot read {what}: {_words(error)}"
            problems.append(Problem("bad-config", message))
            break
    if problems:
        raise PlanError(problems)


def _words(error: Exception) -> str:
    """What was raised on one line; of a chain of them the last, which names value and type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[-1] if lines else ""
    return (f"{type(error).__name__}: {said}" if len(lines) < 2 else said)[:_LONGEST]
