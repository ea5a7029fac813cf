"""The texts that a router is trained on, by domain, and those that decide what is kept; never the evaluation's."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from moemerge.errors import ManyProblems, MoemergeError, Problem, TrainError
from moemerge.mixture.folder import BuiltFolder
from moemerge.recipe import file_path, load_evaluation
from moemerge.recipe.schema import Data, Expert
from moemerge.texts import read_prompts_file, read_texts

SAMPLES = "gate_samples.jsonl"
"""Texts that the specialists wrote when the gate was fitted."""
HELD_OUT = 0.2
"""Share of each domain's documents that is held out."""


@dataclass(frozen=True)
class Texts:
    """One domain's documents.

    Attributes:
        name: the domain's, which is its expert's.
        expert: the expert's number.
        train: documents to train on.
        held: documents that decide what is kept.
    """

    name: str
    expert: int
    train: tuple[str, ...]
    held: tuple[str, ...]


class TextProblems(ManyProblems, TrainError):
    """Several domains whose texts cannot be used."""


def find_texts(
    folder: BuiltFolder, file: Path | None, limit: int | None, seed: int, held_out: Path | None = None
) -> tuple[Texts, ...]:
    """Every expert's texts, in the order of the experts.

    Args:
        folder: the mixture, with its record.
        file: a YAML file of texts by domain; the recipe's own texts when None.
        limit: at most so many documents a domain.
        seed: of the split.
        held_out: a YAML file of the texts that are held out; a part of the others when None.

    Raises:
        TrainError: all domains that have no texts, too few, the evaluation's, or the same ones twice.
        RecipeError: a file cannot be read.
    """
    if file is not None:
        found: Mapping[str, _File | _Own] = _by_domain(folder, file, limit)
    else:
        found = {expert.name: _Own(folder, expert, limit) for expert in folder.record.recipe.experts}
    kept_apart = _by_domain(folder, held_out, None) if held_out is not None else None
    evaluation = _evaluation(folder)
    texts, problems = [], []
    for number, (name, source) in enumerate(found.items()):
        try:
            documents = _documents(source, evaluation)[:limit]
            if kept_apart is None:
                texts.append(_split(name, number, documents, seed))
            else:
                texts.append(_apart(name, number, documents, _documents(kept_apart[name], evaluation)))
        except MoemergeError as error:
            problems += [Problem(p.code, f"domain `{name}`: {p.message}", p.hint) for p in error.problems]
    if problems:
        raise TextProblems(problems)
    return tuple(texts)


def _by_domain(folder: BuiltFolder, file: Path, limit: int | None) -> dict[str, _File]:
    asked, root = load_evaluation(file)
    _check_names(folder, file, asked.domains)
    return {name: _reading(asked.domains[name], root, limit) for name in folder.experts}


def _check_names(folder: BuiltFolder, file: Path, sources: Mapping[str, Data | str]) -> None:
    listed = ", ".join(f"`{name}`" for name in folder.experts)
    missing = [name for name in folder.experts if name not in sources]
    unknown = [name for name in sources if name not in folder.experts]
    problems = [
        Problem("no-data", f"`{file}` has no texts for the expert `{name}`", "every expert needs texts of its domain")
        for name in missing
    ]
    problems += [
        Problem("no-expert", f"`{file}` has texts for `{name}`, which is no expert", f"the experts are {listed}")
        for name in unknown
    ]
    if problems:
        raise TextProblems(problems)


@dataclass(frozen=True)
class _File:
    """Reads a file or a hub data set."""

    data: Data
    root: Path

    @property
    def path(self) -> Path | None:
        return file_path(self.root, self.data.path)

    def __call__(self) -> tuple[str, ...]:
        return read_texts(self.data, self.root)


@dataclass(frozen=True)
class _Own:
    """Reads what the recipe names for an expert: its data, else its prompts and what its specialist wrote."""

    folder: BuiltFolder
    expert: Expert
    limit: int | None

    @property
    def path(self) -> Path | None:
        return file_path(self.folder.root, self.expert.data.path) if self.expert.data is not None else None

    def __call__(self) -> tuple[str, ...]:
        expert, root = self.expert, self.folder.root
        if expert.data is not None:
            return _reading(expert.data, root, self.limit)()
        prompts = expert.prompts
        if expert.prompts_file is not None:
            prompts = read_prompts_file(file_path(root, expert.prompts_file))
        texts = (*_samples(self.folder.path / SAMPLES, expert.name), *prompts)
        if not texts:
            raise TrainError("the recipe has neither prompts nor data for it", hint="pass `--data FILE.yaml`")
        return texts


def _reading(given: Data | str, root: Path, limit: int | None) -> _File:
    data = given if isinstance(given, Data) else Data(path=given)
    if limit is not None:
        data = data.model_copy(update={"limit": min(limit, data.limit or limit)})
    return _File(data, root)


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


def _evaluation(folder: BuiltFolder) -> _Evaluation:
    """The files of the recipe's `eval` and their documents, as far as they are on this machine."""
    paths, documents = set(), set()
    for given in folder.record.recipe.eval.domains.values():
        data = given if isinstance(given, Data) else Data(path=given)
        path = file_path(folder.root, data.path)
        if path.is_file():
            paths.add(path.resolve())
            try:
                documents |= {text.strip() for text in read_texts(data, folder.root)}
            except MoemergeError:  # it cannot be evaluated on either
                continue
    return _Evaluation(frozenset(paths), frozenset(documents))


def _documents(source: _File | _Own, evaluation: _Evaluation) -> tuple[str, ...]:
    documents = tuple(dict.fromkeys(source()))
    if source.path is not None and source.path.resolve() in evaluation.paths:
        raise TrainError(
            f"`{source.path}` is a file of the recipe's `eval`", hint="train on other texts, or nothing is shown"
        )
    shared = sum(text.strip() in evaluation.documents for text in documents)
    if shared:
        raise TrainError(f"{shared} of its documents are in the recipe's `eval` too", hint="take them out")
    return documents


def _apart(name: str, number: int, documents: tuple[str, ...], held: tuple[str, ...]) -> Texts:
    both = {text.strip() for text in documents}
    shared = sum(text.strip() in both for text in held)
    if shared:
        raise TrainError(
            f"{shared} of its held-out documents are trained on too", hint="hold out texts of other sources"
        )
    return Texts(name, number, documents, held)


def _split(name: str, number: int, documents: tuple[str, ...], seed: int) -> Texts:
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
