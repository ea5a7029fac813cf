"""The texts that a router is trained on, by domain, and those that decide what is kept; never the evaluation's."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moemerge.console import few
from moemerge.errors import ManyProblems, MoemergeError, Problem, TrainError
from moemerge.mixture.folder import BuiltFolder
from moemerge.recipe import file_path, load_evaluation
from moemerge.recipe.schema import Data, Expert
from moemerge.texts import Document, read_documents, read_prompts_file, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = "gate_samples.jsonl"
"""Texts that the specialists wrote when the gate was fitted."""
HELD_OUT = 0.2
"""Share of each domain's documents that is held out."""
NOBODY = -1
"""The expert of a domain that is nobody's own."""


@dataclass(frozen=True)
class Texts:
    """One domain's documents.

    Attributes:
        name: the domain's, which is its expert's where it has one.
        expert: the expert's number; `NOBODY` where experts are copies and have no domains.
        train: documents to train on.
        held: documents that decide what is kept.
    """

    name: str
    expert: int
    train: tuple[Document, ...]
    held: tuple[Document, ...]


class TextProblems(ManyProblems, TrainError):
    """Several domains whose texts cannot be used."""


def find_texts(
    folder: BuiltFolder,
    tokenizer: PreTrainedTokenizerBase,
    file: Path | None,
    limit: int | None,
    seed: int,
    held_out: Path | None = None,
) -> tuple[tuple[Texts, ...], list[Problem]]:
    """Every expert's texts, in the order of the experts; of copies of one model, those of any domains.

    Args:
        folder: the mixture, with its record.
        tokenizer: the mixture's, with the chat template that conversations are written with.
        file: a YAML file of texts by domain; the recipe's own texts when None.
        limit: at most so many documents per domain.
        seed: of the split.
        held_out: a YAML file of the texts that are held out; a part of the others when None.

    Returns:
        The texts, and warnings of what could not be read.

    Raises:
        TrainError: all domains that have no texts, too few, the evaluation's, or the same ones twice.
        RecipeError: a file cannot be read.
    """
    copies = are_copies(folder)
    if file is None and copies:
        message = "its experts are copies of one model, and the recipe has no texts for them"
        raise TrainError(message, hint="pass `--data FILE.yaml` with texts of any domains")
    if file is not None:
        found: Mapping[str, _File | _Own] = _by_domain(folder, tokenizer, file, limit)
    else:
        found = {expert.name: _Own(folder, tokenizer, expert, limit) for expert in folder.record.recipe.experts}
    kept_apart = _by_domain(folder, tokenizer, held_out, None) if held_out is not None else None
    evaluation = _evaluation(folder, tokenizer)
    texts: list[Texts] = []
    problems: list[Problem] = []
    warnings: list[Problem] = []
    if kept_apart is not None and copies:
        problems += [
            Problem("no-data", f"`{held_out}` has no texts for the domain `{name}`, which is trained on")
            for name in found.keys() - kept_apart.keys()
        ]
        found = {name: source for name, source in found.items() if name in kept_apart}
    for number, (name, source) in enumerate(found.items()):
        number = NOBODY if copies else number
        try:
            documents, said = _documents(source, evaluation)
            documents = documents[:limit]
            if kept_apart is None:
                texts.append(_split(name, number, documents, seed))
            else:
                held, unread = _documents(kept_apart[name], evaluation)
                texts.append(_apart(name, number, documents, held))
                said += unread
            warnings += _of_domain(name, said)
        except MoemergeError as error:
            problems += _of_domain(name, error.problems)
    if problems:
        raise TextProblems(problems)
    return tuple(texts), warnings


def are_copies(folder: BuiltFolder) -> bool:
    """Whether the experts were made of one model, so that no domain is any one's own."""
    return len({expert.source for expert in folder.record.experts}) == 1


def _of_domain(name: str, problems: Iterable[Problem]) -> list[Problem]:
    return [Problem(p.code, f"domain `{name}`: {p.message}", p.hint) for p in problems]


def _by_domain(
    folder: BuiltFolder, tokenizer: PreTrainedTokenizerBase, file: Path, limit: int | None
) -> dict[str, _File]:
    asked, root = load_evaluation(file)
    names = tuple(asked.domains) if are_copies(folder) else folder.experts
    _check_names(names, file, asked.domains)
    return {name: _reading(asked.domains[name], root, tokenizer, limit) for name in names}


