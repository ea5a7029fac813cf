"""What can go wrong for a user, as a small tree of exceptions that carry their own hint.

Everything a user can mend is a `MoemergeError`. One place (`cli`) prints it; a bug stays a traceback.
This module imports nothing of the package, so every room may use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong (or, in a list of warnings, worth knowing), in the words that the user typed.

    Attributes:
        code: a stable, kebab-case name for programs, such as `shape-mismatch`.
        message: state and cause; no full stop after a single sentence; literals in backticks.
        hint: what mends it, or None.
    """

    code: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be.

    Attributes:
        where: the tensor's or file's name, or a source's key.
        message: what is wrong with it, as the rest of a sentence.
    """

    where: str
    message: str


def cause_of(error: BaseException) -> str:
    """What a library's error says, in its first line; its kind where it says nothing."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


class MoemergeError(Exception):
    """A mistake or a circumstance that the user can mend.

    Args:
        message: state and cause, possibly over several lines.
        hint: the change or command that mends it.
        code: a stable, kebab-case name for programs.
    """

    code = "error"

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The error as problems; one, unless a subclass holds several."""
        return (Problem(self.code, self.message, self.hint),)


class ManyProblems(MoemergeError):
    """Several problems found in one pass, reported together."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._problems = tuple(problems)
        if not self._problems:
            raise ValueError("ManyProblems needs at least one problem")
        first = self._problems[0]
        super().__init__("\n".join(p.message for p in self._problems), hint=first.hint, code=first.code)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every problem, in the order in which they were found."""
        return self._problems


class RecipeError(MoemergeError):
    """The recipe cannot be read, or says something that no recipe may say."""

    code = "recipe"


class SourceError(MoemergeError):
    """A model, adapter, tokenizer or data file cannot be opened or is not what it claims to be."""

    code = "source"


class TemplateError(MoemergeError):
    """A chat template cannot be rendered.

    Attributes:
        reason: why not, as a clause.
        given_up: whether it is not even tried any more, as it has taken too much too often.
    """

    code = "template"

    def __init__(self, reason: str, *, given_up: bool = False) -> None:
        super().__init__(f"The chat template cannot be rendered: {reason}")
        self.reason, self.given_up = reason, given_up


class PlanError(ManyProblems):
    """The recipe reads well but its models do not fit together."""


class GateError(MoemergeError):
    """The gate cannot be fitted from what was given."""

    code = "gate"


class WriteError(MoemergeError):
    """The output folder cannot be written."""

    code = "write"


class VerifyError(MoemergeError):
    """A built folder is not what its record says."""

    code = "verify"


class EvalError(MoemergeError):
    """A built model cannot be measured with what was given."""

    code = "eval"


class TrainError(MoemergeError):
    """A router cannot be trained with what was given."""

    code = "train"


class PushError(MoemergeError):
    """A mixture cannot be published on the hub."""

    code = "push"


class ExportError(MoemergeError):
    """A mixture cannot be written in another form."""

    code = "export"
