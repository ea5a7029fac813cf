"""YAML as a tree that knows where each key and value stands.

PyYAML's scanner and parser (libyaml where it is built in) turn text into events; this module composes them itself, so
that tags, duplicate keys, bombs of aliases and depth are refused where they stand, before anything is expanded.

Only what YAML 1.1 and 1.2 agree on is more than text: null, true and false, decimal numbers. So `off`, `no`, a date or
a commit such as `12e4567` stay the text that was typed, and the schema decides what a field's text means.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, NoReturn

import yaml

from moemerge.recipe.places import Place, Source, did_you_mean, recipe_error

MAX_VALUES = 250_000
"""Keys and values that a recipe may hold once aliases are expanded; a text counts once more for each 100 characters."""
MAX_DEPTH = 64
"""Levels of nesting that a recipe may have."""

_NEEDS: Mapping[str, str] = {
    "recipe": "it needs at least `base_model` and `experts`",
    "file of domains": "it needs a file of texts a domain, such as `code: texts/code.jsonl`",
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
        message = f"The {what} is not {'UTF-16' if utf16 else 'UTF-8'}: {byte} is no character"
        raise recipe_error(place, "encoding", message, "save the file as UTF-8") from None


def compose(source: Source) -> Table:
    """A recipe's text as a tree.

    Raises:
        RecipeError: the text is not YAML, uses a part of YAML that is not read here, is empty, or is no mapping.
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
    composer = _Composer(source)
    try:
        for event in _events(text):
            composer.take(event)
    except yaml.MarkedYAMLError as error:
        _refuse_syntax(source, error, composer.stack[-1].place if composer.stack else None)
    return composer.root


def plain(node: Node) -> Any:
    """A tree as plain data: None, bool, int, float, str, list and dict."""
    match node:
        case Scalar(value=value):
            return value
        case Items(nodes=nodes):
            return [plain(item) for item in nodes]
        case Table(entries=entries):
            return {key: plain(entry.node) for key, entry in entries.items()}


def _events(text: str) -> Iterator[Any]:
    events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
    return events


