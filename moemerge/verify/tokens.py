"""Whether the folder's tokenizer gives every text the ids that the base's gives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moemerge.errors import Difference, SourceError
from moemerge.sources.tokenizer import try_file
from moemerge.verify.reading import read_regular

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME = "tokenizer.json"
SAMPLES = (
    "The quick brown fox jumps over the lazy dog.",
    "def reverse(items: list[int]) -> list[int]:\n    return items[::-1]  # O(n)\n",
    "Если x² + 1 = 0, то x = ±i; naïve café, Straße, 東京, 안녕하세요, مرحبا 🙂👩‍🚀",
    "  two  spaces\tand\ttabs \r\n\n\n3.14159 1,000,000 0x7f don't WE'LL",
    "<s> </s> <|im_start|>user\nhi<|im_end|> <|endoftext|> [INST] <unk>",
)
"""Texts of many kinds: prose, code, scripts, spaces, numbers, and what looks like special tokens."""
_LISTED = 4


def check_tokenizer(own: Path, base: Path) -> list[Difference]:
    """Compares two `tokenizer.json`.

    Equal files are equal. Otherwise their vocabularies, special tokens included, are compared token by token and then
    the ids of `SAMPLES`, which also show another normaliser, splitter or list of merges.
    """
    try:
        if read_regular(own) == base.read_bytes():
            return []
        from tokenizers import Tokenizer

        for path in (own, base):
            try_file(path)
        ours, theirs = Tokenizer.from_file(str(own)), Tokenizer.from_file(str(base))
    except (OSError, SourceError) as error:
        return [Difference(NAME, f"cannot be read: {error}")]
    message = _vocabulary(ours, theirs) or _special(ours, theirs) or _ids(ours, theirs)
    return [Difference(NAME, message)] if message else []


def _vocabulary(ours: Tokenizer, theirs: Tokenizer) -> str | None:
    mine, wanted = ours.get_vocab(with_added_tokens=True), theirs.get_vocab(with_added_tokens=True)
    changed = sorted(token for token, index in wanted.items() if mine.get(token) != index)
    over = sorted(token for token in mine if token not in wanted)
    if not changed and not over:
        return None
    lines = [f"`{token}` is {mine.get(token, 'missing')}, the base has {wanted[token]}" for token in changed]
    lines += [f"`{token}` is {mine[token]}, the base has no such token" for token in over]
    count = len(lines)
    rest = f"; and {count - _LISTED} more" if count > _LISTED else ""
    return f"{count} token{'s differ' if count > 1 else ' differs'}: {'; '.join(lines[:_LISTED])}{rest}"


def _special(ours: Tokenizer, theirs: Tokenizer) -> str | None:
    mine, wanted = ({i: t.special for i, t in x.get_added_tokens_decoder().items()} for x in (ours, theirs))
    differing = sorted(index for index in mine.keys() | wanted.keys() if mine.get(index) != wanted.get(index))
    return f"the added tokens {differing[:_LISTED]} are not special as in the base" if differing else None


def _ids(ours: Tokenizer, theirs: Tokenizer) -> str | None:
    for sample in SAMPLES:
        mine, wanted = ours.encode(sample).ids, theirs.encode(sample).ids
        if mine != wanted:
            return f"gives {sample[:24]!r} the ids {mine[:8]}, the base's gives {wanted[:8]}"
    return None
