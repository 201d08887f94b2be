"""A hub on this machine: what huggingface_hub asks for to list and to download the models of a folder."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = "/api/models/"


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may leave before the answer."""


class FakeHub:
    """What it serves, and what it was asked for.

    Attributes:
        models: folders by id.
        denied: ids whose files (not their list) it refuses, with status and error code.
        delay: seconds before each answer.
        files: downloaded, `id/name`.
        tokens: that came with requests.
    """

    def __init__(self, models: dict[str, Path]) -> None:
        self.models, self.denied, self.delay = dict(models), dict[str, tuple[int, str]](), 0.0
        self.files: list[str] = []
        self.tokens: set[str | None] = set()
        self.num_requests, self.address = 0, ""


@contextmanager
def serve(models: dict[str, Path]) -> Iterator[FakeHub]:
    hub = FakeHub(models)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.num_requests += 1
            hub.tokens.add(self.headers.get("Authorization"))
            time.sleep(hub.delay)
            path = unquote(urlsplit(self.path).path)
            model = "/".join(path.removeprefix(API).strip("/").split("/")[:2])
            if model not in hub.models:
                self.answer(404, X_Error_Code="RepoNotFound")
            elif path.startswith(API):
                self.list_files(model, path.removeprefix(f"{API}{model}"))
            else:
                self.send_file(model, *path.removeprefix(f"/{model}/resolve/").split("/", 1))

        def list_files(self, model: str, what: str) -> None:
            folder = hub.models[model]
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            if what.startswith("/tree/"):
                entries = [
                    {
                        "type": "file",
                        "path": name,
                        "size": (folder / name).stat().st_size,
                        "oid": etag(folder / name),
                    }
                    for name in names
                ]
                self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")
            elif what in ("", "/revision/main", f"/revision/{COMMIT}"):
                files = [{"rfilename": name, "size": (folder / name).stat().st_size} for name in names]
                info = {"id": model, "modelId": model, "sha": COMMIT, "siblings": files, "tags": []}
                self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
            else:
                self.answer(404, X_Error_Code="RevisionNotFound")

        def send_file(self, model: str, revision: str, name: str) -> None:
            path = hub.models[model] / name
            if model in hub.denied:
                status, code = hub.denied[model]
                self.answer(status, b"", **({"X_Error_Code": code} if code else {}))
            elif not path.is_file():
                self.answer(404, X_Error_Code="EntryNotFound")
            else:
                if self.command == "GET":
                    hub.files.append(f"{model}/{name}")
                headers = {"ETag": f'"{etag(path)}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
                self.answer(200, path.read_bytes(), **headers)

    server = _QuietServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
