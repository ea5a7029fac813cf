"""`moemerge export`: a mixture's folder as one GGUF file, complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from moemerge import __version__
from moemerge.console import Progress
from moemerge.errors import ExportError, ManyProblems, WriteError
from moemerge.export.metadata import hyperparameters, misfits, rope_factors
from moemerge.export.modelfile import modelfile
from moemerge.export.tensors import OutTensor, out_tensors
from moemerge.export.vocabulary import Vocabulary, read_vocabulary
from moemerge.families import Host, host_of
from moemerge.families.gguf_form import GgufForm
from moemerge.mixture.folder import MoeFolder, open_moe

GGUF_TYPES = ("f32", "f16", "bf16", "q8_0")
"""Types that matrices can have."""
MADE = "moemerge.version"
"""Key of a file's metadata by which it is known as one of ours."""
_FILE_TYPES: Mapping[str, gguf.LlamaFileType] = {
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
    """

    path: Path
    modelfile: Path
    architecture: str
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "path": str(self.path), "modelfile": str(self.modelfile), "architecture": self.architecture,
            "bytes": self.bytes,
        }  # fmt: skip


def export_gguf(folder: Path, path: Path, kind: str, progress: Progress, *, overwrite: bool = False) -> Exported:
    """Writes a mixture as a GGUF file, and a Modelfile for Ollama beside it.

    Args:
        folder: the mixture's.
        path: the file.
        kind: the type of its matrices: one of `GGUF_TYPES`.
        progress: told of the bytes that are written.
        overwrite: whether a file of that name that this wrote may be replaced.

    Raises:
        ExportError: llama.cpp does not know such mixtures, or would give other ids to a text.
        ManyProblems: it would compute something else.
        WriteError: the file cannot be written, or is somebody else's.
        EvalError, SourceError: the folder cannot be read.
    """
    opened = open_moe(folder)
    beside = path.with_name(f"{path.name}.Modelfile")
    _check_target(path, overwrite=overwrite)
    host, form = _form(opened)
    config = opened.config
    tensors, problems = out_tensors(opened.checkpoint, config, host, form, kind)
    biased = any(tensor.name.endswith("attn_q.bias") for tensor in tensors)
    problems += misfits(config, form, biased=biased)
    vocabulary = None
    try:
        vocabulary = read_vocabulary(opened.checkpoint.files, config["vocab_size"], _ends(config))
    except ExportError as error:
        problems += error.problems
    if vocabulary is None or problems:
        raise ManyProblems(problems)
    total = sum(tensor.nbytes for tensor in tensors)
    _check_space(path, total)
    with _beside(path) as staged:
        writer = _writer(opened, form, vocabulary, kind)
        _write(writer, staged, tensors, rope_factors(config), progress)
    text = modelfile(path, vocabulary, config["max_position_embeddings"])
    with _beside(beside) as staged:
        staged.write_text(text, encoding="utf-8")
    return Exported(path, beside, form.architecture, path.stat().st_size)


def _form(opened: MoeFolder) -> tuple[Host, GgufForm]:
    host = host_of(opened.checkpoint.config)
    kind = opened.checkpoint.config.get("model_type")
    if host is None or host.gguf is None:
        said = None if host is None else host.runtimes.get("llama.cpp")
        why = f": llama.cpp {said}" if said else ""
        raise ExportError(f"`{kind}` is not exported{why}", hint="run it with transformers or vLLM")
    return host, host.gguf


def _ends(config: Mapping[str, Any]) -> list[int]:
    """The ids that end a reply."""
    found = config.get("eos_token_id")
    return [] if found is None else list(found) if isinstance(found, list) else [found]


def _check_target(path: Path, *, overwrite: bool) -> None:
    """Refuses a file that cannot be written, before the work begins."""
    if "\n" in path.name:
        raise WriteError("the file's name has a line break")
    if not path.parent.is_dir():
        raise WriteError(f"`{path}` cannot be written: there is no folder `{path.parent}`", hint="make it first")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise WriteError(f"`{path}` exists", hint="name another file, or pass `--overwrite`", code="output-exists")
    if path.is_symlink() or not path.is_file() or not _is_ours(path):
        raise WriteError(f"`{path}` was not made by moemerge, so it is not overwritten", hint="name another file")


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return MADE.encode() in file.read(1 << 16)


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise WriteError(f"no space left for `{path}`: {needed:,} bytes are needed and {free:,} are free")


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Gives a name beside `path`; the file of it takes the place of `path` when the block ends well, and goes else."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=".part", dir=path.parent)
        os.close(descriptor)
        staged = Path(name)
        try:
            os.chmod(staged, 0o666 & ~_umask())
            yield staged
            with staged.open("rb") as file:
                os.fsync(file.fileno())
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"`{path}` cannot be written: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _writer(opened: MoeFolder, form: GgufForm, vocabulary: Vocabulary, kind: str) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(None, form.architecture)
    writer.add_string(MADE, __version__)
    writer.add_name(opened.path.resolve().name)
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if opened.checkpoint.licence:
        writer.add_license(opened.checkpoint.licence)
    for key, value in hyperparameters(opened.config, form).items():
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


def _add(writer: gguf.GGUFWriter, key: str, value: float | int | bool | str) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


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
    progress.stage("write", sum(tensor.nbytes for tensor in tensors), "bytes")
    for tensor in tensors:
        for block in tensor.blocks():
            file.write(block)
            progress.advance(len(block))
        writer.write_padding(file, tensor.nbytes)
