"""Reads `gate.data`: the texts that a gate is fitted to in place of the experts' own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from moemerge.errors import MoemergeError, PlanError, Problem
from moemerge.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from moemerge.texts import Document


def read_pool(plan: Plan, root: Path, warnings: list[Problem] | None = None) -> tuple[Document, ...]:
    """The documents of `gate.data`, where the gate is fitted to them; adds `warnings`.

    Raises:
        PlanError: they cannot be read.
    """
    from moemerge.gate.request import FITTED
    from moemerge.texts import read_documents

    data = plan.recipe.gate.data
    if data is None or plan.recipe.gate.init not in FITTED:
        return ()
    try:
        documents, said = read_documents(data, root, *templates(plan))
    except MoemergeError as error:
        raise PlanError(error.problems) from error
    if warnings is not None:
        warnings += [Problem(p.code, f"`gate.data`: {p.message}", p.hint) for p in said]
    return documents


def templates(plan: Plan) -> tuple[Callable[[], PreTrainedTokenizerBase], str]:
    """What conversations are written with: the tokenizer, loaded where it is asked for, and whose it is."""

    @cache
    def tokenizer() -> PreTrainedTokenizerBase:
        from moemerge.dense.models import load_tokenizer

        return load_tokenizer(plan)

    anchor = plan.vocabulary.anchor
    return tokenizer, "the base" if anchor == "base" else f"expert `{anchor}`"
