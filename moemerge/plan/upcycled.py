"""What a plan says of experts that are copies of one model: they are not told apart by what they know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moemerge.plan.model import PlannedExpert
from moemerge.recipe.checks import WITHOUT_PROMPTS
from moemerge.recipe.schema import Expert, Recipe


def upcycling_notes(recipe: Recipe, planned: Sequence[PlannedExpert]) -> Iterator[str]:
    """Which experts are copies, what is drawn anew in them, and what that asks for.

    Args:
        recipe: what is to be built.
        planned: its experts, one for one.
    """
    alike: dict[tuple[str, float], list[tuple[PlannedExpert, Expert]]] = {}
    for own, asked in zip(planned, recipe.experts, strict=True):
        alike.setdefault((own.model, asked.reinitialise), []).append((own, asked))
    for (model, share), group in alike.items():
        names, width = _names([own.name for own, _ in group]), group[0][0].width
        copies = f"{names} are {len(group)} copies of {_of(model)}" if len(group) > 1 else names
        drawn = f"{round(share * width):,} of {width:,} FFN channels"
        if share and len(group) > 1:
            yield f"{copies}, each with {drawn} of its own choice drawn anew"
        elif share:
            yield f"{copies} has {drawn} drawn anew"
        elif len(group) > 1 and recipe.gate.init in WITHOUT_PROMPTS and not any(e.noise_scale for _, e in group):
            yield f"{copies}, and the same until they are trained"
    if any(expert.reinitialise for expert in recipe.experts):
        yield "channels drawn anew know nothing yet: the result needs training, experts and router both"
        if recipe.gate.init == "random":
            yield "`gate.init: random` gives nearly all of a token to one expert; `uniform` shares it out at first"


def _names(names: list[str]) -> str:
    return f"`{names[0]}`" if len(names) == 1 else f"`{names[0]}` to `{names[-1]}`"


def _of(model: str) -> str:
    return "the base" if model == "base" else f"`{model}`"
