"""Whether a specialist was trained on the base's token ids: the two tokenizers' files compared, never run.

What changes the ids of a text is refused; added tokens alone may differ, which `vocabulary` unites. What a user may
want otherwise (special tokens, chat template, what is added around a text) is a warning that says whose is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moemerge.errors import Problem, SourceError
from moemerge.plan.tokenizer_json import (
    FILE,
    Numbers,
    load_tokenizer_json,
    numbers_of,
    raw_ids,
    same_file,
)
from moemerge.sources import Checkpoint
from moemerge.sources.strict_json import read_object
from moemerge.sources.tokenizer import try_file
from moemerge.sources.tokenizer_config import SPECIAL, SWITCHES, tokenizer_config

SLOW_FILES = ("tokenizer.model", "tokenizer.model.v3", "spiece.model", "tekken.json", "vocab.json", "merges.txt",
              "vocab.txt")  # fmt: skip
"""What a tokenizer is made of where there is no `tokenizer.json`."""
SAMPLES = (
    "def add(a, b):\n    return a + b  # 12 + 345 = 357\n\n\n\tprint('x')",
    "L'été à Noël, où êtes-vous ? 你好世界 — Привет! 😀 don't WE'LL",
    " leading and trailing  spaces \r\n\r\n",
)
"""Texts that tell a converted tokenizer from its original by their ids."""
_GENERATION = "generation_config.json"
_LISTED = 4
_HINT = "the experts see the base's token ids; use specialists that kept the base's tokenizer"
_CHANGE_IDS = ("model", "normalizer", "pre_tokenizer")
_CHANGE_LITTLE = ("post_processor", "decoder", "truncation", "padding")


@dataclass(frozen=True)
class _Tokenizer:
    """One `tokenizer.json` as the tokenizers library reads and writes it.

    The library fills in every default and writes merges in one way, so that files of different versions compare.
    `plain` are the tokens below the added ones, `added` the added ones but for their ids.
    """

    ids: Mapping[str, int]
    plain: frozenset[str]
    added: Mapping[str, Any]
    parts: Mapping[str, Any]
    path: Path


@dataclass(frozen=True)
class Kept:
    """The model whose tokenizer and settings the output has, and whose they are in words: `the base's`."""

    checkpoint: Checkpoint
    whose: str


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
        hint = "save it with `AutoTokenizer.from_pretrained(...)` next to the weights"
        warnings.append(Problem("no-tokenizer", message, hint))
    try:
        numbers = numbers_of(base.files)
        if FILE in base.files and base.kind != "gguf":  # whose file is made here
            try_file(base.files[FILE])
    except SourceError as error:
        problems.append(Problem("bad-tokenizer", f"{label}: {error.message}", error.hint))
        return
    _check_numbers(numbers, size, label, warnings)


def check_tokenizer(
    checkpoint: Checkpoint,
    base: Checkpoint,
    kept: Kept,
    size: int,
    label: str,
    problems: list[Problem],
    warnings: list[Problem],
) -> None:
    """Compares a specialist's tokenizer with the base's; see `check_base_tokenizer` for the arguments, of which `size`
    is the specialist's own. `kept` is only for words."""
    if checkpoint.files == base.files:  # an adapter without a tokenizer of its own
        return
    both = FILE in checkpoint.files and FILE in base.files
    try:
        other = both and not same_file(checkpoint.files[FILE], base.files[FILE])
    except SourceError:  # it is read again below, where it is known whose it is
        other = True
    try:
        base_json, listed = _read(base.files[FILE]) if other else None, tokenizer_config(base.files).listed
    except SourceError as error:
        problem = Problem("bad-tokenizer", f"`base_model`: {error.message}", error.hint)
        problems += [problem] if problem not in problems else []
        return
    try:
        own_json = _read(checkpoint.files[FILE]) if other else None
        known = both and not other and tokenizer_config(checkpoint.files).listed == listed
        numbers = Numbers({}, {}) if known else numbers_of(checkpoint.files)
    except SourceError as error:
        message = f"{label} cannot be compared with the base: {error.message}"
        problems.append(Problem("bad-tokenizer", message, error.hint))
        return
    if own_json is not None and base_json is not None:
        converted = "gguf" in (checkpoint.kind, base.kind)
        what = "it is kept" if checkpoint is kept.checkpoint else f"{kept.whose} is kept"
        if not _check_json(own_json, base_json, label, problems, warnings, converted=converted, kept=what):
            return
        unknown = [t for t in own_json.added if t not in base_json.ids and numbers.ids.get(t, size) < size]
        if unknown and checkpoint.vocabulary_from is not None and checkpoint is not kept.checkpoint:
            shown = ", ".join(f"`{token}`" for token in unknown[:_LISTED])
            message = f"{label} has tokens beside it that its weights do not know, such as {shown}: they are left out"
            hint = "an adapter adds tokens where it trains embedding and head, by `modules_to_save`"
            warnings.append(Problem("tokens-left-out", message, hint))
    elif not both:
        _check_slow(checkpoint, base, label, problems, warnings)
    _check_numbers(numbers, size, label, warnings)