def _check_names(names: Sequence[str], file: Path, sources: Mapping[str, Data | str]) -> None:
    if not sources:
        raise TrainError(f"`{file}` names no texts", hint="name some by domain, such as `code: texts/code.jsonl`")
    listed = ", ".join(few([f"`{name}`" for name in names]))
    missing = [name for name in names if name not in sources]
    unknown = [name for name in sources if name not in names]
    problems = [
        Problem("no-data", f"`{file}` has no texts for the expert `{name}`", "every expert needs texts of its domain")
        for name in missing
    ]
    problems += [
        Problem("no-expert", f"`{file}` has texts for `{name}`, which is not an expert", f"the experts are {listed}")
        for name in unknown
    ]
    if problems:
        raise TextProblems(problems)


@dataclass(frozen=True)
class _File:
    """Reads a file or a hub data set."""

    data: Data
    root: Path
    tokenizer: PreTrainedTokenizerBase

    @property
    def path(self) -> Path | None:
        return file_path(self.root, self.data.path)

    def __call__(self) -> tuple[tuple[Document, ...], tuple[Problem, ...]]:
        return read_documents(self.data, self.root, lambda: self.tokenizer, "the mixture")


@dataclass(frozen=True)
class _Own:
    """Reads what the recipe names for an expert: its data, else its prompts and what its specialist wrote."""

    folder: BuiltFolder
    tokenizer: PreTrainedTokenizerBase
    expert: Expert
    limit: int | None

    @property
    def path(self) -> Path | None:
        return file_path(self.folder.root, self.expert.data.path) if self.expert.data is not None else None

    def __call__(self) -> tuple[tuple[Document, ...], tuple[Problem, ...]]:
        expert, root = self.expert, self.folder.root
        if expert.data is not None:
            return _reading(expert.data, root, self.tokenizer, self.limit)()
        prompts = expert.prompts
        if expert.prompts_file is not None:
            prompts = read_prompts_file(file_path(root, expert.prompts_file))
        texts = (*_samples(self.folder.path / SAMPLES, expert.name), *prompts)
        if not texts:
            raise TrainError("the recipe has neither prompts nor data for it", hint="pass `--data FILE.yaml`")
        return texts, ()


def _reading(given: Data | str, root: Path, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> _File:
    data = given if isinstance(given, Data) else Data(path=given)
    if limit is not None:
        data = data.model_copy(update={"limit": min(limit, data.limit or limit)})
    return _File(data, root, tokenizer)


def _samples(path: Path, name: str) -> Iterator[str]:
    if not path.is_file():
        return
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["expert"] == name:
                yield row["text"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrainError(f"`{path}` cannot be read: {error}", hint="pass `--data FILE.yaml`") from error


@dataclass(frozen=True)
class _Evaluation:
    paths: frozenset[Path]
    documents: frozenset[str]


def _evaluation(folder: BuiltFolder, tokenizer: PreTrainedTokenizerBase) -> _Evaluation:
    """The files of the recipe's `eval` and their documents, as far as they are on this machine."""
    paths, documents = set(), set()
    for given in folder.record.recipe.eval.domains.values():
        data = given if isinstance(given, Data) else Data(path=given)
        path = file_path(folder.root, data.path)
        if path.is_file():
            paths.add(path.resolve())
            try:
                found, _ = read_documents(data, folder.root, lambda: tokenizer, "the mixture")
                documents |= {text_of(document).strip() for document in found}
            except MoemergeError:  # it cannot be evaluated on either
                continue
    return _Evaluation(frozenset(paths), frozenset(documents))


def _documents(source: _File | _Own, evaluation: _Evaluation) -> tuple[tuple[Document, ...], list[Problem]]:
    found, warnings = source()
    documents = tuple(dict.fromkeys(found))
    if source.path is not None and source.path.resolve() in evaluation.paths:
        raise TrainError(
            f"`{source.path}` is a file of the recipe's `eval`", hint="train on other texts, or nothing is shown"
        )
    shared = sum(text_of(document).strip() in evaluation.documents for document in documents)
    if shared:
        raise TrainError(f"{shared} of its documents are in the recipe's `eval` too", hint="take them out")
    return documents, list(warnings)


def _apart(name: str, number: int, documents: tuple[Document, ...], held: tuple[Document, ...]) -> Texts:
    both = {text_of(document).strip() for document in documents}
    shared = sum(text_of(document).strip() in both for document in held)
    if shared:
        raise TrainError(
            f"{shared} of its held-out documents are trained on too", hint="hold out texts of other sources"
        )
    return Texts(name, number, documents, held)


def _split(name: str, number: int, documents: tuple[Document, ...], seed: int) -> Texts:
    if len(documents) < 2:
        raise TrainError("it has 1 document, and one is held out: training needs 2 at least")
    order = list(range(len(documents)))
    random.Random(f"{seed} {name} split").shuffle(order)
    held = set(order[: max(round(HELD_OUT * len(order)), 1)])
    return Texts(
        name,
        number,
        tuple(text for index, text in enumerate(documents) if index not in held),
        tuple(text for index, text in enumerate(documents) if index in held),
    )
