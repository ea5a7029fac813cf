"""The gates of mergekit-moe 0.1.5, for comparison and for recipes that ask for them: facts of its behaviour, own code.

They read the base model at the residual stream that enters a layer, which is not what the router sees, and the averaged
one counts padding. Kept as they are, since that is what they are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moemerge.console import Progress
from moemerge.errors import GateError
from moemerge.gate.blank import random_rows, uniform_rows
from moemerge.gate.request import GateRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def random_gate(request: GateRequest) -> Tensor:
    """Standard normal rows, `[L, E, d]`."""
    return torch.from_numpy(random_rows(request))


def uniform_gate(request: GateRequest) -> Tensor:
    """Rows uniform in ±1/√d (mergekit's `uniform_random`), `[L, E, d]`."""
    return torch.from_numpy(uniform_rows(request))


def mergekit_gate(
    request: GateRequest, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, progress: Progress
) -> Tensor:
    """`mergekit_hidden`, `hidden_avg` or `cheap_embed` on the base model, `[L, E, d]`, unit rows.

    The vector of the negative prompts is subtracted from that of the prompts, then the row is divided by its norm.

    Raises:
        GateError: an expert has no prompts, or one that gives no token.
    """
    progress.stage("Reading the base model", len(request.experts), "experts")
    rows = []
    for expert in request.experts:
        if not expert.prompts:
            raise GateError(
                f"Gate `{request.init}` reads prompts, and expert `{expert.name}` has none",
                hint="give it `prompts`, or use `discriminant`, which fits from `data` too",
            )
        row = _vector(expert.name, expert.prompts, request, model, tokenizer)
        if expert.negative:
            row = row - _vector(expert.name, expert.negative, request, model, tokenizer)
        rows.append(row / row.norm(dim=-1, keepdim=True).clamp(min=1e-8))
        progress.advance(1)
    return torch.stack(rows, dim=1)


def _vector(
    name: str,
    prompts: Sequence[str],
    request: GateRequest,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> Tensor:
    """The mean over the prompts (for `cheap_embed` the sum over their tokens), `[L, d]`."""
    ids, mask = _left_padded(name, prompts, tokenizer)
    ids, mask = ids.to(model.device), mask.to(model.device)
    with torch.inference_mode():
        if request.init == "cheap_embed":
            embedded = model.get_input_embeddings()(ids).float() * mask[..., None]
            total: Tensor = embedded.sum((0, 1))
            return total.cpu().repeat(request.layers, 1)
        decoder: Any = model.model
        output = decoder(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
        hidden = torch.stack(output.hidden_states[: request.layers]).float()  # [L, B, S, d]
        pooled = hidden.mean(2) if request.init == "hidden_avg" else hidden[:, :, -1]
        return pooled.mean(1).cpu()


def _left_padded(name: str, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """Ids and mask `[B, S]`: the beginning-of-sequence token first, padded with it (or the end's) on the left."""
    pad = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    rows = [
        list(tokenizer((tokenizer.bos_token or "") + prompt, add_special_tokens=False, verbose=False)["input_ids"])
        for prompt in prompts
    ]
    if not all(rows):
        raise GateError(f"Expert `{name}` has an empty prompt, which gives no token", hint="write one, or leave it out")
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad if pad is not None else 0, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.tensor(row)
        mask[number, width - len(row) :] = 1
    return ids, mask
