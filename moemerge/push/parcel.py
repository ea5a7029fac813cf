"""What is published of a folder, made and checked before the hub is asked anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from moemerge.console import Progress
from moemerge.errors import ManyProblems, MoemergeError, Problem, PushError
from moemerge.push.card import published_card
from moemerge.push.results import model_index, pictures, read_report, results_section
from moemerge.push.scrub import NO_TEXTS, has_token, names_home, public_names, renamed, without_paths
from moemerge.record.read import NAME as RECORD
from moemerge.record.read import read_fields, read_record, record_digest
from moemerge.record.schema import Record
from moemerge.record.write import dump_record
from moemerge.sources.card import CARD
from moemerge.sources.spec import HUB_ID
from moemerge.verify import verify_folder
from moemerge.verify.files import CHANGED
from moemerge.verify.hosts import HOSTS
from moemerge.verify.wrapped import MIXED
from moemerge.write.made import made_by_build

PUSHED = "pushed"
"""Key of a published record: the digest of the record that it was made of, and what lies beside the build's files."""
_GGUF_NAME = re.compile(r"[A-Za-z0-9][\w.-]*\.gguf", re.ASCII)
_LISTED = 8
"""Differences that an error lists."""


@dataclass(frozen=True)
class Item:
    """A file of the repository.

    Attributes:
        name: its path there.
        source: where it lies, or its bytes.
    """

    name: str
    source: Path | bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


@dataclass(frozen=True)
class Parcel:
    """What is published.

    Attributes:
        repo: the repository's id, `owner/name`.
        folder: the built folder.
        record: the digest of its record.
        fields: the record as it is published, without what lies beside the build's files.
        card: the model card.
        files: everything but the record.
        beside: the names of those that no build makes: pictures, a GGUF file.
        notes: what the user should know.
    """

    repo: str
    folder: Path
    record: str
    fields: Mapping[str, Any]
    card: str
    files: tuple[Item, ...]
    beside: tuple[str, ...]
    notes: tuple[str, ...]

    def items(self, kept: tuple[str, ...] = ()) -> list[Item]:
        """All files in their order, the record with them.

        Args:
            kept: names of files beside the build's that an earlier push of the same build left there.
        """
        beside = sorted({*self.beside, *kept})
        record = {**self.fields, PUSHED: {"record": self.record, "files": beside}}
        return sorted([*self.files, Item(RECORD, dump_record(record).encode())], key=lambda item: item.name)


def prepare(
    folder: Path, repo: str, progress: Progress, *, gguf: Path | None = None, report: Path | None = None
) -> Parcel:
    """Puts together what is published, and reads all of it.

    Args:
        folder: the built folder; nothing in it is changed.
        repo: the repository's id.
        progress: is told of the bytes that are read.
        gguf: a file that `moemerge export` made of the folder.
        report: the figures that `moemerge eval -o` wrote of it.

    Raises:
        VerifyError: moemerge did not build the folder.
        ManyProblems: it is not what it was built as; a file holds a token.
        PushError: any of the rest does not fit.
        SourceError: a file cannot be read.
    """
    if not HUB_ID.fullmatch(repo):
        raise PushError(f"`{repo}` is not an id of a repository", hint="write `OWNER/NAME`, such as `jo/my-moe`")
    record = read_record(folder, HOSTS, MIXED)
    digest, fields, made = record_digest(folder), read_fields(folder), made_by_build(folder)
    notes: list[str] = []
    _check_built(folder, progress, notes)
    if not isinstance(record, Record) or digest is None or fields is None or made is None:
        raise PushError(f"the record of `{folder}` cannot be read", hint=f"run `moemerge verify {folder}`")
    beside: list[Item] = []
    if gguf is not None:
        _check_gguf(gguf, digest, folder)
        beside.append(Item(gguf.name, gguf))
    results, index = None, None
    if report is not None:
        figures = read_report(report, digest, folder)
        drawn = _drawn(figures, notes)
        beside += [Item(name, data) for name, data in drawn.items()]
        results, index = results_section(figures, list(drawn)), model_index(figures, repo.partition("/")[2])
    else:
        notes.append("the card shows no figures: `--eval FILE` takes what `moemerge eval OUT -o FILE` wrote")
    names = public_names({key: value for key, value in fields.items() if key != "root"})
    text = without_paths((folder / CARD).read_text("utf-8", "replace"), names)
    card = published_card(text, repo, None if gguf is None else gguf.name, results, index)
    files = [Item(name, folder / name) for name in made.files - {RECORD, CARD}]
    files += [Item(CARD, card.encode()), *beside]
    public = renamed(fields, names) | {"root": "."}
    public["files"] = {**fields["files"], CARD: xxhash.xxh3_128_hexdigest(card.encode())}
    parcel = Parcel(repo, folder, digest, public, card, tuple(files), tuple(item.name for item in beside), tuple(notes))
    return _checked(parcel)


