"""What a model card states in its metadata, as far as a merge of the model passes it on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moemerge.sources.weights import Folder

CARD = "README.md"
MAX_HEAD = 100_000
"""How much of a card is read for its metadata, in bytes."""
OTHER = "other"
"""What the hub calls a licence that it has no id for."""

HEAD = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
"""A card's metadata, between the first two `---` lines."""
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|code|multilingual")
_DATA_SET = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_LINK = re.compile(r"https?://[^\s<>\"'`]+|LICEN[SC]E(\.md|\.txt)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Stated:
    """What a card states.

    Attributes:
        licence: the hub's id of its licence; the name where the id is `other`; several with commas between them.
        own_licence: whether that is a name (or several), so no id of the hub.
        licence_link: where such a licence is read: a URL, or a file of the model's folder.
        languages: ISO 639 codes, `code` or `multilingual`.
        datasets: the hub's ids of what it was trained on.
    """

    licence: str | None = None
    own_licence: bool = False
    licence_link: str | None = None
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()

    def over(self, base: Stated) -> Stated:
        """This of an adapter, and of its base what the adapter is silent on; the data of both."""
        return replace(
            self if self.licence else base,
            languages=self.languages or base.languages,
            datasets=tuple(dict.fromkeys((*base.datasets, *self.datasets))),
        )


NOTHING = Stated()
"""What is stated where there is no card."""


def stated_in(folder: Folder) -> Stated:
    """What the model card of a folder states; nothing where there is none."""
    if not folder.has(CARD):
        return NOTHING
    path = folder.file(CARD)
    if not path.is_file():
        return NOTHING
    with open(path, "rb") as file:
        return stated_in_card(file.read(MAX_HEAD).decode("utf-8", "replace"))


def stated_in_card(text: str) -> Stated:
    """What the YAML between the first two `---` lines states; nothing where there is none or it is not YAML."""
    import yaml

    head = HEAD.match(text)
    if head is None:
        return NOTHING
    try:
        # the base loader makes strings, lists and maps and nothing else
        metadata = yaml.load(head.group(1), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return NOTHING
    return stated_by(metadata) if isinstance(metadata, dict) else NOTHING


def stated_by(metadata: Mapping[str, Any]) -> Stated:
    """What a card's metadata state, whatever they hold; what the hub would not take is left out."""
    licence, name = metadata.get("license"), metadata.get("license_name")
    named = licence == OTHER and isinstance(name, str)
    listed = [one.strip() for one in texts(name if named else licence) if one.strip()]
    link = metadata.get("license_link")
    return Stated(
        ", ".join(listed) or None,
        named or len(listed) > 1,
        link if isinstance(link, str) and _LINK.fullmatch(link) else None,
        tuple(dict.fromkeys(one for one in texts(metadata.get("language")) if _LANGUAGE.fullmatch(one))),
        tuple(dict.fromkeys(one for one in texts(metadata.get("datasets")) if _DATA_SET.fullmatch(one))),
    )


def texts(value: Any) -> list[str]:
    """A text, or a list of such, as a list."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
