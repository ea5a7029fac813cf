"""The record as frozen data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from moemerge.recipe.schema import MergeMethod, Recipe

Group = Literal["embeddings", "attention", "norms", "ffn", "lm_head"]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Source(_Part):
    """One of the models that the folder was built from."""

    model: str
    kind: str
    revision: str | None = None
    digest: Digest


class BuiltExpert(_Part):
    """One expert: its name, the key of its model in `sources`, its FFN's own width."""

    name: str
    source: str
    width: int = Field(ge=1)


class RecordedVocabulary(_Part):
    """The output's tokens: whose tokenizer it has, what was added to that one's, and the rows of embedding and head."""

    anchor: str
    rows: int = Field(ge=1, le=1 << 31)
    added: dict[str, int] = {}


class NearMiss(_Part):
    """How far a host that is not exact is off: the relative error of the logits, over so many tokens."""

    error: float = Field(ge=0)
    tokens: int = Field(ge=1)


class Training(_Part):
    """One training: what it changed."""

    changed: tuple[Literal["router", "attention", "experts"], ...] = ("router",)


class Record(_Part):
    """What reading a built folder needs of its record; believing nothing that it does not need."""

    architecture: str
    wrapper: str | None = None
    dtype: Literal["F32", "BF16", "F16"]
    root: str
    sources: dict[str, Source]
    experts: tuple[BuiltExpert, ...] = Field(min_length=1)
    merge: dict[Group, MergeMethod]
    dense_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    recipe: Recipe
    vocabulary: RecordedVocabulary | None = None
    near: NearMiss | None = None
    training: tuple[Training, ...] = ()
    files: dict[str, Digest]
    tensors: dict[str, Digest]

    @property
    def width(self) -> int:
        """The width of the experts: that of the widest, to which others are padded."""
        return max(expert.width for expert in self.experts)

    @property
    def trained(self) -> tuple[str, ...]:
        """What trainings changed beside the router, which no source has: `attention`, `experts`."""
        return tuple(sorted({name for training in self.training for name in training.changed} - {"router"}))
