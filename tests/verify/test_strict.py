"""`--strict`: what is compared with nothing but a digest, and could have a source, fails."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash
from typer.testing import CliRunner

from moemerge.cli import app
from moemerge.verify import verify_folder
from tests.conftest import TinyMaker
from tests.verify.conftest import Builder, Folder


def test_a_sound_folder_passes_a_strict_check(built: Builder) -> None:
    """All sources at hand and unchanged: nothing is left to a digest alone but the router."""
    found = verify_folder(built(), strict=True)
    assert (found.differences, found.notes) == ((), ())


@pytest.mark.parametrize("key", ["base", "e0"])
def test_a_strict_check_needs_every_source(key: str, movable: Path) -> None:
    """One that is gone is a difference, and everything else is still checked."""
    (movable.parent / {"base": "base", "e0": "one"}[key]).rename(movable.parent / "elsewhere")
    found = verify_folder(movable, strict=True)
    assert [(d.where, d.message) for d in found.differences] == [(key, "its sources: not found")]
    assert found.notes == ()
    assert found.checked["bytes"] > 0


def test_the_command_fails_on_a_missing_source_where_it_is_asked_to(movable: Path) -> None:
    """`moemerge verify OUT` notes it and succeeds; with `--strict` it exits with 1."""
    (movable.parent / "one").rename(movable.parent / "elsewhere")
    plain = CliRunner().invoke(app, ["verify", str(movable), "-q"])
    assert plain.exit_code == 0
    assert plain.stdout.startswith("note: sources of `e0` not found: checked against the recorded digests\nverified: ")
    strict = CliRunner().invoke(app, ["verify", str(movable), "-q", "--strict"])
    assert strict.exit_code == 1
    assert strict.stdout.startswith("e0: its sources: not found\nNOT verified: ")


def test_a_strict_check_names_a_source_that_changed(tiny: TinyMaker, movable: Path) -> None:
    """Other headers than at the build."""
    shutil.copytree(tiny("llama", 3, num_hidden_layers=3), movable.parent / "two", dirs_exist_ok=True)
    found = verify_folder(movable, strict=True)
    assert [(d.where, d.message) for d in found.differences] == [("e1", "its sources: changed since the build")]


def test_a_strict_check_looks_at_the_sources(built: Builder) -> None:
    """The two wishes exclude each other."""
    with pytest.raises(ValueError, match="a strict check needs the sources"):
        verify_folder(built(), sources=False, strict=True)


def claim(folder: Folder, *changed: str) -> None:
    """Writes into the record that a training changed something."""
    folder.record(lambda record: record.update(training=[{"changed": list(changed)}]))


def test_a_training_is_said(tampered: Callable[..., Folder]) -> None:
    """Other experts and a record that claims to have trained them: said, and no more than that can be known."""
    folder = tampered()
    name = "model.layers.0.block_sparse_moe.experts.1.w3.weight"
    folder.flip(name, byte=1234)
    digest = xxhash.xxh3_128_hexdigest(folder.read(name))
    folder.record(lambda record: record["tensors"].update({name: digest}))
    assert len(folder.differences()) == 1
    claim(folder, "router", "experts")
    found = verify_folder(folder.path)
    assert (found.differences, found.notes) == (
        (), ("experts were trained beside the router: checked against the recorded digests",)
    )  # fmt: skip
    assert folder.differences(strict=True) == [
        "moemerge.yaml: `training`: experts were trained beside the router, so no source has them"
    ]


def test_a_training_covers_what_it_names_alone(tampered: Callable[..., Folder]) -> None:
    """The rest is compared with the sources as ever, and the digests of what it names must hold."""
    folder = tampered()
    claim(folder, "attention")
    expert, projection = "model.layers.0.block_sparse_moe.experts.1.w3.weight", "model.layers.1.self_attn.k_proj.weight"
    for name in (expert, projection):
        folder.flip(name, byte=403)
    found = folder.differences()
    assert found[0].startswith(f"{expert}: 1 of 6144 bytes differ from ")
    assert found[1:] == [f"{projection}: its bytes changed after the build"]


def test_a_trained_router_passes_a_strict_check(tampered: Callable[..., Folder]) -> None:
    """A router never had a source."""
    folder = tampered()
    claim(folder, "router")
    found = verify_folder(folder.path, strict=True)
    assert (found.differences, found.notes) == ((), ())
