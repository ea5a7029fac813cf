"""A recipe as text, with comments that say what may be changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moemerge.init.domains import suggested_prompts
from moemerge.init.wanted import Wanted, WantedExpert


@dataclass(frozen=True, slots=True)
class Needed:
    """Settings that the models make necessary.

    Attributes:
        pad: experts whose FFN is narrower than another's.
        base_window: the models' sliding windows differ.
        bfloat16: the output cannot be float16.
    """

    pad: frozenset[str] = frozenset()
    base_window: bool = False
    bfloat16: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """Each as a line for the user."""
        said = [f"expert `{name}` is narrower than the widest: the recipe pads it, which is exact"
                for name in sorted(self.pad)]  # fmt: skip
        if self.base_window:
            said.append("the models' sliding windows differ: the recipe keeps the base's")
        if self.bfloat16:
            said.append("float16 has no room for these experts: the recipe writes bfloat16")
        return tuple(said)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the models are: in words, by `base` and the experts' names, and whether one of them has a chat template."""

    models: Mapping[str, str] = field(default_factory=dict)
    chats: bool = False


def recipe_text(wanted: Wanted, needed: Needed, seen: Seen, file: Path) -> str:
    """The recipe of `wanted`, as the file's text; `parse_recipe` reads it back."""
    return "\n".join(_lines(wanted, needed, seen, file)) + "\n"


def _lines(wanted: Wanted, needed: Needed, seen: Seen, file: Path) -> Iterator[str]:
    yield "# A recipe for moemerge, written by `moemerge init`. Change what you like: docs/recipe.md has every field."
    yield "#"
    yield f"#     moemerge plan {file.name}      # checks it, and says what a build costs"
    yield f"#     moemerge build {file.name}     # builds the mixture"
    yield "#     moemerge eval OUT          # measures it on the texts of `eval`; OUT is its folder"
    if any(expert.to_fill is not None for expert in wanted.experts):
        yield "#"
        yield "# IT DOES NOT PLAN YET: write the prompts where it says FILL IN."
    yield ""
    if "base" in seen.models:
        yield f"# {seen.models['base']}"
    yield f"base_model: {_scalar(wanted.base)}"
    if wanted.allow_pickle:
        yield "allow_pickle: true   # reads `.bin` files, tensors only"
    yield ""
    yield "# Experts that each token passes through. 1 costs what the base costs; 2 costs one more FFN and can mix."
    yield "# As many as there are experts is the slowest: all of them run for every token."
    yield f"experts_per_token: {1 if len(wanted.experts) < 3 else 2}"
    yield ""
    yield "# Prompts are beginnings of what an expert should write. The router is fitted to them: replace those that do"
    yield "# not look like what your expert was trained on. Real texts of its domain can stand beside them, as"
    yield "# `data: {path: texts.jsonl}`, but not those that you measure on. Paths are relative to this file."
    yield "experts:"
    for expert in wanted.experts:
        yield from _expert(expert, expert.name in needed.pad, seen)
    yield ""
    if seen.chats:
        yield "# For experts that were tuned on conversations: wraps every prompt in the chat template."
        yield "# template: chat"
        yield ""
    if needed.base_window:
        yield "# The models' sliding windows differ. The base's holds for all."
        yield "sliding_window: base"
        yield ""
    if needed.bfloat16:
        yield "# float16 has no room for these experts."
        yield "dtype: bfloat16"
        yield ""
    yield f"output: {{path: out/{file.stem}}}"
    yield ""
    yield "# Texts to measure the mixture on with `moemerge eval`. No build reads them."
    given = any(expert.texts is not None for expert in wanted.experts)
    yield "eval:" if given else "# eval:"
    yield "  domains:" if given else "#   domains:"
    for expert in wanted.experts:
        margin = "#     " if expert.texts is None else "    "
        yield f"{margin}{_scalar(expert.name)}: {_scalar(expert.texts or f'texts/{expert.name}.jsonl')}"


def _expert(expert: WantedExpert, pad: bool, seen: Seen) -> Iterator[str]:
    kind = seen.models.get(expert.name)
    yield f"  - name: {_scalar(expert.name)}"
    yield f"    model: {_scalar(expert.model)}" + (f"   # {kind}" if kind else "")
    if pad:
        yield "    pad: true   # its FFN is narrower than the widest expert's"
    if expert.file is not None:
        yield f"    prompts_file: {_scalar(expert.file)}   # one prompt per line"
    elif expert.domain is not None:
        yield f"    prompts:   # suggested for {expert.domain}"
        for prompt in suggested_prompts(expert.domain):
            yield f"      - {_scalar(prompt, quoted=True)}"
    else:
        yield "    # FILL IN: write this file, six to eight beginnings of what this expert should write, one per line."
        yield "    # Until it is there, `moemerge plan` and `moemerge build` refuse this recipe."
        yield f"    prompts_file: {_scalar(str(expert.to_fill))}"


def _scalar(text: str, *, quoted: bool = False) -> str:
    """A text as YAML on one line; in quotation marks where it needs them, or `quoted`."""
    import yaml

    style = '"' if quoted else None
    return yaml.safe_dump(text, default_style=style, allow_unicode=True, width=1 << 30).removesuffix("...\n").strip()
