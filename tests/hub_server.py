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
    """`repos[repo_id][path]` is a file's content; `private[repo_id]` what create_repo asked for.

    `tag` keeps what a repository holds now under a name; `requests` are the paths that were asked for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.lfs: dict[str, bytes] = {}
        self.tags: dict[tuple[str, str], dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.gated: set[str] = set()

    def put(self, repo_id: str, folder: Path) -> None:
        """Make a repository of a folder's files."""
        files = [path for path in folder.rglob("*") if path.is_file()]
        self.repos[repo_id] = {str(path.relative_to(folder)): path.read_bytes() for path in files}
        self.private.setdefault(repo_id, False)

    def tag(self, repo_id: str, name: str) -> None:
        """Keep the content of now as a revision of this name."""
        self.tags[repo_id, name] = dict(self.repos[repo_id])

    def at(self, repo_id: str, revision: str | None) -> dict[str, bytes] | None:
        """Content at a branch, tag or commit; `None` where there is no such revision."""
        if revision in (None, "main", self.sha(repo_id)):
            return self.repos[repo_id]
        for (repo, name), files in self.tags.items():
            if repo == repo_id and revision in (name, self.sha(repo_id, files)):
                return files
        return None

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

    def sha(self, repo_id: str, files: dict[str, bytes] | None = None) -> str:
        """The repository's commit: it changes with any content."""
        digest = hashlib.sha1(repo_id.encode(), usedforsecurity=False)
        for path, content in sorted((self.repos[repo_id] if files is None else files).items()):
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
        self.server.requests.append(path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            self._tree(match[1], match[2])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._info(match[1], match[2])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3])
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

    def _info(self, repo_id: str, revision: str | None) -> None:
        files = self._files(repo_id, revision)
        if files is not None:
            siblings = [{"rfilename": path} for path in files]
            private, sha = self.server.private[repo_id], self.server.sha(repo_id, files)
            self._json({"id": repo_id, "sha": sha, "private": private, "siblings": siblings})

    def _tree(self, repo_id: str, revision: str) -> None:
        files = self._files(repo_id, revision)
        if files is not None:
            rows = [(path, len(content), _etag(content)) for path, content in files.items()]
            self._json([{"type": "file", "path": path, "size": size, "oid": oid} for path, size, oid in rows])

    def _file(self, repo_id: str, revision: str, path: str) -> None:
        files = self._files(repo_id, revision)
        if files is None:
            return
        if path not in files:
            return self._missing("Entry")
        headers = {"X-Repo-Commit": self.server.sha(repo_id, files), "ETag": f'"{_etag(files[path])}"'}
        self._answer(files[path], "application/octet-stream", headers=headers)

    def _files(self, repo_id: str, revision: str | None) -> dict[str, bytes] | None:
        """Content at a revision; `None` once it is answered that there is none."""
        if repo_id in self.server.gated:
            return self._json({"error": "gated"}, 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        files = self.server.at(repo_id, revision) if repo_id in self.server.repos else None
        if files is None:
            self._missing("Revision" if repo_id in self.server.repos else "Repo")
        return files

    def _missing(self, what: str) -> None:
        self._json({"error": "not found"}, 404, {"X-Error-Code": f"{what}NotFound", "X-Error-Message": "not found"})

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._answer(json.dumps(value).encode(), "application/json", status, headers)

    def _answer(self, content: bytes, kind: str, status: int = 200, headers: dict[str, str] | None = None) -> None:
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
