"""What a specialist wrote in an earlier build, kept by all that decides it, so that it need not write again.

Writing takes minutes, and most of what one tries next plays no part in it: the number of experts per token, how the
shared weights are merged, the gate's method, another expert. The key is made from the model in memory and from what it
computes with, never from a path: under the same key a specialist would write the same tokens again.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash

from moemerge.device import isa_limit, processor
from moemerge.gate.passages import Passage
from moemerge.kept import Kept

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KIND = "written-1"
"""A newer number where another version samples otherwise: what older ones wrote is then not found."""


class Written:
    """What one specialist wrote.

    Args:
        folder: where it is kept; None keeps nothing and finds nothing.
        model: the specialist.
        asked: everything else that decides what it writes, as values of JSON: prompts, lengths, seed.
    """

    def __init__(self, folder: Path | None, model: PreTrainedModel, asked: dict[str, Any]) -> None:
        self._kept = Kept(folder, KIND)
        self._key = () if folder is None else (_digest(model), json.dumps(asked), *_machine(model.device))
        embedding: Any = model.get_input_embeddings()
        self._tokens = range(embedding.num_embeddings)

    def get(self) -> list[Passage] | None:
        """The passages; None where there are none, or what is there is damaged."""
        found = self._kept.get(*self._key)
        try:
            passages = [Passage(tuple(ids), tuple(map(bool, counted)), group) for ids, counted, group in found]
            whole = all(
                len(p.ids) == len(p.counted)
                and isinstance(p.group, int)
                and all(isinstance(token, int) and token in self._tokens for token in p.ids)
                for p in passages
            )
        except (TypeError, ValueError):
            return None
        return passages if whole else None

    def put(self, passages: list[Passage]) -> None:
        """Keeps the passages, where they can be kept."""
        self._kept.put([[p.ids, list(map(int, p.counted)), p.group] for p in passages], *self._key)


def _digest(model: PreTrainedModel) -> str:
    """xxh3-128 (hex) of a model's config and of every number that it computes with."""
    config: Any = model.config
    told = {**config.to_dict(), "_name_or_path": None, "attention": config._attn_implementation}
    state = xxhash.xxh3_128(json.dumps(told, sort_keys=True, default=str).encode())
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        numbers: Any = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        state.update(numbers)
    return state.hexdigest()


def _machine(device: torch.device) -> tuple[str, ...]:
    """What rounds otherwise on another machine, and so has another token drawn."""
    import transformers

    if device.type == "cuda":
        computes = torch.cuda.get_device_name(device)
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        computes = f"{processor()} {capability} {isa_limit()} {torch.get_num_threads()}"
    precision = torch.get_float32_matmul_precision()
    return device.type, computes, precision, torch.__version__, transformers.__version__