def _check_numbers(numbers: Numbers, size: int, label: str, warnings: list[Problem]) -> None:
    """Says which tokens are read with another id than their files say, and which have no row."""
    if numbers.wrong:
        listed = [f"`{token}` ({given}, not {said})" for token, (said, given) in numbers.wrong.items()]
        count = "1 added token" if len(listed) == 1 else f"{len(listed)} added tokens"
        such = ": " if len(listed) <= _LISTED else ", such as "
        message = f"{label} has {count} that every reader gives another id than its files say{such}"
        hint = "the readers' ids are taken, and with them the rows; number added tokens without gaps, in their order"
        warnings.append(Problem("token-number", message + ", ".join(listed[:_LISTED]), hint))
    over = sorted((index, token) for token, index in numbers.ids.items() if not 0 <= index < size)
    if over:
        shown = ", ".join(f"`{token}` ({index})" for index, token in over[:_LISTED])
        count = "1 token with an id" if len(over) == 1 else f"{len(over)} tokens with ids"
        such = ": " if len(over) <= _LISTED else ", such as "
        message = f"{label} has {count} past its embedding of {size} rows{such}{shown}"
        hint = "no text may hold it: the model has no row for it"
        warnings.append(Problem("token-id", message, hint))


def check_settings(checkpoint: Checkpoint, kept: Kept, name: str, label: str, warnings: list[Problem]) -> None:
    """Says where special tokens and the chat template are not those that the output has.

    Args:
        checkpoint: a model whose files can be read.
        kept: whose settings the output has.
        name: the model's in a recipe.
        label: what to call it.
        warnings: what the user should know is added here.
    """
    own, others, whose = tokenizer_config(checkpoint.files), tokenizer_config(kept.checkpoint.files), kept.whose
    ours, theirs = {**own.special, **own.switches}, {**others.special, **others.switches}
    for key in (*SPECIAL, *SWITCHES):
        if key in ours and key in theirs and ours[key] != theirs[key]:
            mine, base = (json.dumps(values[key], ensure_ascii=False).strip('"') for values in (ours, theirs))
            message = f"{label} has `{key}` `{mine}`, {whose} is `{base}`: {whose} is kept"
            warnings.append(Problem("special-token-differs", message))
    if own.template is not None and own.template != others.template:
        owner = whose.removesuffix("'s")
        theirs_is = f"{owner} has none" if others.template is None else f"another than {whose}"
        message = f"{label} has a chat template, {theirs_is}: the output keeps what {owner} has"
        hint = f"`tokenizer.chat_template: {name}` ships it; `template: chat` fits the gate with each specialist's own"
        warnings.append(Problem("chat-template-differs", message, hint))


def check_end(checkpoint: Checkpoint, label: str, warnings: list[Problem]) -> None:
    """Says where `generate` does not stop at the token that ends a text by the tokenizer, as after a fine-tune on chats
    whose generation config is still its base's.

    Args:
        checkpoint: the model whose settings the output has; its files can be read.
        label: what to call it.
        warnings: what the user should know is added here.
    """
    files = checkpoint.files
    end = tokenizer_config(files).special.get("eos_token")
    if end is None:
        return
    index = numbers_of(files).ids.get(end)
    if index is None:
        return
    where, held = "config.json", checkpoint.config
    if _GENERATION in files:  # which alone counts then
        where, held = _GENERATION, read_object(files[_GENERATION], str(files[_GENERATION]))
    ends = held.get("eos_token_id")
    if index not in (ends if isinstance(ends, list) else [ends]):
        message = f"{label} ends texts with `{end}` ({index}) by its tokenizer, and its `{where}` has "
        message += f"`eos_token_id` {json.dumps(ends)}: `generate` does not stop there"
        hint = f"set `eos_token_id` to {index} in the `{_GENERATION}` next to its tokenizer"
        warnings.append(Problem("end-differs", message, hint))


