"""YAML as a tree that knows where each key and value stands.

PyYAML's parser (libyaml where it is built in) turns text into events, and this module puts them together, so that tags,
duplicate keys, bombs of aliases and depth are refused where they stand, before anything is expanded. PyYAML's own
`compose` would not do: libyaml's overflows the stack at 100,000 brackets, and its nodes forget where an alias
stood.

Only what YAML 1.1 and 1.2 agree on is more than text: null, true and false, decimal numbers. So `off`, `no`, a date or
a commit such as `12e4567` stay the text that was typed, and the schema decides what a field's text means.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import yaml

from moemerge.recipe.places import Place, Source, did_you_mean, recipe_error

MAX_VALUES = 250_000
"""Keys and values that a recipe may hold once aliases are expanded; a text counts once more for each 100 characters."""
MAX_DEPTH = 64
"""Levels of nesting that a recipe may have."""

_NEEDS: Mapping[str, str] = {
    "recipe": "it needs at least `base_model` and `experts`",
    "file of domains": "it needs a file of texts per domain, such as `code: texts/code.jsonl`",
}
_BEGINS: Mapping[str, str] = {
    "recipe": "begin with a key, such as `base_model: ...`",
    "file of domains": "begin with a domain, such as `code: texts/code.jsonl`",
}

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE, _FALSE = frozenset({"true", "True", "TRUE"}), frozenset({"false", "False", "FALSE"})
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,30})")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNREADABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value, and the text that it was typed as."""

    value: bool | int | float | str | None
    text: str
    place: Place


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    nodes: tuple[Node, ...]
    place: Place


