"""Tree → Recipe: pydantic's findings, all of them, in the user's words and at the user's place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from moemerge.errors import Problem
from moemerge.recipe.places import Place, RecipeProblems, did_you_mean, listed, nearest, problem
from moemerge.recipe.schema import Evaluation, Recipe
from moemerge.recipe.tree import Trail, child, key_place, node_at, spelt
from moemerge.recipe.yaml import Items, Node, Scalar, Table, plain

Model = TypeVar("Model", bound=BaseModel)

_EXPECTED: Mapping[str, str] = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
}
"""Pydantic's error types as what a value must be; the names in braces are in the error's context."""

_RANGES = frozenset({"finite_number", "greater_than", "greater_than_equal", "less_than", "less_than_equal"})

_SHORTHAND: Mapping[str, str] = {"gate": "init", "merge": "shared", "output": "path", "data": "path",
                                 "tokenizer": "source"}  # fmt: skip
"""The key that someone means who gives one of these mappings a single value."""

_FOREIGN: Mapping[str, str] = {
    "gate_mode": "gate.init",
    "source_model": "model",
    "positive_prompts": "prompts",
    "merge_method": "merge.shared",
    "num_experts_per_tok": "experts_per_token",
    "top_k": "experts_per_token",
    "out_dtype": "dtype",
    "lora": "model",
    "adapter": "model",
    "tokenizer_source": "tokenizer.source",
}
"""Other tools' words for our keys."""


_PATTERNS: Mapping[str, str] = {
    "name": "a name that begins with a letter or digit and holds letters, digits, `.`, `_` and `-` alone",
    "shard_size": "a size such as `5GB` or `500MB`",
    "prompt": "a text that holds `{question}`",
    "layers": "a layer's number, a range such as `0-1`, or `agree`",
}
"""What the fields with a pattern must be."""


def validate(tree: Table) -> Recipe:
    """The recipe that a tree holds.

    Raises:
        RecipeProblems: everything that is wrong with its keys and values.
    """
    return _validated(Recipe, tree, ())


def validate_evaluation(tree: Table) -> Evaluation:
    """What a recipe says under `eval`, where it stands alone.

    Raises:
        RecipeProblems: everything that is wrong with its keys and values.
    """
    return _validated(Evaluation, tree, ("eval",))


def _validated(model: type[Model], tree: Table, under: Trail) -> Model:
    """A tree as the model that stands at the path `under` of a recipe."""
    try:
        return model.model_validate(plain(tree))
    except ValidationError as error:
        details = error.errors(include_url=False)
    groups: dict[Trail, list[ErrorDetails]] = {}  # where a value may be of several kinds, each says what it misses
    for detail in details:
        groups.setdefault(_trail(tree, detail), []).append(detail)
    unknown = [trail for trail, errors in groups.items() if errors[0]["type"] == "extra_forbidden"]
    meant = {(*trail[:-1], _meant(trail, under)) for trail in unknown}
    found = [
        _explain(tree, trail, errors, under)
        for trail, errors in groups.items()
        if not (errors[0]["type"] == "missing" and trail in meant)  # it is missing because it is misspelt
        and not (errors[0]["type"] == "string_type" and any(_is_below(other, trail) for other in groups))
    ]
    raise RecipeProblems([said for _, said in sorted(found, key=lambda pair: pair[0].order)])


def _is_below(trail: Trail, other: Trail) -> bool:
    return len(trail) > len(other) and trail[: len(other)] == other


def _trail(tree: Table, detail: ErrorDetails) -> Trail:
    """The path in the tree that an error is about: pydantic's, without the names of a union's branches."""
    node: Node = tree
    trail: list[str | int] = []
    for part in detail["loc"]:
        below = child(node, part)
        if below is not None:
            trail.append(part)
            node = below
    if detail["type"] == "missing":
        trail.append(detail["loc"][-1])
    return tuple(trail)


def _explain(tree: Table, trail: Trail, errors: list[ErrorDetails], under: Trail) -> tuple[Place, Problem]:
    kind = errors[0]["type"]
    if kind == "missing":
        place = key_place(tree, trail[:-1]) if trail[:-1] else Place(tree.place.source, *tree.place.order)
        text = _fields((*under, *trail[:-1]))[str(trail[-1])].description or ""
        hint = f"`{trail[-1]}`: {' '.join(text.split()).rstrip('.')}"
        return place, problem(place, "missing-key", f"`{spelt(trail)}` is missing", hint)
    if kind == "extra_forbidden":
        place, key = key_place(tree, trail), str(trail[-1])
        where = f" in `{spelt(trail[:-1])}`" if trail[:-1] else ""
        meant = _meant(trail, under)
        hint = f"did you mean `{meant}`?" if meant else did_you_mean(key, _fields((*under, *trail[:-1])))
        return place, problem(place, "unknown-key", f"Unknown key `{key}`{where}", hint)
    if errors[0]["loc"][-1] == "[key]":
        place, key = key_place(tree, trail), str(trail[-2])
        return place, problem(place, "bad-key", f"`{key}` names {_PATTERNS[key]}, not `{trail[-1]}`")
    node = node_at(tree, trail)
    return node.place, _explain_value(node, trail, errors)


