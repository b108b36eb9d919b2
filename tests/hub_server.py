"""A Hub on this machine that the real `huggingface_hub` client talks to over HTTP: repositories, uploads, downloads.

    with HubServer() as hub:
        subprocess.run([...], env={**os.environ, **hub.environment(tmp_path)})
    assert hub.repos["dataset", "me/faces"].files["README.md"]

The client reads its settings when it is imported, so what is tested runs in a process of its own.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_API = re.compile(r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/(preupload|commit|tree|revision)/([^/]+))?(?:/.*)?")
_FILE = re.compile(r"/(datasets/|spaces/|)([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_LFS = re.compile(r"/(?:datasets/|spaces/|)[^/]+/[^/]+\.git/info/lfs/objects/batch")


@dataclass
class Repo:
    """What was pushed: contents by path, messages of the commits."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr((self.commits, sorted(self.files))).encode()).hexdigest()


class HubServer:
    """A loopback Hub. `repos` is by (type, id), `calls` lists "METHOD path"; the account is `me`."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.calls: list[str] = []
        self.objects: dict[str, bytes] = {}  # LFS, by SHA-256
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables for a process that takes this for the Hub; its caches go to `home`."""
        settings = {"HF_ENDPOINT": self.url, "HF_TOKEN": "hf_nobody", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        return settings | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if _LFS.fullmatch(self.path):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        kind, repo, action = self._repo()
        if action == "preupload" and repo:
            files = [
                {"path": f["path"], "uploadMode": "lfs" if _is_large(f["path"]) else "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        if action == "commit" and repo:
            for line in map(json.loads, body.splitlines()):
                self._apply(repo, line["key"], line["value"])
            return self._json({"commitUrl": f"{self.hub.url}/{kind}/commit/{repo.sha}", "commitOid": repo.sha})
        return self._missing()

    def do_PUT(self) -> None:
        body = self._body()
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() != oid:
            return self._json({"error": "wrong content"}, 400)
        self.hub.objects[oid] = body
        return self._json({})

    def do_GET(self) -> None:
        self._body()
        path = urlsplit(self.path).path
        if path == "/api/whoami-v2":
            return self._json({"type": "user", "name": "me", "orgs": []})
        if found := _FILE.fullmatch(path):
            kind = next(k for k, prefix in _PREFIXES.items() if prefix == found[1])
            return self._file(self.hub.repos.get((kind, found[2])), unquote(found[4]))
        kind, repo, action = self._repo()
        if repo is None:
            return self._missing()
        if action == "tree":
            return self._json([_entry(name, data) for name, data in sorted(repo.files.items())])
        siblings = [{"rfilename": name} for name in sorted(repo.files)]
        facts = {"id": kind, "sha": repo.sha, "private": repo.private, "siblings": siblings, "tags": []}
        return self._json({**facts, "modelId": kind, "downloads": 0, "likes": 0, "gated": False, "disabled": False})

    do_HEAD = do_GET

    def _create(self, wanted: dict[str, Any]) -> None:
        kind = wanted.get("type") or "model"
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        there = (kind, name) in self.hub.repos
        # "visibility" of newer clients was "private" in older ones.
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.repos.setdefault((kind, name), Repo(private))
        error = {"error": "You already created this repo"} if there else {}
        self._json({"url": f"{self.hub.url}/{_PREFIXES[kind]}{name}", **error}, 409 if there else 200)

    def _apply(self, repo: Repo, key: str, value: dict[str, Any]) -> None:
        if key == "header":
            repo.commits.append(value["summary"])
        elif key == "file":
            repo.files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            repo.files[value["path"]] = self.hub.objects[value["oid"]]
        elif key == "deletedFile":
            del repo.files[value["path"]]

    def _file(self, repo: Repo | None, name: str) -> None:
        if repo is None or name not in repo.files:
            return self._missing("RepoNotFound" if repo is None else "EntryNotFound")
        data = repo.files[name]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = {"X-Repo-Commit": repo.sha, "ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(len(data))}
        return self._send(200, data, {"Content-Type": "application/octet-stream", **headers})

    def _repo(self) -> tuple[str, Repo | None, str | None]:
        found = _API.fullmatch(urlsplit(self.path).path)
        return (found[2], self.hub.repos.get((found[1], found[2])), found[3]) if found else ("", None, None)

    def _missing(self, code: str = "RepoNotFound") -> None:
        self._json({"error": "not found"}, 404, {"X-Error-Code": code})

    def _json(self, answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

    def _body(self) -> bytes:
        """The request's content; read in any case, or the next request on this connection would begin with it."""
        self.hub.calls.append(f"{self.command} {self.path}")
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_: object) -> None:
        pass


def _is_large(path: str) -> bool:
    return path.endswith((".parquet", ".safetensors", ".png", ".bin", ".onnx"))


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    if _is_large(name):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry
