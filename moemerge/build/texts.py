"""The texts that a gate is fitted to, the experts' prompts and data or `gate.data` in their place: read, and held
against the tokenizer before any model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from moemerge.errors import MoemergeError, PlanError, Problem
from moemerge.plan import Plan
from moemerge.plan.cost import runs_models
from moemerge.plan.output_files import has_tokenizer
from moemerge.recipe import file_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from moemerge.console import Progress
    from moemerge.gate import ExpertTexts, GateTexts
    from moemerge.gate.request import ChatTemplate
    from moemerge.texts import Document


def read_gate_texts(
    plan: Plan, root: Path, warnings: list[Problem] | None = None, progress: Progress | None = None
) -> GateTexts:
    """The texts of a plan's recipe; adds `warnings`.

    Raises:
        PlanError: what cannot be read.
    """
    from moemerge.gate import GateTexts

    return GateTexts(_read_experts(plan, root, warnings, progress), _read_pool(plan, root, warnings))


def reads_texts(plan: Plan) -> bool:
    """Whether a build makes tokens of texts: for the gate, to choose a merge, or to measure a near host, which can do
    without."""
    return runs_models(plan) or (plan.host.near is not None and has_tokenizer(plan))


def text_problems(plan: Plan, texts: GateTexts) -> Iterator[Problem]:
    """What makes a plan's texts of no use, as far as is known before a model runs.

    Raises:
        SourceError: there is no tokenizer, or transformers cannot read it.
    """
    from moemerge.dense.models import load_tokenizer
    from moemerge.gate.refusals import refusals
    from moemerge.gate.request import FITTED

    tokenizer, recipe, rows = load_tokenizer(plan), plan.recipe, plan.dense.vocab_size
    template = recipe.template if recipe.gate.init in FITTED or plan.host.near is not None else "none"
    # `gate.data` is read in place of the experts' own, but for what they must not win
    init = recipe.gate.init if recipe.gate.data is None else "random"
    yield from refusals(init, texts, tokenizer, template, rows)


def _read_experts(
    plan: Plan, root: Path, warnings: list[Problem] | None, progress: Progress | None
) -> tuple[ExpertTexts, ...]:
    """Each expert's prompts and documents, where the gate or the choice of a merge needs them; adds `warnings`.

    Raises:
        PlanError: what cannot be read, of all experts.
    """
    from moemerge.gate.request import FITTED, MERGEKIT, ExpertTexts
    from moemerge.texts import read_documents, read_prompts_file

    tokenizer, whose = _templates(plan)
    wanted = plan.recipe.gate.init in FITTED | MERGEKIT and plan.recipe.gate.data is None
    wanted = wanted or plan.recipe.merge.shared == "auto" or plan.host.near is not None
    problems: list[Problem] = []
    texts = []
    files = sum(expert.data is not None for expert in plan.recipe.experts)
    if wanted and files and progress is not None:
        progress.stage("Reading texts", files, "experts", "`limit` under `data` reads fewer")
    for planned, expert in zip(plan.experts, plan.recipe.experts, strict=True):
        prompts = expert.prompts
        documents: tuple[Document, ...] = ()
        if wanted and expert.prompts_file is not None:
            prompts = read_prompts_file(file_path(root, expert.prompts_file))
        if wanted and expert.data is not None:
            try:
                documents, said = read_documents(expert.data, root, tokenizer, whose)
            except MoemergeError as error:
                problems += error.problems
                continue
            finally:
                if progress is not None:
                    progress.advance()
            if warnings is not None:
                warnings += [Problem(p.code, f"expert `{expert.name}`: {p.message}", p.hint) for p in said]
        chat = _chat_template(plan, planned.model) if wanted and plan.recipe.template == "chat" else None
        texts.append(ExpertTexts(expert.name, prompts, expert.negative_prompts, documents, chat))
    if problems:
        raise PlanError(dict.fromkeys(problems))
    return tuple(texts)


def _read_pool(plan: Plan, root: Path, warnings: list[Problem] | None) -> tuple[Document, ...]:
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
        documents, said = read_documents(data, root, *_templates(plan))
    except MoemergeError as error:
        raise PlanError(error.problems) from error
    if warnings is not None:
        warnings += [Problem(p.code, f"`gate.data`: {p.message}", p.hint) for p in said]
    return documents


def _chat_template(plan: Plan, model: str) -> ChatTemplate | None:
    """A specialist's own chat template, with its names of the special tokens; its ids are the base's by the plan."""
    from moemerge.gate.request import ChatTemplate
    from moemerge.sources.tokenizer_config import tokenizer_config

    config = tokenizer_config(plan.models[model].files)
    special = {key: token for key, token in config.special.items() if token is not None}
    return ChatTemplate(config.template, special) if config.template is not None else None


def _templates(plan: Plan) -> tuple[Callable[[], PreTrainedTokenizerBase], str]:
    """What conversations are written with: the tokenizer, loaded where it is asked for, and whose it is."""

    @cache
    def tokenizer() -> PreTrainedTokenizerBase:
        from moemerge.dense.models import load_tokenizer

        return load_tokenizer(plan)

    anchor = plan.vocabulary.anchor
    return tokenizer, "the base" if anchor == "base" else f"expert `{anchor}`"
