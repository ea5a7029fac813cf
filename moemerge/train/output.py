"""The trained folder: the source's bytes, but for what was trained, the record and the model card.

Each tensor is digested as it lies in the new file and compared with the source's record before a trained one is put in
its place, so the output holds what was built and what was trained, and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash
from torch import Tensor

from moemerge.console import Progress
from moemerge.errors import VerifyError
from moemerge.execute.finite import has_only_finite
from moemerge.execute.stream import TORCH_DTYPES
from moemerge.mixture.folder import BuiltFolder
from moemerge.record.read import NAME, read_fields
from moemerge.record.write import dump_record
from moemerge.sources import ByteRange
from moemerge.train.card import trained_card
from moemerge.train.lora import Change
from moemerge.train.plot import NAME as PLOT
from moemerge.train.plot import training_plot
from moemerge.write.copy import CHUNK, Copier

CARD = "README.md"
ADAPTER = "router-adapter"
"""The subfolder of an adapter: beside a `config.json` transformers would apply it on loading."""


def router_names(folder: BuiltFolder, layers: Sequence[int]) -> list[str]:
    """The names of the routers' tensors in the folder's files, in the order of the layers."""
    host = folder.host
    return [host.gate.format(layer=layer) for layer in layers]


def needed_bytes(folder: BuiltFolder) -> int:
    """Bytes that a trained folder will take, a megabyte allowed for what changes."""
    return sum(path.stat().st_size for path in folder.path.rglob("*") if path.is_file()) + (1 << 20)


def write_trained(
    target: Path, folder: BuiltFolder, output: Path, changes: Mapping[str, Change], training: dict[str, Any],
    progress: Progress,
) -> None:  # fmt: skip
    """Fills a staged folder.

    Args:
        target: the staged folder, empty.
        folder: the mixture that was trained.
        output: the final folder, for the record and the model card.
        changes: what becomes of a tensor, by name.
        training: what the record and the model card tell of the training.
        progress: is told bytes.

    Raises:
        VerifyError: the source folder is not what its record says, or a changed tensor is not finite as stored.
        OSError: the disk is full, or fails.
    """
    record = read_fields(folder.path)
    assert record is not None
    digests = _weights(target, folder, changes, record["tensors"], progress)
    files = dict(record["files"])
    plot = training_plot(training, folder.experts).encode()
    for name in files:
        if name == PLOT:  # of an earlier training
            continue
        data = _recorded(folder, name, files[name])
        if name == CARD:
            data = trained_card(data.decode("utf-8", "replace"), output.name, training).encode()
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
        files[name] = xxhash.xxh3_128_hexdigest(data)
    (target / PLOT).write_bytes(plot)
    files[PLOT] = xxhash.xxh3_128_hexdigest(plot)
    record["root"] = Path(os.path.relpath(folder.root.resolve(), output.resolve())).as_posix()
    record["training"] = [*record.get("training", []), training]
    # the digests stay last, as a build has them
    for key, value in (("files", dict(sorted(files.items()))), ("tensors", digests)):
        del record[key]
        record[key] = value
    (target / NAME).write_bytes(dump_record(record).encode())


def check_files(folder: BuiltFolder, recorded: Mapping[str, str]) -> None:
    """Whether the files beside the weights are as they were built, asked before any work.

    Args:
        folder: the mixture.
        recorded: the files' digests, by name.

    Raises:
        VerifyError: one of them is not, or is gone.
    """
    for name, digest in recorded.items():
        if name != PLOT:
            _recorded(folder, name, digest)


def check_weights(folder: BuiltFolder, recorded: Mapping[str, str], progress: Progress) -> None:
    """Whether the weights are as they were built, asked before the first step too. The record has only their digests,
    so they are read once, as fast as the disk gives them. Loading them then finds them in memory.

    Args:
        folder: the mixture.
        recorded: the tensors' digests, by name.
        progress: is told bytes.

    Raises:
        VerifyError: a tensor is not.
    """
    places = {name: _place(folder, name) for name in folder.checkpoint.tensors}
    progress.stage("check the weights", sum(place.length for place in places.values()), "bytes")
    for path in dict.fromkeys(place.path for place in places.values()):
        with path.open("rb") as file:
            for name, place in places.items():
                if place.path == path:
                    if _digest(file.fileno(), place) != recorded.get(name):
                        raise _changed(folder.path, name, "changed after the build")
                    progress.advance(place.length)


def _recorded(folder: BuiltFolder, name: str, digest: str) -> bytes:
    """A file's bytes, of which only the card may have been rewritten."""
    try:
        data = (folder.path / name).read_bytes()
    except FileNotFoundError:
        raise _changed(folder.path, name, "is gone") from None
    if name != CARD and xxhash.xxh3_128_hexdigest(data) != digest:
        raise _changed(folder.path, name, "changed after the build")
    return data


