"""Lets a model continue token ids: end tokens, batches padded on the left, and no settings but those given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moemerge.errors import MoemergeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the tokens that end a text, by the model's generation config and the tokenizer."""
    found: list[int] = []
    config: Any = model.generation_config
    for ends in (config.eos_token_id if config is not None else None, tokenizer.eos_token_id):
        found += [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return list(dict.fromkeys(found))


def context_of(model: PreTrainedModel) -> int | None:
    """Positions that a model has, or None where its config names no bound."""
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found and found > 0 else None


def device_of(model: PreTrainedModel) -> torch.device:
    """Where a model's inputs belong: where its first weights are that are in memory."""
    devices = (parameter.device for parameter in model.parameters())
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def refuse_unknown_ids(model: PreTrainedModel) -> None:
    """Has a model say which token it has no row for; torch says that an index is out of range.

    What it is called with may then raise a `MoemergeError`.
    """
    embedding: Any = model.get_input_embeddings()

    def look(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        highest = int(inputs[0].max()) if inputs and inputs[0].numel() else 0
        if highest >= embedding.num_embeddings:
            raise MoemergeError(
                f"A text holds a token with the id {highest}, and the model's embedding has {embedding.num_embeddings} "
                "rows",
                hint="take the token out of the texts or the chat template, or resize the embedding to the tokenizer",
                code="unknown-token",
            )

    embedding.register_forward_pre_hook(look)


def continuations(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    ends: Sequence[int],
    *,
    what: str = "a prompt",
    criterion: StoppingCriteria | None = None,
    told: Callable[[], None] = lambda: None,
    **settings: Any,
) -> list[list[int]]:
    """One continuation a prompt, as one batch; each ends with its end token where it came to one.

    Args:
        model: its own generation settings play no part.
        prompts: token ids; padded on the left.
        ends: ids of the tokens that end a text.
        what: what messages call a prompt.
        criterion: ends rows earlier.
        told: is called after each token of the batch.
        settings: of transformers' `GenerationConfig`, such as `max_new_tokens` and `do_sample`.

    Raises:
        MoemergeError: a prompt has no token, or a logit is NaN.
    """
    if not all(prompts):
        raise MoemergeError(
            f"The tokenizer makes no token of {what}", hint="a model continues at least one: check it and the tokenizer"
        )
    width = max(len(prompt) for prompt in prompts)
    pad = ends[0] if ends else 0
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    generate: Any = model.generate
    device = device_of(model)

    def none_ends(input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # as transformers calls a stopping criterion
        told()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    criteria = [none_ends] if criterion is None else [none_ends, criterion]
    with _generating(model, eos_token_id=list(ends) or None, pad_token_id=pad, **settings), torch.inference_mode():
        output = generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            stopping_criteria=criteria,
            logits_processor=[_numbers],
        )
    return [_cut(row, ends) for row in output[:, width:].tolist()]


def _numbers(input_ids: Tensor, scores: Tensor) -> Tensor:
    """Lets logits pass that are numbers; as transformers calls a logits processor. What it would make of others depends
    on how it chooses: an error deep within, or any token."""
    if scores.isnan().any():
        raise MoemergeError(
            "A model writes NaN in place of a token",
            hint="its weights hold NaN or Inf, or its states overflow: float32 has more room than float16",
            code="not-finite",
        )  # fmt: skip
    return scores


def _cut(row: list[int], ends: Sequence[int]) -> list[int]:
    """A row up to its first end token, which stays."""
    return next((row[: place + 1] for place, token in enumerate(row) if token in ends), row)


@contextmanager
def _generating(model: Any, **settings: Any) -> Iterator[None]:
    """Gives the model a generation config of its own for the while: `settings`, and nothing inherited."""
    from transformers import GenerationConfig

    make: Any = GenerationConfig  # its constructor has no types
    before = model.generation_config
    model.generation_config = make(use_cache=True, **settings)
    try:
        yield
    finally:
        model.generation_config = before
