"""`tokenizer.json` as the tokenizers library reads it: its tokens, and the same file with more of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from moemerge.errors import SourceError
from moemerge.sources.regular import read_whole
from moemerge.sources.strict_json import load_json
from moemerge.sources.tokenizer import try_file
from moemerge.sources.tokenizer_config import tokenizer_config

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that lies above the base vocabulary, and how a text is searched for it."""

    content: str
    special: bool = True
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True)
class Tokens:
    """A model's tokens.

    Attributes:
        ids: of every token; only of added ones where there is no `tokenizer.json`. They are the library's: it gives an
            added token the next free id, whatever number stands in the file.
        added: the added tokens by their text.
        whole: whether `ids` has every token.
    """

    ids: Mapping[str, int]
    added: Mapping[str, AddedToken]
    whole: bool = True

    @cached_property
    def added_ids(self) -> dict[str, int]:
        """Ids of the added tokens."""
        return {token: self.ids[token] for token in self.added}

    @cached_property
    def taken(self) -> frozenset[int]:
        """Every id that a token has."""
        return frozenset(self.ids.values())


def load_tokenizer_json(path: Path) -> Tokenizer:
    """A `tokenizer.json` as the library reads it.

    Raises:
        SourceError: it cannot.
    """
    from tokenizers import Tokenizer

    try_file(path)
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception for whatever it cannot parse
        raise SourceError(f"`{path}` is not a tokenizer's file", hint="download or copy it again") from error


def read_tokens(files: Mapping[str, Path]) -> Tokens:
    """The tokens that a checkpoint's files tell of; `added_tokens.json` and the config may list more.

    Raises:
        SourceError: one of them cannot be read.
    """
    ids: dict[str, int] = {}
    added: dict[str, AddedToken] = {}
    if FILE in files:
        tokenizer = load_tokenizer_json(files[FILE])
        ids = dict(sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1]))
        for token in tokenizer.get_added_tokens_decoder().values():
            added[token.content] = AddedToken(
                token.content, token.special, token.normalized, token.lstrip, token.rstrip, token.single_word
            )
    known = set(ids.values())
    for content, index in tokenizer_config(files).added.items():
        if content not in ids and index not in known:
            ids[content], added[content] = index, AddedToken(content)
            known.add(index)
    return Tokens(ids, added, FILE in files)


def same_file(one: Path, other: Path) -> bool:
    """Whether two files are equal, those in JSON as JSON."""
    first, second = read_whole(one), read_whole(other)
    if first == second:
        return True
    try:
        if one.suffix != ".json" or (parsed := load_json(first, str(one))) != (kept := load_json(second, str(other))):
            return False
        # to Python `0`, `0.0` and `false` are equal, and a reader of tokenizers takes only one of them
        return json.dumps(parsed, sort_keys=True) == json.dumps(kept, sort_keys=True)
    except (ValueError, RecursionError):
        return False


def extended(files: Mapping[str, Path], tokens: Iterable[AddedToken]) -> tuple[str, dict[str, int]]:
    """A model's `tokenizer.json` with more tokens, and their ids."""
    from tokenizers import AddedToken as Entry

    tokenizer = load_tokenizer_json(files[FILE])
    wanted = list(tokens)
    for token in wanted:  # one by one: the ids follow the order
        tokenizer.add_tokens([
            Entry(
                token.content, single_word=token.single_word, lstrip=token.lstrip, rstrip=token.rstrip,
                normalized=token.normalized, special=token.special,
            )
        ])  # fmt: skip
    ids = {token.content: tokenizer.token_to_id(token.content) for token in wanted}
    return tokenizer.to_str(pretty=True) + "\n", {token: index for token, index in ids.items() if index is not None}
