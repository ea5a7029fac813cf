"""`moemerge.yaml` as the checker reads it: on its own terms, believing nothing that it does not need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from moemerge.errors import VerifyError
from moemerge.recipe.schema import MergeMethod, Recipe
from moemerge.verify.families import Group
from moemerge.verify.hosts import HOSTS
from moemerge.verify.result import Difference

NAME = "moemerge.yaml"
FORMAT = 1
MAX_BYTES = 200_000_000
"""The largest record that is read; 220 B parameters in 8 experts make one of about 1 MB."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


def _known_host(name: str) -> str:
    if name not in HOSTS:
        known = ", ".join(f"`{host}`" for host in HOSTS)
        raise PydanticCustomError("host", "no host of this name is known, only {known}", {"known": known})
    return name


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Source(_Part):
    """One of the models that the folder was built from."""

    model: str
    kind: str
    revision: str | None = None
    digest: Digest


class BuiltExpert(_Part):
    """One expert: its name, the key of its model in `sources`, its FFN's own width."""

    name: str
    source: str
    width: int = Field(ge=1)


class Training(_Part):
    """One training: what it changed."""

    changed: tuple[Literal["router", "attention", "experts"], ...] = ("router",)


class Record(_Part):
    """What the checker needs of the record."""

    architecture: Annotated[str, AfterValidator(_known_host)]
    dtype: Literal["F32", "BF16", "F16"]
    root: str
    sources: dict[str, Source]
    experts: tuple[BuiltExpert, ...] = Field(min_length=1)
    merge: dict[Group, MergeMethod]
    recipe: Recipe
    training: tuple[Training, ...] = ()
    files: dict[str, Digest]
    tensors: dict[str, Digest]

    @property
    def width(self) -> int:
        """The width of the experts: that of the widest, to which others are padded."""
        return max(expert.width for expert in self.experts)

    @property
    def trained(self) -> tuple[str, ...]:
        """What trainings changed beside the router, which no source has: `attention`, `experts`."""
        return tuple(sorted({name for training in self.training for name in training.changed} - {"router"}))


def read_record(folder: Path) -> Record | list[Difference]:
    """Reads the record, or says what is wrong with it.

    Raises:
        VerifyError: the folder was not made by moemerge, or by one whose record this one cannot read.
    """
    path = folder / NAME
    if not path.is_file():
        state = f"holds no `{NAME}`" if folder.is_dir() else "is not a folder"
        raise VerifyError(f"`{folder}` {state}", hint=hint_for(folder))
    try:
        if path.stat().st_size > MAX_BYTES:
            return [Difference(NAME, f"is larger than {MAX_BYTES} bytes")]
        parsed = _parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return [Difference(NAME, f"cannot be read: {_one_line(error)}")]
    if not isinstance(parsed, dict):
        return [Difference(NAME, "is not a map of the record's fields")]
    if parsed.get("format") != FORMAT:
        message = (
            f"`{folder}` has a record of format `{parsed.get('format')}`, and this moemerge reads format `{FORMAT}`"
        )
        raise VerifyError(message, hint="use the version of moemerge that built it, named in its `moemerge.yaml`")
    return parse_record(parsed)


def parse_record(fields: Mapping[str, Any]) -> Record | list[Difference]:
    """The record out of its fields, or what is wrong with them."""
    try:
        record = Record.model_validate(fields)
    except ValidationError as error:
        return [Difference(NAME, f"`{_place(e['loc'])}`: {e['msg']}") for e in error.errors(include_url=False)]
    return _contradictions(record) or record


def hint_for(folder: Path) -> str:
    """What to name where a folder is no mixture."""
    if any(next(folder.glob(pattern), None) for pattern in ("adapter_config.json", "*/adapter_config.json")):
        return "it holds an adapter and no model: name the folder that the adapter is for"
    return "name a folder that `moemerge build` made"


def _parse(text: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(_one_line(error)) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))


def _contradictions(record: Record) -> list[Difference]:
    """Where the record's account of the experts is not what its own recipe asked for."""
    recipe, found = record.recipe, []
    if [expert.name for expert in record.experts] != [expert.name for expert in recipe.experts]:
        return [Difference(NAME, "`experts` and `recipe.experts` do not name the same experts")]
    if "base" not in record.sources or record.sources["base"].model != recipe.base_model:
        found.append(Difference(NAME, "`sources.base` is not the recipe's `base_model`"))
    for index, (built, asked) in enumerate(zip(record.experts, recipe.experts, strict=True)):
        if source_of(record, asked.model) != built.source:
            found.append(
                Difference(NAME, f"`experts.{index}.source` is `{built.source}`, the recipe's is `{asked.model}`")
            )
    for group, method in record.merge.items():
        asked_method = getattr(recipe.merge, group) or recipe.merge.shared
        if asked_method not in (method, "auto"):
            found.append(Difference(NAME, f"`merge.{group}` is `{method}`, the recipe's is `{asked_method}`"))
    return found


def source_of(record: Record, model: str) -> str | None:
    """The key in `sources` of a model that the recipe names, or None."""
    if model in ("base", record.recipe.base_model):
        return "base"
    return next((key for key, source in record.sources.items() if source.model == model), None)
