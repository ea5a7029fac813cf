"""Checkpoints of families that are only stored otherwise, seen as the family that they equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moemerge.errors import ManyProblems, SourceError
from moemerge.families import DENSE_FAMILIES, TRANSLATIONS, DenseConfig, Part, Translation
from moemerge.sources.checkpoint import Checkpoint
from moemerge.sources.config import MEND
from moemerge.sources.view import Piece, View


def translated(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as the dense family that it is read as; itself, where its family needs no translation.

    Raises:
        ManyProblems: its config asks for what the other family cannot compute.
        SourceError: a value in it is of a wrong type.
    """
    row = TRANSLATIONS.get(str(checkpoint.config.get("model_type")))
    if row is None:
        family = DENSE_FAMILIES.get(str(checkpoint.config.get("model_type")))
        known = family.read(checkpoint.config) if family is not None else checkpoint.config
        return checkpoint if known == checkpoint.config else View(checkpoint, known)
    raw = {**row.defaults, **checkpoint.config}
    if problems := row.refuse(raw):
        raise ManyProblems(problems)
    config = {**row.config(raw), "model_type": row.family_of(raw)}
    try:
        dense = DenseConfig.resolve(config)
    except ValueError as error:
        raise SourceError(f"in its config {error}", hint=MEND, code="bad-config") from error
    pieces = dict(_pieces(row, dense))
    seen = View(checkpoint, config, pieces, {piece.of for piece in pieces.values()})
    seen.warnings = (*checkpoint.warnings, *row.warn(raw))
    return seen


def _pieces(row: Translation, dense: DenseConfig) -> Iterator[tuple[str, Piece]]:
    """Every tensor of the other family that is not stored as it is."""
    for stored, parts in row.once.items():
        for name, piece in _cut(stored, parts, dense):
            yield name, piece
    for layer in range(dense.layers):
        prefix = dense.row.names.layer.format(layer=layer)
        for stored, parts in row.layer.items():
            for name, piece in _cut(f"{prefix}.{stored}", parts, dense):
                yield f"{prefix}.{name}", piece


def _cut(stored: str, parts: Sequence[Part], dense: DenseConfig) -> Iterator[tuple[str, Piece]]:
    start = 0
    for part in parts:
        rows = None if part.rows is None else dense.extents[part.rows]
        stop = None if rows is None else start + rows
        order = part.order(dense) if part.order is not None else ()
        yield part.name, Piece(stored, start if rows is not None else 0, stop, order, part.plus)
        start += rows or 0
