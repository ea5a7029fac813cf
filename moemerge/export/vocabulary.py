"""A folder's tokenizer as llama.cpp has it: tokens with their kinds, merges or scores, and how text is split first.

llama.cpp splits text by code of its own, which a name in the file chooses (`tokenizer.ggml.pre`). A wrong name gives
other ids and no warning, so a way to split that has no name here is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from moemerge.errors import ExportError
from moemerge.families.gguf_form import ELSEWHERE
from moemerge.sources.strict_json import load_json
from moemerge.sources.tokenizer import FILE, try_file
from moemerge.sources.tokenizer_config import tokenizer_config

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
_SIGNS = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_CASED_SIGNS = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_UPPER, _LOWER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA3 = rf"{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}"
_QWEN2 = rf"{_WORDS}|\p{{N}}|{_SIGNS}"
_QWEN35 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
_GPT4O = rf"{_UPPER}*{_LOWER}+{_ENDINGS}?|{_UPPER}+{_LOWER}*{_ENDINGS}?|\p{{N}}{{1,3}}|{_CASED_SIGNS}"
_TEKKEN = rf"{_UPPER}*{_LOWER}+|{_UPPER}+{_LOWER}*|\p{{N}}|{_CASED_SIGNS}"
_DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)
_SPLITS: Mapping[tuple[tuple[str, ...], bool], str] = {
    ((_LLAMA3,), False): "dbrx",
    ((_LLAMA3,), True): "llama-bpe",
    ((_QWEN2,), False): "qwen2",
    ((_QWEN35,), False): "qwen35",
    ((_GPT4O,), False): "gpt-4o",
    ((_TEKKEN,), True): "tekken",
    (_DEEPSEEK, False): "deepseek-v3",
}
"""llama.cpp's name of what splits text by patterns, one after the other, and whether a word that is a token then
stays whole, whatever the merges say (`ignore_merges`)."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""A piece of SentencePiece's that stands for a byte."""


class TokenKind(IntEnum):
    """llama.cpp's kinds of tokens."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What goes into the file.

    Attributes:
        model: `gpt2` for byte-level BPE, `llama` for SentencePiece's.
        pre: how text is split first, by llama.cpp's name.
        tokens: by id, as many as the embedding has rows.
        kinds: of each.
        merges: of byte-level BPE.
        scores: of SentencePiece: what is merged first has the largest.
        special: ids by llama.cpp's keys, such as `eos_token_id`.
        switches: `add_bos_token` and the like.
        template: the chat template.
    """

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    special: Mapping[str, int] = field(default_factory=dict)
    switches: Mapping[str, bool] = field(default_factory=dict)
    template: str | None = None


def read_vocabulary(files: Mapping[str, Path], rows: int, ends: list[int]) -> Vocabulary:
    """Reads it from the tokenizer's files.

    Args:
        files: by their names.
        rows: of the embedding.
        ends: ids that end a reply, by the model's config.

    Raises:
        ExportError: llama.cpp has nothing that gives the same ids.
        SourceError: a file cannot be read.
    """
    from tokenizers import Tokenizer

    if FILE not in files:
        raise ExportError(f"there is no `{FILE}`", hint="save the tokenizer as transformers' fast ones are stored")
    try_file(files[FILE])
    tokenizer = Tokenizer.from_file(str(files[FILE]))
    # as the library writes it, with every part that a file may leave out
    whole, settings = load_json(tokenizer.to_str().encode(), str(files[FILE])), tokenizer_config(files)
    model: Mapping[str, Any] = whole.get("model") or {}
    if model.get("type", "BPE") != "BPE":
        raise ExportError(
            f"its tokenizer is of the kind `{model.get('type')}`, which is not exported",
            hint="byte-level BPE and SentencePiece's BPE are",
        )
    tokens, kinds = _tokens(whole, model, rows)
    ids = {token: number for number, token in enumerate(tokens)}
    special = {
        f"{name}_token_id": ids[token]
        for key, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (token := settings.special.get(f"{key}_token")) in ids
    }
    if ends:
        special.setdefault("eos_token_id", ends[0])
        others = [end for end in ends if end != special["eos_token_id"] and end < rows]
        special |= {"eot_token_id": others[0]} if others else {}
    switches = _switches(files[FILE], special)
    if model.get("byte_fallback"):
        scores = _scores(model, tokens)
        spaced = {"add_space_prefix": _prepends(whole)}
        return Vocabulary("llama", "default", tokens, kinds, [], scores, special, switches | spaced, settings.template)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    pre = _pre(whole, model)
    return Vocabulary("gpt2", pre, tokens, kinds, merges, [], special, switches, settings.template)


