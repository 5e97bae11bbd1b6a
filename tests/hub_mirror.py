"""Small local mirror of the Hugging Face Hub."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "hf_abc"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Mirror(ThreadingHTTPServer):
    """Server whose repositories are folders, {"owner/name": folder}. It records the downloads.

    Uploads need the token `TOKEN`. New repositories are created as folders in `uploads`.
    """

    daemon_threads = True

    def __init__(self, repositories: dict[str, Path], uploads: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = repositories
        self.uploads = uploads
        self.downloads: list[str] = []
        self.private: dict[str, bool] = {}
        # What a hostile hub sends: the hash of the commit and of each file, the size that it states, and whether it
        # states the length of a file that it sends.
        self.commit = COMMIT
        self.etag: str | None = None
        self.stated_size: int | None = None
        self.states_length = True
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Handler for the requests that huggingface_hub sends. https://huggingface.co/docs/hub/api describes them."""

    server: Mirror

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.send(401, b'{"error": "Invalid username or password."}')
        match self.path.strip("/").split("/"):
            case ["api", "repos", "create"]:
                return self.create(json.loads(content))
            case ["api", "validate-yaml"]:
                return self.send(200, b'{"errors": [], "warnings": []}')
            case ["api", "models", owner, name, "preupload", "main"] if f"{owner}/{name}" in self.server.repositories:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(content)["files"]
                ]
                return self.send(200, json.dumps({"files": files}).encode())
            case ["api", "models", owner, name, "commit", "main"] if f"{owner}/{name}" in self.server.repositories:
                for line in map(json.loads, content.splitlines()):
                    if line["key"] == "file":
                        path = self.server.repositories[f"{owner}/{name}"] / line["value"]["path"]
                        path.parent.mkdir(exist_ok=True)
                        path.write_bytes(base64.b64decode(line["value"]["content"]))
                url = f"{self.server.url}/{owner}/{name}/commit/{COMMIT}"
                return self.send(200, json.dumps({"commitUrl": url, "commitOid": COMMIT}).encode())
        return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def create(self, settings: dict[str, Any]) -> None:
        name = f"{settings['organization']}/{settings['name']}"
        url = json.dumps({"url": f"{self.server.url}/{name}"}).encode()
        if name in self.server.repositories:
            return self.send(409, url)
        assert self.server.uploads is not None
        folder = self.server.uploads / name
        folder.mkdir(parents=True)
        self.server.repositories[name] = folder
        # The key depends on the version of huggingface_hub.
        self.server.private[name] = settings.get("private") is True or settings.get("visibility") == "private"
        return self.send(200, url)

    def answer(self, body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        owner, name, endpoint, revision, *subpath = [*(parts[2:] if is_api else parts), "", ""]
        folder = self.server.repositories.get(f"{owner}/{name}")
        file = folder and folder / "/".join(filter(None, subpath))
        if folder is None:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if is_api and not endpoint:  # a request without a revision
            endpoint, revision = "revision", "main"
        if revision not in ("main", COMMIT):
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if is_api and endpoint == "revision":
            sizes = [{"rfilename": entry.name, "size": entry.stat().st_size} for entry in folder.iterdir()]
            siblings = sizes if "blobs=" in self.path else []
            return self.send(200, json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}).encode())
        if is_api and endpoint == "tree":
            files = [
                {"type": "file", "path": entry.name, "size": entry.stat().st_size, "oid": digest(entry)[:40]}
                for entry in sorted(folder.iterdir())
                if entry.is_file()
            ]
            return self.send(200, json.dumps(files).encode())
        if endpoint == "resolve" and file is not None and file.is_file():
            if body:
                self.server.downloads.append(file.name)
            etag = self.server.etag or digest(file)[:40]
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.server.commit}
            if not body and self.server.stated_size is not None:
                headers["Content-Length"] = str(self.server.stated_size)
            return self.send(200, file.read_bytes(), headers, body, not body or self.server.states_length)
        return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def send(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        body: bool = True,
        states_length: bool = True,
    ) -> None:
        self.send_response(status)
        length = {"Content-Length": str(len(data))} if states_length else {}
        for name, value in {**length, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None: ...


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
