"""The files beside the weights: what the build wrote unchanged, what the base has there, nothing read by mistake."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import xxhash

from moemerge.verify.layout import INDEX
from moemerge.verify.reading import open_regular, read_regular
from moemerge.verify.result import Difference
from moemerge.verify.tokens import NAME as TOKENIZER

_CHUNK = 4 << 20
_ADAPTER = "adapter_config.json"
_TAKEN_UP = (
    "added_tokens.json", "audio_tokenizer_config.json", "chat_template.jinja", "chat_template.json",
    "generation_config.json", "merges.txt", "preprocessor_config.json", "processor_config.json",
    "sentencepiece.bpe.model", "sentencepiece.model", "special_tokens_map.json", "spiece.model", "spm.model",
    "tekken.json", "tokenizer.json", "tokenizer.model", "tokenizer.model.v3", "tokenizer_config.json",
    "video_preprocessor_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip
"""What transformers looks for in a model's folder beside config and weights, by name."""
_TEMPLATES = "additional_chat_templates"


def check_files(folder: Path, recorded: Mapping[str, str]) -> dict[str, str]:
    """Digests every recorded file.

    Args:
        folder: the built folder.
        recorded: digest by relative path.

    Returns:
        What is wrong, by the file's relative path.
    """
    found = {}
    for name, digest in recorded.items():
        path = folder / name
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name:
            found[name] = "is outside the folder, so it is not read"
            continue
        try:
            actual = _digest(path)
        except FileNotFoundError:
            found[name] = "is missing"
        except OSError as error:
            found[name] = f"cannot be read: {error.strerror}"
        else:
            if actual != digest:
                found[name] = "changed after the build"
    return found


def check_strangers(folder: Path, recorded: Mapping[str, str]) -> list[Difference]:
    """Files that transformers would take up though the build did not write them.

    Args:
        folder: the built folder.
        recorded: what the build wrote there, by relative path.
    """
    found = []
    if os.path.lexists(folder / _ADAPTER):
        found.append(Difference(_ADAPTER, "does not belong in it: transformers would apply that adapter on loading"))
    names = [name for name in _TAKEN_UP if os.path.lexists(folder / name)]
    names += sorted(f"{_TEMPLATES}/{path.name}" for path in (folder / _TEMPLATES).glob("*.jinja"))
    added = [name for name in names if name not in recorded]
    return [*found, *(Difference(name, "was added after the build: transformers may take it up") for name in added)]


def check_base_files(folder: Path, files: Mapping[str, Path]) -> list[Difference]:
    """The base's files must be there byte for byte; the tokenizer has its own comparison."""
    found = []
    for name, theirs in files.items():
        if name in (TOKENIZER, INDEX):
            continue
        own = folder / name
        if not own.is_file():
            found.append(Difference(name, "is missing, the base has it"))
        elif read_regular(own) != theirs.read_bytes():
            found.append(Difference(name, "differs from the base's"))
    return found


def _digest(path: Path) -> str:
    state = xxhash.xxh3_128()
    with open_regular(path) as file:
        while data := file.read(_CHUNK):
            state.update(data)
    return state.hexdigest()
