"""A hub of one's own: the few endpoints that `huggingface_hub` asks when it downloads a model, on a local port."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

COMMIT = "a" * 40


@dataclass
class FakeHub:
    """Models by id, each a folder; `errors` answers a model with a status and an error code instead."""

    models: dict[str, Path]
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    """Models whose listing is public and whose files are not."""
    fetched: list[str] = field(default_factory=list)
    """Files that were sent, in order; ranged requests with their range."""
    cut: dict[str, int] = field(default_factory=dict)
    """Files that break off after so many bytes, once each."""
    url: str = ""
    handler: ClassVar[type[Handler]]

    @contextmanager
    def running(self) -> Iterator[FakeHub]:
        """Serves until the block ends."""
        handler = type("Handler", (self.handler,), {"state": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)  # seconds between looks
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    state: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0]).strip("/")
        if path.startswith("api/models/"):
            self._api(path.removeprefix("api/models/"))
        else:
            self._file(path)

    def _api(self, path: str) -> None:
        parts = path.split("/")
        model, action, revision = "/".join(parts[:2]), parts[2], parts[3]
        folder = self._folder(model, revision)
        if folder is None:
            return
        files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        if action == "revision":
            self._json({"id": model, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
        else:
            self._json(
                [
                    {"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": _etag(folder / n)}
                    for n in files
                ]
            )

    def _file(self, path: str) -> None:
        parts = path.split("/")
        if len(parts) < 5:  # what the library asks of its own accord, such as `api/agent-harnesses`
            self._error(404, "EntryNotFound")
            return
        model, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        folder = self._folder(model, revision)
        if folder is None:
            return
        if model in self.state.gated:
            self._error(403, "GatedRepo")
            return
        if not (folder / name).is_file():
            self._error(404, "EntryNotFound")
            return
        data, status = (folder / name).read_bytes(), 200
        headers = {
            "ETag": f'"{_etag(folder / name)}"',
            "X-Repo-Commit": self._commit_of(folder),
            "Accept-Ranges": "bytes",
        }
        asked = self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            whole = len(data)
            data, status = data[int(first) : int(last) + 1 if last else whole], 206
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(data) - 1}/{whole}"
        if self.command == "GET":
            self.state.fetched.append(name + (f" {asked}" if asked else ""))
        most = self.state.cut.pop(name, None) if self.command == "GET" else None
        self._send(status, data, headers, most)

    def _folder(self, model: str, revision: str) -> Path | None:
        if model in self.state.errors:
            self._error(*self.state.errors[model])
        elif model not in self.state.models:
            self._error(401, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._error(404, "RevisionNotFound")
        else:
            return self.state.models[model]
        return None

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str], most: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:most])
        if most is not None:
            self.close_connection = True

    def _commit_of(self, folder: Path) -> str:
        return COMMIT


FakeHub.handler = Handler


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
