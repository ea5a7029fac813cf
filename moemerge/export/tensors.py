"""A mixture's tensors as llama.cpp has them: its names, its order of rows, a layer's experts in one, its types."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import mul as multiply
from typing import Any

from moemerge.errors import ExportError, Problem
from moemerge.export.pieces import STORED, Kind, OutTensor, Piece, kind_of
from moemerge.families import Host, own_name, routed_layers
from moemerge.families.gguf_form import ELSEWHERE, GgufForm, Stored
from moemerge.families.host import expert_counts
from moemerge.options import GgufType
from moemerge.recipe.layers import as_ranges
from moemerge.sources.checkpoint import Checkpoint

_PLAIN = re.compile(r"blk\.\d+\.(ffn_gate_inp|ffn_gate_inp_shexp|ssm_conv1d|ssm_a|ssm_d|ssm_norm|shortconv\.conv)\b")
"""Matrices that llama.cpp wants in F32."""
_HEAD, _EMBEDDING = "output.weight", "token_embd.weight"


def out_tensors(
    checkpoint: Checkpoint, config: Mapping[str, Any], host: Host, form: GgufForm, wanted: GgufType
) -> tuple[list[OutTensor], list[Problem]]:
    """Every tensor of the file, and what has no place in it.

    Args:
        checkpoint: the mixture's folder.
        config: its language model's config.
        host: the mixture's class.
        form: its form in llama.cpp.
        wanted: the type of matrices; norms, biases and routers are F32 there.

    Raises:
        ExportError: a tensor is stored in a dtype that no build writes.
    """
    routed = routed_layers(checkpoint.tensors, config, host)
    if problem := _dense(set(range(config["num_hidden_layers"])) - set(routed), form):
        return [], [problem]
    silent, problems = _silent(checkpoint, config, host, form)
    stacked = dict(_stacked(checkpoint, config, host, routed))
    used = {piece.info.name for pieces in stacked.values() for piece in pieces}
    found = []
    for name in checkpoint.tensors:
        own = own_name(checkpoint.config, name)
        if name in used or name in silent or own is None:
            continue
        places = form.places(own)
        if not places:
            problems.append(Problem("no-place", f"llama.cpp's `{form.architecture}` has no place for `{name}`"))
        found += [_made(checkpoint, name, stored, config, wanted) for stored in places]
    for name, pieces in stacked.items():
        shape = (len(pieces), *pieces[0].shape)
        turn = partial(multiply, form.down) if form.down != 1 and "ffn_down" in name else None
        found.append(OutTensor(name, shape, kind_of(shape[-1], wanted), pieces, turn=turn))
    if form.head and _HEAD not in {tensor.name for tensor in found}:
        found += [replace(tensor, name=_HEAD) for tensor in found if tensor.name == _EMBEDDING]
    return sorted(found, key=_layer), problems


def _dense(layers: set[int], form: GgufForm) -> Problem | None:
    """Why layers without a router have no place."""
    if not layers or form.dense != "none":
        return None
    message = f"layers {as_ranges(layers)} are dense, and llama.cpp's `{form.architecture}` routes in every layer"
    return Problem("dense-layers", message, f"build it without `layers`, or {ELSEWHERE}")


def _made(checkpoint: Checkpoint, name: str, stored: Stored, config: Mapping[str, Any], wanted: GgufType) -> OutTensor:
    """One tensor of the file by the one of the folder that it is made of."""
    shape, whole = checkpoint.tensors[name].shape, _piece(checkpoint, name)
    pieces: tuple[Piece, ...] = (whole,)
    if stored.rows is not None:
        ranges = stored.rows(config, len(whole.rows))
        pieces = tuple(replace(whole, rows=rows) for rows in ranges)
        shape = (sum(map(len, ranges)), *shape[1:])
    if stored.shape is not None:
        shape = stored.shape(config, shape)
    plain = len(shape) < 2 or _PLAIN.match(stored.name)
    kind = Kind.F32 if plain else kind_of(shape[-1], wanted)
    turn = stored.turn
    turned = None if turn is None else lambda rows: turn(rows, config)
    return OutTensor(stored.name, shape, kind, pieces, stored.unit(config), turned)


def _layer(tensor: OutTensor) -> tuple[int, str]:
    """The embedding, the layers, the rest."""
    if found := re.match(r"blk\.(\d+)\.", tensor.name):
        return int(found[1]), tensor.name
    return (-1 if tensor.name == _EMBEDDING else sys.maxsize), tensor.name


def _stacked(
    checkpoint: Checkpoint, config: Mapping[str, Any], host: Host, layers: Sequence[int]
) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    """llama.cpp's name of each layer's experts by projection, and the experts' matrices in their order."""
    experts, _ = expert_counts(config)
    for layer in layers:
        fused = {part: name.format(layer=layer) for part, name in host.fused.items()}
        for projection in host.projections:
            if fused["down"] in checkpoint.tensors:
                pieces = _slices(checkpoint, fused, projection, host)
            else:
                names = [host.expert_name(layer, expert, projection) for expert in range(experts or 0)]
                pieces = tuple(_piece(checkpoint, name) for name in names)
            yield f"blk.{layer}.ffn_{projection}_exps.weight", pieces


