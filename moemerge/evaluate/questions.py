"""Questions that a model answers in its own words, greedily, and how many of its answers are exactly right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from moemerge.console import Progress, portion
from moemerge.dense.generation import context_of, continuations, end_tokens
from moemerge.errors import MoemergeError, Problem
from moemerge.evaluate.answers import AnswerForm, why_never
from moemerge.recipe.schema import Questions
from moemerge.texts import LeftOut, read_asked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 16
"""Questions that are answered at a time."""
EXAMPLES = 20
"""Answers that the report shows, the first ones."""
PLAIN_TOKENS = 96
"""Most tokens of a reply, unless the questions say otherwise."""
SPARE = 1.5
"""Room for a reply whose answer is marked, in units of the longest right answer with all that leads to it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One question answered.

    Attributes:
        question: as the row has it.
        answer: the right answer, as the row has it; of several the one that was given, or else the first.
        reply: what the model answered; empty where it did not come to an answer.
        correct: whether it is a right one, normalised.
    """

    question: str
    answer: str
    reply: str
    correct: bool


@dataclass(frozen=True)
class Answers:
    """A model's answers, in the order of the questions."""

    answers: tuple[Answer, ...]

    @property
    def correct(self) -> int:
        """How many are right."""
        return sum(answer.correct for answer in self.answers)

    @property
    def exact_match(self) -> float | None:
        """Share of right answers, 0 to 1; None where nothing was asked."""
        return self.correct / len(self.answers) if self.answers else None

    def to_json(self, base: Answers | None = None) -> dict[str, Any]:
        """The report's `questions.NAME`; `base` are the base model's answers to the same questions."""
        return {
            "correct": self.correct,
            "asked": len(self.answers),
            "exact_match": self.exact_match,
            "base_exact_match": None if base is None else base.exact_match,
            "examples": [
                {"question": a.question, "answer": a.answer, "reply": a.reply, "correct": a.correct}
                for a in self.answers[:EXAMPLES]
            ],
        }


@dataclass(frozen=True)
class Asked:
    """Questions that can be asked.

    Attributes:
        questions: how.
        rows: questions, each with its right answers; none where no reply could be right.
        warnings: what was left out.
    """

    questions: Questions
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    warnings: tuple[Problem, ...] = ()


def read_questions(questions: Questions, root: Path) -> Asked:
    """Reads questions and the answers that a reply could match; a row in which one of them is blank is passed over.

    Args:
        questions: where they are.
        root: the folder that a relative path is relative to.

    Raises:
        SourceError: as `read_asked` says, or there is no question.
    """
    left_out = LeftOut(questions.path)
    found = read_asked(questions, root, left_out)
    if not found:
        raise left_out.nothing("questions", "give a file with one row at least")
    warnings = [] if left_out.problem is None else [left_out.problem]
    never: dict[str, int] = {}
    rows = []
    for question, answers in found:
        whys = [why_never(questions, answer) for answer in answers]
        possible = tuple(answer for answer, why in zip(answers, whys, strict=True) if why is None)
        if possible:
            rows.append((question, possible))
        elif whys[0] is not None:
            never[whys[0]] = never.get(whys[0], 0) + 1
    for why, count in never.items():
        which = (
            f"one of {len(found):,} questions is not"
            if count == 1
            else f"{count:,} of {len(found):,} questions are not"
        )
        which = "no question is" if count == len(found) else which
        message = f"`{questions.path}`: {which} asked, as no reply could match the answer: {why}"
        warnings.append(
            Problem("no-match", message, "end answers in `#### 4`, or set `answer` to a field of short ones")
        )
    return Asked(questions, tuple(rows), tuple(warnings))


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Questions,
    rows: Sequence[tuple[str, Sequence[str]]],
    progress: Progress,
) -> Answers:
    """Lets a model answer questions.

    Decoding is greedy, in batches of questions of like length. A row ends when its answer does.

    Args:
        model: base, specialist or MoE, in eval mode.
        tokenizer: not changed.
        questions: prompt, marker and number of new tokens.
        rows: questions, each with its right answers, one at least of either.
        progress: advanced by each question; the caller names the stage.

    Raises:
        MoemergeError: a question, its new tokens counted too, is longer than the model's context.
    """
    prompts = [prompt_ids(tokenizer, questions.prompt.replace("{question}", question)) for question, _ in rows]
    most = _check_length(model, questions, prompts, _longest(tokenizer, questions, rows))
    forms = [AnswerForm.of(questions, answers) for _, answers in rows]
    order = sorted(range(len(rows)), key=lambda number: (len(prompts[number]), number))
    written: dict[int, str] = {}
    ends = end_tokens(model, tokenizer)
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        ids = [prompts[number] for number in batch]
        with portion(progress, len(batch), most) as step:
            found = continuations(
                model, ids, ends, what="a question in its `prompt`",
                criterion=_Answered(tokenizer, len(ids[-1]), [forms[number] for number in batch]), told=step,
                do_sample=False, max_new_tokens=most,
            )  # fmt: skip
        written.update((number, _text(tokenizer, row)) for number, row in zip(batch, found, strict=True))
    judged = []
    for number, (question, answers) in enumerate(rows):
        reply, right = forms[number].equal(written[number], answers)
        judged.append(Answer(question, answers[0] if right is None else right, reply, right is not None))
    return Answers(tuple(judged))


