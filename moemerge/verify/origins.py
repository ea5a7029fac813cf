"""The sources that a folder was built from, opened again where they still are, and still what they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moemerge.errors import SourceError
from moemerge.record.schema import Record, Source
from moemerge.sources import Checkpoint, open_checkpoint
from moemerge.sources.pickle import REFUSED
from moemerge.verify.dense import Dense
from moemerge.verify.stored import as_dense


@dataclass
class Origins:
    """What was found.

    Attributes:
        models: the sources that can be compared with, by their key in the record.
        absent: why each of the others cannot, as the rest of a sentence about the sources of that key.
    """

    models: dict[str, Checkpoint] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


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
            there = (root / source.model).exists()
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
        return f"changed since the build: `{model.config.get('model_type')}` is no family that is known here"
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        return f"changed since the build: the config cannot be read ({error})"


def _pinned(source: Source) -> str:
    """The spec with the revision that was built from, where it has one of its own."""
    if source.revision is None or "+" in source.model:
        return source.model
    return f"{source.model.partition('@')[0]}@{source.revision}"


def given(models: Mapping[str, Checkpoint]) -> Origins:
    """Sources that the caller has open."""
    return Origins({key: as_dense(model) for key, model in models.items()})
