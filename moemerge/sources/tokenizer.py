"""The one door through which tokenizers are loaded: whatever their files make transformers raise is said of the files.

transformers and tokenizers raise anything over files that are broken: `AttributeError`, plain `Exception`, and the
panics of Rust, which are not even `Exception`s.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from moemerge.apart import Fault, ask
from moemerge.errors import SourceError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRIAL = "Hello, world! 12 + 345 = 357\n\tété 你好 😀"
"""A text that any tokenizer takes, with characters that few vocabularies have."""
FILE = "tokenizer.json"
LONGEST_TEXT = 10**30
"""What transformers writes for a tokenizer without a longest text."""
SECONDS = 15.0
"""In which a `tokenizer.json` must be read."""
MEMORY = 1_500_000_000
"""Bytes that this may take; the largest vocabularies of today take a third."""
_LONGEST = 300
"""Characters of an exception that are shown."""


def read_tokenizer(folder: Path, name: str, rows: int | None = None) -> PreTrainedTokenizerBase:
    """A folder's tokenizer by plain transformers, without remote code, tried on a text.

    Args:
        folder: where its files are.
        name: what messages call the model.
        rows: of the model's embedding, if every text must be one that it can take.

    Raises:
        SourceError: there is none that transformers can read and use.
    """
    from transformers import AutoTokenizer

    if (folder / FILE).exists():
        try_file(folder / FILE, f"the tokenizer of `{name}` cannot be read: `{FILE}`")
    with tokenizer_faults(f"the tokenizer of `{name}` cannot be read"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    with tokenizer_faults(f"the tokenizer of `{name}` cannot be used"):
        _try(tokenizer, rows)
    return tokenizer


def try_file(path: Path, what: str | None = None) -> None:
    """Has a process apart read a `tokenizer.json` and use it on a text: it may crash, never end, or swell.

    Args:
        path: the file.
        what: begins the message; by default that the file is none of a tokenizer.

    Raises:
        SourceError: it cannot be read or used.
    """
    what = what or f"`{path}` is not a tokenizer's file"
    try:
        fault = _fault_of(path, xxhash.xxh3_128_hexdigest(path.read_bytes()))
    except OSError as error:
        raise SourceError(f"`{path}` cannot be read: {error.strerror or error}") from error
    if fault is not None:
        raise SourceError(f"{what}: {fault}", hint="download or copy it again")


@lru_cache(maxsize=64)
def _fault_of(path: Path, digest: str) -> str | None:
    """What is wrong with the file of these bytes; it is asked once."""
    try:
        ask("tokenizer", seconds=SECONDS, memory=MEMORY, path=str(path), text=TRIAL)
    except Fault as fault:
        return str(fault)
    return None


def _try(tokenizer: Any, rows: int | None) -> None:
    """What is done with a tokenizer, once."""
    longest = tokenizer.model_max_length
    if isinstance(longest, bool | str) or not longest >= 1:
        raise ValueError(f"its `model_max_length` is {longest!r}, not a number of tokens")
    tokenizer.model_max_length = int(min(longest, LONGEST_TEXT))
    ids = tokenizer(TRIAL, return_special_tokens_mask=True, verbose=False)["input_ids"]
    if rows is not None and ids and max(ids) >= rows:
        raise ValueError(f"it gives a text the id {max(ids)}, and the embedding has {rows} rows")
    tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if tokenizer.is_fast:
        tokenizer(TRIAL, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokenizer.convert_ids_to_tokens([*ids, *tokenizer.all_special_ids])
    tokenizer.get_added_vocab()


@contextmanager
def tokenizer_faults(what: str) -> Iterator[None]:
    """Says whatever transformers or tokenizers raise as a fault of the files.

    Args:
        what: begins the message; what was raised follows after a colon.

    Raises:
        SourceError: it was raised.
    """
    try:
        yield
    except Exception as error:  # see above
        raise _fault(what, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's; it cannot be imported
            raise
        raise _fault(what, error) from None


def _fault(what: str, error: BaseException) -> SourceError:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = lines[0].strip()[:_LONGEST].rstrip(".:")
    # these say what is wrong; others mean little without their kind
    plain = isinstance(error, ValueError | OSError) or type(error) in (Exception, ImportError)
    kind = "" if plain else f"{type(error).__name__}: "
    return SourceError(f"{what}: {kind}{said}", hint="download or copy its files again, or save it anew")
