"""The files next to the weights: which ones there must be, that they are the build's and the base's, and no others that
transformers would read."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

import xxhash

from moemerge.errors import Difference
from moemerge.record.read import NAME as RECORD
from moemerge.record.schema import Record, RecordedVocabulary
from moemerge.verify.layout import INDEX
from moemerge.verify.reading import open_regular, read_regular, resolved
from moemerge.verify.tokens import tells_the_same
from moemerge.verify.vocabulary import Alignment

CHANGED, MISSING = "changed after the build", "is missing"
_CHUNK = 4 << 20
_CONFIG, _CARD = "config.json", "README.md"
_SAMPLES, _STATISTICS, _PLOT = "gate_samples.jsonl", "gate_statistics.safetensors", "moemerge-training.svg"
_ADAPTER = "adapter_config.json"
_TEMPLATES = "additional_chat_templates"
_COPIED = frozenset({
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json", "merges.txt",
    "special_tokens_map.json", "spiece.model", "tekken.json", "tokenizer.json", "tokenizer.model", "tokenizer.model.v3",
    "tokenizer_config.json", "vocab.json", "vocab.txt",
})  # fmt: skip
"""What a build takes from a base that has it, beside licences and further chat templates."""
_MAY_COPY = re.compile(rf"(LICENSE|LICENCE|NOTICE|USE_POLICY)[^/]*|{_TEMPLATES}/[^/]+\.jinja")
_PROCESSORS = re.compile(r"(video_)?(pre)?processor_config\.json")
"""And from one that sees or hears."""
_TAKEN_UP = _COPIED | {
    _CONFIG, INDEX, _ADAPTER, "audio_tokenizer_config.json", "preprocessor_config.json", "processor_config.json",
    "sentencepiece.bpe.model", "sentencepiece.model", "spm.model",
    "video_preprocessor_config.json",
}  # fmt: skip
"""What transformers looks for in a model's folder by name."""
_READ = re.compile(
    r"[^/]*\.py|custom_generate(/.*)?|additional_chat_templates/[^/]+\.jinja"
    r"|(pytorch_|tf_|flax_|adapter_)?model[^/]*\.(bin|h5|msgpack|(bin|h5|msgpack|ckpt)\.index(\.json)?)"
)
"""And by pattern: code, chat templates, weights of other formats."""
_BELOW = re.compile(r".+/[^/]+\.safetensors(\.index\.json)?")


def check_files(folder: Path, recorded: Mapping[str, str]) -> dict[str, str]:
    """Digests every recorded file.

    Args:
        folder: the built folder.
        recorded: digest by relative path.

    Returns:
        What is wrong, by the file's relative path: `CHANGED`, `MISSING`, or why it is not read.
    """
    found = {}
    for name, digest in recorded.items():
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
            found[name] = "is outside the folder, so it is not read"
            continue
        try:
            actual = _digest(resolved(folder, name))
        except FileNotFoundError:
            found[name] = MISSING
        except ValueError as error:
            found[name] = str(error)
        except OSError as error:
            found[name] = f"cannot be read: {error.strerror}"
        else:
            if actual != digest:
                found[name] = CHANGED
    try:
        resolved(folder, RECORD)
    except ValueError as error:
        found[RECORD] = str(error)
    return found


def check_list(
    folder: Path, record: Record, base: Mapping[str, Path] | None, unread: Collection[str]
) -> list[Difference]:
    """The files that there are, and those that the record lists, against those that a build makes.

    A file that nobody reads and the record does not list is the user's own affair.

    Args:
        folder: the built folder.
        record: what it was built from, and which files were written next to the weights.
        base: the base's files by relative path, or None where it is not at hand: then any that a build could take from
            one may be there.
        unread: recorded files of which something else is said already.
    """
    found = []
    made, copied = set(_made(record)), set(_taken(base)) if base is not None else None
    for name in (_CONFIG, _CARD):
        if name not in record.files and os.path.lexists(folder / name):
            found.append(Difference(name, "is not in the record"))
    for name in record.files:
        could = name in copied if copied is not None else _may_copy(name, record)
        if not could and name not in made and name not in unread and name != _ADAPTER:
            found.append(Difference(name, f"is in the record, and {_unknown(name, record, copied is not None)}"))
    if os.path.lexists(folder / _ADAPTER):
        found.append(Difference(_ADAPTER, "does not belong in it: transformers would apply that adapter on loading"))
    known = {*record.files, _ADAPTER, _CONFIG, _CARD}
    added = [name for name in _taken_up(folder) if name not in known]
    return [*found, *(Difference(name, "was added after the build: transformers may take it up") for name in added)]


