"""The sources that a folder was built from, opened again where they still are, and still what they were."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from moemerge.errors import SourceError
from moemerge.record.schema import Record, Source
from moemerge.sources import Checkpoint, Piece, View, open_checkpoint
from moemerge.sources.pickle import REFUSED
from moemerge.verify.dense import Dense
from moemerge.verify.families import FAMILIES
from moemerge.verify.stored import as_dense


@dataclass
class Origins:
    """What was found.

    Attributes:
        models: the sources that can be compared with, by their key in the record.
        absent: why each of the others cannot, as the rest of a sentence about the sources of that key.
        unsure: keys of the folder's config that follow from an absent one.
    """

    models: dict[str, Checkpoint] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    unsure: frozenset[str] = frozenset()


def open_origins(record: Record, root: Path, *, online: bool, allow_pickle: bool = False) -> Origins:
    """Opens every source of the record.

    Args:
        record: names and digests.
        root: what relative paths are relative to.
        online: whether hub models that are not in the cache may be downloaded.
        allow_pickle: whether pickled sources are unpickled, tensors only; what the folder's own recipe says counts for
            nothing, because anybody may have written it.
    """
    origins = Origins()
    base: Checkpoint | None = None
    for key in sorted(record.sources, key=lambda key: key != "base"):  # adapters are opened on the base
        source = record.sources[key]
        try:
            model = open_checkpoint(
                _pinned(source),
                root=root,
                base=base,
                allow_pickle=allow_pickle,
                offline=None if online else True,
            )
        except SourceError as error:
            if error.code == REFUSED:
                origins.absent[key] = "are pickled, and read only where `--allow-pickle` asks for it"
                continue
            there = os.path.exists(root / source.model)
            origins.absent[key] = f"cannot be read ({error.message})" if there else "not found"
            continue
        if key == "base":
            base = model
        seen = _as_built_from(model, source, is_base=key == "base")
        if isinstance(seen, str):
            origins.absent[key] = seen
        else:
            origins.models[key] = seen
    return origins


def _as_built_from(model: Checkpoint, source: Source, *, is_base: bool) -> Checkpoint | str:
    """A source as its dense family, or why it is not what the folder was built from; a base's config must be one that
    can be read."""
    if model.digest() != source.digest:
        return "changed since the build"
    try:
        dense = as_dense(model)
        if is_base:
            Dense.of(dense.config)
        return dense
    except KeyError:
        return f"changed since the build: `{model.config.get('model_type')}` is not a family that is known here"
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        return f"changed since the build: the config cannot be read ({error})"


def _pinned(source: Source) -> str:
    """The spec with the revision that was built from, where it has one of its own."""
    if source.revision is None or "+" in source.model:
        return source.model
    return f"{source.model.partition('@')[0]}@{source.revision}"


WINDOW = frozenset({"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"})
"""Keys of configs that say how far back a token sees, and in which layers."""


def as_mixed(record: Record, origins: Origins) -> Origins:
    """The sources as a mixture of them has them: where one has a head of its own, all have, and the recipe may name the
    one whose sliding window holds.

    Where sources are absent, a head that the record has may be theirs.
    """
    base = origins.models.get("base")
    if base is None:
        return origins
    row = FAMILIES[str(base.config["model_type"])]
    own = {key: row.values(model.config) for key, model in origins.models.items()}
    tied = {key for key, values in own.items() if values["tie_word_embeddings"]}
    missing = record.sources.keys() - origins.models.keys()
    models = dict(origins.models)
    if tied and (len(tied) < len(models) or (missing and "lm_head" in record.merge)):
        for key in tied:
            embedding = "model.embed_tokens.weight"
            both = {"lm_head.weight": Piece(embedding)} if embedding in models[key].tensors else {}
            models[key] = View(models[key], {**models[key].config, "tie_word_embeddings": False}, both)
    wanted = record.recipe.sliding_window
    if wanted is None:
        return replace(origins, models=models)
    holder = next((expert.source for expert in record.experts if expert.name == wanted), "base")
    if holder not in models:
        return replace(origins, models=models, unsure=WINDOW)
    config = {key: value for key, value in models["base"].config.items() if key not in WINDOW}
    config |= {key: value for key, value in models[holder].config.items() if key in WINDOW}
    models["base"] = View(models["base"], config)
    return replace(origins, models=models)


def given(models: Mapping[str, Checkpoint]) -> Origins:
    """Sources that the caller has open."""
    return Origins({key: as_dense(model) for key, model in models.items()})
