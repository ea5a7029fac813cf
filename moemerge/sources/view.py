"""A model as it goes into a mixture where others differ from it: another config, and names that stand for others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moemerge.sources.checkpoint import ByteRange, Checkpoint

if TYPE_CHECKING:
    import torch


class View(Checkpoint):
    """A checkpoint under another config. What lies in its files is what it was, and so is its digest.

    Attributes:
        under: the checkpoint itself.
        aliases: names that it gets beside its own, and the tensors that they stand for.
    """

    def __init__(self, under: Checkpoint, config: Mapping[str, Any], aliases: Mapping[str, str] | None = None) -> None:
        self.under, self.config, self.aliases = under, config, aliases or {}
        self.spec, self.kind, self.location, self.revision = under.spec, under.kind, under.location, under.revision
        self.files, self.licence, self.adapter, self.warnings = (
            under.files, under.licence, under.adapter, under.warnings,
        )  # fmt: skip
        new = {name: replace(under.tensors[held], name=name) for name, held in self.aliases.items()}
        self.tensors = {**under.tensors, **new}

    def bytes_of(self, name: str) -> ByteRange | None:
        return self.under.bytes_of(self.aliases.get(name, name))

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        return self.under.read(self.aliases.get(name, name), rows)

    def digest(self) -> str:
        return self.under.digest()