def _explain_value(node: Node, trail: Trail, errors: list[ErrorDetails]) -> Problem:
    name, key = f"`{spelt(trail)}`", str(next((part for part in reversed(trail) if isinstance(part, str)), ""))
    if isinstance(node, Scalar) and node.value is None:
        return problem(node.place, "no-value", f"{name} has no value", "give it one, or leave the key out")
    if errors[0]["type"] == "string_too_short":
        return problem(node.place, "no-value", f"{name} is empty")
    choices = [word for error in errors for word in re.findall("'([^']*)'", error.get("ctx", {}).get("expected", ""))]
    expected = [f"`{choice}`" for choice in choices]
    expected += [_PATTERNS[key] for error in errors if error["type"] == "string_pattern_mismatch"]
    expected += [_expected(error) for error in errors if error["type"] in _EXPECTED]
    shown = f"`{node.text}`" if isinstance(node, Scalar) else "a list" if isinstance(node, Items) else "a mapping"
    if key == "shard_size":
        expected = [_PATTERNS[key]]
    if not expected:
        return problem(node.place, "bad-value", f"{name}: {errors[0]['msg']}")
    message = f"{name} must be {listed(dict.fromkeys(expected), 'or')}, not {shown}"
    if choices and isinstance(node, Scalar):
        found = nearest(node.text, choices)
        return problem(node.place, "unknown-value", message, f"did you mean `{found}`?" if found else None)
    code = "out-of-range" if errors[0]["type"] in _RANGES else "wrong-type"
    return problem(node.place, code, message, _way_out(node, key, expected[0]))


def _expected(error: ErrorDetails) -> str:
    context = {
        name: f"{bound:g}" if isinstance(bound, float) else str(bound) for name, bound in error.get("ctx", {}).items()
    }
    return _EXPECTED[error["type"]].format_map(context)


def _way_out(node: Node, key: str, expected: str) -> str | None:
    """What to write instead, where the mistake is a common one."""
    match expected, node:
        case "text", Scalar():
            return f"put quotes round it: `'{node.text}'`"
        case "text", Table():
            return "put quotes round a text that holds a colon and a space"
        case "a list", Scalar():
            return f"put it in brackets: `{key}: [...]`"
        case "a list", Table():
            return "begin each item with a dash and a space"
        case "a mapping", Scalar() if key == "layers":
            return f"write `layers: {{{node.text}: dense}}`"
        case "a mapping", Scalar() if key in _SHORTHAND:
            return f"write `{key}: {{{_SHORTHAND[key]}: {node.text}}}`"
        case _, Scalar() if key == "prompt" and expected == _PATTERNS[key]:
            return "write `{question}` where the question belongs"
    return None


def _meant(trail: Trail, under: Trail) -> str | None:
    """The key that an unknown one stands for, if there is one like it."""
    *above, last = trail
    key, fields = str(last), _fields((*under, *above))
    foreign = _FOREIGN.get(key)
    if foreign is not None and (foreign in fields or not (above or under)):
        return foreign
    if not under and len(above) < 2 and key in _HOMES:
        return _HOMES[key]
    return nearest(key, fields)


def _fields(trail: Trail) -> dict[str, FieldInfo]:
    """The fields of the mapping at a path."""
    model: type[BaseModel] = Recipe
    for part in trail:
        found = model.model_fields.get(str(part))
        model = (_model_in(found.annotation) if found else None) or model
    return model.model_fields


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The one model class that a type mentions, if it does."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for model in map(_model_in, get_args(annotation)) if model), None)


def _homes() -> dict[str, str]:
    """Where the keys belong that are found at the top or one mapping below: `init` in `gate.init`."""
    homes = {name: name for name in Recipe.model_fields}
    for group in ("gate", "merge", "tokenizer", "output", "eval"):
        homes |= {name: f"{group}.{name}" for name in _fields((group,)) if name not in homes}
    return homes


_HOMES = _homes()
