"""A hub that can be written to: the endpoints that `huggingface_hub` asks when it publishes, on a local port."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.sources.fake_hub import FakeHub, Handler

TOKEN = "hf_" + "abcdefghij" * 4
LICENCES = {"apache-2.0", "mit", "llama3", "other"}
"""Some of https://huggingface.co/docs/hub/repositories-licenses."""


@dataclass
class WritableHub(FakeHub):
    """One user, `jo`, who may write to `jo/…` and to nothing else."""

    root: Path = Path()
    role: str = "write"
    private: set[str] = field(default_factory=set)
    branches: dict[tuple[str, str], Path] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Large files by their sha256; those that were sent by Xet, in blocks, are not among them."""
    sent: list[str] = field(default_factory=list)
    """Digests of the large files, or of Xet's blocks of them, in the order in which they came."""
    asked: list[str] = field(default_factory=list)
    """Method and path of each request that could change something."""
    commits: list[list[str]] = field(default_factory=list)
    """The files of each commit."""
    stall: int | None = None
    """After so many of these, the next one is not answered before `release` is set."""
    stalled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Status and text for requests whose path holds the key."""

    def head(self, folder: Path) -> str:
        """The commit that a branch is at: a digest of all that it holds."""
        state = hashlib.sha1()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            state.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
        return state.hexdigest()

    def add(self, model: str) -> Path:
        """A new repository, as the hub makes it."""
        folder = self.root / model
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        self.models[model] = folder
        return folder


class Writable(Handler):
    """What the user's client asks."""

    state: WritableHub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        if self.path == "/api/whoami-v2":
            if self._known():
                account = {"type": "user", "name": "jo", "orgs": [], "auth": {"accessToken": {"role": self.state.role}}}
                self._json(account)
        elif "/xet-write-token/" in path:
            self._json({"accessToken": "x", "exp": int(time.time()) + 3600, "casUrl": self.state.url})
        elif re.fullmatch(r"api/models/[^/]+/[^/]+(/revision/[^/]+)?", path):
            parts = path.split("/")
            model, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 4 else "main"
            folder = self._folder(model, revision)
            if folder is not None:
                self._json({"id": model, "sha": self.state.head(folder), "private": model in self.state.private})
        else:
            super().do_GET()

    def _folder(self, model: str, revision: str) -> Path | None:
        heads = {self.state.head(f): f for (m, _), f in self.state.branches.items() if m == model}
        folder = self.state.branches.get((model, revision)) or heads.get(revision)
        main = self.state.models.get(model)
        if main is not None and revision == self.state.head(main):
            folder = main
        if folder is not None and model not in self.state.errors:
            return folder
        return super()._folder(model, revision)

    def _commit_of(self, folder: Path) -> str:
        return self.state.head(folder)

    def do_PUT(self) -> None:
        data = self._body()
        digest = hashlib.sha256(data).hexdigest()
        if self._takes(digest):
            self.state.blobs[digest] = data
            self._send(200, b"", {})

    def _takes(self, digest: str) -> bool:
        """Whether a large file is taken; where the server stalls, its connection breaks in the end."""
        if self.state.stall is None or len(self.state.sent) < self.state.stall:
            self.state.sent.append(digest)
            return True
        self.state.stalled.set()
        self.state.release.wait(60)
        self.close_connection = True
        return False

    def _xet(self, path: str) -> None:
        """The storage of Xet, https://huggingface.co/docs/xet/api, as far as version 1: takes all blocks."""
        version, kind, *rest = path.strip("/").split("/")
        if version != "v1" or kind not in ("xorbs", "shards", "telemetry"):
            self._send(404, b"{}", {})
        elif kind != "xorbs" or self._takes(rest[-1]):
            self._json({"was_inserted": True, "result": 1})

    def do_POST(self) -> None:
        body, path = self._body(), self.path.partition("?")[0]
        if re.match("/v[0-9]/", path):
            self._xet(path)
            return
        self.state.asked.append(path)
        answer = next((value for key, value in self.state.answers.items() if key in path), None)
        if answer is not None:
            self._send(answer[0], answer[1].encode(), {"X-Error-Message": answer[1]})
        elif path == "/api/validate-yaml":
            wrong = "; ".join(wrong_metadata(json.loads(body)["content"]))
            self._send(400 if wrong else 200, wrong.encode() or b"{}", {})
        elif self._known():
            self._write(path, body)

    def _known(self) -> bool:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, b"{}", {"X-Error-Message": "Invalid user token"})
            return False
        return True

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _write(self, path: str, body: bytes) -> None:
        if path == "/api/repos/create":
            self._create(json.loads(body))
            return
        parts = path.removeprefix("/api/models").strip("/").removesuffix(".git/info/lfs/objects/batch").split("/")
        model, action, revision = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "", parts[-1]
        if not model.startswith("jo/"):
            self._send(403, b"{}", {"X-Error-Message": f"You may not write to {model}"})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body)["objects"])
        elif action == "branch":
            self.state.branches[model, revision] = Path(
                shutil.copytree(self.state.models[model], self.state.root / f"{model}@{revision}")
            )
            self._json({})
        elif (folder := self._folder(model, revision)) is not None and action == "preupload":
            self._json({"files": [self._mode(folder, file) for file in json.loads(body)["files"]]})
        elif folder is not None:
            self._commit(model, folder, [json.loads(line) for line in body.splitlines()])

    def _create(self, wanted: dict[str, Any]) -> None:
        model = f"{wanted.get('organization') or 'jo'}/{wanted['name']}"
        if not model.startswith("jo/"):
            self._send(403, b"{}", {"X-Error-Message": "You may not make models there"})
            return
        self.state.add(model)
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.state.private.add(model)
        self._json({"url": f"{self.state.url}/{model}"})

    def _mode(self, folder: Path, file: dict[str, Any]) -> dict[str, Any]:
        """Weights are large files, whatever their size; the id of what is there already is git's."""
        name = file["path"]
        large = name.endswith((".safetensors", ".gguf", ".png"))
        found = {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        if (folder / name).is_file():
            data = (folder / name).read_bytes()
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            found["oid"] = hashlib.sha256(data).hexdigest() if large else git
        return found

    def _batch(self, objects: list[dict[str, Any]]) -> None:
        """Where to send what is not there yet."""
        here = self.state.url
        answer = [
            {**one, **({} if one["oid"] in self.state.blobs else {"actions": {"upload": {"href": f"{here}/blob"}}})}
            for one in objects
        ]
        self._json({"objects": answer, "transfer": "basic"})

    def _commit(self, model: str, folder: Path, lines: list[dict[str, Any]]) -> None:
        header, *operations = lines
        parent = header["value"].get("parentCommit")
        if parent is not None and parent != self.state.head(folder):
            self._send(412, b"{}", {"X-Error-Message": "A commit has happened since"})
            return
        for operation in operations:
            value = operation["value"]
            path = folder / value["path"]
            if operation["key"] == "deletedFile":
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if operation["key"] == "file":
                path.write_bytes(base64.b64decode(value["content"]))
            else:
                path.write_bytes(self.state.blobs.get(value["oid"], value["oid"].encode()))
        self.state.commits.append([one["value"]["path"] for one in operations])
        head = self.state.head(folder)
        self._json({"commitOid": head, "commitUrl": f"{self.state.url}/{model}/commit/{head}", "success": True})


WritableHub.handler = Writable


def wrong_metadata(card: str) -> Iterator[str]:
    """What the hub refuses in a card's metadata, by https://huggingface.co/docs/hub/model-cards."""
    front = yaml.safe_load(card.split("---\n")[1]) if card.startswith("---\n") else {}
    if front.get("license", "mit") not in LICENCES:
        yield f'"license" must be one of [{", ".join(sorted(LICENCES))}]'
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", front.get("license_name", "mit")):
        yield '"license_name" must be an id such as my-license-1.0'
    if front.get("base_model_relation", "merge") not in ("merge", "finetune", "adapter", "quantized"):
        yield '"base_model_relation" must be one of [merge, finetune, adapter, quantized]'
    for key, pattern in (("base_model", r"[\w.-]+/[\w.-]+"), ("language", r"[a-z]{2,3}|code|multilingual"),
                         ("datasets", r"[\w.-]+(/[\w.-]+)?"), ("tags", r"[^\n]{1,60}")):  # fmt: skip
        for one in front.get(key, []):
            if not re.fullmatch(pattern, one):
                yield f'"{key}" holds {one!r}'
    for entry in front.get("model-index", []):
        for result in entry["results"]:
            if not {"task", "dataset", "metrics"} <= result.keys() or not {"type", "name"} <= result["dataset"].keys():
                yield '"model-index" lacks a task, a data set or a metric'
            if not all(isinstance(metric["value"], int | float) for metric in result["metrics"]):
                yield '"model-index" holds a value that is not a number'
