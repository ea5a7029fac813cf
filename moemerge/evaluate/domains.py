"""The held-out texts that a mixture is measured on, by domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moemerge.errors import EvalError, ManyProblems, MoemergeError, Problem
from moemerge.mixture.folder import BuiltFolder, MoeFolder
from moemerge.recipe import Evaluation, load_evaluation
from moemerge.recipe.schema import Data
from moemerge.texts import Document, read_documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Domain:
    """One domain's texts.

    Attributes:
        name: as in the recipe.
        expert: number of the expert that has this name, None where there is none.
        texts: the documents.
        warnings: what of them could not be read, or not in full.
    """

    name: str
    expert: int | None
    texts: tuple[Document, ...]
    warnings: tuple[Problem, ...] = ()


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
        hint = "pass `--domains FILE.yaml` with a file of texts a domain, such as `code: texts/code.jsonl`"
        raise EvalError(f"{where} names no held-out texts", hint=hint)
    return evaluation, root


def read_domains(
    domains: Mapping[str, Data | str],
    root: Path,
    experts: tuple[str, ...],
    limit: int | None,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[Domain, ...]:
    """Reads every domain's documents.

    Args:
        domains: what to read.
        root: what relative paths are relative to.
        experts: the mixture's experts.
        limit: at most so many documents a domain.
        tokenizer: the mixture's, with the chat template that conversations are written with.

    Raises:
        EvalError: everything that cannot be read.
    """
    found, problems = [], []
    for name, given in domains.items():
        data = given if isinstance(given, Data) else Data(path=given)
        if limit is not None:
            data = data.model_copy(update={"limit": min(limit, data.limit or limit)})
        try:
            texts, warnings = read_documents(data, root, lambda: tokenizer, "the mixture")
        except MoemergeError as error:
            problems += [Problem(p.code, f"domain `{name}`: {p.message}", p.hint) for p in error.problems]
            continue
        found.append(Domain(name, experts.index(name) if name in experts else None, texts, warnings))
    if problems:
        raise EvalProblems(problems)
    return tuple(found)
