"""Whether a specialist was trained on the base's token ids: the two tokenizers' files compared, never run.

What changes the ids of a text is refused. What a user may want otherwise (special tokens, chat template, what is added
around a text) is a warning that says whose is kept: the output has the base's files, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moemerge.errors import Problem, SourceError
from moemerge.sources import Checkpoint
from moemerge.sources.regular import MAX_BYTES, read_whole
from moemerge.sources.tokenizer import try_file
from moemerge.sources.tokenizer_config import SPECIAL, SWITCHES, TokenizerConfig, tokenizer_config

FILE = "tokenizer.json"
SLOW_FILES = ("tokenizer.model", "tokenizer.model.v3", "spiece.model", "tekken.json", "vocab.json", "merges.txt",
              "vocab.txt")  # fmt: skip
"""What a tokenizer is made of where there is no `tokenizer.json`."""
SAMPLES = (
    "def add(a, b):\n    return a + b  # 12 + 345 = 357\n\n\n\tprint('x')",
    "L'été à Noël, où êtes-vous ? 你好世界 — Привет! 😀 don't WE'LL",
    " leading and trailing  spaces \r\n\r\n",
)
"""Texts that tell a converted tokenizer from its original by their ids."""
_LISTED = 4
_HINT = "the experts see the base's token ids; use specialists that kept the base's tokenizer"
_CHANGE_IDS = ("model", "normalizer", "pre_tokenizer")
_CHANGE_LITTLE = ("post_processor", "decoder", "truncation", "padding", "added_tokens")


@dataclass(frozen=True)
class _Tokenizer:
    """One `tokenizer.json`: its ids as the file gives them, the rest as the tokenizers library writes it.

    The library fills in every default and writes merges in one way, so that files of different versions compare.
    """

    ids: Mapping[str, int]
    parts: Mapping[str, Any]
    path: Path


def check_base_tokenizer(
    base: Checkpoint, size: int, label: str, problems: list[Problem], warnings: list[Problem]
) -> None:
    """Checks the base's own tokenizer: that it can be compared, and that every id has a row of the embedding.

    Args:
        base: the base model.
        size: its `vocab_size`.
        label: what to call it.
        problems: what makes a build impossible is added here.
        warnings: what the user should know is added here.
    """
    if FILE not in base.files:
        message = f"{label} has no `{FILE}`: its tokens cannot be compared with the experts'"
        hint = "save it with `AutoTokenizer.from_pretrained(...)` beside the weights"
        warnings.append(Problem("no-tokenizer", message, hint))
    try:
        ids = dict(tokenizer_config(base.files).added)
        if FILE in base.files:
            ids |= _raw_ids(_parse(base.files[FILE]), base.files[FILE])
            try_file(base.files[FILE])
    except SourceError as error:
        problems.append(Problem("bad-tokenizer", f"{label}: {error.message}", error.hint))
        return
    _check_range(ids, size, label, problems)


def check_tokenizer(
    checkpoint: Checkpoint, base: Checkpoint, size: int, label: str, problems: list[Problem], warnings: list[Problem]
) -> None:
    """Compares a specialist's tokenizer with the base's; see `check_base_tokenizer` for the arguments."""
    if checkpoint.files == base.files:  # an adapter without a tokenizer of its own
        return
    both = FILE in checkpoint.files and FILE in base.files
    try:
        other = both and not _same_file(checkpoint.files[FILE], base.files[FILE])
    except SourceError:  # it is read again below, where it is known whose it is
        other = True
    try:
        kept, kept_json = tokenizer_config(base.files), _read(base.files[FILE]) if other else None
    except SourceError as error:
        problem = Problem("bad-tokenizer", f"`base_model`: {error.message}", error.hint)
        problems += [problem] if problem not in problems else []
        return
    try:
        own, own_json = tokenizer_config(checkpoint.files), _read(checkpoint.files[FILE]) if other else None
    except SourceError as error:
        message = f"{label} cannot be compared with the base: {error.message}"
        problems.append(Problem("bad-tokenizer", message, error.hint))
        return
    _check_settings(own, kept, label, warnings)
    ids = dict(own.added)
    if own_json is not None and kept_json is not None:
        converted = "gguf" in (checkpoint.kind, base.kind)
        ids |= _check_json(own_json, kept_json, label, problems, warnings, converted=converted)
    elif not both:
        _check_slow(checkpoint, base, label, problems, warnings)
    _check_range(ids, size, label, problems)


def _check_range(ids: Mapping[str, int], size: int, label: str, problems: list[Problem]) -> None:
    over = sorted((index, token) for token, index in ids.items() if not 0 <= index < size)
    if over:
        shown = ", ".join(f"`{token}` ({index})" for index, token in over[:_LISTED])
        count = f"{len(over)} token{'s' if len(over) > 1 else ''}"
        message = f"{label} has {count} with ids that its embedding of {size} rows has not, such as {shown}"
        hint = "remove them from the tokenizer, or use the checkpoint whose embedding was resized for them"
        problems.append(Problem("token-id", message, hint))


def _check_settings(own: TokenizerConfig, kept: TokenizerConfig, label: str, warnings: list[Problem]) -> None:
    ours, theirs = {**own.special, **own.switches}, {**kept.special, **kept.switches}
    for key in (*SPECIAL, *SWITCHES):
        if key in ours and key in theirs and ours[key] != theirs[key]:
            mine, base = (json.dumps(values[key], ensure_ascii=False).strip('"') for values in (ours, theirs))
            message = f"{label} has `{key}` `{mine}`, the base's is `{base}`: the base's is kept"
            warnings.append(Problem("special-token-differs", message))
    if own.template is not None and own.template != kept.template:
        theirs_is = "the base has none" if kept.template is None else "another than the base's"
        message = f"{label} has a chat template, {theirs_is}: the output keeps what the base has"
        hint = "`template: chat` fits the gate with each specialist's own; to ship one, put it beside the base"
        warnings.append(Problem("chat-template-differs", message, hint))


def _check_json(
    own: _Tokenizer,
    kept: _Tokenizer,
    label: str,
    problems: list[Problem],
    warnings: list[Problem],
    *,
    converted: bool,
) -> Mapping[str, int]:
    """Compares the two `tokenizer.json`; returns the specialist's ids, or none where all is said about them.

    `converted`: one of the two was made from a GGUF file, in words of its own; then the ids of sample texts decide.
    """
    changed = _differing_tokens(kept.ids, own.ids)
    if changed:
        shown = ", ".join(f"`{token}`" for token in changed[:_LISTED])
        count = f"{len(changed)} token{'s' if len(changed) > 1 else ''}"
        message = f"{label} has another tokenizer than the base: {count} with another id or none, such as {shown}"
        problems.append(Problem("tokenizer-differs", message, _HINT))
        return {}
    different = [part for part in _CHANGE_IDS if own.parts[part] != kept.parts[part]]
    if different:
        listed = " and ".join(f"`{part}`" for part in different)
        if converted and _same_ids(own.path, kept.path):
            message = (
                f"{label} has another {listed} in its `{FILE}` than the base, which gives sample texts the same ids"
            )
            warnings.append(Problem("tokenizer-part-differs", message))
        else:
            what = f"the vocabulary is the same, the {listed} in its `{FILE}` is not"
            message = f"{label} has another tokenizer than the base: {what}"
            problems.append(Problem("tokenizer-differs", message, _HINT))
    little = [part for part in _CHANGE_LITTLE if own.parts[part] != kept.parts[part]]
    if little:
        listed = " and ".join(f"`{part}`" for part in little)
        message = f"{label} has another {listed} in its `{FILE}`: the base's is kept"
        warnings.append(Problem("tokenizer-part-differs", message))
    return own.ids


def _same_ids(own: Path, kept: Path) -> bool:
    """Whether two tokenizers give sample texts the same ids."""
    from tokenizers import Tokenizer

    one, other = Tokenizer.from_file(str(own)), Tokenizer.from_file(str(kept))
    return all(
        one.encode(text, add_special_tokens=False).ids == other.encode(text, add_special_tokens=False).ids
        for text in SAMPLES
    )


def _parse(path: Path) -> Any:
    try:
        return json.loads(read_whole(path, MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise _no_tokenizer(path) from error


def _no_tokenizer(path: Path) -> SourceError:
    return SourceError(f"`{path}` is not a tokenizer's file", hint="download or copy it again")


def _raw_ids(parsed: Any, path: Path) -> dict[str, int]:
    """Every token's id as the file says it: the library gives added tokens other ids where they leave a gap."""
    try:
        vocabulary = parsed["model"].get("vocab", {})
        if isinstance(vocabulary, list):  # a Unigram model lists [token, score]
            vocabulary = {token: index for index, (token, _) in enumerate(vocabulary)}
        ids = {**vocabulary, **{token["content"]: token["id"] for token in parsed.get("added_tokens") or []}}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_tokenizer(path) from error
    if not all(isinstance(token, str) and type(index) is int for token, index in ids.items()):
        raise _no_tokenizer(path)
    return ids


