"""A training's progress, and how it becomes the tensors and plain data of a saved state and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from moemerge.train.judge import Judgement
from moemerge.train.state import State


@dataclass
class Run:
    """Where a training is.

    Attributes:
        step: steps done.
        steps: steps to do.
        waited: looks without a better one.
        restored: how often the best state was put back.
        factor: on the learning rate.
        best_step: the step of the best look.
        seconds: time spent on steps and looks.
        ended: why it ended, None while it goes on.
        history: one entry a look.
    """

    step: int
    steps: int
    waited: int = 0
    restored: int = 0
    factor: float = 1.0
    best_step: int = 0
    seconds: float = 0.0
    ended: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """A look at some gates, and these.

    Attributes:
        judgement: the look.
        gates: the gates' state.
    """

    judgement: Judgement
    gates: dict[str, Tensor]


def pack(run: Run, gates: dict[str, Tensor], start: Found, best: Found, values: dict[str, Any]) -> State:
    """A state of progress, gates as they are, start and best, and more plain data."""
    tensors = {f"gates.{name}": value for name, value in gates.items()}
    values = {**values, "run": vars(run)}
    for which, found in (("start", start), ("best", best)):
        judged = found.judgement
        tensors |= {f"{which}-gates.{name}": value for name, value in found.gates.items()}
        tensors |= {f"{which}-losses.{name}": sums for name, sums in judged.losses.items()}
        tensors |= {f"{which}-tokens.{name}": counts for name, counts in judged.tokens.items()}
        tensors[f"{which}-load"] = judged.load
        values[f"{which}-accuracy"] = judged.accuracy
    return State(tensors, values)


def unpack(state: State) -> tuple[Run, dict[str, Tensor], Found, Found]:
    """Progress, gates, start and best of a state."""

    def found(which: str) -> Found:
        losses, tokens = under(state, f"{which}-losses."), under(state, f"{which}-tokens.")
        judged = Judgement(losses, tokens, state.tensors[f"{which}-load"], state.values[f"{which}-accuracy"])
        return Found(judged, under(state, f"{which}-gates."))

    return Run(**state.values["run"]), under(state, "gates."), found("start"), found("best")


def under(state: State, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): t for name, t in state.tensors.items() if name.startswith(prefix)}


def pack_optimizer(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """The optimiser's tensors, for a state's."""
    return {
        f"optimizer.{number}.{name}": value
        for number, parameter in enumerate(parameters)
        for name, value in optimizer.state.get(parameter, {}).items()
    }


def unpack_optimizer(state: State, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    """Puts them into a fresh optimiser, where the parameters are; the count of steps stays on the CPU."""
    for number, parameter in enumerate(parameters):
        saved = under(state, f"optimizer.{number}.")
        if saved:
            moved = {name: v if name == "step" else v.to(parameter.device) for name, v in saved.items()}
            optimizer.state[parameter] = moved
