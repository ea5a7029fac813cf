"""The gates of mergekit-moe 0.1.5, for comparison and for recipes that ask for them: facts of its behaviour, own code.

They read the base model at the residual stream that enters a layer, which is not what the router sees, and the averaged
one counts padding. Kept as they are, since that is what they are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moemerge.console import Progress
from moemerge.errors import GateError
from moemerge.gate.request import DenseModels, GateInit, GateRequest, ReadsTokens
from moemerge.gate.walk import Batch, Walk

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def mergekit_gate(
    request: GateRequest, models: DenseModels, tokenizer: PreTrainedTokenizerBase, progress: Progress
) -> Tensor:
    """`mergekit_hidden`, `hidden_avg` or `cheap_embed` on the base model, `[L, E, d]`, unit rows.

    The vector of the negative prompts is subtracted from that of the prompts, then the row is divided by its norm.

    Raises:
        GateError: an expert has no prompts, or one that gives no token.
    """
    batches: list[Batch] = []
    owners: list[tuple[int, int]] = []  # expert, and the sign of its batch
    for number, expert in enumerate(request.experts):
        if expert.documents and not expert.prompts:
            raise GateError(
                f"Gate `{request.init}` reads prompts, and expert `{expert.name}` has none",
                hint="give it `prompts`, or use `discriminant`, which fits from `data` too",
            )
        for prompts, sign in ((expert.prompts or ("",), 1), (expert.negative, -1)):
            if prompts:
                batches.append(Batch(*left_padded(expert.name, prompts, tokenizer)))
                owners.append((number, sign))
    progress.stage("Reading the base model", len(request.layers), "layers", "fewer prompts")
    if isinstance(models, ReadsTokens):
        models.expect(torch.cat([batch.ids.flatten() for batch in batches]).unique())
    walk = Walk(lambda _: models.base(), [batches])
    found = torch.zeros(len(request.layers), len(request.experts), request.hidden_size)
    reached = 0
    for place, layer in enumerate(request.layers):
        while reached < layer and request.init != "cheap_embed":
            walk.advance(reached)
            reached += 1
        for (number, sign), batch, states in zip(owners, batches, walk.states(0), strict=True):
            found[place, number] += sign * _pooled(request.init, states.float().cpu(), batch)
        progress.advance()
    if not found.isfinite().all():
        raise GateError(
            "The base model's hidden states are not finite on the experts' prompts",
            hint="they overflow: set `gate.dtype: float32`",
            code="not-finite",
        )
    norms: Tensor = found.norm(dim=-1, keepdim=True)
    return found / norms.clamp(min=1e-8)


def _pooled(init: GateInit, states: Tensor, batch: Batch) -> Tensor:
    """The mean over the prompts (for `cheap_embed` the sum over their tokens) of `[B, S, d]`, `[d]`."""
    if init == "cheap_embed":
        assert batch.mask is not None
        total: Tensor = (states * batch.mask[..., None]).sum((0, 1))
        return total
    prompts = states.mean(1) if init == "hidden_avg" else states[:, -1]
    pooled: Tensor = prompts.mean(0)
    return pooled


def left_padded(name: str, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """Ids and mask `[B, S]`: the beginning-of-sequence token first, padded with it (or the end's) on the left.

    Raises:
        GateError: a prompt gives no token.
    """
    pad = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    rows = [
        list(tokenizer((tokenizer.bos_token or "") + prompt, add_special_tokens=False, verbose=False)["input_ids"])
        for prompt in prompts
    ]
    if not all(rows):
        raise GateError(f"Expert `{name}` has an empty prompt, which gives no token", hint="give it others")
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad if pad is not None else 0, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.tensor(row)
        mask[number, width - len(row) :] = 1
    return ids, mask
