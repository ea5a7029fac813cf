"""Which layers of the mixture stay dense: those that the recipe names, and those in which all experts agree."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from moemerge.errors import Problem, SourceError
from moemerge.families import DenseConfig, choose_host
from moemerge.recipe.layers import AGREE, as_ranges, layer_range, numbered
from moemerge.recipe.schema import Recipe
from moemerge.sources import Checkpoint
from moemerge.sources.same import one_place, same_bytes


def with_dense_layers(
    recipe: Recipe,
    models: Mapping[str, Checkpoint],
    keys: Mapping[str, str],
    dense: DenseConfig,
    problems: list[Problem],
    notes: list[str],
) -> DenseConfig:
    """The architecture with the layers that stay dense in `kept`.

    Where the recipe asks for layers in which the experts agree, their FFNs are compared: a few bytes of those that
    differ, and all of those that do not.

    Args:
        recipe: says which.
        models: base and experts, by their key.
        keys: each expert's model, as the recipe spells it, to its key.
        dense: the base's architecture.
        problems, notes: what is found is added to them.
    """
    problems += _misnamed(recipe, dense)
    named = numbered(recipe.layers) & frozenset(dense.ffn_layers)
    others = [layer for layer in dense.ffn_layers if layer not in named]
    agreeing = frozenset(_agreeing(recipe, models, keys, dense, others, notes))
    asked = AGREE in recipe.layers
    kept = named | agreeing if asked else named
    if asked and not agreeing:
        notes.append("`layers`: the experts' FFNs differ in every layer, so `agree: dense` keeps none")
    elif asked:
        notes.append(f"`layers`: the experts' FFNs agree in {_layers(agreeing)}, which {_stay(agreeing)} dense")
    elif agreeing and len(agreeing) < len(others) and not _refused(recipe, replace(dense, kept=named | agreeing)):
        notes.append(
            f"the experts' FFNs agree in {_layers(agreeing)}: `layers: {{agree: dense}}` would keep one each, which "
            "computes the same"
        )
    if kept and len(kept) == len(dense.ffn_layers):
        message = f"`layers` keeps all {len(kept)} layers dense, so nothing would be left to route"
        if not named:
            message = f"`layers`: the experts' FFNs agree in all {len(kept)} layers, so nothing would be left to route"
        problems.append(Problem("all-dense", message, "leave some layers out"))
        return dense
    return replace(dense, kept=kept)


def check_widths(dense: DenseConfig, widths: Mapping[str, int], used: Collection[str], problems: list[Problem]) -> None:
    """Refuses to merge FFNs of several widths.

    Args:
        dense: the architecture.
        widths: of the models' FFNs, by their key.
        used: base and experts, likewise.
        problems: what is found is added to them.
    """
    own = {key: width for key, width in widths.items() if key in used}
    if dense.kept and len(set(own.values())) > 1:
        listed = ", ".join(f"`{key}`: {width}" for key, width in own.items())
        message = f"`layers`: a layer that stays dense has one FFN, and the models' have several widths ({listed})"
        problems.append(Problem("dense-width", message, "leave `layers` out, or take models of one width"))


def _misnamed(recipe: Recipe, dense: DenseConfig) -> Iterator[Problem]:
    for key in recipe.layers:
        layers = layer_range(key)
        if layers and layers[-1] >= dense.layers:
            message = f"`layers`: `{key}` is out of the model, which has {dense.layers} layers"
            yield Problem("no-layer", message, f"they are counted from 0 to {dense.layers - 1}")
        elif layers and not set(layers) & set(dense.ffn_layers):
            message = f"`layers`: {_layers(layers)} of this model has no FFN, so nothing there could route"
            yield Problem("no-layer", message, f"those that have one are {as_ranges(dense.ffn_layers)}")


def _agreeing(
    recipe: Recipe,
    models: Mapping[str, Checkpoint],
    keys: Mapping[str, str],
    dense: DenseConfig,
    layers: list[int],
    notes: list[str],
) -> Iterator[int]:
    """The layers in which all experts' FFNs are the same bytes; where that was not asked, those of one file."""
    distinct = dict.fromkeys(keys.get(expert.model, "") for expert in recipe.experts)
    if "" in distinct or not distinct.keys() <= models.keys():
        return
    if any(expert.noise_scale or expert.residual_scale != 1.0 for expert in recipe.experts):
        return
    first, *others = (models[key] for key in distinct)
    asked = AGREE in recipe.layers

    def agree(name: str) -> bool:
        return one_place([first, *others], name) or (asked and all(same_bytes(first, one, name) for one in others))

    try:
        yield from (layer for layer in layers if all(agree(dense.ffn(layer, matrix)) for matrix in dense.projections))
    except SourceError:  # planned from headers alone
        notes.append("`layers`: whether the experts' FFNs agree is seen when their weights are read")


def _refused(recipe: Recipe, dense: DenseConfig) -> bool:
    host, problems = choose_host(dense, recipe.architecture)
    return host is None or bool(problems)


def _layers(layers: frozenset[int] | range) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {as_ranges(layers)}"


def _stay(layers: frozenset[int]) -> str:
    return "stay" if len(layers) > 1 else "stays"
