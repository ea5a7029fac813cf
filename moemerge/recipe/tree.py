"""Walking and changing a recipe's tree: places by path, and `--set`, which returns a changed copy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from moemerge.recipe.places import Place, Source, recipe_error
from moemerge.recipe.yaml import Entry, Items, Node, Scalar, Table, compose_value

Trail = tuple[str | int, ...]
"""Keys and indices from the top of a recipe."""

_STEP = re.compile(r"(?P<key>[^.\[\]]+)|\[(?P<index>[0-9]{1,9})\]")


class Step(NamedTuple):
    """One key or index of a path that a user typed, and where it stands."""

    part: str | int
    place: Place


def spelt(path: Sequence[str | int]) -> str:
    """A path as a user types it: `experts[1].pad`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def child(node: Node, part: str | int) -> Node | None:
    """The value under a key or index, or None."""
    if isinstance(node, Table) and isinstance(part, str):
        return node.get(part)
    if isinstance(node, Items) and isinstance(part, int):
        return node.nodes[part] if part < len(node.nodes) else None
    return None


def node_at(tree: Table, trail: Sequence[str | int]) -> Node:
    """The value of a path, or of the deepest part of it that there is."""
    node: Node = tree
    for part in trail:
        below = child(node, part)
        if below is None:
            break
        node = below
    return node


def key_place(tree: Table, trail: Sequence[str | int]) -> Place:
    """Where the key of a path stands; for an item of a list, the item itself."""
    above, last = node_at(tree, trail[:-1]), trail[-1]
    if isinstance(above, Table) and isinstance(last, str) and last in above.entries:
        return above.entries[last].key
    return node_at(tree, trail).place


def override(tree: Table, text: str) -> Table:
    """A copy of a recipe with one `--set key=value` applied.

    Args:
        tree: the recipe.
        text: `a.b[1].c=value`, the value in YAML's flow style; an empty one is null.

    Raises:
        RecipeError: the text is not of that form, or its path leads through something that is not a list or mapping.
    """
    source = Source("--set", text, "value")
    path, equals, value = text.partition("=")
    steps = _steps(source, path)
    if not equals or steps is None:
        hint = "write `--set KEY=VALUE`, such as `--set gate.init=lda` or `--set experts[1].pad=true`"
        message = f"`{text}` is not of the form `KEY=VALUE`"
        raise recipe_error(Place(source, 0, 0, max(len(text), 1)), "bad-override", message, hint)
    # blanks in place of the path, so that places within the value are places within the whole text
    node = compose_value(source, " " * (len(path) + 1) + value)
    if node is None:
        node = Scalar(None, "", Place(source, 0, len(path)))
    replaced = _replaced(tree, steps, node, ())
    assert isinstance(replaced, Table), "a path has at least one key"
    return replaced


def with_value(tree: Table, path: Sequence[str], option: str, value: str) -> Table:
    """A copy of a recipe with the text of an option, such as `--gate`, as the value of a path."""
    place = Place(Source(option, value), 0, 0, max(len(value), 1))
    replaced = _replaced(tree, [Step(key, place) for key in path], Scalar(value, value, place), ())
    assert isinstance(replaced, Table), "a path has at least one key"
    return replaced


def _steps(source: Source, path: str) -> list[Step] | None:
    """A path taken apart, or None where it has another form."""
    steps: list[Step] = []
    position = 0
    while position < len(path):
        if steps and path[position] == ".":
            position += 1
            if path[position : position + 1] == "[":
                return None
        elif steps and path[position] != "[":
            return None
        found = _STEP.match(path, position)
        if not found:
            return None
        part: str | int = int(found["index"]) if found["index"] else found["key"].strip()
        steps.append(Step(part, Place(source, 0, position, found.end() - position)))
        position = found.end()
    return steps if steps and isinstance(steps[0].part, str) and not path.endswith(".") else None


def _replaced(node: Node | None, steps: Sequence[Step], value: Node, trail: Trail) -> Node:
    """`node` with `value` at the end of `steps`; what an alias shares with it elsewhere stays as it is."""
    if not steps:
        return value
    (part, place), rest = steps[0], steps[1:]
    if isinstance(node, Scalar) and node.value is None:
        node = None
    where = f"`{spelt(trail)}`"
    if isinstance(part, int):
        if node is None and part == 0:
            return Items((_replaced(None, rest, value, (*trail, part)),), place)
        if not isinstance(node, Items) or part >= len(node.nodes):
            why = f"it has {len(node.nodes)}, counted from 0" if isinstance(node, Items) else "it is not a list"
            message = f"{where} has no item {part}: {'it is not there' if node is None else why}"
            last = len(node.nodes) - 1 if isinstance(node, Items) else -1
            hint = (
                f"the last is `{spelt((*trail, last))}`"
                if last >= 0
                else f"give all of it: `--set '{spelt(trail)}=[...]'`"
            )
            raise recipe_error(place, "unknown-key", message, hint)
        items = list(node.nodes)
        items[part] = _replaced(items[part], rest, value, (*trail, part))
        return Items(tuple(items), node.place)
    if isinstance(node, Items):
        hint = f"name an item: `{spelt(trail)}[0].{part}`"
        raise recipe_error(place, "unknown-key", f"{where} is a list, so it has no `{part}`", hint)
    if isinstance(node, Scalar):
        raise recipe_error(place, "unknown-key", f"{where} is a single value, so it has no `{part}`")
    entries = dict(node.entries) if node else {}
    old = entries.get(part)
    entries[part] = Entry(place, _replaced(old.node if old else None, rest, value, (*trail, part)))
    return Table(entries, node.place if node else place)
