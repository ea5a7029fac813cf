"""The one door through which tokenizers are loaded: whatever their files make transformers raise is said of the files.

transformers and tokenizers raise anything over files that are broken: `AttributeError`, plain `Exception`, and the
panics of Rust, which are not even `Exception`s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from moemerge.apart import Fault, ask
from moemerge.apart.trial import TEXT, use
from moemerge.errors import SourceError
from moemerge.sources.regular import MAX_BYTES, check_downloaded, read_whole
from moemerge.sources.strict_json import check_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "tokenizer.json"
TOKENIZERS = frozenset({FILE, "tokenizer.model", "vocab.json"})
"""Files of which one at least makes a tokenizer."""
_JSON = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "config.json",
    "chat_template.json",
)  # fmt: skip
"""What transformers reads as JSON beside it."""
_VOCABULARY = (".jinja", ".model", "vocab.json", "merges.txt")
"""Endings of a tokenizer's files that do not say so in their name."""
SECONDS = 15.0
"""In which a `tokenizer.json` must be read."""
MEMORY = 750_000_000
"""Bytes that this may take, in the process apart and then once more in this one: 2 GB are enough for both. Of 262,144
tokens, as many as the largest vocabularies of today have, either kind takes less than 400 MB."""
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

    for file in _JSON:
        if (folder / file).exists():
            check_file(folder / file)
    if (folder / FILE).exists():
        try_file(folder / FILE, f"the tokenizer of `{name}` cannot be read: `{FILE}`")
    with tokenizer_faults(f"the tokenizer of `{name}` cannot be read"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    with tokenizer_faults(f"the tokenizer of `{name}` cannot be used"):
        use(tokenizer, rows)
    return tokenizer


def put_tokenizer(files: Mapping[str, bytes], folder: Path) -> None:
    """Puts those of some files that are a tokenizer's into a folder."""
    for name, data in files.items():
        if "token" in name or name.endswith(_VOCABULARY):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def try_file(path: Path, what: str | None = None) -> None:
    """Has a process apart read a `tokenizer.json` and use it on a text: it may crash, never end, or swell.

    Args:
        path: the file.
        what: begins the message; by default that the file is none of a tokenizer.

    Raises:
        SourceError: it cannot be read or used.
    """
    what = what or f"`{path}` is not a tokenizer's file"
    data = read_whole(path, MAX_BYTES)
    fault = _fault_of(path, xxhash.xxh3_128_hexdigest(data))
    if fault is not None:
        check_downloaded(data, str(path))
        raise SourceError(f"{what}: {fault}", hint="download or copy it again")


@lru_cache(maxsize=64)
def _fault_of(path: Path, digest: str) -> str | None:
    """What is wrong with the file of these bytes; it is asked once."""
    try:
        ask("tokenizer", seconds=SECONDS, memory=MEMORY, path=str(path.absolute()), text=TEXT)
    except Fault as fault:
        return str(fault)
    return None


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
    return SourceError(f"{what}: {kind}{said}", hint="download or copy its files again, or save it again")
