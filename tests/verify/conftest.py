"""Built folders, each made once by the real build, and copies of them to tamper with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import xxhash
import yaml

from moemerge.verify import verify_folder
from tests.conftest import TinyMaker
from tests.hosts import HOSTS
from tests.moe import build_tiny

Builder = Callable[..., Path]


@pytest.fixture(scope="session")
def built(tiny: TinyMaker, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Makes `built(host, config, **recipe)`: three experts (or `experts`) of the host's family, once for each set."""
    root = tmp_path_factory.mktemp("built")
    made: dict[str, Path] = {}

    def make(
        host: str = "mixtral", config: dict[str, Any] | None = None, experts: Sequence[int] = (1, 2, 3), **fields: Any
    ) -> Path:
        fields = {"architecture": host, **fields}
        key = repr((host, config, experts, fields))
        if key not in made:
            family, settings = HOSTS[host].dense, HOSTS[host].settings | (config or {})
            models = [tiny(family, seed, **settings) for seed in experts]
            base = tiny(family, 0, **settings)
            made[key] = build_tiny(root / f"{host}-{len(made)}", base, models, **fields)
        return made[key]

    return make


class Folder:
    """A built folder whose bytes can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def shard_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        index = self.path / "model.safetensors.index.json"
        if not index.exists():
            return self.path / "model.safetensors"
        shard: str = json.loads(index.read_text())["weight_map"][name]
        return self.path / shard

    def place(self, name: str) -> tuple[Path, int, int]:
        """File, offset and length of a tensor's bytes."""
        path = self.shard_of(name)
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
        return path, 8 + length + begin, end - begin

    def read(self, name: str) -> bytes:
        """A tensor's bytes."""
        path, offset, length = self.place(name)
        return path.read_bytes()[offset : offset + length]

    def write(self, name: str, data: bytes, at: int = 0) -> None:
        """Overwrites some of a tensor's bytes."""
        path, offset, _ = self.place(name)
        whole = bytearray(path.read_bytes())
        whole[offset + at : offset + at + len(data)] = data
        path.write_bytes(whole)

    def flip(self, name: str, byte: int, bit: int = 0) -> None:
        """Flips one bit of a tensor."""
        self.write(name, bytes([self.read(name)[byte] ^ (1 << bit)]), byte)

    def swap(self, first: str, second: str) -> None:
        """Exchanges two tensors' bytes."""
        one, other = self.read(first), self.read(second)
        self.write(first, other)
        self.write(second, one)

    def edit(self, file: str, change: Callable[[Any], None]) -> None:
        """Changes a JSON file."""
        parsed = json.loads((self.path / file).read_text(encoding="utf-8"))
        change(parsed)
        (self.path / file).write_text(json.dumps(parsed, indent=2), encoding="utf-8")

    def record(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Changes the record."""
        path = self.path / "moemerge.yaml"
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
        change(record)
        path.write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")

    def record_file(self, name: str) -> None:
        """Forges the record: it lists a file as it is now."""
        digest = xxhash.xxh3_128_hexdigest((self.path / name).read_bytes())
        self.record(lambda record: record["files"].update({name: digest}))

    def differences(self, **options: Any) -> list[str]:
        """What verification says."""
        return [f"{d.where}: {d.message}" for d in verify_folder(self.path, **options).differences]


def set_value(*keys: str, value: Any) -> Callable[[Any], None]:
    """A change of a JSON object for `Folder.edit`: one value, by its keys from the outside in."""

    def change(config: Any) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


@pytest.fixture
def tampered(built: Builder, tmp_path: Path) -> Callable[..., Folder]:
    """Makes `tampered(host, config, **recipe)`: a copy of a built folder."""

    def make(*args: Any, **fields: Any) -> Folder:
        return Folder(Path(shutil.copytree(built(*args, **fields), tmp_path / "out")))

    return make


@pytest.fixture
def movable(tiny: TinyMaker, tmp_path: Path) -> Path:
    """A folder built from sources of its own, beside it, named relative to it."""
    for name, seed in (("base", 0), ("one", 1), ("two", 2)):
        shutil.copytree(tiny("llama", seed), tmp_path / name)
    return build_tiny(tmp_path / "out", Path("base"), ["one", "two"])
