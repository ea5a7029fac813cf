"""What the record and the model card tell of a training."""

from __future__ import annotations

import re
from typing import Any

from moemerge import __version__
from moemerge.train.judge import Judgement
from moemerge.train.options import TrainOptions
from moemerge.train.plot import NAME as PLOT
from moemerge.train.snapshot import Run
from moemerge.write.markdown import plain, table

_HEADING = "## Training"
_TITLE = re.compile(r"^# (.*)$", re.MULTILINE)


def training_account(
    options: TrainOptions, run: Run, start: Judgement, best: Judgement, rise: tuple[float, float, float], kept: str,
    texts: dict[str, dict[str, int]],
) -> dict[str, Any]:  # fmt: skip
    """The record's entry of one training.

    Args:
        options: what was asked.
        run: what happened.
        start: the held-out texts at the start.
        best: and at the best look.
        rise: of the mean loss, with its interval.
        kept: `best` or `start`.
        texts: documents by domain, trained on and held out.
    """
    return {
        "moemerge": __version__,
        "options": options.account(),
        "seed": options.seed,
        "documents": texts,
        "steps": run.step,
        "ended": run.ended,
        "restored": run.restored,
        "kept": kept,
        "changed": ["router", *(options.also if kept == "best" else ())],
        "best_step": run.best_step,
        "held_out": {
            "start": round(start.mean, 6),
            "best": round(best.mean, 6),
            "change": [round(value, 6) for value in rise],
            "domains": {n: [round(start.by_domain[n], 6), round(v, 6)] for n, v in best.by_domain.items()},
        },
        "history": run.history,
    }


def trained_card(card: str, name: str, training: dict[str, Any]) -> str:
    """A model card with a section on the training, in the place of an older one, before the section on running it.

    Args:
        card: that of what was trained.
        name: what the trained one is called; it takes the place of the first heading.
        training: the record's entry.
    """
    card = _TITLE.sub(lambda _: f"# {plain(name)}", card, count=1)
    before, heading, after = card.partition(f"{_HEADING}\n")
    if heading:
        rest = after.partition("\n## ")
        card = before + (f"## {rest[2]}" if rest[1] else "")
    first, run, last = card.partition("## Run\n")
    return f"{first.rstrip()}\n\n{_section(training)}\n" + (f"\n{run}{last}" if run else "")


def _section(training: dict[str, Any]) -> str:
    options, held = training["options"], training["held_out"]
    change, low, high = held["change"]
    method = f"LoRA of rank {options['rank']}" if options["method"] == "lora" else "the whole gates"
    also = options.get("also") or []
    what = f"The routers ({method})" if also else f"The routers alone were trained ({method})"
    if also:
        what += f" and, by LoRA of rank {options['rank']}, {' and '.join(also)} were trained"
    text = (
        f"{_HEADING}\n\n{what}, from the gate `{options['start']}`, for "
        f"{training['steps']} steps; everything else is as it was built, bit for bit. "
    )
    if training["kept"] == "best":
        text += f"Step {training['best_step']} is kept. "
    else:
        text += "Nothing was better than the start beyond doubt, so the start is kept. "
    text += (
        f"Held-out loss, mean over the domains: {held['start']:.4f} at the start, {held['best']:.4f} at best "
        f"({change:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, paired bootstrap over documents).\n\n"
    )
    rows = [(plain(name), f"{one:.4f}", f"{other:.4f}") for name, (one, other) in held["domains"].items()]
    text += table(("domain", "start", "best"), rows)
    return f"{text}\n\n![Losses and load per expert]({PLOT})"
