"""What a tokenizer's files say beside its vocabulary: special tokens, ids of added tokens, the chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moemerge.errors import SourceError
from moemerge.sources.strict_json import read_object

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_USUAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""In the order in which transformers adds those that a `tokenizer.json` lacks."""
SWITCHES = ("add_bos_token", "add_eos_token")
_CONFIG, _MAP, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_LISTED = "added_tokens_decoder"
_TEMPLATE, _OLD_TEMPLATE = "chat_template.jinja", "chat_template.json"


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """A tokenizer's settings; a key that no file mentions is absent.

    Attributes:
        special: `bos_token` and the like, as text; None where a file says that there is none.
        switches: `add_bos_token` and `add_eos_token`.
        listed: the tokens that `added_tokens_decoder` lists with their numbers, ascending; or else `added_tokens.json`.
        old: whether it is that file.
        named: every special token that the files name, in the order in which transformers adds those that it lacks.
        template: the default chat template, or None; a blank one is none.
        blank: whether there is one, and it is blank.
    """

    special: Mapping[str, str | None]
    switches: Mapping[str, bool]
    listed: tuple[tuple[str, int], ...]
    old: bool
    named: tuple[str, ...]
    template: str | None
    blank: bool

    @property
    def added(self) -> dict[str, int]:
        """The numbers of the listed tokens."""
        return dict(self.listed)

    def beside(self, known: Mapping[str, int], first: int) -> dict[str, int]:
        """The ids of the listed and then the named tokens that a `tokenizer.json` lacks: the next free ones, whatever
        number a listed one has.

        A token of the old file whose number is taken is not read.

        Args:
            known: the ids of the tokens of that file.
            first: the first free one.
        """
        taken = set(known.values()) if self.old else set()
        listed = (token for token, number in self.listed if number not in taken)
        missing = dict.fromkeys(token for token in (*listed, *self.named) if token not in known)
        return {token: first + place for place, token in enumerate(missing)}


def tokenizer_config(files: Mapping[str, Path]) -> TokenizerConfig:
    """Reads the settings from a checkpoint's files, in transformers' order of precedence.

    Args:
        files: a checkpoint's `files`.

    Raises:
        SourceError: one of them is not JSON, or not UTF-8, or lists tokens in another form.
    """
    config, old = _object(files, _CONFIG), _object(files, _MAP)
    if not isinstance(config.get(_LISTED) or {}, dict):
        raise SourceError(
            f"`{files[_CONFIG]}` is not a tokenizer's config: its `{_LISTED}` is not a map of tokens by their ids",
            hint="download or copy it again, or remove that key",
        )
    special = {key: _content(source[key]) for key in SPECIAL for source in (old, config) if key in source}
    switches = {key: config[key] for key in SWITCHES if isinstance(config.get(key), bool)}
    found = _template(files, config)
    template = found if found is None or found.strip() else None
    in_file = _LISTED not in config
    listed = tuple(_added(_object(files, _ADDED)) if in_file else _decoder(config))
    named = tuple(_named(config, old if in_file else {}))
    return TokenizerConfig(special, switches, listed, in_file, named, template, blank=template != found)


def _object(files: Mapping[str, Path], name: str) -> dict[str, Any]:
    return read_object(files[name], str(files[name])) if name in files else {}


def _content(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _named(config: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[str]:
    """The special tokens: the usual ones, those that a model has under keys of its own, and further ones."""
    said = {**config, **old}
    own = [key for key in said if key.endswith("_token") and key not in _USUAL and isinstance(said[key], str)]
    lists = (held.get(key) for held in (config, old) for key in ("extra_special_tokens", "additional_special_tokens"))
    more = next(filter(None, lists), None)
    further = more.values() if isinstance(more, dict) else more if isinstance(more, list) else ()
    texts = (_content(token) for token in (*(said.get(key) for key in (*_USUAL, *own)), *further))
    return (text for text in texts if text)


def _decoder(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Tokens by their numbers, in a config."""
    texts = {int(index): _content(token) for index, token in (config[_LISTED] or {}).items() if index.isdecimal()}
    return ((text, index) for index, text in sorted(texts.items()) if text is not None)


def _added(added: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Numbers by their tokens, in a file of its own; of two with one number the last one counts."""
    texts = {index: token for token, index in added.items() if type(index) is int}
    return ((text, index) for index, text in sorted(texts.items()))


def _template(files: Mapping[str, Path], config: Mapping[str, Any]) -> str | None:
    """The template named `default`; a file of its own comes before the config."""
    if _TEMPLATE in files:
        path = files[_TEMPLATE]
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise SourceError(f"`{path}` is not UTF-8 ({error.reason})", hint="save it as UTF-8") from error
        except OSError as error:
            raise SourceError(f"`{path}` cannot be read: {error.strerror or error}") from error
    found = _object(files, _OLD_TEMPLATE).get("chat_template", config.get("chat_template"))
    if isinstance(found, list):
        named = (item for item in found if isinstance(item, dict) and item.get("name") == "default")
        found = next((item.get("template") for item in named), None)
    return found if isinstance(found, str) else None