def _read(path: Path) -> _Tokenizer:
    from tokenizers import Tokenizer

    ids = _raw_ids(_parse(path), path)
    try_file(path)
    whole = json.loads(Tokenizer.from_file(str(path)).to_str())
    parts = {part: _plain(whole.get(part)) for part in (*_CHANGE_IDS, *_CHANGE_LITTLE)}
    parts["model"] = {
        key: value
        for key, value in whole["model"].items()
        if key != "vocab" and value not in (None, "") and not (key == "dropout" and not value)
    }
    if whole["model"]["type"] == "Unigram":  # whose ids are compared, and whose scores decide how a text is split
        parts["model"]["vocab"] = whole["model"]["vocab"]
    return _Tokenizer(ids, parts, path)


def _plain(part: Any) -> Any:
    """A part of the pipeline without the wrapping that changes nothing: sequences inside or of one."""
    if not isinstance(part, dict) or part.get("type") != "Sequence":
        return part
    key = next((key for key, value in part.items() if isinstance(value, list)), None)
    if key is None:
        return part
    flat = [step for item in part[key] for step in _steps(_plain(item), key)]
    return None if not flat else flat[0] if len(flat) == 1 else {"type": "Sequence", key: flat}


def _steps(part: Any, key: str) -> Iterator[Any]:
    if isinstance(part, dict) and part.get("type") == "Sequence":
        yield from part[key]
    elif part is not None:
        yield part


