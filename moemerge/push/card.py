"""The card of what is published: the folder's own, with what was measured and where it now lies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from moemerge.errors import PushError, cause_of
from moemerge.sources.card import HEAD, MAX_HEAD

_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_RESULTS, _RUN = "## Results", "## Run"
_WHERE = "In this folder, or with its id on the hub in the place of the `.`:\n\n"
_HERE = 'model_id = "."\n'
_SHELL = "```sh\n"
"""What a build writes into the section on running it."""


@dataclass(frozen=True)
class Card:
    """A model card, taken apart.

    Attributes:
        metadata: what stands in front of it.
        sections: its text, cut before each `## `; the first is what stands before them all.
    """

    metadata: dict[str, Any]
    sections: tuple[str, ...]

    def text(self) -> str:
        """All of it."""
        front = yaml.safe_dump(self.metadata, sort_keys=False, allow_unicode=True) if self.metadata else ""
        body = "\n\n".join(self.sections)
        return f"---\n{front}---\n\n{body}\n" if front else f"{body}\n"


def read_card(text: str) -> Card:
    """Takes a card apart.

    Raises:
        PushError: its metadata are no YAML, or no map.
    """
    head = HEAD.match(text[:MAX_HEAD])
    metadata: Any = {}
    if head is not None:
        try:
            metadata = yaml.safe_load(head.group(1)) or {}
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise _unreadable(cause_of(error)) from None
        if not isinstance(metadata, dict):
            raise _unreadable("they are no map")
    return Card(metadata, tuple(_sections(text[head.end() :] if head is not None else text)))


def _unreadable(why: str) -> PushError:
    return PushError(
        f"the metadata of the card cannot be read: {why}",
        hint="mend what stands between the two lines `---` of `README.md`",
    )


def _sections(body: str) -> list[str]:
    """Cuts before each `## ` that begins a line outside of code."""
    found: list[list[str]] = [[]]
    fence: str | None = None
    for line in body.splitlines():
        mark = _FENCE.match(line)
        if mark is not None and fence is None:
            fence = mark.group(1)
        elif mark is not None and fence is not None and mark.group(1).startswith(fence):
            fence = None
        if fence is None and line.startswith("## "):
            found.append([])
        found[-1].append(line)
    return ["\n".join(lines).strip() for lines in found]


def published_card(text: str, repo: str, gguf: str | None, results: str | None, index: Mapping[str, Any] | None) -> str:
    """The card as it is published.

    Args:
        text: that of the folder.
        repo: the repository's id.
        gguf: the name of a GGUF file that is published with it.
        results: a section on what was measured, in the place of an older one.
        index: the hub's `model-index` of the same.

    Raises:
        PushError: its metadata cannot be read.
    """
    card = read_card(text)
    first, *sections = card.sections
    sections = [_run(section, repo, gguf) if _heading(section) == _RUN else section for section in sections]
    metadata = dict(card.metadata)
    if results is not None:
        sections = [results, *(section for section in sections if _heading(section) != _RESULTS)]
    if index is not None:
        metadata["model-index"] = [dict(index)]
    return Card(metadata, (first, *sections)).text()


def _heading(section: str) -> str:
    return section.partition("\n")[0]


def _run(section: str, repo: str, gguf: str | None) -> str:
    """The section on running it, from the hub instead of the folder; what somebody wrote anew stays as it is."""
    if _HERE not in section:
        return section
    section = section.replace(_WHERE, "").replace(_HERE, f'model_id = "{repo}"\n')
    commands = [f"llama-server -hf {repo} --hf-file {gguf}", f"ollama run hf.co/{repo}"] if gguf is not None else []
    listed = "".join(f"{command}\n" for command in commands)
    download = f"hf download {repo} --local-dir moe && cd moe   # the commands below run there\n"
    if _SHELL in section:
        return section.replace(_SHELL, f"{_SHELL}{listed}{download}", 1)
    return f"{section}\n\n{_SHELL}{listed}```" if commands else section
