"""What a tokenizer's files say beside its vocabulary: special tokens, ids of added tokens, the chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moemerge.errors import SourceError
from moemerge.sources.strict_json import read_object

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
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
        added: ids of the tokens that `added_tokens.json` and `added_tokens_decoder` list.
        template: the default chat template, or None; a blank one is none.
        blank: whether there is one, and it is blank.
    """

    special: Mapping[str, str | None]
    switches: Mapping[str, bool]
    added: Mapping[str, int]
    template: str | None
    blank: bool


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
    return TokenizerConfig(
        special, switches, dict(_added(config, _object(files, _ADDED))), template, blank=template != found
    )


def _object(files: Mapping[str, Path], name: str) -> dict[str, Any]:
    return read_object(files[name], str(files[name])) if name in files else {}


def _content(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _added(config: Mapping[str, Any], added: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for index, token in (config.get(_LISTED) or {}).items():
        text = _content(token)
        if text is not None and index.isdecimal():
            yield text, int(index)
    yield from ((token, index) for token, index in added.items() if isinstance(index, int))


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
