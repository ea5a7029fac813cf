"""Whether the folder's tokenizer gives every text the ids that the base's gives, and what was added to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemerge.errors import Difference
from moemerge.record.schema import RecordedVocabulary
from moemerge.sources.tokenizer import try_file
from moemerge.verify.layout import parse_object
from moemerge.verify.reading import read_regular
from moemerge.verify.vocabulary import Alignment, tokens_in

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME, _CONFIG, _LIST = "tokenizer.json", "tokenizer_config.json", "added_tokens.json"
SAMPLES = (
    "The quick brown fox jumps over the lazy dog.",
    "def reverse(items: list[int]) -> list[int]:\n    return items[::-1]  # O(n)\n",
    "Если x² + 1 = 0, то x = ±i; naïve café, Straße, 東京, 안녕하세요, مرحبا 🙂👩‍🚀",
    "  two  spaces\tand\ttabs \r\n\n\n3.14159 1,000,000 0x7f don't WE'LL",
    "<s> </s> <|im_start|>user\nhi<|im_end|> <|endoftext|> [INST] <unk>",
)
"""Texts of many kinds: prose, code, scripts, spaces, numbers, and what looks like special tokens."""
_LISTED = 4


def _added_entries(aligned: Alignment) -> list[dict[str, Any]]:
    """The entries of `added_tokens` that the output has on top of its anchor's.

    Those of tokens that the anchor has beside that file are plain. The others are as the first source has them that has
    the token; one that no file has an entry for is plain too.
    """
    if not aligned.recorded.added:
        return []
    entries: dict[str, dict[str, Any]] = {}
    for model in aligned.models.values():
        if NAME in model.files:
            for entry in parse_object(model.files[NAME].read_bytes()).get("added_tokens") or ():
                entries.setdefault(entry["content"], entry)
    plain = {"special": True, **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)}
    beside = {} if aligned.anchor is None else tokens_in(aligned.anchor.files)[2]
    return [
        {**(plain if token in beside else entries.get(token, plain)), "content": token, "id": index}
        for token, index in (beside | aligned.recorded.added).items()
    ]


def check_tokenizer(own: Path, base: Path, aligned: Alignment | None = None) -> list[Difference]:
    """Compares two `tokenizer.json`, the second with the tokens on top that the output's vocabulary has.

    Equal files are equal. Otherwise their vocabularies, special tokens included, are compared token by token and then
    the ids of `SAMPLES`, which also show another normaliser, splitter or list of merges.
    """
    try:
        mine, wanted = read_regular(own), base.read_bytes()
        added = _added_entries(aligned) if aligned is not None else []
        if mine == wanted and not added:
            return []
        from tokenizers import Tokenizer

        for path in (own, base):
            try_file(path)
        if added:
            parsed = parse_object(wanted)
            wanted = json.dumps({**parsed, "added_tokens": [*parsed.get("added_tokens", ()), *added]}).encode()
        # the library raises plain Exception for whatever it cannot parse
        ours, theirs = Tokenizer.from_str(mine.decode()), Tokenizer.from_str(wanted.decode())
    except Exception as error:
        return [Difference(NAME, f"cannot be read: {error}")]
    samples = (*SAMPLES, *(f"{entry['content']}one two{entry['content']}" for entry in added))
    message = _vocabulary(ours, theirs) or _special(ours, theirs) or _ids(ours, theirs, samples)
    return [Difference(NAME, message)] if message else []


def tells_the_same(name: str, mine: bytes, theirs: bytes, vocabulary: RecordedVocabulary) -> bool:
    """Whether a file that tells of tokens says what a build makes of the anchor's, where it must change that."""
    if name not in (NAME, _CONFIG, _LIST):
        return False
    if name == NAME:  # compared by what it does, where it had to change
        return bool(vocabulary.added)
    try:
        own, anchor, before = parse_object(mine), parse_object(theirs), parse_object(theirs)
    except ValueError:
        return False
    if name == _LIST:
        return bool(vocabulary.added) and own == {**anchor, **vocabulary.added}
    extra = anchor.get("extra_special_tokens")
    if isinstance(extra, list):
        del anchor["extra_special_tokens"]
        anchor["additional_special_tokens"] = (anchor.get("additional_special_tokens") or []) + extra
    if anchor.get("tokenizer_class") == "TokenizersBackend":  # a name that transformers 4 does not know
        anchor["tokenizer_class"] = "PreTrainedTokenizerFast"
    listed = own.get("added_tokens_decoder")
    if isinstance(anchor.get("added_tokens_decoder"), dict) and isinstance(listed, dict):
        more = {index: entry for index, entry in listed.items() if index not in anchor["added_tokens_decoder"]}
        said = {str(entry.get("content")): index for index, entry in more.items() if isinstance(entry, dict)}
        if said != {token: str(index) for token, index in vocabulary.added.items()}:
            return False
        anchor["added_tokens_decoder"] |= more
    return own == anchor != before


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


def _ids(ours: Tokenizer, theirs: Tokenizer, samples: Sequence[str]) -> str | None:
    for sample in samples:
        mine, wanted = ours.encode(sample).ids, theirs.encode(sample).ids
        if mine != wanted:
            return f"gives {sample[:24]!r} the ids {mine[:8]}, the base's gives {wanted[:8]}"
    return None
