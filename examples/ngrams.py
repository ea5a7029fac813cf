"""Word n-grams as 64-bit hashes: how the demo proves that its texts are disjoint.

Words are runs of letters in lower case. Digits, punctuation and underscores are left out on purpose: two worked
problems made from one template, or two functions that differ in a number, then count as the same text.
"""

import hashlib
import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

NGRAM_WORDS = 8
_WORD = re.compile(r"[^\W\d_]+")


def words(text: str) -> list[str]:
    """The normalised words of a text."""
    return _WORD.findall(text.lower())


def ngrams(text: str, size: int = NGRAM_WORDS) -> set[str]:
    """Every run of `size` words in a text, once each, words joined by a space."""
    found = words(text)
    return {" ".join(found[start : start + size]) for start in range(len(found) - size + 1)}


def hash_ngram(ngram: str) -> int:
    """A 64-bit hash that is the same on every machine and in every process, which `hash()` is not."""
    return int.from_bytes(hashlib.blake2b(ngram.encode(), digest_size=8).digest(), "little")


def hashed_ngrams(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """The sorted hashes of all word n-grams of some texts, without repeats."""
    unique: set[str] = set()
    for text in texts:
        unique |= ngrams(text)
    return np.array(sorted(hash_ngram(ngram) for ngram in unique), dtype=np.uint64)