def _check_slow(
    checkpoint: Checkpoint, base: Checkpoint, label: str, problems: list[Problem], warnings: list[Problem]
) -> None:
    """Compares the files that a tokenizer is made of where one of the two has no `tokenizer.json`."""
    common = [name for name in SLOW_FILES if name in checkpoint.files and name in base.files]
    different = [name for name in common if not _same_file(checkpoint.files[name], base.files[name])]
    if different:
        listed = " and ".join(f"`{name}`" for name in different)
        message = f"{label} has another tokenizer than the base: its {listed} differs"
        problems.append(Problem("tokenizer-differs", message, _HINT))
    elif not common and FILE not in checkpoint.files and checkpoint.kind != "adapter":
        message = f"{label} has no `{FILE}`: its tokens cannot be compared with the base's"
        warnings.append(Problem("no-tokenizer", message))


def _same_file(one: Path, other: Path) -> bool:
    first, second = read_whole(one), read_whole(other)
    if first == second:
        return True
    try:
        return one.suffix == ".json" and bool(json.loads(first) == json.loads(second))
    except (ValueError, RecursionError):
        return False


def _differing_tokens(ours: Mapping[str, int], theirs: Mapping[str, int]) -> list[str]:
    changed = [token for token, index in theirs.items() if ours.get(token) != index]
    return changed + [token for token in ours if token not in theirs]