def _weights(
    target: Path, folder: BuiltFolder, changes: Mapping[str, Change], recorded: Mapping[str, str], progress: Progress
) -> dict[str, str]:
    """Copies the weights' files, puts what is changed in, and gives the digest of every tensor."""
    places = {name: _place(folder, name) for name in folder.checkpoint.tensors}
    paths = list(dict.fromkeys(place.path for place in places.values()))
    progress.stage("write", sum(path.stat().st_size for path in paths), "bytes")
    found: dict[str, str] = {}
    for path in paths:
        source = os.open(path, os.O_RDONLY)
        copy = os.open(target / path.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            size = os.fstat(source).st_size
            for start in range(0, size, CHUNK):
                Copier().copy(source, start, copy, start, min(CHUNK, size - start))
                progress.advance(min(CHUNK, size - start))
            for name, place in places.items():
                if place.path != path:
                    continue
                found[name] = _digest(copy, place)
                if found[name] != recorded.get(name):
                    message = f"`{name}` of `{folder.path}` changed after the build, so nothing was kept"
                    raise VerifyError(message, hint=f"run `moemerge verify {folder.path}`")
                if name in changes:
                    _put(copy, place, folder, name, changes[name](folder.checkpoint.read(name).float()))
                    found[name] = _digest(copy, place)
        finally:
            os.close(source)
            os.close(copy)
    return {name: found[name] for name in recorded if name in found}


def _place(folder: BuiltFolder, name: str) -> ByteRange:
    place = folder.checkpoint.bytes_of(name)
    if place is None:
        raise VerifyError(f"`{name}` of `{folder.path}` is in no safetensors file")
    return place


def _put(copy: int, place: ByteRange, folder: BuiltFolder, name: str, value: Tensor) -> None:
    import torch

    dtype = folder.checkpoint.tensors[name].dtype
    data = memoryview(value.to(TORCH_DTYPES[dtype]).contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
    if not has_only_finite(data, dtype):
        raise VerifyError(f"the trained `{name}` holds a value that is too large for {dtype}")
    assert len(data) == place.length
    done = 0
    while done < len(data):
        done += os.pwrite(copy, data[done:], place.offset + done)


def _digest(file: int, place: ByteRange) -> str:
    state = xxhash.xxh3_128()
    end = place.offset + place.length
    for start in range(place.offset, end, CHUNK):
        state.update(os.pread(file, min(CHUNK, end - start), start))
    return state.hexdigest()


def _changed(folder: Path, name: str, how: str) -> VerifyError:
    message = f"`{name}` of `{folder}` {how}, so what is trained could not be checked"
    return VerifyError(message, hint="put it back, and change it in the trained folder")


def write_adapter(
    target: Path, folder: BuiltFolder, tensors: Mapping[str, Tensor], config: dict[str, Any], training: dict[str, Any]
) -> None:
    """Fills a staged folder with a peft adapter, in a subfolder, and a card that says how to use it.

    Args:
        target: the staged folder, empty.
        folder: the mixture that was trained.
        tensors: the adapter's, by the names in its file.
        config: its config.
        training: what the card tells of the training.
    """
    from safetensors.torch import save

    path, auto_class = folder.path.absolute(), folder.host.auto_class
    inside = target / ADAPTER
    inside.mkdir()
    config = config | {"base_model_name_or_path": str(path)}
    (inside / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    contiguous = {name: value.cpu().contiguous() for name, value in tensors.items()}
    (inside / "adapter_model.safetensors").write_bytes(save(contiguous, metadata={"format": "pt"}))
    (target / "training.json").write_text(json.dumps(training, indent=1) + "\n", encoding="utf-8")
    run = (
        f"# Router adapter\n\nA LoRA on the routers of `{path.name}`.\n\n```python\nfrom peft import PeftModel\n"
        f'from transformers import {auto_class}\n\nmodel = {auto_class}.from_pretrained("{path}")\n'
        f'model = PeftModel.from_pretrained(model, "{ADAPTER}")  # the subfolder beside this card\n```\n'
    )
    (target / PLOT).write_text(training_plot(training, folder.experts), encoding="utf-8")
    (target / CARD).write_text(trained_card(run, "Router adapter", training), encoding="utf-8")
