"""`moemerge push`: what is published, against a hub on a local port and the real client."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from moemerge import api
from moemerge.cli import app
from moemerge.push import Pushed
from moemerge.push.scrub import public_names
from moemerge.verify import verify_folder
from tests.hub.conftest import figures_of, gguf_of
from tests.hub.server import WritableHub
from tests.moe import build_tiny, recipe_of

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
"""How the hub's library sends a large file without Xet."""


def publish(folder: Path, repo: str = "jo/moe", **settings: Any) -> Pushed:
    """Pushes a folder."""
    return api.push(folder, repo, **settings)


def names_in(folder: Path) -> set[str]:
    """The files of a repository but the hub's own."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return names - {".gitattributes"}


def run(*arguments: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command."""
    result = CliRunner().invoke(app, list(arguments))
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_what_is_published(moe: Path, hub: WritableHub) -> None:
    """The build's files and no other, in one commit, without a path of this machine; a download is verified."""
    (moe / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in moe.iterdir()}
    done = publish(moe)
    there = hub.models["jo/moe"]
    assert names_in(there) == before.keys() - {"notes.txt"}
    assert (done.url, done.files, done.removed) == (f"{hub.url}/jo/moe", len(before) - 1, ())
    assert len(hub.commits) == 1
    assert verify_folder(there, sources=False).differences == ()
    for path in there.iterdir():
        assert b"/tmp/" not in path.read_bytes(), path.name
    assert 'model_id = "jo/moe"' in (there / "README.md").read_text()
    card = (there / "README.md").read_text()
    assert "```sh\nhf download jo/moe --local-dir moe && cd moe   # the commands below run there\n" in card
    assert "\nvllm serve .\n" in card
    assert {path.name: path.read_bytes() for path in moe.iterdir()} == before, "the folder is as it was"
    publish(moe)
    assert len(hub.commits) == 1, "the same again is not a commit"


def test_figures_become_a_table_and_an_index(moe: Path, figures: Path, hub: WritableHub) -> None:
    """What `eval -o` wrote stands in the card, in the metadata and in pictures."""
    publish(moe, report=figures)
    there = hub.models["jo/moe"]
    text = (there / "README.md").read_text()
    assert "| code | 3.000 | 2.000 | 2.500 | 2.250 | 75.0 % |" in text
    assert "| MoE | 75.0 % (70 to 80) |" in text
    assert "![Gain kept by the mixture and by what it is compared with](moemerge-gain.png)" in text
    assert (there / "moemerge-gain.png").read_bytes().startswith(b"\x89PNG")
    (index,) = yaml.safe_load(text.split("---\n")[1])["model-index"]
    assert index["name"] == "moe"
    assert index["results"][0] == {
        "task": {"type": "text-generation"},
        "dataset": {"type": "moemerge-code", "name": "code"},
        "metrics": [
            {"type": "loss", "name": "held-out loss, nats per token", "value": 2.25},
            {"type": "perplexity", "name": "held-out perplexity", "value": 9.4877},
            {"type": "gain_kept", "name": "share of the specialist's gain kept", "value": 0.75},
        ],
    }
    assert [result["dataset"]["type"] for result in index["results"]] == [
        "moemerge-code", "moemerge-french", "moemerge-all", "arc-easy",
    ]  # fmt: skip


def test_a_gguf_file_goes_with_it(moe: Path, hub: WritableHub, tmp_path: Path) -> None:
    """Its commands stand in the card; a later push of the same build leaves it, one of another build removes it."""
    file = gguf_of(moe, tmp_path / "moe-f16.gguf")
    publish(moe, gguf=file)
    there = hub.models["jo/moe"]
    assert (there / file.name).read_bytes() == file.read_bytes()
    text = (there / "README.md").read_text()
    assert "llama-server -hf jo/moe --hf-file moe-f16.gguf\nollama run hf.co/jo/moe\nhf download" in text
    assert publish(moe).removed == ()
    assert (there / file.name).exists()
    source = Path(yaml.safe_load((moe / "moemerge.yaml").read_text())["sources"]["base"]["model"])
    assert file.name in publish(build_tiny(tmp_path / "other", source, ["base", "base"])).removed


def test_another_build_takes_the_place(moe: Path, hub: WritableHub, tmp_path: Path) -> None:
    """Shards that the new one lacks are removed there, and said; what the user put there stays."""
    publish(moe)
    there = hub.models["jo/moe"]
    (there / "picture.jpg").write_bytes(b"mine")
    source = Path(yaml.safe_load((moe / "moemerge.yaml").read_text())["sources"]["base"]["model"])
    other = build_tiny(tmp_path / "other", source, ["base", "base"])
    status, out, err = run("push", str(other), "jo/moe")
    shards = sorted(path.name for path in moe.glob("*.safetensors*"))
    assert (status, out.split(": ")[0]) == (0, f"{hub.url}/jo/moe")
    assert f"note: removed from `jo/moe`: {', '.join(shards)}\n" in err
    assert names_in(there) == {path.name for path in other.iterdir()} | {"picture.jpg"}
    assert verify_folder(there, sources=False).differences == ()


