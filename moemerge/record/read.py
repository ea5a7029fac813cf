"""The one reader of `moemerge.yaml`: on its own terms, believing nothing that it does not need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moemerge.errors import Difference, VerifyError
from moemerge.record.schema import Record

NAME = "moemerge.yaml"
FORMAT = 1
MAX_BYTES = 20_000_000
"""The largest record that is read; 220 B parameters in 8 experts make one of about 1 MB."""


MAX_DEPTH = 64
"""Levels of nesting that a record may have, as a recipe."""


MAX_VALUES = 1_000_000
"""Keys and values that a record may hold once aliases are expanded."""


def read_record(folder: Path, hosts: Collection[str], wrappers: Collection[str]) -> Record | list[Difference]:
    """Reads the record, or says what is wrong with it.

    Args:
        folder: a built folder.
        hosts: the architectures that the caller knows.
        wrappers: the models of more than text that it knows a mixture within.

    Raises:
        VerifyError: the folder was not made by moemerge, or by one whose record this one cannot read.
    """
    path = folder / NAME
    if not path.is_file():
        state = f"holds no `{NAME}`" if folder.is_dir() else "is not a folder"
        raise VerifyError(f"`{folder}` {state}", hint=hint_for(folder))
    try:
        if path.stat().st_size > MAX_BYTES:
            return [Difference(NAME, f"is larger than {MAX_BYTES:,} bytes, which no record is")]
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
    return parse_record(parsed, hosts, wrappers)


def parse_record(
    fields: Mapping[str, Any], hosts: Collection[str], wrappers: Collection[str]
) -> Record | list[Difference]:
    """The record out of its fields, or what is wrong with them."""
    try:
        record = Record.model_validate(fields)
    except ValidationError as error:
        return [Difference(NAME, f"`{_place(e['loc'])}`: {e['msg']}") for e in error.errors(include_url=False)]
    if record.architecture not in hosts:
        known = ", ".join(f"`{host}`" for host in hosts)
        return [Difference(NAME, f"`architecture`: no host of this name is known, only {known}")]
    if record.wrapper is not None and record.wrapper not in wrappers:
        return [Difference(NAME, f"`wrapper`: no model of more than text is known as `{record.wrapper}`")]
    return _contradictions(record) or record


def read_fields(folder: Path) -> dict[str, Any] | None:
    """The record's plain fields, for who writes them again or removes what they name; None where there is no record, or
    none that this version writes.

    Raises:
        OSError: it cannot be read.
    """
    path = folder / NAME
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return None
    try:
        parsed = _parse(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) and _is_whole(parsed) else None


def _is_whole(parsed: Mapping[Any, Any]) -> bool:
    digests = (parsed.get("files"), parsed.get("tensors"))
    return (
        parsed.get("format") == FORMAT
        and isinstance(parsed.get("architecture"), str)
        and all(isinstance(d, dict) and all(isinstance(x, str) for item in d.items() for x in item) for d in digests)
    )


def record_digest(folder: Path) -> str | None:
    """The digest (xxh3-128) of a folder's record, and so of every tensor and file that it was built with; None where
    there is none that is read.

    Raises:
        OSError: it cannot be read.
    """
    import xxhash

    path = folder / NAME
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return None
    return xxhash.xxh3_128_hexdigest(path.read_bytes())


def hint_for(folder: Path) -> str:
    """What to name where a folder is not a mixture."""
    if any(next(folder.glob(pattern), None) for pattern in ("adapter_config.json", "*/adapter_config.json")):
        return "it holds an adapter and no model: name the folder that the adapter is for"
    return "name a folder that `moemerge build` made"


def _parse(text: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_shape(yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(_one_line(error)) from None


def _check_shape(events: Iterable[Any]) -> None:
    """Refuses what no record is, before it is put together: libyaml goes down as deep as a text says, until the process
    ends, and aliases may stand for as much as they like.

    Raises:
        ValueError: it is nested too deeply, or holds too much once its aliases are expanded.
    """
    import yaml

    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []
    for event in events:
        size = 0
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = opened.pop()
            if anchor is not None:
                sizes[anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"alias `*{event.anchor}` names nothing before it")
            size = sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if event.anchor is not None:
                sizes[event.anchor] = size
        if len(opened) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if opened and size:
            opened[-1] = opened[-1][0], opened[-1][1] + size
            if opened[-1][1] > MAX_VALUES:
                raise ValueError(f"more than {MAX_VALUES:,} values")


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
