"""safetensors files are checked before they are believed, and read without mmap."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save, save_file

from moemerge.errors import SourceError
from moemerge.sources.safetensors_file import parse_header, read_file_header


def raw(header: Any, data: bytes = b"") -> bytes:
    """A file with this header (JSON, or bytes as they are) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8,
    torch.bool, torch.float8_e8m0fnu,
]  # fmt: skip


def test_reads_every_dtype_and_shape(tmp_path: Path) -> None:
    """What safetensors writes is read back equal, in blocks of rows too, with the bytes where `bytes_of` says."""
    tensors = {}
    for index, dtype in enumerate(DTYPES):
        for shape in ((), (0,), (3,), (5, 4), (0, 4), (2, 3, 4)):
            values = torch.arange(1 + index, 1 + index + max(1, torch.Size(shape).numel())).remainder(2 + index)
            tensors[f"{dtype}.{shape}"] = values[: torch.Size(shape).numel()].reshape(shape).to(dtype)
    path = tmp_path / "all.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    store = read_file_header(path)
    assert set(store.tensors) == set(tensors)
    for name, expected in tensors.items():
        info, value = store.tensors[name], store.read(name)
        assert (info.shape, value.shape, value.dtype) == (tuple(expected.shape), expected.shape, expected.dtype)
        assert torch.equal(value.flatten().view(torch.uint8), expected.flatten().view(torch.uint8))
        place = store.bytes_of(name)
        assert place is not None
        assert place.length == info.nbytes
        if expected.ndim:
            for rows in (slice(0, 1), slice(1, 3), slice(None, -1), slice(2, 2), slice(4, 100)):
                assert torch.equal(store.read(name, rows).float(), expected[rows].float())


def test_a_tensor_is_memory_of_its_own(tmp_path: Path) -> None:
    """Writing into what was read changes neither the file nor the next read."""
    save_file({"w": torch.zeros(4)}, tmp_path / "m.safetensors")
    store = read_file_header(tmp_path / "m.safetensors")
    store.read("w").fill_(7)
    assert torch.equal(store.read("w"), torch.zeros(4))


def test_rows_of_a_scalar_and_steps_are_mistakes_of_the_caller(tmp_path: Path) -> None:
    """These raise ValueError: no user's file causes them."""
    save_file({"s": torch.tensor(1.0), "w": torch.zeros(4, 2)}, tmp_path / "m.safetensors")
    store = read_file_header(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="cannot read rows"):
        store.read("s", slice(0, 1))
    with pytest.raises(ValueError, match="cannot read rows"):
        store.read("w", slice(0, 4, 2))


