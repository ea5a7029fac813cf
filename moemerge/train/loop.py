"""The training loop: steps, looks at the held-out texts, what is kept, what is put back, what is saved."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from moemerge.console import Progress
from moemerge.errors import EvalError
from moemerge.mixture.processes import Processes
from moemerge.train.judge import Judge, Judgement
from moemerge.train.log import TrainingLog
from moemerge.train.options import TrainOptions
from moemerge.train.routing import TrainedRouting
from moemerge.train.rows import Sampler
from moemerge.train.schedule import fading, rate_at, steps_in
from moemerge.train.snapshot import Found, Run, pack, pack_optimizer, unpack, unpack_optimizer
from moemerge.train.state import State, save_state
from moemerge.train.step import Losses, step_gradients
from moemerge.train.trained import Trained

DIVERGED = 0.5
"""Nats a token above the best at which the held-out loss has diverged."""
MOST_RESTORED = 4
"""Training ends when the best state was put back so often."""
LOOKS_SHORTER = "`--held-out-tokens N` reads fewer"
"""What makes each look shorter."""
TIMED = 3
"""Steps after which their speed is known."""


class Loop:
    """One training.

    Args:
        model: the mixture, frozen.
        trained: the gates, and what is trained beside them, at the start.
        routing: what replaces the routers.
        sampler: the rows, none taken yet.
        judge: looks at the held-out texts.
        options: the options.
        names: of the experts, for what is said.
        log: what is said, recorded and logged.
        asked: what a resumed training must have been asked for too.
        state: where to save.
        progress: how to report.
        processes: those that share the work.
    """

    def __init__(
        self,
        model: Any,
        trained: Trained,
        routing: TrainedRouting,
        sampler: Sampler,
        judge: Judge,
        options: TrainOptions,
        names: tuple[str, ...],
        log: TrainingLog,
        asked: Mapping[str, Any],
        state: Path,
        progress: Progress,
        processes: Processes,
    ) -> None:
        self._model, self._trained, self._routing, self._sampler = model, trained, routing, sampler
        self._judge, self._options, self._names, self._log = judge, options, names, log
        self._asked, self._path, self._progress, self._processes = asked, state, progress, processes
        self._optimizer = self._trained.optimizer()
        self.run = Run(0, options.steps)
        self._began = 0.0
        self.start: Judgement
        self.best: Judgement
        self.start_state: dict[str, Tensor]
        self.best_state: dict[str, Tensor]

    def begin(self) -> None:
        """Looks at the start, which training has to beat."""
        self._progress.stage("look at the start", self._judge.tokens, "held-out tokens", LOOKS_SHORTER)
        self.start = self.best = self._seen = self._trained.look(self._judge, self._progress)
        self.best_state = self.start_state = self._trained.state()
        self._routing.start_from(self._trained.gates.weights)
        self._log.look(self.run, self.start, self.start, None, 0.0, {})
        if self.run.steps == 0:
            self.run.ended = "no steps were asked for"
        self._save()

    def go(self) -> None:
        """Trains to the end."""
        run, options = self.run, self._options
        if options.minutes is None:
            self._progress.stage("train", run.steps, "steps", "`--minutes N` or `--steps N` ends it earlier")
        else:
            self._progress.stage("train", run.steps, "steps at most")
        self._progress.advance(run.step)
        losses: Losses | None = None
        tokens, since = 0, time.monotonic()
        self._began = since - run.seconds
        while run.ended is None:
            losses = self._step()
            tokens += losses.tokens if losses is not None else 0
            run.step += 1
            self._progress.advance()
            if losses is not None:
                rates = dict(zip(("router", "also"), (g["lr"] for g in self._optimizer.param_groups), strict=False))
                speed = tokens / max(time.monotonic() - since, 1e-9)
                run.seconds = time.monotonic() - self._began
                self._log.step(run, losses, self._seen, speed, rates)
            last = run.step >= run.steps
            if losses is None or last or run.step % options.judge_every == 0:
                self._look(losses, tokens / max(time.monotonic() - since, 1e-9), last=last)
                tokens, since = 0, time.monotonic()
            run.seconds = time.monotonic() - self._began
            self._fit_into_time()

    def _fit_into_time(self) -> None:
        """Shortens the schedule once the speed is known; ends it where the time is over all the same."""
        run, minutes = self.run, self._options.minutes
        if minutes is None or run.ended is not None:
            return
        seconds = self._processes.from_first(lambda: run.seconds)
        if run.step == TIMED or run.step == self._options.judge_every + TIMED:
            run.steps = max(steps_in(60 * minutes, seconds / run.step, self._options.steps), run.step + 1)
        elif seconds > 60 * minutes:
            run.steps = run.step + 1

    def _step(self) -> Losses | None:
        """One optimiser step; None where its loss or gradient is not finite, and nothing was changed then."""
        run = self.run
        options = replace(self._options, domain_weight=self._options.label_weight * fading(run.step, run.steps))
        batches = [self._sampler.take(options.rows) for _ in range(options.accumulation)]
        self._trained.clear()
        gradients, losses = step_gradients(
            self._model, self._trained.gates, self._routing, batches, options, self._processes
        )
        finite = self._trained.take(gradients, self._processes)
        if not (finite and math.isfinite(losses.total(options))):
            return None
        for group in self._optimizer.param_groups:
            group["lr"] = group["highest"] * run.factor * rate_at(run.step, run.steps, options.warm_up)
        self._optimizer.step()
        self._trained.gates.refresh()
        return losses

    def _look(self, losses: Losses | None, speed: float, *, last: bool) -> None:
        run, options = self.run, self._options
        try:
            found = self._trained.look(self._judge) if losses is not None else None
        except EvalError:  # a loss that is not finite
            found = None
        trouble = self._trouble(found)
        worse = self._too_much_worse(found) if found is not None else {}
        if found is not None:
            self._seen = found
            run.seconds = time.monotonic() - self._began
            self._log.look(run, found, self.start, losses, speed, worse)
        if trouble is not None:
            self._restore(trouble)
        elif found is not None and found.mean < self.best.mean and not worse:
            self.best, self.best_state = found, self._trained.state()
            run.best_step, run.waited = run.step, 0
        else:
            run.waited += 1
        if run.restored >= MOST_RESTORED:
            run.ended = f"the best state was put back {run.restored} times"
        elif last:
            minutes = options.minutes if run.steps < options.steps else None
            run.ended = "all steps done" if minutes is None else f"the {minutes:g} minutes are over"
        elif run.waited >= options.patience:
            run.ended = f"no better look in {run.waited}"
        self._save()

    def _too_much_worse(self, found: Judgement) -> dict[str, float]:
        """The domains that lost more since the start, beyond doubt, than the mean gained, and how much."""
        gained = self.start.mean - found.mean
        risen = found.worse_than(self.start, self._options.seed)
        return {name: rise for name, rise in risen.items() if rise > gained}

    def _trouble(self, found: Judgement | None) -> str | None:
        if found is None:
            return "a loss or gradient is not finite"
        if found.mean > self.best.mean + DIVERGED:
            return f"the held-out loss rose to {found.mean:.4f}"
        collapsed = sorted(found.idle - self.start.idle)
        if collapsed:
            return f"the load of {', '.join(f'`{self._names[number]}`' for number in collapsed)} collapsed"
        return None

    def _restore(self, why: str) -> None:
        run = self.run
        run.restored += 1
        run.factor /= 2
        self._trained.load(self.best_state)
        self._optimizer = self._trained.optimizer()
        self._progress.note(
            f"step {run.step}: {why}; back to the state of step {run.best_step}, learning rate halved to "
            f"{self._options.learning_rate * run.factor:.2g}"
        )

    def _save(self) -> None:
        if not self._processes.first:
            return
        values = {
            "asked": dict(self._asked),
            "factors": list(self._routing.factors),
            "rows": self.run.step * self._options.accumulation * self._options.rows,
        }
        start, best = Found(self.start, self.start_state), Found(self.best, self.best_state)
        state = pack(self.run, self._trained.state(), start, best, values)
        state.tensors.update(pack_optimizer(self._optimizer, self._trained.parameters))
        save_state(self._path, state)

    def resume(self, state: State) -> None:
        """Takes up a saved state. Nothing else is random: rows are drawn again up to where they were."""
        self.run, gates, start, best = unpack(state)
        self.start, self.start_state = start.judgement, start.gates
        self.best, self.best_state = best.judgement, best.gates
        self._seen = self.best
        self._trained.load(self.start_state)
        self._routing.start_from(self._trained.gates.weights)
        self._trained.load(gates)
        self._optimizer = self._trained.optimizer()
        unpack_optimizer(state, self._optimizer, self._trained.parameters)
        self._sampler.skip(state.values["rows"])