def _check_built(folder: Path, progress: Progress, notes: list[str]) -> None:
    """Refuses a folder that changed after the build; a card that somebody rewrote is theirs to write.

    Raises:
        ManyProblems: what changed.
    """
    found = verify_folder(folder, sources=False, progress=progress)
    rewritten = [one for one in found.differences if (one.where, one.message) == (CARD, CHANGED)]
    if rewritten:
        notes.append(f"`{CARD}` was changed after the build; it is published as it is now")
    wrong = [one for one in found.differences if one not in rewritten]
    hint = f"run `moemerge verify {folder}`, and build it again where it does not say why"
    problems = [Problem("not-verified", f"`{folder}`: {one.where}: {one.message}", hint) for one in wrong[:_LISTED]]
    if len(wrong) > _LISTED:
        problems.append(Problem("not-verified", f"`{folder}`: {len(wrong) - _LISTED} differences more", hint))
    if problems:
        raise ManyProblems(problems)


def _drawn(figures: Mapping[str, Any], notes: list[str]) -> dict[str, bytes]:
    try:
        return pictures(figures)
    except MoemergeError as error:
        if error.code != "no-matplotlib":
            raise
        notes.append("the card has no pictures: matplotlib is not installed (`pip install 'moemerge[eval]'`)")
        return {}


def _check_gguf(path: Path, record: str, folder: Path) -> None:
    """Refuses a GGUF file that is not of this folder, is damaged, or has a name that commands would have to quote."""
    from importlib.util import find_spec

    if not _GGUF_NAME.fullmatch(path.name):
        raise PushError(
            f"`{path}` has a name that commands would have to quote",
            hint="call it by letters, digits, `.`, `_` and `-`, with `.gguf` at the end",
        )
    if find_spec("gguf") is None:
        raise PushError("the package `gguf` is not installed", hint="run `pip install 'moemerge[gguf]'`")
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    from moemerge.export.run import OF_RECORD
    from moemerge.sources.gguf_header import read_gguf_header

    def nbytes(kind: int, elements: int) -> int:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        return elements // block * size

    if read_gguf_header(path, nbytes).metadata.get(OF_RECORD) != record:
        raise PushError(
            f"`{path}` was not exported from `{folder}` as it is now",
            hint=f"run `moemerge export {folder} --gguf {path} --overwrite`",
        )


def _checked(parcel: Parcel) -> Parcel:
    """The parcel, with notes on what it tells of this machine.

    Raises:
        ManyProblems: files that hold a token.
    """
    from huggingface_hub import get_token

    token, problems, notes = get_token(), [], [*parcel.notes, f"`{RECORD}` holds the recipe, its prompts too"]
    for item in parcel.items():
        if item.name.endswith(NO_TEXTS):
            continue
        data = item.source if isinstance(item.source, bytes) else item.source.read_bytes()
        if has_token(data, token):
            hint = "take it out, revoke the token, and build again"
            problems.append(Problem("secret", f"`{item.name}` holds a token of the hub", hint))
        if names_home(data):
            notes.append(f"`{item.name}` names your home folder `{Path.home()}`")
    if problems:
        raise ManyProblems(problems)
    return replace(parcel, notes=tuple(notes))