def files_of(aligned: Alignment) -> dict[str, Path] | None:
    """The files that a build takes: licences from the base, all that tells of tokens from the source whose vocabulary
    it is. None where one of the two is not at hand."""
    base, anchor = aligned.models.get("base"), aligned.anchor
    if base is None or anchor is None:
        return None
    of_tokens = {name for name in {*base.files, *anchor.files} if name in _COPIED or name.startswith(f"{_TEMPLATES}/")}
    others = {name: path for name, path in base.files.items() if name not in of_tokens}
    return {**{name: path for name, path in anchor.files.items() if name in of_tokens}, **others}


def check_base_files(folder: Path, files: Mapping[str, Path], vocabulary: RecordedVocabulary) -> list[Difference]:
    """The base's files must be there byte for byte, but for what tells of added tokens.

    Args:
        folder: the built folder.
        files: the base's, or those of the source whose vocabulary it is, by relative path.
        vocabulary: the output's.
    """
    whose = "the base" if vocabulary.anchor == "base" else f"`{vocabulary.anchor}`"
    found = []
    for name in _taken(files):
        try:
            mine, theirs = read_regular(resolved(folder, name)), files[name].read_bytes()
            same = mine == theirs or tells_the_same(name, mine, theirs, vocabulary)
        except FileNotFoundError:
            found.append(Difference(name, f"is missing, {whose} has it"))
        except ValueError as error:
            found.append(Difference(name, str(error)))
        except OSError as error:
            found.append(Difference(name, f"cannot be compared with the base's: {error.strerror}"))
        else:
            if not same:
                found.append(Difference(name, f"differs from {whose}'s"))
    return found


def _made(record: Record) -> Iterator[str]:
    """What moemerge itself may write next to the weights."""
    yield from (_CONFIG, _CARD, INDEX, _SAMPLES)
    if record.recipe.gate.keep_statistics:
        yield _STATISTICS
    if record.training:
        yield _PLOT


def _taken(base: Mapping[str, Path]) -> Iterator[str]:
    """Which of the base's files a build copies: all but those that it makes itself."""
    return (name for name in base if name not in (_CONFIG, _CARD, INDEX, RECORD) and not name.startswith("README"))


def _may_copy(name: str, record: Record) -> bool:
    """Whether a build could take such a file from a base."""
    known = name in _COPIED or _MAY_COPY.fullmatch(name) is not None
    return known or (record.wrapper is not None and _PROCESSORS.fullmatch(name) is not None)


def _unknown(name: str, record: Record, compared: bool) -> str:
    """What is wrong with a file that the record should not list."""
    if compared and _may_copy(name, record):
        return "the base has no such file"
    return "no build writes such a file"


def _taken_up(folder: Path) -> list[str]:
    """Relative paths of what transformers may read in a folder; safetensors in it have a check of their own."""
    found = {f"{_TEMPLATES}/{path.name}" for path in (folder / _TEMPLATES).glob("*.jinja")}  # a link's too
    for root, folders, files in os.walk(folder):
        inside = Path(root).relative_to(folder)
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        for name in (*files, *links):
            path = (inside / name).as_posix()
            if path in _TAKEN_UP or _READ.fullmatch(path) or _BELOW.fullmatch(path):
                found.add(path)
    return sorted(found)


def _digest(path: Path) -> str:
    state = xxhash.xxh3_128()
    with open_regular(path) as file:
        while data := file.read(_CHUNK):
            state.update(data)
    return state.hexdigest()
