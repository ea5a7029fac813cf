"""Names as `from_pretrained` reads them: transformers adds or takes away the prefix of the base model, name by name.

Checkpoints of a bare model (`LlamaModel.save_pretrained`) lack it, those of a model inside another have it twice.
Tensors stay where they are: this is a view over names.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from moemerge.families.dense_family import Names
from moemerge.sources.checkpoint import ByteRange, TensorInfo
from moemerge.sources.saved import unwrapped
from moemerge.sources.store import Store

if TYPE_CHECKING:
    import torch

_NAMES = Names()
PREFIX = _NAMES.embedding.partition(".")[0] + "."
_INNER = tuple(name.partition("{")[0].removesuffix("weight") for name in (_NAMES.embedding, _NAMES.layer, _NAMES.norm))
_TOPS = (*_INNER, _NAMES.head.removesuffix("weight"))
"""What every name of a causal model begins with; `_INNER` are those inside the base model."""


@dataclass(frozen=True)
class Renamed:
    """A store whose tensors have other names.

    Attributes:
        store: where they are.
        names: each name that is read, and the one in the store.
    """

    store: Store
    names: Mapping[str, str]
    tensors: Mapping[str, TensorInfo] = field(init=False)

    def __post_init__(self) -> None:
        held = self.store.tensors
        object.__setattr__(self, "tensors", {new: replace(held[old], name=new) for new, old in self.names.items()})

    def bytes_of(self, name: str) -> ByteRange | None:
        return self.store.bytes_of(self.names[name])

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        return self.store.read(self.names[name], rows)

    def places(self) -> Iterator[str]:
        return self.store.places()


def as_loaded(store: Store) -> Store:
    """The store under the names that transformers gives its tensors; itself where these are its own."""
    wanted = {name: loaded_name(name) for name in store.tensors}
    if all(old == new for old, new in wanted.items()):
        return store
    claims = Counter(wanted.values())  # where two tensors would have one name, both keep theirs and are refused later
    return Renamed(store, {new if claims[new] == 1 else old: old for old, new in wanted.items()})


def holder_of(names: Iterable[str], wanted: Collection[str]) -> tuple[str, dict[str, str]] | None:
    """The attribute of another class that the model was in, where names tell of one.

    Args:
        names: of tensors that are not known.
        wanted: of tensors that should be there and are not.

    Returns:
        What stands before most of what is wanted, and each name that begins with it to what it should be; None where
        nothing does.
    """
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        for at in (place.start() for place in re.finditer(r"\.", name)):
            if (inside := loaded_name(name[at + 1 :])) in wanted:
                found[name[:at]][name] = inside
                break
    most = max(found, key=lambda holder: len(found[holder]), default="")
    return (most, found[most]) if 2 * len(found[most]) > len(wanted) else None


def inner_name(name: str) -> str:
    """What a tensor would be called without the wrappers that its name tells of."""
    return loaded_name(unwrapped(name))


def loaded_name(name: str) -> str:
    """What transformers takes a tensor of a causal model's checkpoint for (`rename_source_key` in 5.23)."""
    if name.startswith(PREFIX) and name.removeprefix(PREFIX).startswith(_TOPS):
        return name.removeprefix(PREFIX)
    return PREFIX + name if (PREFIX + name).startswith(_INNER) else name
