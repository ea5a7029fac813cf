"""The held-out texts that a mixture is measured on, by domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moemerge.errors import EvalError, ManyProblems, MoemergeError, Problem
from moemerge.evaluate.pictures import Eyes, Pictures, prepare
from moemerge.mixture.folder import BuiltFolder, MoeFolder
from moemerge.recipe import Evaluation, load_evaluation
from moemerge.recipe.schema import Data
from moemerge.texts import Document, read_documents
from moemerge.texts.pictures import names_pictures, read_pictured

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Domain:
    """One domain's texts.

    Attributes:
        name: as in the recipe.
        expert: number of the expert that has this name, None where there is none.
        texts: the documents; none where there are pictures.
        warnings: what of them could not be read, or not in full.
        pictures: pictures with what is said of them, ready to be scored.
    """

    name: str
    expert: int | None
    texts: tuple[Document, ...]
    warnings: tuple[Problem, ...] = ()
    pictures: Pictures | None = None

    @property
    def documents(self) -> int:
        """How many there are."""
        return len(self.texts if self.pictures is None else self.pictures.texts)


class EvalProblems(ManyProblems, EvalError):
    """Several domains that cannot be read."""


def find_evaluation(folder: MoeFolder, file: Path | None) -> tuple[Evaluation, Path]:
    """What is to be measured, from `--domains FILE` or the recipe in the folder, and the root of its paths.

    Raises:
        EvalError: neither names a domain.
        RecipeError: the file cannot be read.
    """
    if file is not None:
        evaluation, root = load_evaluation(file)
    elif isinstance(folder, BuiltFolder):
        evaluation, root = folder.record.recipe.eval, folder.root
    else:
        evaluation, root = Evaluation(), Path.cwd()
    if not evaluation.domains:
        where = f"`{file}`" if file is not None else f"the recipe in `{folder.path}`"
        if not isinstance(folder, BuiltFolder) and file is None:
            where = f"`{folder.path}`, which moemerge did not build,"
        hint = "pass `--domains FILE.yaml` with a file of texts per domain, such as `code: texts/code.jsonl`"
        raise EvalError(f"{where} names no held-out texts", hint=hint)
    return evaluation, root


def read_domains(
    domains: Mapping[str, Data | str],
    root: Path,
    experts: tuple[str, ...],
    limit: int | None,
    tokenizer: PreTrainedTokenizerBase,
    eyes: Callable[[], Eyes] | None = None,
) -> tuple[Domain, ...]:
    """Reads every domain's documents.

    Args:
        domains: what to read.
        root: what relative paths are relative to.
        experts: the mixture's experts.
        limit: at most so many documents per domain.
        tokenizer: the mixture's, with the chat template that conversations are written with.
        eyes: gives what reads pictures, where the mixture sees; without it a row's picture counts for nothing.

    Raises:
        EvalError: everything that cannot be read.
    """
    found, problems = [], []
    for name, given in domains.items():
        data = given if isinstance(given, Data) else Data(path=given)
        if limit is not None:
            data = data.model_copy(update={"limit": min(limit, data.limit or limit)})
        expert = experts.index(name) if name in experts else None
        try:
            if eyes is not None and names_pictures(data, root):
                rows, left_out = read_pictured(data, root)
                pictures = prepare(eyes(), rows, left_out)
                said = left_out.problem
                found.append(Domain(name, expert, (), () if said is None else (said,), pictures))
                continue
            texts, warnings = read_documents(data, root, lambda: tokenizer, "the mixture")
        except MoemergeError as error:
            problems += [Problem(p.code, f"domain `{name}`: {p.message}", p.hint) for p in error.problems]
            continue
        found.append(Domain(name, expert, texts, warnings))
    if problems:
        raise EvalProblems(problems)
    return tuple(found)
