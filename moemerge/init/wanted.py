"""What the user asked `moemerge init` for, with every mistake in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moemerge.errors import ManyProblems, MoemergeError, Problem
from moemerge.init.domains import DOMAINS, domain_of
from moemerge.recipe.checks import RESERVED
from moemerge.recipe.schema import EXPERT_NAME
from moemerge.sources.spec import parse
from moemerge.texts import read_prompts_file

CHOOSE = (
    "`--prompts {name}=FILE` gives its prompts, one per line; `--prompts {name}=DOMAIN` takes those of "
    + ", ".join(f"`{domain}`" for domain in DOMAINS)
)

EXAMPLES = {"--expert": "adapters/code", "--prompts": "prompts.txt", "--texts": "texts/code.jsonl"}
"""What may follow `code=` in each option."""


@dataclass(frozen=True, slots=True)
class WantedExpert:
    """One expert.

    Attributes:
        name: what the recipe calls it.
        model: as typed.
        domain: the key of `DOMAINS` whose prompts it gets.
        file: the file of prompts that the user has.
        texts: a file of its domain's texts that the mixture is measured on.
    """

    name: str
    model: str
    domain: str | None = None
    file: str | None = None
    texts: str | None = None

    @property
    def to_fill(self) -> str | None:
        """The file of prompts that the user has yet to write, relative to the recipe; None where there are prompts."""
        return f"prompts/{self.name}.txt" if self.domain is None and self.file is None else None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A base, its specialists, and whether pickled weights may be read."""

    base: str
    experts: tuple[WantedExpert, ...]
    allow_pickle: bool = False


def wanted_of(
    base: str | None,
    experts: Sequence[str],
    prompts: Sequence[str],
    here: Path,
    texts: Sequence[str] = (),
    *,
    allow_pickle: bool = False,
) -> Wanted:
    """Reads what was typed.

    Args:
        base: the base model.
        experts: `NAME=MODEL` of each.
        prompts: `NAME=FILE` or `NAME=DOMAIN` of some.
        here: the folder that paths are relative to.
        texts: `NAME=FILE` of some: what the mixture is measured on.
        allow_pickle: whether pickled weights may be read.

    Raises:
        ManyProblems: all that is wrong with it; no model has been opened yet.
    """
    problems: list[Problem] = []
    if not base:
        problems.append(
            Problem("init", "No base model is named", "`--base MODEL` is a folder, a hub id or a GGUF file")
        )
    if base == "base":
        message = "`--base base` names nothing: `base` is the word for the base model itself"
        problems.append(Problem("init", message, "for a folder of that name write `--base ./base`"))
    models = dict(_pairs("--expert", "MODEL", experts, problems))
    given = dict(_pairs("--prompts", "FILE", prompts, problems))
    measured = dict(_pairs("--texts", "FILE", texts, problems))
    for option, named in (("--prompts", given), ("--texts", measured)):
        for name in [name for name in named if name not in models]:
            problems.append(Problem("init", f"`{option} {name}={named[name]}`: there is no expert `{name}`"))
    for name, file in measured.items():
        if not (here / Path(file).expanduser()).is_file():
            hint = f"name a file of texts, such as `{EXAMPLES['--texts']}`"
            problems.append(Problem("init", f"`--texts {name}={file}`: there is no such file", hint))
    found = tuple(
        replace(_expert(name, model, given.get(name), here, problems), texts=measured.get(name))
        for name, model in models.items()
    )
    problems += _misfits(found)
    for spec in dict.fromkeys([*([base] if base else []), *models.values()]):
        try:
            if spec != "base":
                parse(spec, here)
        except MoemergeError as error:
            problems += error.problems
    if problems or not base:
        raise ManyProblems(dict.fromkeys(problems))
    return Wanted(base, found, allow_pickle)


def _pairs(option: str, what: str, typed: Sequence[str], problems: list[Problem]) -> Iterator[tuple[str, str]]:
    """The pairs of one option; a name may come once."""
    seen: set[str] = set()
    for text in typed:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not sign or not name or not value:
            hint = f"write `{option} NAME={what}`, such as `{option} code={EXAMPLES[option]}`"
            problems.append(Problem("init", f"`{option} {text}` does not have the form `NAME={what}`", hint))
        elif name in seen:
            problems.append(Problem("init", f"`{option} {name}=…` is given twice", "give each expert its own name"))
        else:
            seen.add(name)
            yield name, value


def _expert(name: str, model: str, prompts: str | None, here: Path, problems: list[Problem]) -> WantedExpert:
    if not re.match(EXPERT_NAME, name):
        hint = "use letters, digits, `.`, `_` and `-`, a letter or digit first"
        problems.append(Problem("init", f"No expert can be named `{name}`", hint))
    elif RESERVED.fullmatch(name):
        message = f"No expert can be named `{name}`: that name is reserved"
        problems.append(Problem("init", message, "give it another name, such as `general`"))
    if prompts is None:
        return WantedExpert(name, model, domain_of(name))
    path = here / Path(prompts).expanduser()
    if prompts in DOMAINS and not path.is_file():
        return WantedExpert(name, model, prompts)
    try:
        read_prompts_file(path)
    except MoemergeError as error:
        instead = None if path.exists() else CHOOSE.format(name=name)
        problems += [Problem(problem.code, problem.message, instead or problem.hint) for problem in error.problems]
    return WantedExpert(name, model, file=prompts)


def _misfits(experts: Sequence[WantedExpert]) -> Iterator[Problem]:
    """What is wrong with the experts side by side."""
    if len(experts) < 2:
        message = "A mixture has two experts at least" + (f", and `{experts[0].name}` is one" if experts else "")
        yield Problem("init", message, "give `--expert NAME=MODEL` for each; `general=base` makes the base one of them")
    first: dict[str, str] = {}
    for expert in experts:
        if expert.domain is None:
            continue
        other = first.setdefault(expert.domain, expert.name)
        if other != expert.name:
            message = f"Experts `{other}` and `{expert.name}` would both get the prompts for `{expert.domain}`"
            hint = f"no gate can tell them apart by these: {CHOOSE.format(name=expert.name)}"
            yield Problem("init", message, hint)