class Entry(NamedTuple):
    """A key's place, and its value."""

    key: Place
    node: Node


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping. Keys are text."""

    entries: Mapping[str, Entry]
    place: Place

    def get(self, key: str) -> Node | None:
        """The value of a key, or None."""
        entry = self.entries.get(key)
        return entry.node if entry else None


Node = Scalar | Items | Table


def decode(data: bytes, name: str, what: str = "recipe") -> Source:
    """A file's bytes as text: UTF-8, or UTF-16 with a byte order mark; `what` it is, for messages.

    Raises:
        RecipeError: the bytes are neither.
    """
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if utf16 else "utf-8-sig"
    try:
        return Source(name, data.decode(encoding), what)
    except UnicodeDecodeError as error:
        before = Source(name, data[: error.start].decode(encoding, "replace")).lines
        source = Source(name, data.decode(encoding, "replace"))
        place = Place(source, len(before) - 1, len(before[-1]))
        byte = f"byte 0x{error.object[error.start]:02x}"
        message = f"The {what} is not {'UTF-16' if utf16 else 'UTF-8'}: {byte} is not a character"
        raise recipe_error(place, "encoding", message, "save the file as UTF-8") from None


def compose(source: Source) -> Table:
    """A recipe's text as a tree.

    Raises:
        RecipeError: the text is not YAML, uses a part of YAML that is not read here, is empty, or is not a mapping.
    """
    node = compose_value(source)
    if node is None or (isinstance(node, Scalar) and node.value is None):
        place = Place(source, 0, 0)
        raise recipe_error(place, "empty", f"The {source.what} is empty", _NEEDS.get(source.what))
    if not isinstance(node, Table):
        what = "a list" if isinstance(node, Items) else "a single value"
        message = f"The {source.what} is {what}, and must be a mapping of keys to values"
        raise recipe_error(node.place, "not-a-mapping", message, _BEGINS.get(source.what))
    return node


def compose_value(source: Source, text: str | None = None) -> Node | None:
    """Any YAML value as a tree; None where the text holds none.

    Args:
        source: what places point into.
        text: what is read where that is not the source's whole text: a part of it, with blanks for the rest.

    Raises:
        RecipeError: the text is not YAML, or uses a part of YAML that is not read here.
    """
    text = source.text if text is None else text
    unreadable = _UNREADABLE.search(text)
    if unreadable:
        lines = Source("", text[: unreadable.start()]).lines
        place = Place(source, len(lines) - 1, len(lines[-1]))
        message = f"The {source.what} holds the character U+{ord(unreadable.group()):04X}, which YAML does not allow"
        raise recipe_error(place, "syntax", message, "remove it, or write it as an escape in a double-quoted text")
    composer = _Composer(source, text)
    try:
        return composer.document()
    except yaml.MarkedYAMLError as error:
        _refuse_syntax(source, error, composer.open[-1] if composer.open else None)


def plain(node: Node) -> Any:
    """A tree as plain data: None, bool, int, float, str, list and dict."""
    match node:
        case Scalar(value=value):
            return value
        case Items(nodes=nodes):
            return [plain(item) for item in nodes]
        case Table(entries=entries):
            return {key: plain(entry.node) for key, entry in entries.items()}


class _Size(NamedTuple):
    """How much a value holds once its aliases are expanded: keys and values, and levels of nesting."""

    values: int
    levels: int

    def holding(self, other: _Size) -> _Size:
        """The size of a list or mapping with one value more in it."""
        return _Size(self.values + other.values, max(self.levels, other.levels + 1))


class _Composer:
    """Makes a tree of the parser's events; it goes down as deep as `MAX_DEPTH` and no deeper."""

    def __init__(self, source: Source, text: str) -> None:
        self.source = source
        self.events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self.open: list[Place] = []
        """Lists and mappings that are not closed yet, the innermost last."""
        self.anchors: dict[str, tuple[Node, _Size] | None] = {}
        """What each anchor names; None while that is open."""
        self.values = 0

    def document(self) -> Node | None:
        """The only document's value."""
        node = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if node is not None:
                    message = f"The {self.source.what} is one YAML document, and here a second begins"
                    raise recipe_error(self.place(event), "documents", message)
                node, _ = self.value(next(self.events))
        return node

    def value(self, event: Any) -> tuple[Node, _Size]:
        """The value that begins with an event."""
        place = self.place(event)
        if isinstance(event, yaml.AliasEvent):
            node, size = self.named(str(event.anchor), place)
            self.spend(size.values, place)
            self.check_depth(size.levels, place)
            return node, size
        if event.tag is not None:
            tag, hint = event.tag.replace("tag:yaml.org,2002:", "!!"), "put quotes round a text that begins with `!`"
            raise recipe_error(place, "tag", f"Tag `{tag}` is not read: a recipe holds plain values", hint)
        if isinstance(event, yaml.ScalarEvent):
            node = Scalar(_resolve(event.value) if event.implicit[0] else event.value, event.value, place)
            size = _Size(1 + len(event.value) // 100, 0)
            self.spend(size.values, place)
        else:
            self.open.append(place)
            self.spend(1, place)
            self.check_depth(0, place)
            if event.anchor is not None:
                self.anchors[event.anchor] = None
            node, size = (self.items if isinstance(event, yaml.SequenceStartEvent) else self.table)(place)
            self.open.pop()
        if event.anchor is not None:
            self.anchors[event.anchor] = node, size
        return node, size

    def items(self, place: Place) -> tuple[Node, _Size]:
        """A list, up to its end."""
        nodes: list[Node] = []
        size = _Size(1, 1)
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            node, below = self.value(event)
            nodes.append(node)
            size = size.holding(below)
        return Items(tuple(nodes), place), size

    def table(self, place: Place) -> tuple[Node, _Size]:
        """A mapping, up to its end. Its own keys win over those that `<<` merges."""
        entries: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        keys: dict[tuple[str, bool], Place] = {}
        size = _Size(1, 1)
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key, below = self.value(event)
            here = self.place(event)
            if not isinstance(key, Scalar):
                hint = "put quotes round a text that begins with `{` or `[`"
                raise recipe_error(here, "bad-key", "A key must be text, and this one is a list or mapping", hint)
            merges = isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value == "<<"
            first = keys.setdefault((key.text, merges), here)
            if first is not here:
                hint = f"line {first.line + 1} has it already; keep one of the two"
                raise recipe_error(here, "duplicate-key", f"Key `{key.text}` is given twice", hint)
            node, beside = self.value(next(self.events))
            size = size.holding(below).holding(beside)
            if merges:
                self.merge(merged, node, here)
            else:
                entries[key.text] = Entry(here, node)
        return Table(merged | entries, place), size

    def merge(self, merged: dict[str, Entry], node: Node, place: Place) -> None:
        """`<<`: takes over the keys of one mapping or several, the first of which wins."""
        for table in node.nodes if isinstance(node, Items) else (node,):
            if not isinstance(table, Table):
                hint = "write `<<: *name` or `<<: [*one, *two]`, each the anchor of a mapping"
                raise recipe_error(place, "bad-merge-key", "`<<` merges mappings, and this value is not one", hint)
            self.spend(len(table.entries), place)
            for key, entry in table.entries.items():
                merged.setdefault(key, entry)

    def named(self, name: str, place: Place) -> tuple[Node, _Size]:
        """What an alias names."""
        if name not in self.anchors:
            hint = did_you_mean(name, self.anchors) if self.anchors else f"put quotes round a text: `'*{name}'`"
            raise recipe_error(place, "bad-alias", f"Alias `*{name}` names no anchor before it", hint)
        found = self.anchors[name]
        if found is None:
            message = f"Alias `*{name}` stands inside what it names, so it would never end"
            raise recipe_error(place, "bad-alias", message)
        return found

    def spend(self, values: int, place: Place) -> None:
        """Counts keys and values, expanded ones too."""
        self.values += values
        if self.values > MAX_VALUES:
            hint = "keep long lists of prompts in a `prompts_file`, texts in `data`"
            message = f"The {self.source.what} expands to more than {MAX_VALUES:,} values"
            raise recipe_error(place, "too-large", message, hint)

    def check_depth(self, below: int, place: Place) -> None:
        """Counts levels, those that an alias brings too."""
        if len(self.open) + below > MAX_DEPTH:
            message = f"The {self.source.what} is nested deeper than {MAX_DEPTH} levels"
            raise recipe_error(place, "too-deep", message)

    def place(self, event: Any) -> Place:
        """Where an event stands."""
        start, end = event.start_mark, event.end_mark
        one_line = isinstance(event, yaml.ScalarEvent | yaml.AliasEvent) and start.line == end.line
        return Place(self.source, start.line, start.column, max(end.column - start.column, 1) if one_line else 1)


def _resolve(text: str) -> bool | int | float | str | None:
    """What an unquoted text means."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(re.sub(r"\.(?=[iInN])", "", text))
    return text


def _refuse_syntax(source: Source, error: yaml.MarkedYAMLError, opened: Place | None) -> NoReturn:
    """What the parser found, at the place where a reader should look; `opened` is the innermost open collection."""
    mark, problem, context = error.problem_mark or error.context_mark, error.problem or "", error.context or ""
    assert mark is not None, "the parser always says where"
    rest = [line[mark.column * (not i) :] for i, line in enumerate(source.lines[mark.line :])]
    found = rest[0][:1] if rest else ""
    place = Place(source, mark.line, mark.column)
    hint = "check the indentation, and that every quote is closed"
    if "flow" in context and opened is not None:
        hint = f"close the bracket of line {opened.line + 1}, or put a comma between its parts"
        place = place if "".join(rest).strip() else opened
    elif found == "\t":
        hint = "indent with spaces: YAML takes no tabs"
    elif "mapping values are not allowed" in problem:
        hint = "put quotes round a text that holds a colon and a space"
    elif "escape character" in problem:
        hint = "use single quotes, in which a backslash means itself, or double the backslash"
    elif "cannot start any token" in problem or "an alias" in context or "an anchor" in context:
        hint = f"put quotes round a text that begins with `{found}`"
    elif not "".join(rest).strip() and error.context_mark is not None:  # the end tells nothing, what is open does
        place = Place(source, error.context_mark.line, error.context_mark.column)
    message = ", ".join(part for part in (context, problem) if part)
    raise recipe_error(place, "syntax", f"The {source.what} is not valid YAML: {message}", hint) from None