def _longest(
    tokenizer: PreTrainedTokenizerBase, questions: Questions, rows: Sequence[tuple[str, Sequence[str]]]
) -> int:
    """Tokens that a reply may have: what leads to a marked answer needs room too."""
    if questions.max_new_tokens is not None:
        return questions.max_new_tokens
    marked = [answer for _, answers in rows for answer in answers if AnswerForm.of(questions, (answer,)).marked]
    lengths = (len(tokenizer(answer, verbose=False)["input_ids"]) for answer in marked)
    return max(PLAIN_TOKENS, int(SPARE * max(lengths, default=0)))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The ids of a prompt to be continued: with the token that begins a text, without one that ends it."""
    ids = list(tokenizer(prompt, verbose=False)["input_ids"])
    ended = bool(ids) and ids[-1] == tokenizer.eos_token_id and len(ids) > 1
    return ids[:-1] if ended else ids


def _check_length(model: PreTrainedModel, questions: Questions, prompts: Sequence[Sequence[int]], wanted: int) -> int:
    """The tokens that may follow a question: those wanted, or as many of them as fit where nobody asked for so many."""
    context = context_of(model)
    lengths = [len(prompt) for prompt in prompts]
    if context and questions.max_new_tokens is None:
        wanted = min(wanted, max(PLAIN_TOKENS, context - max(lengths)))
    over = [number for number, length in enumerate(lengths) if context and length + wanted > context]
    if over:
        worst = max(over, key=lambda number: lengths[number])
        many = (
            f"{len(over)} of {len(prompts)} questions of `{questions.path}` do not fit the model's context of {context}"
        )
        raise MoemergeError(
            f"{many}: question {worst + 1} has {lengths[worst]} tokens, and {wanted} may follow",
            hint="lower `max_new_tokens`, or leave the long questions out",
        )
    return wanted


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


class _Answered(StoppingCriteria):
    """Ends each row of a batch once its answer has ended."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, width: int, forms: Sequence[AnswerForm]) -> None:
        self._tokenizer, self._width, self._forms = tokenizer, width, forms

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:  # transformers' own signature
        """Which rows are done, `[batch]`."""
        texts = (_text(self._tokenizer, row) for row in input_ids[:, self._width :].tolist())
        done = [form.find(text)[1] for form, text in zip(self._forms, texts, strict=True)]
        return torch.tensor(done, device=input_ids.device)
