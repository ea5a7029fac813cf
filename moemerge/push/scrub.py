"""What no repository is to hold: tokens, and paths that tell of the machine that built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moemerge.sources.spec import public
from moemerge.write.markdown import code

NO_TEXTS = (".gguf", ".model", ".png", ".safetensors")
"""The ends of names of files that nobody writes by hand."""
_WORDS = frozenset({"prompts", "negative_prompts", "prompt", "after", "files", "tensors"})
"""Keys of the record under which there are texts and names, and no paths."""
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")


def public_names(record: Mapping[str, Any]) -> dict[str, str]:
    """What is written in the place of each path in a record that tells of this machine.

    Each gets a name of its own, since a record's sources are told apart by them, and none is `base`, which is a word.
    """
    found: dict[str, str] = {}
    taken = {"base"}
    for text in _paths(record):
        if text in found:
            continue
        name, count = public(text), 1
        while name in taken:
            count += 1
            name = f"{public(text)}-{count}"
        found[text] = name
        taken.add(name)
    return found


def _paths(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key not in _WORDS:
                yield from _paths(value)
    elif isinstance(node, list):
        for value in node:
            yield from _paths(value)
    elif isinstance(node, str) and public(node) != node:
        yield node


def renamed(node: Any, names: Mapping[str, str]) -> Any:
    """A record with these names in the place of what they stand for."""
    if isinstance(node, Mapping):
        return {key: value if key in _WORDS else renamed(value, names) for key, value in node.items()}
    if isinstance(node, list):
        return [renamed(value, names) for value in node]
    return names.get(node, node) if isinstance(node, str) else node


def without_paths(text: str, names: Mapping[str, str]) -> str:
    """A card with these names in the place of what they stand for, the longest first."""
    for path in sorted(names, key=len, reverse=True):
        text = text.replace(code(path), code(names[path]))
    return text


def has_token(data: bytes, token: str | None) -> bool:
    """Whether a file holds a token of the hub: this user's, or anything that looks like one."""
    return _TOKEN.search(data) is not None or (token is not None and token.encode() in data)


def names_home(data: bytes) -> bool:
    """Whether a file names this user's home folder."""
    home = str(Path.home())
    return len(home) > 1 and re.search(re.escape(home).encode() + rb"(?![\w-])", data) is not None
