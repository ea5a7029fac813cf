"""`merge: {shared: auto}`: picks how the shared weights are merged by the loss of the oracle-routed model.

The oracle-routed model of a domain is the merged shared weights with that domain's own expert in every layer: the
most that a gate which picks one expert can keep. Another method than the mean is taken only where a paired bootstrap
over documents says that it is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moemerge.console import Progress
from moemerge.dense.models import PlannedModels, load_tokenizer
from moemerge.errors import GateError
from moemerge.gate import ExpertTexts
from moemerge.plan import Plan
from moemerge.plan.mapping import with_merge
from moemerge.recipe.schema import Merge
from moemerge.texts import Document, tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

APART = 3
"""Every third document is set apart for choosing; the gate is fitted on the others."""
TOKENS = 4096
"""Tokens of a domain that are read for each candidate, and the least that a choice is made from."""
CONTEXT = 1024
"""Longest window, in tokens, that a document is read in."""
_RESAMPLES = 2000


def set_apart(texts: Sequence[ExpertTexts]) -> tuple[tuple[ExpertTexts, ...], tuple[tuple[Document, ...], ...]]:
    """Splits each expert's documents into those for the gate and those for choosing the merge."""
    kept = tuple(
        replace(t, documents=tuple(d for i, d in enumerate(t.documents) if i % APART != APART - 1)) for t in texts
    )
    return kept, tuple(t.documents[APART - 1 :: APART] for t in texts)


def candidates(merge: Merge, experts: int) -> Iterator[tuple[str, Merge]]:
    """Every merge that is tried, with a name; the mean, which must be beaten, comes first."""
    yield "mean", merge.model_copy(update={"shared": "mean"})
    yield "base", merge.model_copy(update={"shared": "base"})
    for scaling in (0.25, 0.33, 0.5, 0.75, 1.0):
        yield f"task_arithmetic {scaling}", merge.model_copy(update={"shared": "task_arithmetic", "scaling": scaling})
    yield "ties", merge.model_copy(update={"shared": "ties", "scaling": 1.0})
    yield "dare_ties", merge.model_copy(update={"shared": "dare_ties", "scaling": 1.0, "density": 0.8})
    if experts == 2:
        yield "slerp", merge.model_copy(update={"shared": "slerp"})


def choose_shared_merge(
    plan: Plan, texts: Sequence[ExpertTexts], *, device: str, dtype: torch.dtype | None = None, progress: Progress
) -> tuple[Plan, tuple[ExpertTexts, ...]]:
    """Decides `auto`.

    Args:
        plan: a plan whose recipe says `shared: auto`.
        texts: each expert's prompts and documents, of which a third is set apart for choosing.
        device: where the models run.
        dtype: that they run in; the plan's when None.
        progress: is told candidates.

    Returns:
        The plan with the chosen merge written into its recipe, and the texts that the gate may be fitted on: all of
        them where they were too few to choose from.
    """
    kept, held = set_apart(texts)
    tokenizer, dense = load_tokenizer(plan), plan.dense
    documents = [_documents(t, tokenizer, min(CONTEXT, dense.max_position_embeddings)) for t in held]
    short = [
        expert.name
        for expert, own in zip(plan.experts, documents, strict=True)
        if sum(len(ids) for windows in own for ids, _ in windows) < TOKENS or len(own) < 2
    ]
    tried = list(candidates(plan.recipe.merge, len({expert.model for expert in plan.experts})))
    if short:
        names = ", ".join(f"`{name}`" for name in short)
        progress.note(
            f"`merge.shared: auto` needs about {TOKENS * APART} tokens of `data` an expert; {names}: too few, so `mean`"
        )
        return with_merge(plan, tried[0][1]), tuple(texts)
    progress.stage("choose the shared merge", len(tried), "candidates", "`--set merge.shared=mean` tries none")
    losses = []
    for _, merge in tried:
        losses.append(_losses(PlannedModels(with_merge(plan, merge), device, dtype), documents, device))
        progress.advance()
    if not all(bool(loss.isfinite().all()) for loss in losses[0]):
        raise GateError(
            "The loss of the merged model is not finite", hint="it overflows: set `gate.dtype: float32`",
            code="not-finite",
        )  # fmt: skip
    index = _best(losses)
    for (name, _), loss in zip(tried, losses, strict=True):
        progress.note(f"  {name:<22}{float(_mean(loss)):.4f} nats, oracle-routed")
    progress.note(f"shared weights: {tried[index][0]}")
    return with_merge(plan, tried[index][1]), kept


Window = tuple[Tensor, Tensor]
"""Token ids `[n]`, and which of them losses are taken of."""


def _documents(texts: Sequence[Document], tokenizer: PreTrainedTokenizerBase, context: int) -> list[list[Window]]:
    """Each document as windows of two to `context` tokens, until there are `TOKENS`.

    The first windows of all documents come before the second ones, so that as many documents as there are speak.
    """
    read: list[list[Window]] = []
    first = 0
    for text in texts:
        tokens = tokenise(text, tokenizer)
        ids, scored = torch.tensor(tokens.ids, dtype=torch.long), torch.tensor(tokens.scored, dtype=torch.bool)
        pairs = zip(ids.split(context), scored.split(context), strict=True)
        windows = [window for window in pairs if bool(window[1][1:].any())]
        if windows:
            read.append(windows)
            first += len(windows[0][0])
        if first >= TOKENS:
            break
    documents: list[list[Window]] = [[] for _ in read]
    left = TOKENS
    for round_ in zip_longest(*read):
        for own, window in zip(documents, round_, strict=True):
            if window is not None and left > 0:
                own.append(window)
                left -= len(window[0])
    return [own for own in documents if own]


def _losses(models: PlannedModels, documents: Sequence[Sequence[Sequence[Window]]], device: str) -> list[Tensor]:
    """For each expert the (loss sum, token count) of its documents, `[documents, 2]`, in nats."""
    return [
        torch.stack(
            [torch.stack([_loss(models.merged(expert), *window, device) for window in own]).sum(0) for own in texts]
        )
        for expert, texts in enumerate(documents)
    ]


@torch.inference_mode()
def _loss(model: PreTrainedModel, ids: Tensor, scored: Tensor, device: str) -> Tensor:
    ids, wanted = ids.to(device), scored[1:].to(device)
    logits = model(ids[None], use_cache=False).logits[0, :-1][wanted].float()
    loss = torch.nn.functional.cross_entropy(logits, ids[1:][wanted], reduction="sum")
    return torch.tensor([float(loss), int(wanted.sum())], dtype=torch.float64)


def _mean(losses: Sequence[Tensor]) -> Tensor:
    """Mean over the domains of the mean loss per token."""
    return torch.stack([loss[:, 0].sum() / loss[:, 1].sum() for loss in losses]).mean()


def _best(losses: Sequence[Sequence[Tensor]]) -> int:
    """The candidate with the least loss, or 0 where the paired bootstrap does not exclude that it is no better."""
    best = min(range(len(losses)), key=lambda i: float(_mean(losses[i])))
    if best == 0:
        return 0
    generator = torch.Generator().manual_seed(0)
    differences = torch.zeros(_RESAMPLES, dtype=torch.float64)
    for default, better in zip(losses[0], losses[best], strict=True):
        picked = torch.randint(len(default), (_RESAMPLES, len(default)), generator=generator)
        gap = (better[:, 0] - default[:, 0])[picked].sum(1) / default[:, 1][picked].sum(1)
        differences += gap / len(losses[0])
    return best if float(differences.quantile(0.975)) < 0 else 0
