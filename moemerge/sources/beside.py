"""The files that belong beside a model's weights: tokenizer, chat templates, generation config, licence."""

from __future__ import annotations

import re
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
CARD = "README.md"
MAX_CARD_HEAD = 100_000
"""How much of a model card is read for its metadata, in bytes."""


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


def licence_of(folder: Folder) -> str | None:
    """The licence in the metadata of the folder's model card (`license`, or `license_name` where that is `other`)."""
    if not folder.has(CARD):
        return None
    path = folder.file(CARD)
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return licence_in_card(file.read(MAX_CARD_HEAD).decode("utf-8", "replace"))


def licence_in_card(text: str) -> str | None:
    """The licence in the YAML between the first two `---` lines; None where there is none or it is not YAML."""
    import yaml

    head = re.match(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", text, re.DOTALL)
    if head is None:
        return None
    try:
        # the base loader makes strings, lists and maps and nothing else
        metadata = yaml.load(head.group(1), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if not isinstance(metadata, dict):
        return None
    licence = metadata.get("license")
    if licence == "other" and isinstance(metadata.get("license_name"), str):
        licence = metadata["license_name"]
    if isinstance(licence, list):
        licence = ", ".join(item for item in licence if isinstance(item, str))
    return licence.strip() or None if isinstance(licence, str) else None
