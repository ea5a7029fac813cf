"""Why a model type of transformers does not become a mixture here, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason, and the model types that it holds for.

    Attributes:
        why: the reason, in a clause whose "it" is the model; read in the class of transformers, and looked for in it by
            `tests/families/test_refused.py`.
        instead: the nearest thing that would work.
        types: `model_type`s of transformers, with blanks between them.
        code: of the problem that `plan` tells.
    """

    why: str
    instead: str
    types: str
    code: str = "no-host"
