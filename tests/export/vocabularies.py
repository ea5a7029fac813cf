"""Tokenizers of the kinds that llama.cpp knows, trained on a small text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROWS = 400
"""Rows of the embedding; the vocabularies have a few tokens fewer."""
TEXT = (
    "def add(a, b):\n    return a + b  # 12 + 345 = 357\n\nLe chat dort, et l'été est là. The quick brown fox jumps. "
    "It's what we'll do; they've 1,000 reasons. 你好世界 Привет мир\n"
) * 20
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def split_by(*patterns: str) -> Any:
    """A pre-tokenizer as Llama 3, Qwen, and with several patterns DeepSeek and Hunyuan have it."""
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*(pre_tokenizers.Split(Regex(one), "isolated") for one in patterns), plain])


def gpt2() -> Any:
    """GPT-2's."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def smollm() -> Any:
    """SmolLM's: each digit alone, then GPT-2's."""
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2()])


BYTE_LEVEL: dict[str, tuple[Callable[[], Any], bool]] = {
    "gpt-2": (gpt2, False),
    "smollm": (smollm, False),
    "llama-bpe": (lambda: split_by(LLAMA3), True),
    "dbrx": (lambda: split_by(LLAMA3), False),
    "qwen2": (lambda: split_by(LLAMA3.replace("{1,3}", "")), False),
    "qwen35": (lambda: split_by(QWEN35), False),
    "gpt-4o": (lambda: split_by(GPT4O), False),
    "deepseek-v3": (lambda: split_by(*DEEPSEEK), False),
    "tekken": (lambda: split_by(TEKKEN), True),
}
"""By llama.cpp's names: what splits text first, and whether a word that is a token stays whole."""


def byte_level(folder: Path, splits: Any, *, ignore_merges: bool = False, begins: bool = False) -> None:
    """Writes a byte-level BPE tokenizer into a model's folder."""
    tokenizer: Any = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = splits
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=ROWS - 8, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    _save(tokenizer, folder, begins=begins)


def sentencepiece(folder: Path, *, space: bool = True) -> None:
    """Writes a tokenizer as transformers makes one of Llama 2's: pieces, bytes, and for each piece all its pairs."""
    learned: Any = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    learned.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=130, show_progress=False))
    ids = learned.get_vocab()
    pieces = sorted(ids, key=lambda piece: (len(piece) > 1, ids[piece]))
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces][: ROWS - 2]
    known = {word: number for number, word in enumerate(words)}
    merges = [(p[:cut], p[cut:]) for p in pieces if p in known for cut in range(1, len(p))
              if p[:cut] in known and p[cut:] in known]  # fmt: skip
    tokenizer: Any = Tokenizer(models.BPE(known, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    prepend = [normalizers.Prepend("▁")] if space else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in ("<unk>", "<s>", "</s>")])
    _save(tokenizer, folder, begins=True)


def _save(tokenizer: Any, folder: Path, *, begins: bool) -> None:
    if begins:
        from tokenizers.processors import TemplateProcessing

        start = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    tokenizer.save(str(folder / "tokenizer.json"))
    known = {key: token for key, token in SPECIAL.items() if tokenizer.token_to_id(token) is not None}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **known}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
