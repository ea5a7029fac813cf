"""mergekit's `tokenizer_source` and `tokenizer` as the native `tokenizer`, where models have names and not paths."""

from __future__ import annotations

from collections.abc import Callable

from moemerge.recipe.places import Place, listed, nearest, quoted
from moemerge.recipe.yaml import Entry, Items, Node, Scalar, Table

Complain = Callable[[Place, str, str, str | None], None]
_KEYS, _TOKEN = ("source", "tokens", "pad_to_multiple_of"), ("source", "force")


def vocabulary_of(tree: Table, experts: Entry | None, complain: Complain) -> Entry | None:
    """The native `tokenizer` of a mergekit recipe; None where it says nothing of one.

    Args:
        tree: the recipe.
        experts: its experts in their native form.
        complain: is told what is wrong: place, code, message, hint.
    """
    given = [key for key in ("tokenizer", "tokenizer_source") if not _is_null(tree.get(key))]
    if not given:
        return None
    key = given[0]
    place, node = tree.entries[key]
    if len(given) > 1:
        complain(place, "two-tokenizers", "`tokenizer` and `tokenizer_source` say the same: give one of them", None)
    names = _names(tree, experts)
    if key == "tokenizer_source":
        node = Table({"source": Entry(place, node)}, place)
    if not isinstance(node, Table):
        complain(node.place, "wrong-type", "`tokenizer` must be a mapping", f"write `tokenizer_source: {_text(node)}`")
        return None
    native: dict[str, Entry] = {}
    for name, entry in node.entries.items():
        if name not in _KEYS:
            meant = nearest(name, _KEYS)
            complain(entry.key, "unknown-key", f"Unknown key `{name}` in `tokenizer` of this mergekit-moe recipe",
                     f"did you mean `{meant}`?" if meant else None)  # fmt: skip
        elif _is_null(entry.node):
            continue
        elif name == "source":
            where = "tokenizer_source" if key == "tokenizer_source" else "tokenizer.source"
            native[name] = _model(entry, {"union": "union", "base": "base", **names}, where, complain)
        elif name == "tokens":
            native[name] = _tokens(entry, names, complain)
        else:
            native[name] = entry
    return Entry(place, Table(native, place))


def _names(tree: Table, experts: Entry | None) -> dict[str, str]:
    """What the models are called here, by the paths that the recipe calls them."""
    names = {_text(tree.get("base_model")): "base"}
    for node in experts.node.nodes if experts is not None and isinstance(experts.node, Items) else ():
        if isinstance(node, Table):
            names.setdefault(_text(node.get("model")), _text(node.get("name")))
    return {path: name for path, name in names.items() if path and name}


def _tokens(entry: Entry, names: dict[str, str], complain: Complain) -> Entry:
    """Tokens whose rows come from one model, whoever else has them: what mergekit calls `force: true`."""
    if not isinstance(entry.node, Table):
        complain(entry.node.place, "wrong-type", "`tokenizer.tokens` must be a mapping", None)
        return entry
    native = {}
    for token, (place, node) in entry.node.entries.items():
        where = f"tokenizer.tokens.{token}"
        force = node.get("force") if isinstance(node, Table) else None
        source = node.entries.get("source") if isinstance(node, Table) else None
        if isinstance(node, Table) and source is not None and isinstance(source.node, Scalar):
            if unknown := [key for key in node.entries if key not in _TOKEN]:
                complain(node.entries[unknown[0]].key, "unknown-key", f"Unknown key `{unknown[0]}` in `{where}`", None)
            if not (isinstance(force, Scalar) and force.value is True):
                hint = "add `force: true`; without the entry its rows are those of the models that have it"
                complain(place, "token-rows", f"`{where}` is read with `force: true` alone", hint)
            native[token] = _model(source, names, f"{where}.source", complain)
        else:
            message = f"`{where}` must be a mapping with a model's path as its `source`, and `force: true`"
            complain(node.place, "wrong-type", message, None)
    return Entry(entry.key, Table(native, entry.node.place))


def _model(entry: Entry, names: dict[str, str], where: str, complain: Complain) -> Entry:
    """A model's path as its name here."""
    text = _text(entry.node)
    if text not in names:
        complain(
            entry.node.place, "unknown-value", f"`{where}` must be {listed(quoted(names), 'or')}, not `{text}`", None
        )
    return Entry(entry.key, Scalar(names.get(text, "base"), text, entry.node.place))


def _text(node: Node | None) -> str:
    return node.text if isinstance(node, Scalar) and node.value is not None else ""


def _is_null(node: Node | None) -> bool:
    return node is None or (isinstance(node, Scalar) and node.value is None)
