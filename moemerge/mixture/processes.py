"""One process or several under `accelerate launch`: each scores its share of the batches, and sums are added up."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: number of this one.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one reads caches, prints and writes."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process' part of a list that is the same in all."""
        return items[self.rank :: self.count]

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes of a tensor of fp64 sums, in every process; in place."""
        if self.count > 1:
            import torch.distributed

            moved = values.to(_device())
            torch.distributed.all_reduce(moved)
            values.copy_(moved)
        return values

    def from_first(self, compute: Callable[[], Item]) -> Item:
        """What the first process computes, in every process; the others do not compute it."""
        if self.count == 1:
            return compute()
        import torch.distributed

        held: list[Any] = [compute() if self.first else None]
        torch.distributed.broadcast_object_list(held, src=0)
        found: Item = held[0]
        return found


def join_processes() -> Processes:
    """Joins the others where `accelerate launch` (or torchrun) started several; otherwise it is one process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Processes()
    from accelerate import PartialState

    state = PartialState()
    return Processes(state.process_index, state.num_processes)


def _device() -> str:
    """Where the processes' back end adds up: NCCL on the GPU, gloo on the CPU."""
    import torch.distributed

    return "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