class _Size(NamedTuple):
    """How much a value holds once its aliases are expanded: keys and values, and levels of nesting."""

    values: int
    levels: int


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is still open."""

    kind: Literal["list", "mapping"]
    place: Place
    anchor: str | None
    size: _Size = field(default_factory=lambda: _Size(1, 1))
    nodes: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    merged: dict[str, Entry] = field(default_factory=dict)
    key: tuple[str, Place, bool] | None = None
    merges: Place | None = None


class _Composer:
    """Takes events one by one; `root` is the tree once they are over."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.root: Node | None = None
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Node, _Size]] = {}
        self.values = 0
        self.documents = 0

    def take(self, event: Any) -> None:
        """One event of the parser."""
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    message = f"The {self.source.what} is one YAML document, and here a second begins"
                    self.refuse(self.place(event), "documents", message)
            case yaml.AliasEvent():
                node, size = self.named(event)
                self.spend(size.values, self.place(event))
                self.add(node, size, self.place(event))
            case yaml.ScalarEvent():
                self.refuse_tag(event)
                bare = bool(event.implicit[0])
                scalar = Scalar(_resolve(event.value) if bare else event.value, event.value, self.place(event))
                size = _Size(1 + len(event.value) // 100, 0)
                self.spend(size.values, scalar.place)
                self.finish(event.anchor, scalar, size, merge_key=bare and event.value == "<<")
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self.refuse_tag(event)
                kind: Literal["list", "mapping"] = "list" if isinstance(event, yaml.SequenceStartEvent) else "mapping"
                self.stack.append(_Frame(kind, self.place(event), event.anchor))
                self.spend(1, self.place(event))
                self.check_depth(0, self.place(event))
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                frame = self.stack.pop()
                whole: Node
                if frame.kind == "list":
                    whole = Items(tuple(frame.nodes), frame.place)
                else:
                    whole = Table({**frame.merged, **frame.entries}, frame.place)
                self.finish(frame.anchor, whole, frame.size)

    def finish(self, anchor: str | None, node: Node, size: _Size, *, merge_key: bool = False) -> None:
        """Remembers what an anchor names, and puts the value where it belongs."""
        if anchor is not None:
            self.anchors[anchor] = (node, size)
        self.add(node, size, node.place, merge_key=merge_key)

    def add(self, node: Node, size: _Size, place: Place, *, merge_key: bool = False) -> None:
        """Puts a value into the list or mapping that is open."""
        self.check_depth(size.levels, place)
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        frame.size = _Size(frame.size.values + size.values, max(frame.size.levels, size.levels + 1))
        if frame.kind == "list":
            frame.nodes.append(node)
        elif frame.key is None:
            frame.key = (*self.key(frame, node, place, merge_key), merge_key)
        else:
            (key, key_place, merges), frame.key = frame.key, None
            if merges:
                self.merge(frame, node, key_place)
            else:
                frame.entries[key] = Entry(key_place, node)

    def key(self, frame: _Frame, node: Node, place: Place, merge_key: bool) -> tuple[str, Place]:
        """A key's text and place."""
        if not isinstance(node, Scalar):
            hint = "put quotes round a text that begins with `{` or `[`"
            self.refuse(place, "bad-key", "A key must be text, and this one is a list or mapping", hint)
        first = frame.merges if merge_key else frame.entries[node.text].key if node.text in frame.entries else None
        if first is not None:
            hint = f"line {first.line + 1} has it already; keep one of the two"
            self.refuse(place, "duplicate-key", f"Key `{node.text}` is given twice", hint)
        if merge_key:
            frame.merges = place
        return node.text, place

    def merge(self, frame: _Frame, node: Node, place: Place) -> None:
        """`<<`: takes over the keys of one mapping or several, the first of which wins."""
        for table in node.nodes if isinstance(node, Items) else (node,):
            if not isinstance(table, Table):
                hint = "write `<<: *name` or `<<: [*one, *two]`, each the anchor of a mapping"
                self.refuse(place, "bad-merge-key", "`<<` merges mappings, and this value is none", hint)
            self.spend(len(table.entries), place)
            for key, entry in table.entries.items():
                frame.merged.setdefault(key, entry)

    def named(self, event: Any) -> tuple[Node, _Size]:
        """What an alias names."""
        name, place = str(event.anchor), self.place(event)
        if any(frame.anchor == name for frame in self.stack):
            self.refuse(place, "bad-alias", f"Alias `*{name}` stands inside what it names, so it would never end")
        if name not in self.anchors:
            hint = did_you_mean(name, self.anchors) if self.anchors else f"put quotes round a text: `'*{name}'`"
            self.refuse(place, "bad-alias", f"Alias `*{name}` names no anchor before it", hint)
        return self.anchors[name]

    def spend(self, values: int, place: Place) -> None:
        """Counts keys and values, expanded ones too."""
        self.values += values
        if self.values > MAX_VALUES:
            hint = "keep long lists of prompts in a `prompts_file`, texts in `data`"
            self.refuse(place, "too-large", f"The {self.source.what} expands to more than {MAX_VALUES:,} values", hint)

    def check_depth(self, below: int, place: Place) -> None:
        """Counts levels, those that an alias brings too."""
        if len(self.stack) + below > MAX_DEPTH:
            self.refuse(place, "too-deep", f"The {self.source.what} is nested deeper than {MAX_DEPTH} levels")

    def refuse_tag(self, event: Any) -> None:
        """Tags can name types, and a recipe has no need of any."""
        if event.tag is not None:
            tag, hint = event.tag.replace("tag:yaml.org,2002:", "!!"), "put quotes round a text that begins with `!`"
            self.refuse(self.place(event), "tag", f"Tag `{tag}` is not read: a recipe holds plain values", hint)

    def place(self, event: Any) -> Place:
        """Where an event stands."""
        start, end = event.start_mark, event.end_mark
        one_line = isinstance(event, yaml.ScalarEvent | yaml.AliasEvent) and start.line == end.line
        return Place(self.source, start.line, start.column, max(end.column - start.column, 1) if one_line else 1)

    def refuse(self, place: Place, code: str, message: str, hint: str | None = None) -> NoReturn:
        """Raises."""
        raise recipe_error(place, code, message, hint)


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
