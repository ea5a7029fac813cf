"""Remembers what was made last, so that several models on one base need not make it again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Recent:
    """Tensors by name, the oldest forgotten first; may be asked by several threads.

    Args:
        most: bytes that are remembered at most.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held, self._lock = most, 0, Lock()
        self._tensors: OrderedDict[Hashable, torch.Tensor] = OrderedDict()

    def take(self, name: Hashable, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What is remembered, or what `make` gives; whoever is given it must not write to it."""
        with self._lock:
            known = self._tensors.get(name)
        if known is not None:
            return known
        made = make()
        if made.nbytes * 2 <= self._most:
            self._keep(name, made)
        return made

    def _keep(self, name: Hashable, tensor: torch.Tensor) -> None:
        with self._lock:
            if name in self._tensors:
                return
            self._tensors[name] = tensor
            self._held += tensor.nbytes
            while self._held > self._most:
                self._held -= self._tensors.popitem(last=False)[1].nbytes
