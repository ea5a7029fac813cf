"""What the domains' own dense specialists say to the training rows: their largest logits, computed some steps ahead.

A specialist must be put together before it can be asked, and a whole distribution over the vocabulary is large. So one
specialist at a time reads the rows of many steps, and of each token `KEPT` log-probabilities stay, and one for all the
other tokens together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moemerge.dense.generation import device_of
from moemerge.errors import TrainError
from moemerge.families import anatomy_of
from moemerge.mixture.baselines import Baselines
from moemerge.mixture.processes import Processes
from moemerge.train.rows import Rows

KEPT = 32
"""Tokens of the vocabulary whose log-probabilities are kept."""
CHUNK = 512
"""Positions whose logits are in memory at once."""


@dataclass(frozen=True)
class Taught:
    """What the specialists say to one batch, for its scored tokens in row-major order.

    Attributes:
        tokens: ids of the specialist's most likely tokens, `[T, KEPT]`.
        logs: their log-probabilities at the temperature, and that of all others together, `[T, KEPT + 1]`, fp32.
    """

    tokens: Tensor
    logs: Tensor

    def part(self, which: slice, device: torch.device) -> Taught:
        """Some of the tokens."""
        return Taught(self.tokens[which].to(device), self.logs[which].to(device))


def largest(logits: Tensor, temperature: float) -> Taught:
    """The kept part of a distribution, from logits `[T, V]`."""
    logs = (logits.float() / temperature).log_softmax(dim=-1)
    kept, tokens = logs.topk(min(KEPT, logits.shape[1] - 1), dim=-1)
    return Taught(tokens, torch.cat([kept, _others(kept)], dim=1))


def _others(logs: Tensor) -> Tensor:
    """The log-probability of everything else, `[T, K] -> [T, 1]`."""
    rest = 1 - logs.exp().sum(dim=1, keepdim=True)
    return rest.clamp(min=1e-8).log()


def divergence(logits: Tensor, taught: Taught, temperature: float) -> Tensor:
    """Sum over the tokens of KL(specialist ‖ mixture) in nats, times the squared temperature (arXiv 1503.02531).

    It is that of the distributions over the kept tokens and "any other", so at most the whole one.
    """
    logs = (logits / temperature).log_softmax(dim=-1)
    kept = logs.gather(1, taught.tokens)
    ours = torch.cat([kept, _others(kept)], dim=1)
    return temperature**2 * (taught.logs.exp() * (taught.logs - ours)).sum()


class Teacher:
    """The specialists of a mixture's experts.

    Args:
        baselines: where they come from.
        experts: their names.
        temperature: of what they say.
        processes: those that share the batches as training does.

    Raises:
        TrainError: one of them is not at hand.
    """

    def __init__(self, baselines: Baselines, experts: Sequence[str], temperature: float, processes: Processes) -> None:
        missing = [name for name in experts if not baselines.has_specialist(name)]
        if missing:
            listed = "\n  ".join(f"{name}: {baselines.missing[f'specialist of `{name}`']}" for name in missing)
            raise TrainError(
                f"`--distil-weight` needs every expert's own model:\n  {listed}",
                hint="pass `--online` where they are on the hub, or leave `--distil-weight` out",
            )
        self._baselines, self._experts = baselines, experts
        self._temperature, self._processes = temperature, processes

    @torch.no_grad()
    def teach(self, steps: Sequence[Sequence[Rows]]) -> list[list[Taught | None]]:
        """What they say to each batch of each step; None for another process' batch.

        A token's teacher is its own domain's, which has read the row's document up to there.
        """
        mine = [(step, number) for step, rows in enumerate(steps) for number in self._processes.share(range(len(rows)))]
        parts: dict[tuple[int, int], list[tuple[Tensor, Taught]]] = {place: [] for place in mine}
        for expert, name in enumerate(self._experts):
            model: Any = None
            for step, number in mine:
                rows = steps[step][number]
                labels = rows.labels[:, 1:][rows.scored[:, 1:]]
                own = (labels == expert).nonzero()[:, 0]
                if len(own):
                    model = self._baselines.specialist(name) if model is None else model
                    parts[step, number].append((own, self._ask(model, rows, own)))
        return [
            [_joined(parts[step, number]) if (step, number) in parts else None for number in range(len(rows))]
            for step, rows in enumerate(steps)
        ]

    def _ask(self, model: Any, rows: Rows, own: Tensor) -> Taught:
        rows = rows.to(device_of(model))
        anatomy = anatomy_of(model)
        decoder = anatomy.decoder_of(model)
        hidden = decoder(input_ids=rows.ids, position_ids=rows.positions, use_cache=False).last_hidden_state
        states = hidden[:, :-1][rows.scored[:, 1:]][own.to(hidden.device)]
        found = [largest(anatomy.logits_of(model, part), self._temperature) for part in states.split(CHUNK)]
        return Taught(torch.cat([one.tokens for one in found]).cpu(), torch.cat([one.logs for one in found]).cpu())


def _joined(parts: Sequence[tuple[Tensor, Taught]]) -> Taught:
    places = torch.cat([own for own, _ in parts]).argsort()
    tokens = torch.cat([taught.tokens for _, taught in parts])[places]
    return Taught(tokens.clone(), torch.cat([taught.logs for _, taught in parts])[places].clone())
