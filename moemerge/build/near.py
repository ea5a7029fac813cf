"""How far a near host is from the dense model, measured: the relative error of the logits, all experts being alike.

Both run layer by layer over the gate's texts, so that one layer of each is in memory. The weights are those that are
written, rounded as they are written, and the arithmetic is fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moemerge.console import Progress
from moemerge.dense.alike import EXPERT, AlikeTensors, alike_mixture
from moemerge.dense.layerwise import LayerwiseModels
from moemerge.dense.models import MergedTensors
from moemerge.execute.stream import PICK_ELEMENTS, row_blocks
from moemerge.families import anatomy_of
from moemerge.gate import ExpertTexts, GateTexts
from moemerge.gate.passages import encode, encode_prompt
from moemerge.gate.walk import Batch, Walk
from moemerge.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LIMIT = 1e-3
"""A larger error is refused, unless the recipe says `near: true`."""
TOKENS = 512
"""At most so many tokens are read, from all experts' texts in turn."""
CONTEXT = 256
"""Tokens of one text at most."""


@dataclass(frozen=True)
class NearMiss:
    """What was measured.

    Attributes:
        error: the norm of the logits' difference over that of the dense model's logits.
        tokens: over how many tokens.
    """

    error: float
    tokens: int


def measure_near(
    plan: Plan,
    texts: GateTexts,
    gates: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    device: str,
    progress: Progress,
) -> NearMiss:
    """Compares the mixture, with every expert the first one, with the dense model that has that expert's FFNs.

    Args:
        plan: a plan without problems.
        texts: what the gate is fitted to; where there are none, random tokens are read.
        gates: the routers' weights `[L, E, d]` of the layers that route.
        tokenizer: of the output; None where there are no texts.
        device: where the models run.
        progress: is told layers.
    """
    rows = list(_rows(plan, texts, tokenizer))
    batches = [Batch(ids[None]) for ids in rows]
    every = torch.cat(rows).unique()
    dtype = torch.float32
    dense = LayerwiseModels(plan, device, dtype)
    dense.expect(every)
    tensors = AlikeTensors(plan, torch.as_tensor(gates), dtype)
    models = [dense.merged(EXPERT), alike_mixture(plan, tensors, every, device, dtype)]
    progress.stage("compare with the dense model", plan.dense.layers, "layers")
    walk = Walk(lambda number: models[number], [batches, batches])
    for layer in range(plan.dense.layers):
        walk.advance(layer)
        progress.advance()
    states = [torch.cat([_last(model, own) for own in walk.states(number)]) for number, model in enumerate(models)]
    merged = MergedTensors(plan)
    names = plan.dense.row.names
    heads: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda block: merged.rows(names.embedding if plan.dense.tied else names.head, block),
        lambda block: tensors.rows(names.embedding if _tied(models[1]) else names.head, block),
    )
    difference = size = 0.0
    for block in row_blocks((plan.dense.vocab_size, plan.dense.hidden_size), 64 * PICK_ELEMENTS):
        wanted = torch.arange(block.start, block.stop)
        ours, theirs = (
            anatomy_of(model).bounded(model, own @ head(wanted).to(own).T).double()
            for model, own, head in zip(models, states, heads, strict=True)
        )
        difference += float((ours - theirs).square().sum())
        size += float(ours.square().sum())
    return NearMiss((difference / size) ** 0.5 if size else float("nan"), len(states[0]))


@torch.inference_mode()
def _last(model: Any, states: Tensor) -> Tensor:
    """What the head is given, `[S, d]`."""
    anatomy = anatomy_of(model)
    normed: Tensor = anatomy.norm_of(model)(states)
    return normed.flatten(0, -2)


def _tied(model: Any) -> bool:
    return bool(model.config.tie_word_embeddings)


def _rows(plan: Plan, texts: GateTexts, tokenizer: PreTrainedTokenizerBase | None) -> Iterator[Tensor]:
    """Token ids of texts, one row each, until there are `TOKENS`."""
    context = min(CONTEXT, plan.dense.max_position_embeddings)
    left = TOKENS
    if tokenizer is not None:
        each = [_ids(own, tokenizer, plan.recipe.template) for own in texts.experts]
        each.append(encode(document, tokenizer)[0] for document in texts.pool)
        for ids in chain.from_iterable(zip_longest(*each)):
            if ids is not None and len(ids) and left > 0:
                row = torch.tensor(list(ids[: min(context, left)]))
                left -= len(row)
                yield row
    if left == TOKENS:
        generator = torch.Generator().manual_seed(plan.recipe.seed)
        while left > 0:
            row = torch.randint(plan.dense.vocab_size, (min(context, left),), generator=generator)
            left -= len(row)
            yield row


def _ids(own: ExpertTexts, tokenizer: PreTrainedTokenizerBase, template: str) -> Iterator[Sequence[int]]:
    yield from (encode_prompt(prompt, own, tokenizer, template)[0] for prompt in own.prompts)
    yield from (encode(document, tokenizer)[0] for document in own.documents)
