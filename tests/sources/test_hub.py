"""Models on the hub: only what is needed is fetched, the cache is used offline, and each failure is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moemerge.errors import SourceError
from moemerge.sources import open_checkpoint
from tests.sources.conftest import make_adapter
from tests.sources.fake_hub import COMMIT, FakeHub


@pytest.fixture(scope="module")
def published(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What lies on the hub: a model beside much that nobody needs, sharded, pickled, and an adapter."""
    root = tmp_path_factory.mktemp("published")
    models = {name: root / name for name in ("org/single", "org/sharded", "org/pickled", "org/adapter")}
    tensors = load_file(llama / "model.safetensors")
    for name in ("org/single", "org/sharded", "org/pickled"):
        shutil.copytree(llama, models[name])
        (models[name] / "README.md").write_text("---\nlicense: mit\n---\n")
        (models[name] / "modeling_evil.py").write_text("raise SystemExit")
        (models[name] / "consolidated.safetensors").write_bytes(b"as large as the model")
        (models[name] / "original").mkdir()
        (models[name] / "original" / "params.json").write_text("{}")
    torch.save(tensors, models["org/single"] / "pytorch_model.bin")
    torch.save(tensors, models["org/pickled"] / "pytorch_model.bin")
    (models["org/pickled"] / "model.safetensors").unlink()
    sharded, names = models["org/sharded"], sorted(tensors)
    (sharded / "model.safetensors").unlink()
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, sharded / f"part[{number}].safetensors")
        weight_map |= dict.fromkeys(part, f"part[{number}].safetensors")
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    make_adapter(llama, models["org/adapter"])
    return models


