"""Templates of worked problems, in three families that share no sentence."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One question, the steps that solve it, and the answer alone."""

    question: str
    steps: tuple[str, ...]
    answer: str


Template = Callable[[random.Random], Problem]
