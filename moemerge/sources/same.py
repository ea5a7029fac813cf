"""Whether two models store a tensor as the same bytes: mostly told by the first ones, and without torch."""

from __future__ import annotations

from moemerge.sources.checkpoint import Checkpoint
from moemerge.sources.zero import blocks


def one_place(models: list[Checkpoint], name: str) -> bool:
    """Whether all of them have it from one file: no byte is read."""
    places = {model.bytes_of(name) if name in model.tensors else None for model in models}
    return len(places) == 1 and None not in places


def same_bytes(one: Checkpoint, other: Checkpoint, name: str) -> bool:
    """Whether both store it as it is, in one dtype and shape, with the same bytes.

    Raises:
        SourceError: a file is shorter than its header says.
    """
    mine, theirs = (model.tensors.get(name) for model in (one, other))
    if mine is None or theirs is None or (mine.dtype, mine.shape) != (theirs.dtype, theirs.shape):
        return False
    ours, others = one.bytes_of(name), other.bytes_of(name)
    if ours is None or others is None:
        return False
    return ours == others or all(a == b for a, b in zip(blocks(ours), blocks(others), strict=True))