def _slices(checkpoint: Checkpoint, fused: Mapping[str, str], projection: str, host: Host) -> tuple[Piece, ...]:
    """The experts' rows in a tensor that holds all of them, or their columns where each is transposed; in one of gates
    and ups an expert's gates come first."""
    name = fused["down" if projection == "down" else "gate_up"]
    whole, (experts, rows, columns) = _piece(checkpoint, name), checkpoint.tensors[name].shape
    count = columns if host.transposed else rows
    own = range(count)
    if "gate" in host.projections and projection != "down":
        own = {"gate": own[: count // 2], "up": own[count // 2 :]}[projection]
    begins = (expert * rows for expert in range(experts))
    if host.transposed:
        return tuple(replace(whole, rows=range(begin, begin + rows), turned=own) for begin in begins)
    return tuple(replace(whole, rows=range(begin + own.start, begin + own.stop)) for begin in begins)


def _piece(checkpoint: Checkpoint, name: str) -> Piece:
    """All of a stored tensor, its leading extents as one."""
    info, place = checkpoint.tensors[name], checkpoint.bytes_of(name)
    if place is None or info.dtype not in STORED:
        raise ExportError(f"`{name}` is stored as `{info.dtype}`, and no build writes that", hint="build it again")
    if len(info.shape) > 2:
        info = replace(info, shape=(math.prod(info.shape[:-1]), info.shape[-1]))
    return Piece(info, place, range(info.shape[0]))


def _silent(
    checkpoint: Checkpoint, config: Mapping[str, Any], host: Host, form: GgufForm
) -> tuple[frozenset[str], list[Problem]]:
    """The tensors of always-on experts that say nothing, and a problem where one says something; none where such
    experts have a place."""
    if host.shared_expert is None or form.shared:
        return frozenset(), []
    templates = [*host.shared_expert.values(), *([] if host.shared_gate is None else [host.shared_gate])]
    layers = range(config["num_hidden_layers"])
    downs = [host.shared_expert["down"].format(layer=layer) for layer in layers]
    pieces = (_piece(checkpoint, name) for name in downs if name in checkpoint.tensors)
    if any(rows.any() for piece in pieces for rows in piece.numbers()):
        problem = Problem(
            "shared-expert",
            "it has an expert that is always on (`shared_experts`), and llama.cpp has no place for it in this form",
            f"build it without `shared_experts`, or {ELSEWHERE}",
        )
        return frozenset(), [problem]
    return frozenset(template.format(layer=layer) for layer in layers for template in templates), []