def _tokens(whole: Mapping[str, Any], model: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    tokens, kinds = [f"[PAD{number}]" for number in range(rows)], [int(TokenKind.UNUSED)] * rows
    bytewise = bool(model.get("byte_fallback"))
    for token, number in model["vocab"].items():
        if number < rows:
            tokens[number], kinds[number] = token, TokenKind.NORMAL
            if bytewise and _BYTE.fullmatch(token):
                kinds[number] = TokenKind.BYTE
    for added in whole.get("added_tokens") or ():
        number = added["id"]
        if number < rows:
            kind = TokenKind.CONTROL if added.get("special") else TokenKind.USER_DEFINED
            tokens[number], kinds[number] = added["content"], kind
    unknown = model["vocab"].get(model.get("unk_token"), rows)
    if bytewise and unknown < rows:
        kinds[unknown] = TokenKind.UNKNOWN
    return tokens, kinds


def _scores(model: Mapping[str, Any], tokens: list[str]) -> list[float]:
    """Minus the rank of what is merged: SentencePiece merges any two pieces whose whole is one, the best score first.

    The merges of a tokenizer that was SentencePiece's say the same: for each piece in turn, all its pairs.

    Raises:
        ExportError: they say something else.
    """
    pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    wholes = [left + right for left, right in pairs]
    ranks = {whole: rank for rank, whole in enumerate(dict.fromkeys(wholes))}
    known, given = model["vocab"], set(pairs)
    in_turn = wholes == sorted(wholes, key=ranks.__getitem__)
    if not in_turn or any(
        (whole[:cut], whole[cut:]) not in given
        for whole in known
        for cut in range(1, len(whole))
        if whole[:cut] in known and whole[cut:] in known and not _BYTE.fullmatch(whole)
    ):
        raise ExportError(
            "its tokenizer falls back to bytes, and its merges are not those of SentencePiece, which llama.cpp has",
            hint=ELSEWHERE,
        )
    return [-float(ranks.get(token, len(ranks))) for token in tokens]


def _prepends(whole: Mapping[str, Any]) -> bool:
    """Whether a space is put before the text."""
    steps = [*_steps(whole.get("normalizer"), "normalizers"), *_steps(whole.get("pre_tokenizer"), "pretokenizers")]
    return any(
        step["type"] == "Prepend" or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in steps
    )


def _steps(step: Any, key: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, in their order."""
    if not isinstance(step, dict):
        return
    if step.get("type") == "Sequence":
        for inner in step.get(key) or ():
            yield from _steps(inner, key)
    else:
        yield step


def _pre(whole: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """llama.cpp's name of how the tokenizer splits text before it merges.

    Raises:
        ExportError: it has none.
    """
    steps = list(_steps(whole.get("pre_tokenizer"), "pretokenizers"))
    said = json.dumps(whole.get("pre_tokenizer"), ensure_ascii=False)[:300]
    unknown = ExportError(
        f"its tokenizer splits text in a way that has no name in llama.cpp here: {said}",
        hint=f"{ELSEWHERE}; or tell us of the tokenizer",
    )
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        raise unknown
    before, gpt2 = steps[:-1], steps[-1].get("use_regex", True)
    if gpt2 and not before:
        return "gpt-2"
    if gpt2 and len(before) == 1 and before[0]["type"] == "Digits" and before[0].get("individual_digits"):
        return "smollm"
    if gpt2 or any(
        step["type"] != "Split" or step.get("behavior") != "Isolated" or step.get("invert") for step in before
    ):
        raise unknown
    patterns = tuple((step.get("pattern") or {}).get("Regex", "") for step in before)
    name = _SPLITS.get((patterns, bool(model.get("ignore_merges"))))
    if name is None:
        raise unknown
    return name


def _switches(path: Path, special: Mapping[str, int]) -> dict[str, bool]:
    """Whether the tokenizer itself puts its first and last token around a text."""
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(path)).encode("a").ids
    return {
        "add_bos_token": bool(ids) and ids[0] == special.get("bos_token_id", -1),
        "add_eos_token": len(ids) > 1 and ids[-1] == special.get("eos_token_id", -1),
    }
