"""`moemerge push`: what is published, against a hub on a local port and the real client."""

from __future__ import annotations

from pathlib import Path

import pytest

from moemerge.console import Silent
from moemerge.push import prepare, push_folder
from moemerge.verify import verify_folder
from tests.hub.server import WritableHub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
"""How the hub's library sends a large file without Xet."""


def test_what_is_published(moe: Path, hub: WritableHub) -> None:
    """The build's files, and no other; a download of them is verified."""
    (moe / "notes.txt").write_text("mine")
    parcel = prepare(moe, "jo/moe", Silent())
    done = push_folder(parcel, Silent())
    there = hub.models["jo/moe"]
    names = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert names == {path.name for path in moe.iterdir()} - {"notes.txt"} | {".gitattributes"}
    assert (done.url, done.files, done.removed) == (f"{hub.url}/jo/moe", len(names) - 1, ())
    assert verify_folder(there, sources=False).differences == ()
    assert len(hub.commits) == 1
