"""What is measured beside the losses: sample routes, chat replies, questions, speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemerge.console import Progress, portion
from moemerge.errors import MoemergeError
from moemerge.evaluate.chat import LONGEST_REPLY, prompt_of, sample_reply
from moemerge.evaluate.domains import Domain
from moemerge.evaluate.questions import Answers, Asked, ask, read_questions
from moemerge.evaluate.speed import ROUNDS, measure_speed
from moemerge.evaluate.trace import trace_text
from moemerge.mixture.routers import Routers
from moemerge.recipe.schema import Expert, Questions
from moemerge.templates import has_template
from moemerge.texts import Chat, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE_TOKENS = 200
"""Tokens of each domain's first document whose routes the report shows."""


def sample_routes(
    model: Any, tokenizer: PreTrainedTokenizerBase, routers: Routers, domains: Sequence[Domain], names: Sequence[str]
) -> dict[str, Any]:
    """The report's `samples`: the top-1 expert of each token of each domain's first document, and its gate weight."""
    found = {}
    for domain in domains:
        first = domain.texts[0]
        text, whole = _beginning(tokenizer, text_of(first)), isinstance(first, Chat)
        trace = trace_text(model, tokenizer, routers, text, names, add_special_tokens=not whole)
        found[domain.name] = {
            "tokens": list(trace.tokens),
            "experts": [[chosen[0] for chosen in layer] for layer in trace.chosen],
            "weights": [[round(weights[0], 4) for weights in layer] for layer in trace.weights],
        }
    return found


def _beginning(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The text up to its `SAMPLE_TOKENS`-th token; slow tokenizers do not say where that is, so a guess serves."""
    if not tokenizer.is_fast:
        return text[: 3 * SAMPLE_TOKENS]
    offsets = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return text[: offsets[SAMPLE_TOKENS - 1][1]] if len(offsets) > SAMPLE_TOKENS else text


def chat_replies(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    domains: Sequence[Domain],
    experts: Sequence[Expert],
    progress: Progress,
) -> tuple[dict[str, Any], list[str]]:
    """The report's `chat`: a reply per domain through the chat template; nothing where there is none. And notes of what
    could not be asked: the losses that were measured before are not lost over it."""
    if not has_template(tokenizer):
        blank = tokenizer.chat_template is not None
        return {}, ["chat is left out: the tokenizer's chat template is blank"] if blank else []
    progress.stage("chat", len(domains), "replies", "`--without chat` leaves it out")
    prompts = {expert.name: expert.prompts for expert in experts}
    found, notes = {}, []
    for domain in domains:
        prompt = prompt_of(prompts.get(domain.name, ()), domain.texts)
        if prompt is not None:
            with portion(progress, 1, LONGEST_REPLY) as step:
                try:
                    found[domain.name] = sample_reply(model, tokenizer, prompt, told=step).to_json()
                except MoemergeError as error:
                    notes.append(f"domain `{domain.name}`: there is no chat reply: {error.message}")
    return found, notes


def answers(
    model: Any,
    base: Callable[[], Any] | None,
    tokenizer: PreTrainedTokenizerBase,
    questions: dict[str, Asked],
    progress: Progress,
) -> dict[str, Any]:
    """The report's `questions`: exact match of the mixture and, where it is at hand, of the base."""
    found = {}
    for domain, asked in questions.items():
        rows = asked.rows
        if not rows:
            why = "; ".join(said.message for said in asked.warnings if said.code == "no-match")
            found[domain] = {**Answers(()).to_json(), "exact_match_note": why}
            continue
        total = len(rows) * (2 if base is not None else 1)
        progress.stage(f"questions: {domain}", total, "replies", "`--without questions` leaves them out")
        ours = ask(model, tokenizer, asked.questions, rows, progress)
        theirs = ask(base(), tokenizer, asked.questions, rows, progress) if base is not None else None
        found[domain] = {**ours.to_json(theirs), "exact_match_note": None}
    return found


def speed(model: Any, base: Callable[[], Any] | None, progress: Progress) -> dict[str, Any]:
    """The report's `tokens_per_second`."""
    models = {"moe": model} if base is None else {"moe": model, "base": base()}
    progress.stage("speed", len(models) * (1 + ROUNDS), "measurements", "`--without speed` leaves it out")
    return measure_speed(models, progress=progress).to_json()


def read_all_questions(asked: dict[str, Questions], root: Path) -> dict[str, Asked]:
    """Every set of questions with its rows.

    Raises:
        SourceError: one cannot be read.
    """
    return {domain: read_questions(questions, root) for domain, questions in asked.items()}