def test_a_branch(moe: Path, hub: WritableHub) -> None:
    """It is made where it is not there, and `main` stays."""
    publish(moe)
    (moe / "README.md").write_text("# Mine\n\nmy own text\n")
    done = publish(moe, revision="v2")
    assert done.url == f"{hub.url}/jo/moe/tree/v2"
    assert (hub.branches["jo/moe", "v2"] / "README.md").read_text() == "# Mine\n\nmy own text\n"
    assert "A sparse mixture" in (hub.models["jo/moe"] / "README.md").read_text()


def test_a_private_one(moe: Path, hub: WritableHub) -> None:
    """`--private` makes one, and refuses one that everyone sees."""
    assert run("push", str(moe), "jo/mine", "--private", "-q")[0] == 0
    assert hub.private == {"jo/mine"}
    assert run("push", str(moe), "jo/mine", "--private", "-q")[0] == 0
    publish(moe, "jo/open")
    assert run("push", str(moe), "jo/open", "--private", "-q") == (1, "", (
        "error: `jo/open` exists, and everyone sees it\nhint: name another one, or make it private there\n"
    ))  # fmt: skip


def test_a_repository_made_in_the_browser(moe: Path, hub: WritableHub) -> None:
    """It holds a card with a licence and no text."""
    (hub.add("jo/moe") / "README.md").write_text("---\nlicense: mit\n---\n")
    publish(moe)
    assert verify_folder(hub.models["jo/moe"], sources=False).ok


def test_a_dry_run(moe: Path, figures: Path, hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with sizes and the card; neither a network nor a token is needed, and nothing is asked."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_TOKEN")
    status, out, err = run("push", str(moe), "jo/moe", "--eval", str(figures), "--dry-run")
    assert status == 0, err
    listed, card = out.split("; nothing was sent\n\n")
    named = {line.split()[-1] for line in listed.splitlines()[:-1]}
    assert named == {path.name for path in moe.iterdir()} | {
        "moemerge-gain.png",
    }
    assert "# moe\n" in card
    assert "## Results\n" in card
    assert "note: `moemerge.yaml` holds the recipe, its prompts too\n" in err
    assert hub.asked == []
    status, out, err = run("push", str(moe), "jo/moe", "--dry-run", "--json")
    assert json.loads(out)["files"]["config.json"] == (moe / "config.json").stat().st_size
    assert err == ""


def test_a_card_that_somebody_rewrote_is_theirs(moe: Path, hub: WritableHub) -> None:
    """Text, metadata and sections stay, and only what moemerge wrote itself is changed."""
    card = (moe / "README.md").read_text()
    (moe / "README.md").write_text(card.replace("## Gate", "## Mine\n\n```sh\n## no heading\n```\n\n## Gate"))
    status, _, err = run("push", str(moe), "jo/moe")
    assert status == 0
    assert "note: `README.md` was changed after the build; it is published as it is now\n" in err
    there = (hub.models["jo/moe"] / "README.md").read_text()
    assert "## Mine\n\n```sh\n## no heading\n```\n\n## Gate\n" in there
    assert 'model_id = "jo/moe"' in there


def test_names_of_paths_are_told_apart() -> None:
    """No two have one name, none becomes `base`, and what tells nothing stays."""
    record = {
        "sources": {"base": {"model": "/a/base"}, "x": {"model": "/a/x"}, "y": {"model": "~/b/x"}},
        "recipe": {
            "experts": [{"model": "org/name@v1", "prompts": ["/help me"], "data": {"path": "../texts/t.jsonl"}}]
        },
    }
    assert public_names(record) == {
        "/a/base": "base-2", "/a/x": "x", "~/b/x": "x-2", "../texts/t.jsonl": "t.jsonl",
    }  # fmt: skip


def test_a_build_of_hub_models_is_rebuilt_from_what_is_published(
    published: Path, hub: WritableHub, tmp_path: Path
) -> None:
    """The record that is published still leads to its sources on the hub."""
    hub.models |= {"jo/base": published.parent / "model-0", "jo/code": published.parent / "model-1"}
    out = api.build(recipe_of(Path("jo/base"), ["jo/code", "base"]), tmp_path / "out", root=tmp_path).path
    publish(out)
    there = Path(shutil.copytree(hub.models["jo/moe"], tmp_path / "download"))
    front = yaml.safe_load((there / "README.md").read_text().split("---\n")[1])
    assert front["base_model"] == ["jo/base", "jo/code"]
    found = verify_folder(there, strict=True)
    assert (found.differences, found.notes) == ((), ())
    assert figures_of(there)["record"] != figures_of(out)["record"]
