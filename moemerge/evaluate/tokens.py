"""The tokens of a text, each with its part of it: joined, the parts give the text exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moemerge.errors import EvalError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTES = 4
"""A character has at most so many bytes in UTF-8, and so at most so many tokens."""


@dataclass(frozen=True)
class Tokens:
    """What a model reads of a text.

    Attributes:
        ids: T token ids, special tokens included.
        texts: each one's part of the text. What no token stands for (spaces, mostly) goes with the token after it. A
            character that several tokens share stands with the first of them, and the others have "".
        special: the name of each special token, such as `<s>`, None for the others.
    """

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    special: tuple[str | None, ...]


def read_tokens(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool = True) -> Tokens:
    """Tokenises a text as the model's user would: with the special tokens that the tokenizer adds, if wanted.

    Raises:
        EvalError: the text is empty, or the tokenizer makes nothing of it.
    """
    if not text:
        raise EvalError("there is no text to trace")
    fast = tokenizer.is_fast
    encoded = tokenizer(
        text, add_special_tokens=add_special_tokens, truncation=False, verbose=False, return_offsets_mapping=fast
    )
    ids = [int(token) for token in encoded["input_ids"]]
    known = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    special = [str(tokenizer.convert_ids_to_tokens(token)) if token in known else None for token in ids]
    ends = _ends(encoded["offset_mapping"]) if fast else _ends_by_decoding(tokenizer, text, ids)
    if len(ids) == sum(name is not None and not end for name, end in zip(special, ends, strict=True)):
        raise EvalError("the tokenizer makes no tokens of the text", hint="it may be all spaces")
    return Tokens(tuple(ids), _cut(text, ends), tuple(special))


def _ends(offsets: list[tuple[int, int]]) -> list[int]:
    """Where each token ends in the text; 0 for one that has no part of it."""
    return [int(end) if end > start else 0 for start, end in offsets]


def _ends_by_decoding(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> list[int]:
    """The same for a tokenizer that does not say, by looking for each decoded token in the rest of the text.

    Tokens that are bytes of one character are decoded together.
    """
    ends = [0] * len(ids)
    at = 0
    pending: list[int] = []
    unknown = False
    for place, token in enumerate(ids):
        if token == tokenizer.unk_token_id:
            pending, unknown = [], True
            continue
        pending.append(place)
        if len(pending) > _BYTES:
            pending, unknown = pending[1:], True
        decoded = str(tokenizer.decode([ids[i] for i in pending], clean_up_tokenization_spaces=False))
        if not decoded or "\ufffd" in decoded:
            continue
        written = decoded if text.startswith(decoded, at) else decoded.strip()
        found = text.find(written, at)
        if written and found >= 0 and (unknown or not text[at:found].strip()):
            at = found + len(written)
            ends[pending[0]] = at
            unknown = False
        pending = []
    return ends


def _cut(text: str, ends: list[int]) -> tuple[str, ...]:
    """The text cut at the tokens' ends; what is left goes with the last token that has a part."""
    last = max((place for place, end in enumerate(ends) if end), default=len(ends) - 1)
    parts = []
    at = 0
    for place, end in enumerate(ends):
        end = len(text) if place == last else max(at, end)
        parts.append(text[at:end])
        at = end
    return tuple(parts)
