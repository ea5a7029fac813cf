"""Files that threads share, what is in memory of them, and short reads."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from moemerge.errors import SourceError
from moemerge.sources import ByteRange
from moemerge.sources.files import SourceFiles
from tests.paging import enter_memory, leave_memory


def test_threads_that_open_one_file_at_once_leave_no_descriptor(tmp_path: Path) -> None:
    """All get the same one, and it is closed."""
    open_ones = Path("/proc/self/fd")
    if not open_ones.is_dir():
        pytest.skip("no list of open files here")
    threads, interval = 8, sys.getswitchinterval()
    paths = [tmp_path / str(number) for number in range(50)]
    for path in paths:
        path.touch()
    before = len(list(open_ones.iterdir()))
    sys.setswitchinterval(1e-6)
    try:
        with SourceFiles() as files, ThreadPoolExecutor(threads) as pool:
            barrier = Barrier(threads)

            def all_of_them(_: int) -> list[int]:
                found = []
                for path in paths:
                    barrier.wait()
                    found.append(files.descriptor(path))
                return found

            first, *others = pool.map(all_of_them, range(threads))
            assert others == [first] * (threads - 1)
    finally:
        sys.setswitchinterval(interval)
    assert len(list(open_ones.iterdir())) == before


def test_a_short_read_is_an_error_and_no_digest_of_zeros(tmp_path: Path) -> None:
    """A source that somebody cuts while it is read."""
    path = tmp_path / "shard"
    path.write_bytes(b"0123456789")
    with SourceFiles() as files:
        view = memoryview(bytearray(6))
        files.read(ByteRange(path, 1, 9), 3, view)
        assert bytes(view) == b"456789"
        with pytest.raises(SourceError) as error:
            files.read(ByteRange(path, 1, 10), 4, view)
    assert error.value.message == f"`{path}` ended while it was read: 1 bytes are missing"


def test_what_is_in_memory_is_told_from_what_is_fetched(tmp_path: Path) -> None:
    """Once something has to be fetched, that is remembered."""
    path = tmp_path / "file"
    path.write_bytes(bytes(250_000))
    place = ByteRange(path, 100, 200_000)
    if not enter_memory(path):
        pytest.skip("this file system does not say what it holds")
    with SourceFiles() as files:
        files.expect(place)
        assert not files.from_disk
        if not leave_memory(path):
            pytest.skip("this file system does not let go of files")
        files.expect(place)
        assert files.from_disk
        enter_memory(path)
        files.expect(place)
        assert files.from_disk


def test_an_empty_tensor_at_the_end_of_a_file_may_be_expected(tmp_path: Path) -> None:
    """Nothing of it has to be fetched, whatever the answer."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with SourceFiles() as files:
        files.expect(ByteRange(path, 3, 0))
