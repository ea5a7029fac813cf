"""The files that belong beside a model's weights: tokenizer, chat templates, generation config, licence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moemerge.sources.regular import regular_size
from moemerge.sources.weights import Folder

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "tokenizer.model.v3", "spiece.model", "tekken.json",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
TEMPLATE_FOLDER = "additional_chat_templates"
OTHER_FILES = ("generation_config.json",)
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""What makes numbers of pictures and sound."""
LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


def files_beside(folder: Folder, *, more_than_text: bool = False) -> dict[str, Path]:
    """What a checkpoint folder holds beside weights and config, by relative POSIX path, in a fixed order.

    Args:
        folder: the folder.
        more_than_text: the model sees or hears, and has processors.

    Raises:
        SourceError: one of them is a link that leaves the folder, or no regular file.
    """
    wanted = (*TOKENIZER_FILES, *OTHER_FILES, *(PROCESSOR_FILES if more_than_text else ()))
    names = [name for name in wanted if folder.has(name)]
    names += sorted(
        f"{TEMPLATE_FOLDER}/{path.name}" for path in (folder.path / TEMPLATE_FOLDER).glob("*.jinja") if path.is_file()
    )
    names += sorted({path.name for pattern in LICENCE_FILES for path in folder.path.glob(pattern) if path.is_file()})
    files = {name: folder.file(name) for name in names}
    for path in files.values():
        regular_size(path)
    return files


def is_tokenizer_file(name: str) -> bool:
    """Whether a file of `files_beside` belongs to the tokenizer."""
    return name in TOKENIZER_FILES or name.startswith(f"{TEMPLATE_FOLDER}/")


def overlay(base: Mapping[str, Path], adapter: Mapping[str, Path]) -> dict[str, Path]:
    """An adapter's files over its base's: a tokenizer is taken whole from one of the two, never mixed. No tool writes a
    generation config beside an adapter, so that one was put there on purpose."""
    own = any(is_tokenizer_file(name) for name in adapter)
    kept = {name: path for name, path in base.items() if not (own and is_tokenizer_file(name))}
    settings = (name for name in adapter if is_tokenizer_file(name) or name in OTHER_FILES)
    return kept | {name: adapter[name] for name in settings}
