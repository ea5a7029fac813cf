"""What each expert saves a token: what the gate `advantage` is fitted to.

Every text runs through every expert, forced in all layers. An expert's advantage on a token is the experts' mean loss
there minus its own, in nats: what the choice saves, which is what a router should maximise. It needs no domain labels
(cost-sensitive one-against-all: Beygelzimer et al., 2005). One token's losses are mostly noise, so they are averaged
over its neighbours in the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moemerge.console import Progress
from moemerge.dense.generation import device_of
from moemerge.errors import GateError
from moemerge.families import anatomy_of
from moemerge.gate.passages import Passage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from moemerge.gate.capture import Domain
    from moemerge.gate.request import DenseModels

WINDOW = 81
"""Neighbouring tokens, the token among them, whose losses are averaged."""

SAVED = 0.75
"""Share of the targets that is what the experts save; measured in docs/decisions/gate-advantage-targets.md."""

TINY = torch.finfo(torch.float64).tiny

BATCH_TOKENS = 2048
"""Positions that run at once, padding too."""

ROWS = 64
"""Positions whose logits are held in fp32 at once: so few that a CPU's cache holds them."""


def with_advantages(domains: Sequence[Domain], models: DenseModels, progress: Progress) -> list[Domain]:
    """The domains, each passage with the experts' advantages on its counted tokens.

    On a token of an expert's negative prompts that expert's advantage is minus the size of the largest one there.

    Args:
        domains: one an expert, in the experts' order.
        models: their `whole_merged` is called once an expert, as each holds a model.
        progress: is told passages.

    Raises:
        GateError: a loss is not finite.
    """
    every = [passage for d in domains for passage in (*d.passages, *d.negative)]
    progress.stage(
        "Reading what each expert saves",
        len(every) * len(domains),
        "texts",
        "fewer texts, or `--set gate.max_tokens=N` of `data`",
    )
    losses = [list(_losses(models.whole_merged(number), every, progress)) for number in range(len(domains))]
    found = iter(zip(every, zip(*losses, strict=True), strict=True))
    given = []
    for number, domain in enumerate(domains):
        own = [_with_advantages(*next(found)) for _ in domain.passages]
        unwanted = [_not_won(_with_advantages(*next(found)), number) for _ in domain.negative]
        given.append(replace(domain, passages=own, negative=unwanted))
    for domain in given:
        saved = [p.advantages for p in (*domain.passages, *domain.negative) if p.advantages is not None]
        if not all(bool(own.isfinite().all()) for own in saved):
            raise GateError(
                f"The experts' losses on the texts of `{domain.name}` are not finite",
                hint="they overflow: build in `dtype: float32`, or set `gate.dtype: float32`",
                code="not-finite",
            )
    return given


def averaged(losses: Tensor, scored: Tensor) -> Tensor:
    """Means over the scored tokens among each token's `WINDOW` neighbours, zero where there are none.

    Args:
        losses: `[S, E]`, in the text's order.
        scored: which tokens have a loss, `[S]`.
    """
    count = len(losses)
    places = torch.arange(count)
    first, end = (places - WINDOW // 2).clamp(min=0), (places + WINDOW // 2 + 1).clamp(max=count)
    sums, counts = (
        torch.cat([one.new_zeros(1, *one.shape[1:]), one.cumsum(0)])
        for one in (torch.where(scored[:, None], losses, 0.0), scored.double())
    )
    return (sums[end] - sums[first]) / (counts[end] - counts[first]).clamp(min=1)[:, None]


def targets(advantages: Tensor, weights: Tensor) -> Tensor:
    """What the rows are fitted to, `[n, E]`: what each expert saves, for a share of `SAVED`, and which one saves the
    most, for the rest; both have a spread of 1.

    Savings alone neglect the domains in which little is to be saved.

    Args:
        advantages: in nats, `[n, E]`; but for negative prompts, each token's sum to zero.
        weights: of the tokens, `[n]`.
    """
    count, experts = advantages.shape
    best = torch.zeros(count, experts, dtype=advantages.dtype).scatter_(1, advantages.argmax(1, keepdim=True), 1.0)
    spread = (weights @ advantages.square().mean(1) / weights.sum()).sqrt()
    of_best = math.sqrt(max(experts - 1, 1)) / experts  # of a 1 and zeros about their mean
    return (1 - SAVED) / of_best * (best - 1 / experts) + SAVED / spread.clamp(min=TINY) * advantages


def _with_advantages(passage: Passage, losses: tuple[Tensor, ...]) -> Passage:
    """A passage with its advantages, from each expert's losses `[S - 1]` on its tokens but the first."""
    counted = torch.tensor(passage.counted)
    scored = torch.cat([counted[1:], counted.new_zeros(1)])  # the loss at a position is that of the next token
    own = torch.stack(losses, dim=1)  # [S - 1, E]
    means = averaged(torch.cat([own, own.new_zeros(1, own.shape[1])]), scored)
    return replace(passage, advantages=(means.mean(1, keepdim=True) - means)[counted])


def _not_won(passage: Passage, expert: int) -> Passage:
    """A passage of negative prompts, on which the expert's advantage is minus the size of the largest."""
    assert passage.advantages is not None
    advantages = passage.advantages.clone()
    advantages[:, expert] = -advantages.abs().amax(1)
    return replace(passage, advantages=advantages)


@torch.inference_mode()
def _losses(model: PreTrainedModel, passages: Sequence[Passage], progress: Progress) -> Iterator[Tensor]:
    """Next-token losses `[S - 1]` of each passage in nats, fp64 on the CPU, in the passages' order."""
    anatomy, device = anatomy_of(model), device_of(model)
    found: dict[int, Tensor] = {}
    for batch in _batches(passages):
        ids = torch.zeros(len(batch), len(passages[batch[-1]].ids), dtype=torch.long)
        for row, number in enumerate(batch):
            ids[row, : len(passages[number].ids)] = torch.tensor(passages[number].ids)
        ids = ids.to(device)  # padded on the right: under causal attention no token sees it
        states = anatomy.decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        for row, number in enumerate(batch):
            wanted = ids[row, 1 : len(passages[number].ids)]
            parts = [
                torch.nn.functional.cross_entropy(anatomy.logits_of(model, some).float(), next_, reduction="none")
                for some, next_ in zip(states[row, : len(wanted)].split(ROWS), wanted.split(ROWS), strict=True)
            ]
            found[number] = torch.cat([torch.zeros(0), *(part.cpu() for part in parts)]).double()
        progress.advance(len(batch))
    yield from (found[number] for number in range(len(passages)))


def _batches(passages: Sequence[Passage]) -> Iterator[list[int]]:
    """Numbers of passages that run together, shortest first."""
    batch: list[int] = []
    for number in sorted(range(len(passages)), key=lambda n: len(passages[n].ids)):
        if batch and (len(batch) + 1) * len(passages[number].ids) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
