"""The tokenizer inside a GGUF file, converted once by transformers and kept in a cache, its ids checked."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moemerge.errors import Problem, SourceError, cause_of
from moemerge.kept import cache_folder
from moemerge.sources.gguf_header import GgufHeader

LAYOUT = 1
"""Raised when what this module writes changes, so that older entries of the cache are left aside."""

SAMPLES = (
    "The quick brown fox jumps over the lazy dog.",
    "def add(a, b):\n    return a + b  # 12 + 345 = 357\n\n\n\tprint('x')",
    "L’été à Noël, où êtes-vous ? 你好世界 — Привет! 😀",
    " leading and trailing  spaces \r\n\r\n",
    "<|im_start|>user\nhi<|im_end|><s></s><think>",
)
"""Texts on which the converted tokenizer must give the ids of the one that transformers builds from the file itself."""

EXACT = {
    None, "default", "gpt-2", "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    "jina-v5-nano", "dbrx", "smaug-bpe", "tekken", "qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "qwen35",
    "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2", "olmo", "mpt", "jais", "phi-2",
}  # fmt: skip
"""Values of `tokenizer.ggml.pre` whose way to split text transformers 5.23 knows; it splits others as GPT-2 does."""

_IDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def tokenizer_warnings(header: GgufHeader, spec: str) -> tuple[Problem, ...]:
    """What is not exact about a conversion."""
    kind, pre = header.metadata.get("tokenizer.ggml.model"), header.metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre in EXACT:
        return ()
    return (
        Problem(
            "tokenizer-split-differs",
            f"The tokenizer of `{spec}` splits text in the way `{pre}`, which transformers' GGUF conversion replaces "
            "by GPT-2's: a few ids may differ from the original's, such as for several spaces before a digit",
            "no matter where your fine-tunes learnt from this file; else name the original checkpoint instead of it",
        ),
    )


def tokenizer_files(header: GgufHeader, config: Mapping[str, Any], spec: str) -> dict[str, Path]:
    """The tokenizer's files by name; empty where the file holds no vocabulary.

    Raises:
        SourceError: transformers cannot convert it, an id differs, or the cache cannot be written.
    """
    if "tokenizer.ggml.tokens" not in header.metadata:
        return {}
    folder = cache_folder() / "tokenizers" / _key(header)
    if not folder.is_dir():
        _make(folder, header, config, spec)
    return {path.name: path for path in sorted(folder.iterdir())}


def _key(header: GgufHeader) -> str:
    """A digest of all that the conversion depends on, so that the quantisations of one model share an entry."""
    from importlib.metadata import version

    import xxhash

    state = xxhash.xxh3_128(f"{LAYOUT} {version('transformers')} {version('tokenizers')}".encode())
    for key, value in sorted(header.metadata.items()):
        if key.startswith("tokenizer.") or key.endswith(".context_length") or key == "general.architecture":
            state.update(json.dumps([key, value], ensure_ascii=True).encode())
    return state.hexdigest()


def _make(folder: Path, header: GgufHeader, config: Mapping[str, Any], spec: str) -> None:
    """Converts into a folder beside and renames it, so that an entry of the cache is whole or absent."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    except OSError as error:
        raise SourceError(
            f"The tokenizer of `{spec}` cannot be kept in `{folder.parent}`: {error.strerror or error}",
            hint="set `MOEMERGE_CACHE` to a folder that can be written",
        ) from error
    try:
        _convert(staged, header, config, spec)
        try:
            os.rename(staged, folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same content
                raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _convert(folder: Path, header: GgufHeader, config: Mapping[str, Any], spec: str) -> None:
    from transformers import PreTrainedTokenizerFast

    try:
        direct = PreTrainedTokenizerFast.from_pretrained(str(header.path.parent), gguf_file=header.path.name)
        direct.save_pretrained(folder)
    # transformers raises whatever a vocabulary that it does not know trips over
    except Exception as error:
        raise SourceError(
            f"The tokenizer of `{spec}` cannot be converted: {cause_of(error)}",
            hint="use the model's safetensors checkpoint with its own tokenizer",
        ) from error
    known = set(header.metadata["tokenizer.ggml.tokens"])
    _edit(folder / "tokenizer.json", lambda content: _without_foreign_tokens(content, known))
    _edit(folder / "tokenizer_config.json", lambda settings: _portable(settings, known, config))
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
    turn = header.metadata.get("tokenizer.ggml.eot_token_id")
    if turn is not None and turn != ids.get("eos_token_id"):
        ids["eos_token_id"] = [ids["eos_token_id"], turn] if "eos_token_id" in ids else turn
    text = json.dumps(ids, indent=2) + "\n"
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
    _check(PreTrainedTokenizerFast.from_pretrained(folder), direct, header, spec)


def _edit(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    content = change(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _without_foreign_tokens(content: dict[str, Any], known: set[str]) -> dict[str, Any]:
    # transformers builds on GPT-2's class, which adds `<|endoftext|>` to vocabularies that have none, past their end
    return content | {"added_tokens": [token for token in content["added_tokens"] if token["content"] in known]}


def _portable(settings: dict[str, Any], known: set[str], config: Mapping[str, Any]) -> dict[str, Any]:
    # nothing of where the file lay, no special token that the vocabulary lacks, and a class that transformers 4 has too
    dropped = {"backend", "is_local", "local_files_only", "name_or_path"}
    dropped |= {f"{name}_token" for name in _IDS if settings.get(f"{name}_token") not in known}
    kept = {key: value for key, value in settings.items() if key not in dropped}
    length = config["max_position_embeddings"]
    return kept | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length}


def _check(converted: Any, direct: Any, header: GgufHeader, spec: str) -> None:
    """The ids of the converted tokenizer are the file's.

    Raises:
        SourceError: a special id, an entry of the vocabulary or a sample text differs.
    """
    wrong = []
    for name, key in _IDS.items():
        wanted = header.metadata.get(f"tokenizer.ggml.{key}_token_id")
        found = getattr(converted, f"{name}_token_id")
        if wanted is not None and found != wanted:
            wrong.append(f"\n  {name}_token_id: file {wanted}, converted {found}")
    tokens, vocabulary = header.metadata["tokenizer.ggml.tokens"], converted.get_vocab()
    moved = [token for index, token in enumerate(tokens) if vocabulary.get(token, index) != index]
    if moved or len(vocabulary) != len(tokens):
        wrong.append(f"\n  vocabulary: {len(tokens)} tokens, converted {len(vocabulary)}, with another id {len(moved)}")
    for text in SAMPLES:
        if converted(text)["input_ids"] != direct(text)["input_ids"]:
            wrong.append(f"\n  {text!r}: other ids")
    if wrong:
        raise SourceError(
            f"The tokenizer of `{spec}` does not survive its conversion{''.join(wrong)}",
            hint="use the model's safetensors checkpoint with its own tokenizer",
        )