BAD = {
    "empty file": (b"", "`{path}` is not a safetensors file: it has 0 bytes"),
    "html page": (
        b"<!DOCTYPE html><html>",
        "`{path}` is a web page, and not the file itself",
    ),
    "zip": (
        b"PK\3\4 another format",
        "`{path}` is not a safetensors file: its header would have 8029461975782345552 bytes, "
        "more than the 100000000 allowed",
    ),
    "header cut": (
        raw({"w": entry("F32", [1], 0, 4)})[:30],
        "`{path}` is truncated: its header ends at byte 69, the file has 30",
    ),
    "data cut": (
        raw({"w": entry("F32", [4], 0, 16)}, bytes(10)),
        "`{path}` is truncated: its header promises 86 bytes, the file has 80",
    ),
    "bytes after": (raw({"w": entry("F32", [1], 0, 4)}, bytes(9)), "`{path}` holds 5 bytes after its last tensor"),
    "not json": (
        raw(b"{nope}"),
        "`{path} (header)` is not valid JSON: Expecting property name enclosed in double quotes: line 1 "
        "column 2 (char 1)",
    ),
    "list": (raw([]), "`{path} (header)` is not valid: it holds a list where an object is expected"),
    "deep": (raw(b"[" * 100_000), "`{path} (header)` is not valid JSON: nested too deeply"),
    "duplicate key": (raw(b'{"a": 1, "a": 2}'), "`{path} (header)` is not valid: the key `a` appears twice"),
    "metadata": (
        raw({"__metadata__": {"a": 1}}),
        "`{path}` has a malformed header: `__metadata__` is not a map of strings",
    ),
    "missing field": (
        raw({"w": {"dtype": "F32", "shape": [1]}}),
        "`{path}` has a malformed header: tensor `w` needs exactly `dtype`, `shape` and `data_offsets`",
    ),
    "dtype": (
        raw({"w": entry("F4", [1], 0, 4)}, bytes(4)),
        "`{path}` has a malformed header: tensor `w` has the dtype `F4`, which is not one of F64, F32, F16, BF16, "
        "F8_E4M3, F8_E5M2, F8_E8M0, I64, I32, I16, I8, U64, U32, U16, U8, BOOL",
    ),
    "negative size": (
        raw({"w": entry("F32", [-1], 0, 4)}, bytes(4)),
        "`{path}` has a malformed header: tensor `w` has a shape that is not a list of at most 8 sizes",
    ),
    "true as a size": (
        raw({"w": entry("F32", [True], 0, 4)}, bytes(4)),
        "`{path}` has a malformed header: tensor `w` has a shape that is not a list of at most 8 sizes",
    ),
    "offsets backwards": (
        raw({"w": entry("F32", [1], 4, 0)}, bytes(4)),
        "`{path}` has a malformed header: tensor `w` has `data_offsets` that are not a begin and an end",
    ),
    "wrong length": (
        raw({"w": entry("F32", [2], 0, 4)}, bytes(4)),
        "`{path}` has a malformed header: tensor `w` takes 4 bytes, but F32 of shape [2] needs 8",
    ),
    "overlap": (
        raw({"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 4, 8)}, bytes(8)),
        "`{path}` has a malformed header: tensor `b` overlaps the one before it",
    ),
    "hole": (
        raw({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, bytes(12)),
        "`{path}` has a malformed header: tensor `b` leaves a hole before it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_malformed_files_are_refused(case: str, tmp_path: Path) -> None:
    """Each way in which a file can be wrong has its message, with expected and actual sizes."""
    data, message = BAD[case]
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        read_file_header(path)
    assert caught.value.message == message.format(path=path)
    assert caught.value.hint


def test_a_file_that_is_no_file(tmp_path: Path) -> None:
    """Folders, pipes and missing files are refused without waiting on them."""
    os.mkfifo(tmp_path / "pipe")
    for name, message in {
        "gone": "`{}` cannot be read: No such file or directory",
        ".": "`{}` is not a regular file",
        "pipe": "`{}` is not a regular file",
    }.items():
        with pytest.raises(SourceError) as caught:
            read_file_header(tmp_path / name)
        assert caught.value.message == message.format(tmp_path / name)


def test_a_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    """A read past the end names the file, what is needed and what is there."""
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(100)}, path)
    store = read_file_header(path)
    size = path.stat().st_size
    os.truncate(path, size - 50)
    with pytest.raises(SourceError) as caught:
        store.read("w")
    assert caught.value.message == (
        f"`{path}` became shorter while it was read: bytes up to {size} are needed, the file has {size - 50}"
    )
    assert caught.value.hint == "download or copy the file again"


sizes = st.lists(st.integers(0, 5), max_size=3)


@given(st.dictionaries(st.text(max_size=8).filter(lambda name: name != "__metadata__"), sizes, max_size=6), st.data())
@settings(deadline=None, max_examples=60)
def test_agrees_with_the_reference_on_any_file(shapes: dict[str, list[int]], data: st.DataObject) -> None:
    """Valid files are read as safetensors reads them; after any one byte is changed in the header, ours never crashes
    and never accepts what safetensors refuses (but for JSON that both read and names that are equal)."""
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    blob = bytearray(save(tensors))
    length = int.from_bytes(blob[:8], "little")
    at = data.draw(st.integers(0, 8 + length - 1))
    blob[at] = data.draw(st.integers(0, 255))
    path = Path("/dev/shm" if os.path.isdir("/dev/shm") else "/tmp") / f"moemerge-fuzz-{os.getpid()}.safetensors"
    path.write_bytes(bytes(blob))
    try:
        try:
            reference = load(bytes(blob))
        except SafetensorError:
            reference = None
        except (ValueError, KeyError):  # a dtype that the torch binding lacks
            return
        try:
            store = read_file_header(path)
        except SourceError:
            return  # stricter is fine: duplicate keys, more dimensions, unknown fields
        assert reference is not None
        assert set(reference) == set(store.tensors)
        for name, value in reference.items():
            assert torch.equal(value.flatten().view(torch.uint8), store.read(name).flatten().view(torch.uint8))
    finally:
        path.unlink()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "w"]), inner, max_size=4)
    ),
)


@given(anything)
@settings(deadline=None)
def test_any_json_is_refused_or_read(value: Any) -> None:
    """The header's checks raise nothing but SourceError, whatever the JSON holds."""
    header = value if isinstance(value, dict) else {"w": value}
    with contextlib.suppress(SourceError):
        parse_header(dict(header), Path("x"), start=0, size=0)


def test_opening_thousands_of_tensors_is_quick(tmp_path: Path) -> None:
    """5,000 tensors are opened in well under 50 ms on an idle core (twice that is allowed on a busy one)."""
    header = {f"model.layers.{i}.mlp.experts.{i}.weight": entry("BF16", [2, 2], 8 * i, 8 * i + 8) for i in range(5000)}
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw(header, bytes(8 * 5000)))
    times = []
    for _ in range(5):
        start = time.process_time()
        read_file_header(path)
        times.append(time.process_time() - start)
    assert min(times) < 0.1


MEASURE = """
import resource, sys
from pathlib import Path
import torch
from moemerge.sources.safetensors_file import read_file_header
store = read_file_header(Path(sys.argv[1]))
store.read("small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for start in range(0, 4096, 64):
    store.read("big", slice(start, start + 64))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_memory_stays_flat(tmp_path: Path) -> None:
    """Reading 64 MB in blocks of 1 MB adds a few MB to the process's peak, whatever was read before."""
    path = tmp_path / "big.safetensors"
    save_file({"small": torch.zeros(1), "big": torch.zeros(4096, 4096, dtype=torch.float32)}, path)
    command = [sys.executable, "-c", MEASURE, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 8_000  # KiB
