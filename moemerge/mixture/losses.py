"""Next-token losses of documents, by plain forward passes: what one model gives on one domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from moemerge.console import Progress
from moemerge.dense.generation import device_of
from moemerge.errors import EvalError
from moemerge.mixture.processes import Processes
from moemerge.mixture.windows import LOGITS, Batch, Scorable

ELEMENTS = {"cpu": 1 << 22}
"""Elements of the logits that are held in fp32 at once, by kind of device: on a CPU so few that its cache holds them,
which is twenty times as fast as 500 rows of a vocabulary of 49,152."""
_ELEMENTS = 1 << 26
"""The same elsewhere."""

FEW = 30
"""Documents of a domain below which the intervals of its losses are said to be rough."""

Before = Callable[[Batch], None]
"""Is told each batch before the model sees it."""


def slice_rows(vocabulary: int, device: torch.device) -> int:
    """How many positions' logits to hold in fp32 at once."""
    return max(ELEMENTS.get(device.type, _ELEMENTS) // vocabulary, 1)


@torch.inference_mode()
def document_losses(
    model: Any,
    encoded: Scorable,
    progress: Progress,
    processes: Processes | None = None,
    before: Before | None = None,
) -> Tensor:
    """Sums of the scored tokens' losses.

    Args:
        model: a causal language model of transformers, in eval mode.
        encoded: the documents.
        progress: is told scored tokens.
        processes: those that share the work; all get the same result.
        before: is told each of this process' batches.

    Returns:
        `[documents]`, nats, fp64.

    Raises:
        EvalError: a loss is not finite.
    """
    processes = processes or Processes()
    sums = torch.zeros(len(encoded.texts), dtype=torch.float64)
    device = device_of(model)
    positions = LOGITS // model.config.get_text_config().vocab_size
    for batch in processes.share(encoded.batches(positions)):
        batch = batch.to(device)
        if before is not None:
            before(batch)
        more = {name: value.to(device) for name, value in batch.more().items()}
        logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, **more).logits
        wanted = batch.scored[:, 1:]  # [B, S - 1]: the logits at s predict the token at s + 1
        rows = wanted.nonzero()[:, 0].cpu()
        losses = _losses(logits[:, :-1], batch.ids[:, 1:], wanted)
        sums.index_add_(0, torch.tensor(batch.documents)[rows], losses)
        progress.advance(len(rows))
    sums = processes.total(sums)
    if not torch.isfinite(sums).all():
        worst = int((~torch.isfinite(sums)).nonzero()[0])
        raise EvalError(
            f"the loss of document {worst + 1} is not finite: the model's weights or its dtype cannot be right",
            hint="`moemerge verify` looks for NaN in the weights; `--dtype float32` rules out an overflow",
        )
    return sums


def _losses(logits: Tensor, targets: Tensor, wanted: Tensor) -> Tensor:
    """Losses of the wanted positions in row-major order, `[wanted]`, fp64 on the CPU, from fp32 logits.

    Args:
        logits: `[B, S, V]`. They are read in slices, as gathering rows would copy them once more.
        targets: `[B, S]`.
        wanted: `[B, S]`.
    """
    step = slice_rows(logits.shape[-1], logits.device)
    found = [torch.zeros(0, dtype=torch.float64)]
    for row in range(len(wanted)):
        columns = wanted[row].nonzero()[:, 0]
        if not len(columns):
            continue
        low, high = int(columns[0]), int(columns[-1]) + 1
        losses = torch.cat([
            torch.nn.functional.cross_entropy(
                logits[row, start : min(start + step, high)].float(),
                targets[row, start : min(start + step, high)],
                reduction="none",
            )
            for start in range(low, high, step)
        ])  # fmt: skip
        found.append(losses[wanted[row, low:high]].double().cpu())
    return torch.cat(found)
