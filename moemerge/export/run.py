"""`moemerge export`: a mixture's folder as one GGUF file, complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import xxhash

from moemerge import __version__
from moemerge.console import Progress
from moemerge.errors import ExportError, ManyProblems, WriteError
from moemerge.export.metadata import hyperparameters, misfits
from moemerge.export.modelfile import MARK, modelfile
from moemerge.export.pieces import OutTensor
from moemerge.export.tensors import out_tensors
from moemerge.export.vocabulary import Vocabulary, read_vocabulary
from moemerge.families import Host, config_by_itself, host_of, routed_layers
from moemerge.families.gguf_form import TEXT_ALONE, GgufForm, Value
from moemerge.files import remove_leftovers, replacing
from moemerge.mixture.folder import BuiltFolder, MoeFolder, open_moe
from moemerge.options import GgufType
from moemerge.record.read import record_digest
from moemerge.sources.regular import read_whole

_CONFIG = "config.json"
MADE = "moemerge.version"
"""Key of a file's metadata by which it is known as one of ours."""
OF_RECORD = "moemerge.record"
"""Key of the digest of the record of the folder that it was made of."""
_FILE_TYPES: Mapping[GgufType, gguf.LlamaFileType] = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        modelfile: Ollama's, beside it.
        architecture: llama.cpp's name of what it is.
        bytes: the file's size.
        lacks: what of the mixture is not in it, in a sentence; None where all is.
    """

    path: Path
    modelfile: Path
    architecture: str
    bytes: int
    lacks: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "path": str(self.path), "modelfile": str(self.modelfile), "architecture": self.architecture,
            "bytes": self.bytes, "lacks": self.lacks,
        }  # fmt: skip


def export_gguf(folder: Path, path: Path, kind: GgufType, progress: Progress, *, overwrite: bool = False) -> Exported:
    """Writes a mixture as a GGUF file, and a Modelfile for Ollama beside it.

    Args:
        folder: the mixture's.
        path: the file.
        kind: the type of its matrices: `f16` and the like.
        progress: told of the bytes that are written.
        overwrite: whether files of these names that this wrote may be replaced.

    Raises:
        ExportError: moemerge did not build it, or llama.cpp does not know such mixtures, or gives texts other ids.
        ManyProblems: it would compute something else.
        WriteError: the file cannot be written, or is somebody else's.
        EvalError, SourceError: the folder cannot be read.
    """
    opened = open_moe(folder)
    beside = path.with_name(f"{path.name}.Modelfile")
    _check_target(path, MADE, overwrite=overwrite)
    _check_target(beside, MARK, overwrite=overwrite)
    host, form = _form(opened)
    config = config_by_itself(opened.checkpoint.config)
    tensors, problems = out_tensors(opened.checkpoint, config, host, form, kind)
    problems += misfits(config, form, tensors)
    vocabulary = None
    try:
        vocabulary = read_vocabulary(opened.checkpoint.files, config["vocab_size"], _ends(config))
    except ExportError as error:
        problems += error.problems
    if vocabulary is None or problems:
        raise ManyProblems(problems)
    total = sum(tensor.nbytes for tensor in tensors)
    for name in (*remove_leftovers(path), *remove_leftovers(beside)):
        progress.note(f"removed `{name}`, left by a run that was killed")
    _check_space(path, total)
    with replacing(path) as staged:
        writer = _writer(opened, host, form, vocabulary, kind)
        progress.stage("write", total, "bytes")
        _write(writer, staged, tensors, form.factors(config), progress)
    text = modelfile(path, vocabulary, config["max_position_embeddings"])
    with replacing(beside) as staged:
        staged.write_text(text, encoding="utf-8")
    lacks = None if host.wrapper is None else TEXT_ALONE
    return Exported(path, beside, form.architecture, path.stat().st_size, lacks)


def _form(opened: MoeFolder) -> tuple[Host, GgufForm]:
    host = host_of(opened.checkpoint.config)
    kind = opened.checkpoint.config.get("model_type")
    if not isinstance(opened, BuiltFolder):
        raise ExportError(
            f"`{opened.path}` was not built by moemerge, so it is not known what would have to hold",
            hint="llama.cpp's own `convert_hf_to_gguf.py` takes other mixtures",
        )
    if xxhash.xxh3_128_hexdigest(read_whole(opened.path / _CONFIG)) != opened.record.files.get(_CONFIG):
        raise ExportError(
            f"`{_CONFIG}` of `{opened.path}` changed after the build, so it is not known what would have to hold",
            hint=f"run `moemerge verify {opened.path}`, and build the folder again where it does not say why",
        )
    if host is None or host.gguf is None:
        raise ExportError(f"`{kind}` is not exported", hint=f"`moemerge families {kind}` says what runs it")
    return host, host.gguf


def _ends(config: Mapping[str, Any]) -> list[int]:
    """The ids that end a reply."""
    found = config.get("eos_token_id")
    return [] if found is None else list(found) if isinstance(found, list) else [found]


def _check_target(path: Path, mark: str, *, overwrite: bool) -> None:
    """Refuses a file that cannot be written, before the work begins; one of ours holds `mark`."""
    if not path.name.isprintable():
        raise WriteError("the file's name has signs that cannot be printed", hint="give it another name")
    if not path.parent.is_dir():
        raise WriteError(f"`{path}` cannot be written: there is no folder `{path.parent}`", hint="make it first")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise WriteError(f"`{path}` exists", hint="name another file, or pass `--overwrite`", code="output-exists")
    if path.is_symlink() or not path.is_file() or not _holds(path, mark):
        raise WriteError(f"`{path}` was not made by moemerge, so it is not overwritten", hint="name another file")


def _holds(path: Path, mark: str) -> bool:
    with path.open("rb") as file:
        return mark.encode() in file.read(1 << 16)


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise WriteError(f"no space left for `{path}`: {needed:,} bytes are needed and {free:,} are free")


def _writer(opened: MoeFolder, host: Host, form: GgufForm, vocabulary: Vocabulary, kind: GgufType) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(None, form.architecture)
    writer.add_string(MADE, __version__)
    writer.add_string(OF_RECORD, record_digest(opened.path) or "")
    writer.add_name(opened.path.resolve().name)
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if opened.checkpoint.licence:
        writer.add_license(opened.checkpoint.licence)
    config = config_by_itself(opened.checkpoint.config)
    dense = config["num_hidden_layers"] - len(routed_layers(opened.checkpoint.tensors, config, host))
    for key, value in hyperparameters(config, host, form, dense).items():
        _add(writer, f"{form.architecture}.{key}", value)
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    for key, number in vocabulary.special.items():
        writer.add_uint32(f"tokenizer.ggml.{key}", number)
    for key, switch in vocabulary.switches.items():
        writer.add_bool(f"tokenizer.ggml.{key}", switch)
    if vocabulary.template is not None:
        writer.add_chat_template(vocabulary.template)
    return writer


def _add(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    adders: Mapping[type, Callable[[str, Any], None]] = {
        list: writer.add_array,
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
    }
    adders[type(value)](key, value)


def _write(
    writer: gguf.GGUFWriter,
    path: Path,
    tensors: list[OutTensor],
    factors: Sequence[float] | None,
    progress: Progress,
) -> None:
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", (len(factors),), np.dtype(np.float32), 4 * len(factors))
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, tensor.kind)
    writer.open_output_file(path)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        _write_data(writer, tensors, factors, progress)
    finally:
        writer.close()


def _write_data(
    writer: gguf.GGUFWriter, tensors: list[OutTensor], factors: Sequence[float] | None, progress: Progress
) -> None:
    """All tensors, each padded; the library itself would take each of them whole."""
    (file,) = writer.fout or []
    writer.write_padding(file, file.tell())
    if factors is not None:
        file.write(np.asarray(factors, np.float32).tobytes())
        writer.write_padding(file, 4 * len(factors))
    for tensor in tensors:
        for block in tensor.blocks():
            file.write(block)
            progress.advance(len(block))
        writer.write_padding(file, tensor.nbytes)
