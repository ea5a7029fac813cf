"""Questions that a model answers in its own words, greedily, and how many of its answers are exactly right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from moemerge.console import Progress, portion
from moemerge.dense.generation import context_of, continuations, end_tokens
from moemerge.errors import MoemergeError, SourceError
from moemerge.recipe.schema import Questions
from moemerge.texts import read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 16
"""Questions that are answered at a time."""
EXAMPLES = 20
"""Answers that the report shows, the first ones."""

_THOUSANDS = re.compile(r"(?<=[0-9])[,\u00a0\u202f](?=[0-9]{3}(?![0-9]))")
"""A comma or a no-break space between groups of three digits."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One question answered.

    Attributes:
        question: as the row has it.
        answer: the right answer, as the row has it.
        reply: what the model answered; empty where it did not come to an answer.
        correct: whether the two are the same, normalised.
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
    def exact_match(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.correct / len(self.answers)

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


def read_questions(questions: Questions, root: Path) -> tuple[tuple[str, str], ...]:
    """Reads questions and their answers; a row in which one of them is blank is left out.

    Args:
        questions: where they are.
        root: the folder that a relative path is relative to.

    Raises:
        SourceError: as `read_rows` says, or there is no question.
    """
    fields = {"question": questions.question, "answer": questions.answer}
    found = read_rows(questions, root, fields)
    if not found:
        raise SourceError(f"`{questions.path}` holds no questions", hint="give a file with one row at least")
    return tuple((question, answer) for question, answer in found)


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Questions,
    rows: Sequence[tuple[str, str]],
    progress: Progress,
) -> Answers:
    """Lets a model answer questions.

    Decoding is greedy, in batches of questions of like length. A row ends when the line of its answer does.

    Args:
        model: base, specialist or MoE, in eval mode.
        tokenizer: not changed.
        questions: prompt, marker and number of new tokens.
        rows: questions and their right answers, one at least.
        progress: advanced by each question; the caller names the stage.

    Raises:
        MoemergeError: a question, its new tokens counted too, is longer than the model's context.
    """
    prompts = [prompt_ids(tokenizer, questions.prompt.replace("{question}", question)) for question, _ in rows]
    _check_length(model, questions, prompts)
    order = sorted(range(len(rows)), key=lambda number: (len(prompts[number]), number))
    replies: dict[int, str] = {}
    ends = end_tokens(model, tokenizer)
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        ids = [prompts[number] for number in batch]
        with portion(progress, len(batch), questions.max_new_tokens) as step:
            written = continuations(
                model, ids, ends,
                criterion=_Answered(tokenizer, len(ids[-1]), questions.after), told=step,
                do_sample=False, max_new_tokens=questions.max_new_tokens,
            )  # fmt: skip
        for number, row in zip(batch, written, strict=True):
            replies[number], _ = _reply(_text(tokenizer, row), questions.after)
    return Answers(
        tuple(
            Answer(question, answer, replies[number], normalised(replies[number]) == normalised(answer))
            for number, (question, answer) in enumerate(rows)
        )
    )


def normalised(text: str) -> str:
    """A text in lower case, its spaces single, without thousands separators and one full stop at the end."""
    plain = _THOUSANDS.sub("", " ".join(_THOUSANDS.sub("", text).split()))
    return plain.removesuffix(".").rstrip().casefold()


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The ids of a prompt to be continued: with the token that begins a text, without one that ends it."""
    ids = list(tokenizer(prompt, verbose=False)["input_ids"])
    ended = bool(ids) and ids[-1] == tokenizer.eos_token_id and len(ids) > 1
    return ids[:-1] if ended else ids


def _check_length(model: PreTrainedModel, questions: Questions, prompts: Sequence[Sequence[int]]) -> None:
    context = context_of(model)
    lengths = [len(prompt) for prompt in prompts]
    if not min(lengths):
        raise MoemergeError("The tokenizer makes no token of a question", hint="check `prompt` and the tokenizer")
    over = [number for number, length in enumerate(lengths) if context and length + questions.max_new_tokens > context]
    if over:
        worst = max(over, key=lambda number: lengths[number])
        many = (
            f"{len(over)} of {len(prompts)} questions of `{questions.path}` do not fit the model's context of {context}"
        )
        raise MoemergeError(
            f"{many}: question {worst + 1} has {lengths[worst]} tokens, and {questions.max_new_tokens} may follow",
            hint="lower `max_new_tokens`, or leave the long questions out",
        )


def _reply(text: str, after: str | None) -> tuple[str, bool]:
    """The answer in what a model wrote, blank lines before it passed over, and whether its line has ended."""
    if after is not None:
        _, marker, text = text.partition(after)
        if not marker:
            return "", False
    line, end, _ = text.lstrip().replace("\r", "\n").partition("\n")
    return line.rstrip(), bool(end)


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


class _Answered(StoppingCriteria):
    """Ends each row of a batch once the line of its answer has ended."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, width: int, after: str | None) -> None:
        self._tokenizer, self._width, self._after = tokenizer, width, after

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:  # transformers' own signature
        """Which rows are done, `[batch]`."""
        texts = (_text(self._tokenizer, row) for row in input_ids[:, self._width :].tolist())
        done = [_reply(text, self._after)[1] for text in texts]
        return torch.tensor(done, device=input_ids.device)
