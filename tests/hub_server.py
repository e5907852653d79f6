"""A Hub of a few endpoints on 127.0.0.1: create, upload (regular and LFS) and download, kept in memory, bounded."""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

MAX_BODY = 64 * 2**20


class HubServer(ThreadingHTTPServer):
    """`repos[repo_id][path]` is a file's content; `private[repo_id]` what create_repo asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.lfs: dict[str, bytes] = {}

    def environment(self, home: Path) -> dict[str, str]:
        """The environment of a process for which this server is the Hub."""
        own = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))
        }
        return inherited | own

    def sha(self, repo_id: str) -> str:
        """The repository's commit: it changes with any content."""
        digest = hashlib.sha1(repo_id.encode(), usedforsecurity=False)
        for path, content in sorted(self.repos[repo_id].items()):
            digest.update(path.encode() + b"\0" + hashlib.sha1(content, usedforsecurity=False).digest())
        return digest.hexdigest()


@contextmanager
def running_hub() -> Iterator[HubServer]:
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/[^/]+", path):
            self._preupload(json.loads(body), match[1])
        elif match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            upload = [
                {**entry, "actions": {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": upload})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/[^/]+", path):
            self._commit([json.loads(line) for line in body.splitlines()], match[1])
        else:
            self._json({"error": f"no endpoint {path}"}, 404)

    def do_PUT(self) -> None:
        content = self._body()
        oid = self.path.removeprefix("/lfs/")
        matches = hashlib.sha256(content).hexdigest() == oid
        if matches:
            self.server.lfs[oid] = content
        self._json({}, 200 if matches else 400)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            self._tree(match[1])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            self._info(match[1])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._file(match[1], match[2])
        else:
            self._json({"error": f"no endpoint {path}"}, 404)

    do_HEAD = do_GET

    def _create(self, request: dict) -> None:
        repo_id = f"{request['organization'] or 'someone'}/{request['name']}"
        status = 409 if repo_id in self.server.repos else 200
        self.server.repos.setdefault(repo_id, {})
        self.server.private.setdefault(repo_id, request.get("visibility") == "private")
        self._json({"url": f"{self.server.url}/{repo_id}", "id": repo_id}, status)

    def _preupload(self, request: dict, repo_id: str) -> None:
        if repo_id not in self.server.repos:
            return self._missing("Repo")
        large = (".safetensors", ".png", ".bin")
        modes = {f["path"]: "lfs" if f["path"].endswith(large) else "regular" for f in request["files"]}
        self._json({"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]})

    def _commit(self, lines: list[dict], repo_id: str) -> None:
        repo = self.server.repos[repo_id]
        for line in lines:
            if line["key"] == "file":
                repo[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                repo[line["value"]["path"]] = self.server.lfs[line["value"]["oid"]]
        sha = self.server.sha(repo_id)
        self._json({"commitUrl": f"{self.server.url}/{repo_id}/commit/{sha}", "commitOid": sha})

    def _info(self, repo_id: str) -> None:
        if repo_id not in self.server.repos:
            return self._missing("Repo")
        siblings = [{"rfilename": path} for path in self.server.repos[repo_id]]
        private = self.server.private[repo_id]
        self._json({"id": repo_id, "sha": self.server.sha(repo_id), "private": private, "siblings": siblings})

    def _tree(self, repo_id: str) -> None:
        if repo_id not in self.server.repos:
            return self._missing("Repo")
        files = self.server.repos[repo_id].items()
        self._json(
            [{"type": "file", "path": path, "size": len(content), "oid": _etag(content)} for path, content in files]
        )

    def _file(self, repo_id: str, path: str) -> None:
        if repo_id not in self.server.repos:
            return self._missing("Repo")
        if path not in self.server.repos[repo_id]:
            return self._missing("Entry")
        content = self.server.repos[repo_id][path]
        headers = {"X-Repo-Commit": self.server.sha(repo_id), "ETag": f'"{_etag(content)}"'}
        self._answer(content, "application/octet-stream", headers=headers)

    def _missing(self, what: str) -> None:
        self._json({"error": "not found"}, 404, {"X-Error-Code": f"{what}NotFound", "X-Error-Message": "not found"})

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._answer(json.dumps(value).encode(), "application/json", status, headers)

    def _answer(
        self, content: bytes, kind: str, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:  # fmt: skip
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            return self._chunks()
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY:
            raise ValueError(f"a body of {length} bytes: this server is for tiny models")
        return self.rfile.read(length)

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
            if len(body) > MAX_BODY:
                raise ValueError("a body without an end: this server is for tiny models")
        self.rfile.readline()
        return body

    def log_message(self, format: str, *args: object) -> None:
        pass


def _etag(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
