"""What the specialists of a plan will write for the gate, in words.

How long that takes is not told: a specialist writes token by token, so a short computation says little about it, and a
plan holds no model. A build times its own first.
"""

from __future__ import annotations

from moemerge.plan.model import Plan
from moemerge.recipe import Expert
from moemerge.recipe.checks import EXPANDED

WRITTEN = 3500
"""The most tokens that a specialist writes unasked: `gate.expand.AUTO_TOKENS`."""
ENOUGH_PER_WIDTH = 4
"""With so many tokens per dimension an expert's texts are enough: `gate.expand.ENOUGH_PER_WIDTH`."""
MINUTES = 10
"""What takes longer is not written unasked: `gate.expand.TOO_LONG`, in minutes."""


def writing(plan: Plan) -> str | None:
    """How many specialists write how many tokens; None where none does.

    A prompt has no more tokens than bytes. Whether prompts of more bytes than are enough, or a file of prompts, have
    enough tokens is not known yet: it is then `up to` so many specialists.
    """
    gate, experts = plan.recipe.gate, plan.recipe.experts
    if gate.expand == "off" or gate.init not in EXPANDED or gate.data is not None:
        return None
    enough = ENOUGH_PER_WIDTH * plan.dense.hidden_size
    writers = [expert for expert in experts if writes(expert)]
    tokens, certain = gate.expand, True
    if tokens == "auto":
        tokens = min(WRITTEN, enough)
        certain = all(_bytes(e) < enough and e.prompts_file is None for e in writers)
    if not writers:
        return None
    count = "one specialist writes" if len(writers) == 1 else f"{len(writers)} specialists write"
    text = f"{'' if certain else 'up to '}{count} {tokens:,} tokens{' each' if len(writers) > 1 else ''}"
    skipped = gate.expand == "auto" and all(_bytes(expert) or expert.prompts_file for expert in writers)
    text += "; `build` first measures how long that takes"
    return f"{text}, and skips it beyond {MINUTES} minutes" if skipped else text


def writes(expert: Expert) -> bool:
    """Whether its specialist may write: it has prompts to continue, or nothing at all."""
    return bool(expert.prompts) or expert.prompts_file is not None or expert.data is None


def _bytes(expert: Expert) -> int:
    return sum(len(prompt.encode()) for prompt in expert.prompts)
