"""Worked arithmetic problems, made from templates with a seed: the mathematics of the demo.

Three families of templates in `math_templates/` share a layout but no sentence: one to train the specialist, one to fit
a gate, one to evaluate. A document is a few problems in a row, each with its solution step by step:

    Question: ...
    Solution:
    Step 1: ...
    Answer: 42
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from math_templates import Problem, Template, train, train_more, train_stories, train_topics, train_wide

Family = Literal["train", "held_out", "calibration", "evaluation"]


@dataclass(frozen=True)
class Document:
    """Some worked problems as one text; `question` and `answer` are the last problem's, for exact-match checks."""

    text: str
    question: str
    answer: str


def templates(family: Family) -> tuple[Template, ...]:
    """The templates of one family; every eighth one made for training is held out, to choose its rate and length."""
    if family in {"train", "held_out"}:
        modules = (train, train_stories, train_wide, train_more, train_topics)
        made = [template for module in modules for template in module.TEMPLATES]
        return tuple(one for index, one in enumerate(made) if (index % 8 == 5) == (family == "held_out"))
    found: tuple[Template, ...] = import_module(f"math_templates.{family}").TEMPLATES
    return found


def layout(problem: Problem) -> str:
    """A problem and its solution as text."""
    steps = "\n".join(f"Step {number}: {step}" for number, step in enumerate(problem.steps, start=1))
    return f"Question: {problem.question}\nSolution:\n{steps}\nAnswer: {problem.answer}\n"


def worked_problems(family: Family, documents: int, seed: int, problems: int = 2) -> Iterator[Document]:
    """Documents of `problems` problems each, every template used about equally often."""
    rng = random.Random(f"{family}-{seed}")
    waiting: list[Template] = []
    for _ in range(documents):
        chosen: list[Problem] = []
        while len(chosen) < problems:
            if not waiting:
                waiting = list(templates(family))
                rng.shuffle(waiting)
            chosen.append(waiting.pop()(rng))
        yield Document("\n".join(map(layout, chosen)), chosen[-1].question, chosen[-1].answer)