@pytest.fixture
def hub(published: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A running hub and an empty cache."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with FakeHub(dict(published)).running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


def refusal(spec: str, root: Path, **settings: Any) -> SourceError:
    with pytest.raises(SourceError) as caught:
        open_checkpoint(spec, root=root, **settings)
    return caught.value


def test_only_what_is_needed_is_fetched(hub: FakeHub, tmp_path: Path, llama: Path) -> None:
    """Config, tokenizer, licence, card and safetensors; no pickles, no code, no second copy of the weights."""
    opened = open_checkpoint("org/single", root=tmp_path)
    assert sorted(hub.fetched) == [
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert (opened.kind, opened.revision, opened.licence) == ("hub", COMMIT, "mit")
    assert opened.location == tmp_path / "cache" / "models--org--single" / "snapshots" / COMMIT
    for name, value in load_file(llama / "model.safetensors").items():
        assert torch.equal(opened.read(name), value)
        assert opened.bytes_of(name) is not None
    fetched = len(hub.fetched)
    assert open_checkpoint("org/single@main", root=tmp_path).digest() == opened.digest()
    assert len(hub.fetched) == fetched, "the second time comes from the cache"


def test_shards_are_those_that_the_index_names(hub: FakeHub, tmp_path: Path, llama: Path) -> None:
    """Whatever the shards are called, and nothing beside them."""
    opened = open_checkpoint(f"org/sharded@{COMMIT}", root=tmp_path)
    weights = sorted(name for name in hub.fetched if name.endswith(".safetensors"))
    assert weights == ["part[0].safetensors", "part[1].safetensors"]
    assert set(opened.tensors) == set(load_file(llama / "model.safetensors"))


def test_configs_only_reads_headers_over_the_network(hub: FakeHub, tmp_path: Path, llama: Path) -> None:
    """Shapes come by ranged requests; the weights stay where they are and cannot be read."""
    for name in ("org/single", "org/sharded"):
        opened = open_checkpoint(name, root=tmp_path, configs_only=True)
        expected = open_checkpoint(str(llama), root=tmp_path)
        assert {n: i.shape for n, i in opened.tensors.items()} == {n: i.shape for n, i in expected.tensors.items()}
        assert opened.bytes_of("lm_head.weight") is None
        assert len(opened.digest()) == 32
        with pytest.raises(SourceError) as caught:
            opened.read("lm_head.weight")
        assert caught.value.message == (
            f"Model `{name}` was opened without its weights, so `lm_head.weight` cannot be read"
        )
    assert all("bytes=" in name for name in hub.fetched if name.endswith(".safetensors") or ".safetensors " in name)
    assert not open_checkpoint("org/pickled", root=tmp_path, configs_only=True).has_weights


def test_adapters(hub: FakeHub, tmp_path: Path, llama: Path) -> None:
    """An adapter on the hub is folded into the base, and named as `MODEL+ADAPTER` too."""
    base = open_checkpoint(str(llama), root=tmp_path)
    opened = open_checkpoint("org/adapter", root=tmp_path, base=base)
    assert (opened.kind, opened.revision) == ("adapter", COMMIT)
    assert "adapter_model.safetensors" in hub.fetched
    both = open_checkpoint("org/single@main+org/adapter", root=tmp_path)
    assert both.spec == "org/single@main+org/adapter"
    name = "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(both.read(name), opened.read(name))
    assert open_checkpoint("org/adapter", root=tmp_path, base=base, configs_only=True).has_weights


def test_pickles(hub: FakeHub, tmp_path: Path) -> None:
    """Refused without being fetched; fetched where they are allowed."""
    error = refusal("org/pickled", tmp_path)
    assert error.message == (
        "Model `org/pickled` has its weights in pickled `.bin` files only, which can run code when they are read"
    )
    assert not [name for name in hub.fetched if name.endswith(".bin")]
    assert open_checkpoint("org/pickled", root=tmp_path, allow_pickle=True).kind == "pickle"
    assert hub.fetched[-1] == "pytorch_model.bin"


def test_absent_gated_and_wrong_revision(hub: FakeHub, tmp_path: Path) -> None:
    """Each is told from the others, with what mends it."""
    (tmp_path / "adapters" / "code").mkdir(parents=True)
    error = refusal("adapters/cod", tmp_path)
    assert error.message == (
        "Model `adapters/cod` is neither a folder nor a model on the hub that you may see: there is no "
        f"`{tmp_path}/adapters/cod`"
    )
    assert error.hint == "did you mean `adapters/code`?"
    error = refusal("org/nothing", tmp_path)
    assert error.hint == "check the spelling; a private model needs `hf auth login` or `HF_TOKEN`"
    error = refusal("org/single@v9", tmp_path)
    assert error.message == "Model `org/single@v9` has no revision `v9` on the hub"
    assert error.hint == "see https://huggingface.co/org/single/commits/main"
    hub.gated.add("org/single")
    error = refusal("org/single", tmp_path)
    assert error.message == "Model `org/single` is gated: its authors ask you to accept their terms first"
    assert error.hint == (
        "accept them at https://huggingface.co/org/single, then run `hf auth login` or set `HF_TOKEN`"
    )


@pytest.mark.parametrize("status", [418, 451])
def test_other_answers(status: int, hub: FakeHub, tmp_path: Path) -> None:
    """The status is said."""
    hub.errors["org/single"] = (status, "Teapot")
    error = refusal("org/single", tmp_path)
    assert error.message == f"Model `org/single` cannot be downloaded: the hub answered {status}"


def test_no_network(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the cause is said; what is in the cache still opens."""
    open_checkpoint("org/single", root=tmp_path)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    assert open_checkpoint("org/single", root=tmp_path).has_weights
    error = refusal("org/other", tmp_path)
    assert error.message.startswith(
        "Model `org/other` is neither a folder nor in the hub's cache, and the hub cannot be reached: "
    )
    assert error.hint == "check the network, or name a local folder"


def test_offline(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline mode opens from the cache, by argument or by the environment, and says when something is not there."""
    for settings in ({"offline": True}, {}):
        if not settings:
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        error = refusal("org/single", tmp_path, **settings)
        assert error.message == "Model `org/single` is neither a folder nor in the hub's cache, and offline mode is on"
        assert error.hint == "unset `HF_HUB_OFFLINE` to download it, or name a local folder"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    open_checkpoint("org/single", root=tmp_path, configs_only=True)
    error = refusal("org/single", tmp_path, offline=True)
    assert error.message == "Model `org/single` is only partly in the hub's cache, and offline mode is on"
    open_checkpoint("org/single", root=tmp_path)
    count = len(hub.fetched)
    opened = open_checkpoint("org/single", root=tmp_path, offline=True)
    assert (opened.revision, opened.has_weights, len(hub.fetched)) == (COMMIT, True, count)
    assert open_checkpoint("org/single", root=tmp_path, offline=True, configs_only=True).files == opened.files


def test_a_cache_that_someone_else_filled(llama: Path, tmp_path: Path) -> None:
    """In a fresh process with `HF_HUB_OFFLINE=1`, a cache of the usual layout is enough."""
    repository = tmp_path / "hub" / "models--org--name"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for number, path in enumerate(sorted(llama.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    code = (
        "from pathlib import Path; from moemerge.sources import open_checkpoint;"
        "model = open_checkpoint('org/name', root=Path('.'));"
        "place = model.bytes_of('lm_head.weight');"
        "print(model.kind, model.revision, len(model.tensors), place.path.parent.name)"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub"), "PATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=Path.cwd()
    )
    assert result.stdout.split() == ["hub", COMMIT, "21", "blobs"]