def blank_templates(models: Mapping[str, Checkpoint]) -> list[str]:
    """The keys of models whose files hold a chat template that is blank; an adapter's may be its base's."""
    found: list[str] = []
    seen: list[Mapping[str, Path]] = []
    for key, checkpoint in models.items():
        if checkpoint.files in seen:
            continue
        seen.append(checkpoint.files)
        with suppress(SourceError):  # what cannot be read is a problem already
            found += [key] if tokenizer_config(checkpoint.files).blank else []
    return found


def _check_json(
    own: _Tokenizer,
    base: _Tokenizer,
    label: str,
    problems: list[Problem],
    warnings: list[Problem],
    *,
    converted: bool,
    kept: str,
) -> bool:
    """Compares the two `tokenizer.json`; returns whether more is to be said of the specialist's.

    `converted`: one of the two was made from a GGUF file, in words of its own; then the ids of sample texts decide.
    `kept` says whose is.
    """
    changed = _differing_tokens(base, own)
    if changed:
        shown = ", ".join(f"`{token}`" for token in changed[:_LISTED])
        count = f"{len(changed)} token{'s' if len(changed) > 1 else ''}"
        message = f"{label} has another tokenizer than the base: {count} with another id or none, such as {shown}"
        problems.append(Problem("tokenizer-differs", message, _HINT))
        return False
    different = [part for part in _CHANGE_IDS if own.parts[part] != base.parts[part]]
    if different:
        listed = " and ".join(f"`{part}`" for part in different)
        if converted and _same_ids(own.path, base.path):
            message = (
                f"{label} has another {listed} in its `{FILE}` than the base, which gives sample texts the same ids"
            )
            warnings.append(Problem("tokenizer-part-differs", message))
        else:
            what = f"the vocabulary is the same, the {listed} in its `{FILE}` is not"
            message = f"{label} has another tokenizer than the base: {what}"
            problems.append(Problem("tokenizer-differs", message, _HINT))
    little = [part for part in _CHANGE_LITTLE if own.parts[part] != base.parts[part]]
    both = own.added.keys() & base.added.keys()
    little += ["added_tokens"] if any(own.added[token] != base.added[token] for token in both) else []
    if little:
        listed = " and ".join(f"`{part}`" for part in little)
        message = f"{label} has another {listed} in its `{FILE}`: {kept}"
        warnings.append(Problem("tokenizer-part-differs", message))
    return True


def _same_ids(own: Path, kept: Path) -> bool:
    """Whether two tokenizers give sample texts the same ids."""
    from tokenizers import Tokenizer

    one, other = Tokenizer.from_file(str(own)), Tokenizer.from_file(str(kept))
    return all(
        one.encode(text, add_special_tokens=False).ids == other.encode(text, add_special_tokens=False).ids
        for text in SAMPLES
    )


def _read(path: Path) -> _Tokenizer:
    raw_ids(path)
    tokenizer = load_tokenizer_json(path)
    whole = json.loads(tokenizer.to_str())
    added = {token["content"]: {**token, "id": None} for token in whole["added_tokens"]}
    parts = {part: _plain(whole.get(part)) for part in (*_CHANGE_IDS, *_CHANGE_LITTLE)}
    parts["model"] = {
        key: value
        for key, value in whole["model"].items()
        if key != "vocab" and value not in (None, "") and not (key == "dropout" and not value)
    }
    if whole["model"]["type"] == "Unigram":  # whose ids are compared, and whose scores decide how a text is split
        parts["model"]["vocab"] = whole["model"]["vocab"]
    ids = dict(sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1]))
    plain = frozenset(tokenizer.get_vocab(with_added_tokens=False)) - added.keys()
    return _Tokenizer(ids, plain, added, parts, path)


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
    different = [name for name in common if not same_file(checkpoint.files[name], base.files[name])]
    if different:
        listed = " and ".join(f"`{name}`" for name in different)
        message = f"{label} has another tokenizer than the base: its {listed} differs"
        problems.append(Problem("tokenizer-differs", message, _HINT))
    elif not common and FILE not in checkpoint.files and checkpoint.kind != "adapter":
        message = f"{label} has no `{FILE}`: its tokens cannot be compared with the base's"
        warnings.append(Problem("no-tokenizer", message))


def _differing_tokens(kept: _Tokenizer, own: _Tokenizer) -> list[str]:
    """The plain tokens of either that the other has not with the same id: the specialist's, then the base's."""
    theirs = kept.plain | own.plain
    changed = [token for token, index in own.ids.items() if token in theirs and kept.ids.get(token) != index]
    return changed + [token for token in kept.ids if token in kept.plain and token not in own.ids]
