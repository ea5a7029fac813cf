"""`tokenizer.json` as the tokenizers library reads it: its tokens, and the same file with more of them."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from moemerge.errors import SourceError
from moemerge.sources.regular import MAX_BYTES, check_downloaded, read_whole
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
        beside: the added tokens that the `tokenizer.json` lacks, by their ids: its config lists or names them.
    """

    ids: Mapping[str, int]
    added: Mapping[str, AddedToken]
    whole: bool = True
    beside: tuple[str, ...] = ()

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
    """The tokens that a checkpoint's files tell of; `added_tokens.json` and the config may list more, and name more.

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
        first = max(tokenizer.get_vocab_size(with_added_tokens=False), 1 + max(map(ids.__getitem__, added), default=-1))
        listed = tokenizer_config(files).beside(ids, first)
    else:
        listed = tokenizer_config(files).added
    added |= {token: AddedToken(token) for token in listed}
    whole = FILE in files
    return Tokens({**ids, **listed}, added, whole, tuple(listed) if whole else ())


@dataclass(frozen=True)
class Numbers:
    """The ids of a model's tokens.

    Attributes:
        ids: as every reader gives them.
        wrong: of the added tokens for which the files say another id: that one, and the reader's.
    """

    ids: Mapping[str, int]
    wrong: Mapping[str, tuple[int, int]]


def numbers_of(files: Mapping[str, Path]) -> Numbers:
    """Which id each token has, without the library where the files number their added tokens as it does: one after the
    other, in the order in which they stand there.

    Raises:
        SourceError: one of the files cannot be read.
    """
    config = tokenizer_config(files)
    if FILE not in files:
        return Numbers(config.added, {})
    vocabulary, listed = raw_ids(files[FILE])
    ids, said, first = dict(vocabulary), [*listed, *config.listed], len(vocabulary)
    for token in (*(token for token, _ in said), *config.named):
        if token not in ids:
            ids[token], first = first, first + 1
    if any(ids[token] != number for token, number in said):
        ids = dict(read_tokens(files).ids)
    return Numbers(ids, {t: (number, ids[t]) for t, number in said if ids.get(t, number) != number})


_RawIds = tuple[Mapping[str, int], Sequence[tuple[str, int]]]


def raw_ids(path: Path) -> _RawIds:
    """The ids of the vocabulary, and the added tokens with their numbers, as a `tokenizer.json` says them.

    Raises:
        SourceError: it is no such file.
    """
    data = read_whole(path, MAX_BYTES)
    known = (path, xxhash.xxh3_128_hexdigest(data))
    found = _PARSED.get(known)
    if found is None:
        found = _parse(path, data)
        _PARSED.clear()
        _PARSED[known] = found
    return found


_PARSED: dict[tuple[Path, str], _RawIds] = {}
"""What `raw_ids` gave last, by path and digest: a base's is asked for twice in a row."""


def _parse(path: Path, data: bytes) -> _RawIds:
    try:
        parsed = load_json(data, str(path))
    except (ValueError, RecursionError) as error:
        check_downloaded(data, str(path))
        raise (_marked if data.startswith(BOM_UTF8) else _no_tokenizer)(path) from error
    try:
        vocabulary = parsed["model"].get("vocab", {})
        if isinstance(vocabulary, list):  # a Unigram model lists [token, score]
            vocabulary = {token: index for index, (token, _) in enumerate(vocabulary)}
        ids = dict(vocabulary)
        added = [(token["content"], token["id"]) for token in parsed.get("added_tokens") or []]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_tokenizer(path) from error
    if not all(isinstance(token, str) and type(index) is int for token, index in [*ids.items(), *added]):
        raise _no_tokenizer(path)
    return ids, added


def _no_tokenizer(path: Path) -> SourceError:
    return SourceError(f"`{path}` is not a tokenizer's file", hint="download or copy it again")


def _marked(path: Path) -> SourceError:
    return SourceError(
        f"`{path}` begins with a byte order mark, which no reader of tokenizers takes",
        hint="save it as UTF-8 without a byte order mark",
    )


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
