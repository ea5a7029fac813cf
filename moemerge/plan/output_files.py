"""The files beside the output's weights: the anchor's tokenizer with the tokens that were added to it, and the rest.

A file that needs no change is copied byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moemerge.plan.model import OutputVocabulary, Plan
from moemerge.plan.tokenizer_json import FILE
from moemerge.sources.beside import OTHER_FILES, is_tokenizer_file
from moemerge.sources.regular import read_whole
from moemerge.sources.strict_json import read_object
from moemerge.sources.tokenizer import TOKENIZERS

_CONFIG, _OLD_ADDED = "tokenizer_config.json", "added_tokens.json"
_NEW_CLASS, _OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
"""transformers 5's name of a tokenizer that is its `tokenizer.json` alone, and one that transformers 4 knows too."""


def output_files(plan: Plan) -> dict[str, bytes]:
    """What is written next to the weights, config and card, by relative path.

    Raises:
        SourceError: a file cannot be read.
    """
    base = plan.opened["base"].files
    chosen = _chosen(base, plan.opened[plan.vocabulary.anchor].files)
    files = {name: read_whole(path) for name, path in chosen.items()}
    for name, edit in ((_CONFIG, _tokenizer_config), (_OLD_ADDED, _added_tokens)):
        if name in chosen:
            held = read_object(chosen[name], str(chosen[name]))
            if (wanted := edit(held, plan.vocabulary)) != held:
                files[name] = (json.dumps(wanted, indent=2, ensure_ascii=False) + "\n").encode()
    if plan.vocabulary.tokenizer_json is not None:
        files[FILE] = plan.vocabulary.tokenizer_json.encode()
    return files


def has_tokenizer(plan: Plan) -> bool:
    """Whether one is written, of a kind that is read."""
    return bool(TOKENIZERS & _chosen(plan.opened["base"].files, plan.opened[plan.vocabulary.anchor].files).keys())


def _chosen(base: Mapping[str, Path], anchor: Mapping[str, Path]) -> dict[str, Path]:
    """The anchor's tokenizer and generation config; licences are the base's."""
    kept = {name: path for name, path in base.items() if not _is_settings(name)}
    return dict(base) if anchor is base else kept | {n: path for n, path in anchor.items() if _is_settings(n)}


def _is_settings(name: str) -> bool:
    return is_tokenizer_file(name) or name in OTHER_FILES


def _tokenizer_config(held: Mapping[str, Any], vocabulary: OutputVocabulary) -> dict[str, Any]:
    """The settings with the added tokens, where they list such, in words that transformers 4 reads."""
    wanted = dict(held)
    if wanted.get("tokenizer_class") == _NEW_CLASS:
        wanted["tokenizer_class"] = _OLD_CLASS
    if isinstance(wanted.get("extra_special_tokens"), list):  # which transformers 4 wants to be a map
        listed = wanted.pop("extra_special_tokens")
        others = wanted.get("additional_special_tokens")
        wanted["additional_special_tokens"] = [*(others if isinstance(others, list) else ()), *listed]
    if isinstance(wanted.get("added_tokens_decoder"), dict):
        entries = {str(index): asdict(token) for index, token in vocabulary.added.values()}
        wanted["added_tokens_decoder"] = {**wanted["added_tokens_decoder"], **entries}
    return wanted


def _added_tokens(held: Mapping[str, Any], vocabulary: OutputVocabulary) -> dict[str, Any]:
    return {**held, **{token: index for token, (index, _) in vocabulary.added.items()}}
