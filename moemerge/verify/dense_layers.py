"""Which layers of the folder must be dense: the checker's own account of the recipe's `layers`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from moemerge.errors import Difference, SourceError
from moemerge.recipe.layers import AGREE, numbered
from moemerge.record.read import NAME as RECORD
from moemerge.record.schema import Record
from moemerge.sources import ByteRange, Checkpoint
from moemerge.verify.dense import Dense
from moemerge.verify.hosts import HOSTS
from moemerge.verify.reading import OpenFiles

_CHUNK = 1 << 20


def merged_layers(record: Record) -> frozenset[int]:
    """The dense layers whose FFN is merged; in the others all experts have the same, which is kept."""
    return numbered(record.recipe.layers) & frozenset(record.dense_layers)


def check_dense_layers(record: Record, models: Mapping[str, Checkpoint], files: OpenFiles) -> Iterator[Difference]:
    """Where the record's dense layers are not those that the recipe asks for.

    Args:
        record: what was asked, and what was made of it.
        models: the sources that are at hand, by their key in the record.
        files: reads them.
    """
    kept, host = list(record.dense_layers), HOSTS[record.architecture]
    if kept and not host.dense_layers and host.kinds is None:
        yield Difference(RECORD, f"`dense_layers` is {kept}, and every layer of a `{host.model_type}` routes")
    named, agree = numbered(record.recipe.layers), AGREE in record.recipe.layers
    if (not agree and not named.issuperset(kept)) or kept != sorted(set(kept)):
        yield Difference(RECORD, f"`dense_layers` is {kept}, the recipe's `layers` {dict(record.recipe.layers)}")
    if "base" not in models:
        return
    dense = Dense.of(models["base"].config)
    wanted = named & set(dense.ffn_layers)
    sources = {expert.source for expert in record.experts}
    if agree and not sources <= models.keys():
        wanted |= set(kept)  # whether the experts agree in these is not to be seen
    elif agree and all(e.noise_scale == 0 and e.residual_scale == 1 for e in record.recipe.experts):
        distinct = [models[key] for key in sorted(sources)]
        rest = set(dense.ffn_layers) - wanted
        wanted |= {layer for layer in rest if all(_same(distinct, name, files) for name in dense.row.ffn_of(layer))}
    if set(kept) != wanted:
        yield Difference(RECORD, f"`dense_layers` is {kept}, by the recipe and its sources {sorted(wanted)}")


def _same(models: list[Checkpoint], name: str, files: OpenFiles) -> bool:
    """Whether all models store a tensor as it is, as the same numbers; what cannot be read is said elsewhere."""
    infos = [model.tensors.get(name) for model in models]
    if len({(info.dtype, info.shape) if info is not None else None for info in infos}) > 1:
        return False
    first, *others = (model.bytes_of(name) for model in models)
    try:
        return first is not None and all(other is not None and _alike(first, other, files) for other in others)
    except (SourceError, EOFError, OSError):
        return False


def _alike(one: ByteRange, other: ByteRange, files: OpenFiles) -> bool:
    starts = range(0, 0 if one == other else one.length, _CHUNK)
    sizes = [min(_CHUNK, one.length - start) for start in starts]
    return all(
        files.read(one.path, one.offset + start, size) == files.read(other.path, other.offset + start, size)
        for start, size in zip(starts, sizes, strict=True)
    )
