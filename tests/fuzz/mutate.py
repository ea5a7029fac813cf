"""Spoils inputs as broken downloads, tools and attackers do: bytes, text, and values in a tree of JSON."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 128, 2**31, 2**63, 10**30, -(10**30), 0.0, 0.5, -1.5, 1e308, float("nan"),
    float("inf"), "", " ", "x", "true", "1", "../../x", "/", "{{7*7}}", "a\0b", "\ud800", "é" * 300, "(a+)+$", "[",
    "<s>", "</s>", "LlamaTokenizer", "x" * 5000, [], {}, [[]], [None], [1], ["x"], {"x": None}, {"type": "x"},
    {"content": 1}, {"": ""},
)  # fmt: skip
"""Values that a reader may not think of."""
BYTES = (b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\t", b"{", b"}", b"[" * 3000, b'"', b"\\u0000", b"\\ud800",
         b": ", b"- ", b"&a ", b"*a", b"!!python/object:os.system ", b"1e999", b"9" * 5000, b"\r\n", b"---\n",
         b"\xc3\x28", b"null", b"true")  # fmt: skip
"""Bytes that mean something to one reader or another."""

DEEP = "nested as deep as "
"""Begins a text that stands for nested lists."""

Mutation = Callable[[random.Random, bytes], bytes]


def in_bytes(chance: random.Random, data: bytes) -> bytes:
    """Changes some bytes: takes out, puts in, cuts off, repeats."""
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(data) + 1)
        until = min(len(data), at + chance.choice((1, 1, 2, 8, 40, 400)))
        match chance.randrange(6):
            case 0:
                data = data[:at] + data[until:]
            case 1:
                data = data[:at] + chance.choice(BYTES) + data[at:]
            case 2:
                data = data[:at] + chance.choice(BYTES) + data[until:]
            case 3:
                data = data[:at] + bytes((chance.randrange(256),)) + data[at + 1 :]
            case 4:
                data = data[:at]
            case _:
                data = data[:until] + data[at:until] * chance.choice((1, 2, 50)) + data[until:]
    return data


def in_lines(chance: random.Random, data: bytes) -> bytes:
    """Drops, repeats, moves or indents lines."""
    lines = data.splitlines(keepends=True) or [b""]
    at = chance.randrange(len(lines))
    match chance.randrange(4):
        case 0:
            del lines[at]
        case 1:
            lines.insert(chance.randrange(len(lines) + 1), lines[at])
        case 2:
            lines[at] = b"  " * chance.choice((1, 2, 60)) + lines[at]
        case _:
            lines[at] = lines[at].lstrip()
    return b"".join(lines)


def in_tree(chance: random.Random, value: Any) -> Any:
    """Changes values of a tree: puts others in their place, takes out, adds, moves, nests."""
    tree = [copy.deepcopy(value)]
    for _ in range(chance.choice((1, 1, 1, 1, 2, 4))):
        places = list(_places(tree))
        holder, key = chance.choice(places) if chance.random() < 0.5 else _way_down(chance, tree)
        old = holder[key]
        match chance.randrange(9):
            case 0 | 1 | 2:
                holder[key] = copy.deepcopy(chance.choice(VALUES))
            case 3:
                if holder is not tree:
                    del holder[key]
            case 4:
                other, there = chance.choice(places)
                holder[key] = copy.deepcopy(other[there])
            case 5:
                many = 200 if len(json.dumps(old)) < 100 else 2
                holder[key] = chance.choice(([old], {"x": old}, [old, old], [old] * many))
            case 6 if isinstance(old, bool | int | float):
                holder[key] = chance.choice((old + 1, old - 1, -old, old * 1000, float(old), str(old)))
            case 6 if isinstance(old, str):
                holder[key] = chance.choice((old + "x", old[:-1], old.upper(), old[:100] * 100, f" {old}"))
            case 7 if isinstance(old, dict):
                old[chance.choice(("", "x", "type", "auto_map", "trust_remote_code", *old))] = copy.deepcopy(
                    chance.choice(VALUES)
                )
            case 7 if isinstance(old, list):
                old.insert(chance.randrange(len(old) + 1), copy.deepcopy(chance.choice((*VALUES, *old))))
            case _:
                holder[key] = f"{DEEP}{chance.choice((3, 90, 3000, 50_000))}"
    return tree[0]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder and key in a tree; those of long lists and maps only now and then."""
    waiting = [value]
    while waiting:
        here = waiting.pop()
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        for key in keys[:40] + keys[-2:] if len(keys) > 42 else keys:
            yield here, key
            if isinstance(here[key], dict | list):
                waiting.append(here[key])


def _way_down(chance: random.Random, tree: list[Any]) -> tuple[Any, Any]:
    """A holder and key by chance at each level: so a vocabulary's hundreds of entries weigh no more than one rule."""
    holder: Any = tree
    key: Any = 0
    while isinstance(inner := holder[key], dict | list) and inner and chance.random() < 0.85:
        holder, key = inner, chance.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
    return holder, key


def dump(value: Any) -> bytes:
    """JSON with whatever is in the tree, and with as deep lists as it asks for."""
    text = re.sub(f'"{DEEP}([0-9]+)"', lambda found: "[" * int(found[1]) + "]" * int(found[1]), json.dumps(value))
    return text.encode()


def in_json(chance: random.Random, data: bytes) -> bytes:
    """Mostly values, sometimes bytes."""
    if chance.random() < 0.15:
        return in_bytes(chance, data)
    return dump(in_tree(chance, json.loads(data)))


def in_text(chance: random.Random, data: bytes) -> bytes:
    """Bytes or lines."""
    return chance.choice((in_bytes, in_bytes, in_lines))(chance, data)


def spliced(parts: Sequence[bytes]) -> Mutation:
    """Bytes, lines, and parts put in or strung together."""

    def mutate(chance: random.Random, data: bytes) -> bytes:
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            at = chance.randrange(len(data) + 1)
            data = data[:at] + chance.choice(parts) + data[at:]
        return in_text(chance, data) if chance.random() < 0.4 else data

    return mutate
