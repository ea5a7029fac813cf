"""What a training tells while it runs: a live line, a note a look, the record's history, the trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moemerge.console import Progress, duration
from moemerge.train.judge import Judgement
from moemerge.train.options import TrainOptions
from moemerge.train.snapshot import Run
from moemerge.train.step import Losses
from moemerge.train.tracking import Trackers

MOST_LOADS = 16
"""Of more experts the busiest are named, and the idle ones counted."""
TERMS = ("next_token", "balance", "z", "domain", "first")


class TrainingLog:
    """Tells of one training.

    Args:
        names: of the experts.
        options: the weights of the terms.
        progress: the terminal.
        trackers: where to log to, or None.
    """

    def __init__(
        self, names: Sequence[str], options: TrainOptions, progress: Progress, trackers: Trackers | None
    ) -> None:
        self._names, self._options, self._progress, self._trackers = names, options, progress, trackers

    def step(self, run: Run, losses: Losses, found: Judgement, speed: float, rates: Mapping[str, float]) -> None:
        """After a step; `found` is the last look."""
        self._progress.status(
            f"loss {losses.next_token:.4f}, held out {found.mean:.4f}, load {self._load(losses.load)}, "
            f"{speed:,.0f} tokens/s"
        )
        if self._trackers is not None:
            values = {f"loss/{term}": float(getattr(losses, term)) for term in TERMS}
            values |= {"loss/total": losses.total(self._options), "accuracy": losses.accuracy}
            values |= {f"load/{name}": share for name, share in zip(self._names, losses.load, strict=True)}
            values |= {f"rate/{name}": rate for name, rate in rates.items()} | {"tokens_per_second": speed}
            self._trackers.log(values, run.step)

    def look(
        self, run: Run, found: Judgement, start: Judgement, losses: Losses | None, speed: float,
        worse: Mapping[str, float],
    ) -> None:  # fmt: skip
        """After a look, that of the start without losses; it becomes an entry of the history.

        `worse` are the domains that lost so much that the look is not kept for them.
        """
        run.history.append(_entry(run.step, found, losses) | ({"worse": sorted(worse)} if worse else {}))
        if losses is None:
            self._progress.note(f"start: held out {found.mean:.4f}, load {self._load(found.load.tolist())}")
        else:
            self._progress.note(
                f"step {run.step}/{run.steps}: loss {losses.next_token:.4f}, held out {found.mean:.4f} "
                f"(start {start.mean:.4f}), load {self._load(found.load.tolist())}, {speed:,.0f} tokens/s, "
                f"{_left(run)} left"
                + (
                    "; not kept, since " + " and ".join(f"`{n}` lost {rise:.4f}" for n, rise in worse.items())
                    if worse
                    else ""
                )
            )
        if self._trackers is not None:
            values = {"held_out/mean": found.mean, "held_out_accuracy": found.accuracy}
            values |= {f"held_out/{name}": value for name, value in found.by_domain.items()}
            values |= {f"held_out_load/{n}": share for n, share in zip(self._names, found.load.tolist(), strict=True)}
            self._trackers.log(values, run.step)

    def finish(self) -> None:
        """At the end, however it came."""
        if self._trackers is not None:
            self._trackers.finish()

    def _load(self, shares: Sequence[float]) -> str:
        named = [f"{name} {100 * share:.0f}" for name, share in zip(self._names, shares, strict=True)]
        if len(named) <= MOST_LOADS:
            return " ".join(named) + " %"
        busiest = sorted(range(len(shares)), key=lambda expert: -shares[expert])[:3]
        idle = sum(share < 0.1 / len(shares) for share in shares)
        return f"{' '.join(named[expert] for expert in busiest)} % at most, {idle} idle"


def _left(run: Run) -> str:
    """The time that the steps which are left will take with their looks, by those that were."""
    return duration((run.steps - run.step) * run.seconds / max(run.step, 1))


def _entry(step: int, found: Judgement, losses: Losses | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "step": step,
        "held_out": round(found.mean, 6),
        "domains": {name: round(value, 6) for name, value in found.by_domain.items()},
        "load": [round(share, 4) for share in found.load.tolist()],
        "accuracy": round(found.accuracy, 4),
    }
    if losses is not None:
        entry |= {name: round(getattr(losses, name), 6) for name in TERMS}
    return entry
