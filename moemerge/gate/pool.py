"""A gate's texts out of one pool that nobody sorted: each is given to the expert that loses least on it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moemerge.console import Progress
from moemerge.errors import GateError, Problem
from moemerge.gate.advantage import with_advantages
from moemerge.gate.capture import Domain
from moemerge.gate.passages import Passage, assign_folds, document_passages, prompt_passages
from moemerge.gate.request import POOL, DenseModels, GateRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def pool_domains(
    request: GateRequest, models: DenseModels, tokenizer: PreTrainedTokenizerBase, progress: Progress
) -> tuple[list[Domain], int, list[Problem]]:
    """The pool as domains, one an expert, with the experts' advantages; the number of folds; and what to tell the user.

    Whole texts are held out, whoever has them. A domain may be without texts.

    Raises:
        GateError: there is no token, or a loss is not finite.
    """
    most = replace(request, max_tokens=request.max_tokens * len(request.experts))
    found, left_out = document_passages(request.pool, POOL, tokenizer, most)
    (passages,), folds = assign_folds([found])
    if not passages:
        raise GateError(f"No token to fit the gate from: the texts of {POOL} are empty", hint="give texts with words")
    unwanted = [
        [p for p in prompt_passages(texts.negative, texts, tokenizer, request) if p.tokens] for texts in request.experts
    ]
    asked = [Domain(POOL, passages if not number else (), no) for number, no in enumerate(unwanted)]
    read = with_advantages(asked, models, progress)
    own: list[list[Passage]] = [[] for _ in request.experts]
    for passage in read[0].passages:
        assert passage.advantages is not None, "they were just read"
        own[int(passage.advantages.sum(0).argmax())].append(passage)
    domains = [
        Domain(texts.name, mine, domain.negative)
        for texts, mine, domain in zip(request.experts, own, read, strict=True)
    ]
    return domains, folds, ([] if left_out is None else [left_out]) + _never_best(domains)


def _never_best(domains: list[Domain]) -> list[Problem]:
    """Experts that no text was given to."""
    idle = [domain.name for domain in domains if not domain.passages]
    if not idle:
        return []
    return [
        Problem(
            "never-best",
            f"On no text of {POOL} is {' or '.join(f'`{name}`' for name in idle)} the best expert, so few tokens may "
            "go there",
            "add texts that it should win, or leave it out of the recipe",
        )
    ]
