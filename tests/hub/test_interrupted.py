"""Uploads and downloads that end in the middle, and go on."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from moemerge.api import build
from moemerge.errors import PlanError
from moemerge.plan import sound_plan
from moemerge.verify import verify_folder
from tests.hub.server import TOKEN, WritableHub
from tests.moe import recipe_of


def environment(hub: WritableHub, home: Path, **more: str) -> dict[str, str]:
    """A user's, with an empty home of the hub's library."""
    return os.environ | {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, "NO_PROXY": "*", **more,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_an_upload_goes_on(xet: bool, moe: Path, tmp_path: Path) -> None:
    """Ctrl-C after the first file: nothing shows, and the second run sends what did not arrive, and no more."""
    (tmp_path / "hub").mkdir()
    with WritableHub({}, root=tmp_path / "hub", stall=1).running() as hub:
        assert isinstance(hub, WritableHub)
        command = [sys.executable, "-m", "moemerge", "push", str(moe), "jo/moe"]
        settings = environment(hub, tmp_path / "home", HF_HUB_DISABLE_XET="0" if xet else "1")
        first = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert hub.stalled.wait(60), first.communicate()
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=30)
        assert (first.returncode, out) == (130, ""), err
        assert err.endswith(
            "error: interrupted\nhint: run the same command again: what is there is not sent again\n"
        ), err
        assert hub.commits == []
        hub.stall = None
        hub.release.set()
        second = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        assert (second.returncode, second.stdout.split(":")[0]) == (0, "http"), second.stderr
        files = sorted(moe.glob("*.safetensors"))
        assert len(hub.sent) == len(set(hub.sent)) == len(files) > 2
        (committed,) = hub.commits
        assert set(committed) == {path.name for path in moe.iterdir()}
        for path in files:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            there = (hub.models["jo/moe"] / path.name).read_bytes()
            assert digest == (there.decode() if xet else hashlib.sha256(there).hexdigest())


def test_a_build_from_the_hub_goes_on(
    published: Path, hub: WritableHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a connection breaks, the file goes on from there; the next run fetches what did not arrive whole. Revisions
    are pinned."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    hub.models |= {"jo/base": published.parent / "model-0", "jo/code": published.parent / "model-1"}
    size = (hub.models["jo/base"] / "model.safetensors").stat().st_size
    recipe = recipe_of(Path("jo/base"), ["jo/code@main", "base"])
    hub.cut["model.safetensors"], hub.errors["jo/code"] = size // 2, (418, "Teapot")
    with pytest.raises(PlanError) as caught:
        sound_plan(recipe, tmp_path)
    assert caught.value.problems[0].message == (
        "expert `e0`: Model `jo/code@main` cannot be downloaded: the hub answered 418"
    )
    hub.errors.clear()
    out = build(recipe, tmp_path / "moe", root=tmp_path).path
    weights = [name for name in hub.fetched if name.startswith("model.safetensors")]
    assert weights == ["model.safetensors", f"model.safetensors bytes={size // 8192 * 4096}-", "model.safetensors"]
    record = yaml.safe_load((out / "moemerge.yaml").read_text())
    heads = {key: hub.head(hub.models[name]) for key, name in (("base", "jo/base"), ("e0", "jo/code"))}
    assert {key: source["revision"] for key, source in record["sources"].items()} == heads
    assert verify_folder(out, strict=True).differences == ()
