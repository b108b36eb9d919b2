"""A Hub on this machine that the real `huggingface_hub` client talks to over HTTP: repositories, uploads, downloads.

    with HubServer() as hub:
        hub.fail("POST", "/commit/", status=500, times=2)
        subprocess.run([...], env={**os.environ, **hub.environment(tmp_path)})
    assert hub.repos["dataset", "me/faces"].files["README.md"]

The client reads its settings when it is imported, so what is tested runs in a process of its own, or in this one after
`hub.connect(monkeypatch, tmp_path)`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import re
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hub_api import Answer, Request, Upload
from hub_repos import HubError, Repo, is_large

if TYPE_CHECKING:
    import pytest
    from huggingface_hub import HfApi

__all__ = ["HubServer", "Repo"]


@dataclass
class Fault:
    """What happens to the next `times` requests that match; `skip` of them pass before."""

    method: str
    path: str
    times: int
    skip: int
    answer: Answer | None = None
    cut: int | None = None
    cut_answer: int | None = None
    function: Callable[[], object] | None = None

    def matches(self, method: str, path: str) -> bool:
        return self.times > 0 and bool(re.fullmatch(self.method, method) and re.search(self.path, path))


class HubServer:
    """A loopback Hub.

    The account is `me`, which may write to repositories of its own and of `orgs`. A test reads and sets:
    `repos` by (type, id); `tokens`, role ("read" or "write") by token; `first_files` of repositories that clients
    create; `calls`, "METHOD path" of every request; `uploads`, what was stored; `objects` of LFS by SHA-256.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.tokens: dict[str, str] = {"hf_nobody": "write"}
        self.orgs: list[str] = []
        self.first_files: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.uploads: list[Upload] = []
        self.objects: dict[str, bytes] = {}
        self.errors: list[str] = []  # of this server, not answers
        self.lock = threading.RLock()
        self._faults: list[Fault] = []
        self.server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        assert kind or not self.errors, "\n".join(self.errors)

    def environment(self, home: Path, token: str | None = "hf_nobody") -> dict[str, str]:
        """Variables for a process that takes this for the Hub; its caches go to `home`."""
        settings = {"HF_ENDPOINT": self.url, "HF_TOKEN": token or "", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        settings |= {"HF_DATASETS_CACHE": str(home / "datasets"), "HF_DATASETS_OFFLINE": "0"}
        settings |= {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        settings |= {"HF_UPDATE_DOWNLOAD_COUNTS": "0", "DISABLE_SAFETENSORS_CONVERSION": "1"}  # calls elsewhere
        return settings | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}

    def connect(self, monkeypatch: pytest.MonkeyPatch, home: Path, token: str | None = "hf_nobody") -> HfApi:
        """Make `huggingface_hub` of this process take this for the Hub, and not sleep between tries.

        What it bound at import (`huggingface_hub.upload_folder` and other functions that are methods of one HfApi, and
        datasets and evaluate) still points elsewhere: use the HfApi that this returns, or one made afterwards.
        """
        from huggingface_hub import HfApi, constants, file_download
        from huggingface_hub.utils import _http

        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        for module in (_http, file_download):
            monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None), raising=False)
        monkeypatch.setenv("HF_TOKEN", token or "")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        return HfApi(endpoint=self.url)

    def commit(
        self, kind: str, name: str, files: Mapping[str, bytes | None], branch: str = "main", message: str = "Plant"
    ) -> str:
        """Commit files, of whatever name, and delete those that are None; makes the repository, and says the SHA."""

        def change(there: dict[str, bytes]) -> None:
            for path, data in files.items():
                if data is None:
                    del there[path]
                else:
                    there[path] = data

        with self.lock:
            large = [data for path, data in files.items() if data is not None and is_large(path, len(data))]
            self.objects |= {hashlib.sha256(data).hexdigest(): data for data in large}
            commit, _ = self.repos.setdefault((kind, name), Repo()).commit(branch, change, message)
        return commit.sha

    def fail(
        self,
        method: str = ".*",
        path: str = "",
        status: int = 500,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        skip: int = 0,
    ) -> Fault:
        """The next `times` matching requests get this answer; `body` is text, bytes, or what goes out as JSON."""
        body = {"error": f"fault {status}"} if body is None else body
        body = body.encode() if isinstance(body, str) else body
        headers = dict(headers or {})
        answer = Answer(body, status, headers) if isinstance(body, bytes) else Answer.json(body, status, headers)
        return self._add(Fault(method, path, times, skip, answer=answer))

    def cut(self, method: str = "PUT", path: str = "", after: int = 0, times: int = 1, skip: int = 0) -> Fault:
        """Close the connection when `after` bytes of the request's body were read; nothing of it counts."""
        return self._add(Fault(method, path, times, skip, cut=after))

    def cut_answer(self, method: str = "GET", path: str = "", after: int = 0, times: int = 1, skip: int = 0) -> Fault:
        """Do what is asked for, and close the connection after `after` bytes of the answer's body."""
        return self._add(Fault(method, path, times, skip, cut_answer=after))

    def before(self, method: str, path: str, function: Callable[[], object], times: int = 1, skip: int = 0) -> Fault:
        """Call `function` before a matching request is looked at."""
        return self._add(Fault(method, path, times, skip, function=function))

    def _add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def _due(self, method: str, path: str) -> list[Fault]:
        """Functions to call before this request, and of the other faults the first that is left."""
        due: list[Fault] = []
        for fault in self._faults:
            taken = fault.function is None and any(other.function is None for other in due)
            if taken or not fault.matches(method, path):
                continue
            if fault.skip:
                fault.skip -= 1
            else:
                fault.times -= 1
                due.append(fault)
        return due


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # clients may go away
            self.RequestHandlerClass.hub.errors.append(traceback.format_exc())


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every answer waits 40 ms between its headers and its body

    def handle_request(self) -> None:
        with self.hub.lock:
            self.hub.calls.append(f"{self.command} {self.path}")
            due = self.hub._due(self.command, self.path)
        fault = next((fault for fault in due if fault.function is None), Fault("", "", 0, 0))
        # Read in any case, or the next request on this connection would begin with it.
        body = self._body(fault.cut)
        if fault.cut is not None:
            return self._drop()
        self._send(fault.answer or self._answer(body, due), fault.cut_answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def _answer(self, body: bytes, due: list[Fault]) -> Answer:
        try:
            for fault in due:
                if fault.function:
                    fault.function()
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            with self.hub.lock:
                return Request(self.hub, self.command, self.path, dict(self.headers.items()), body).answer()
        except HubError as error:
            return Answer.json({"error": str(error)}, error.status, error.headers)
        except Exception:
            self.hub.errors.append(traceback.format_exc())
            return Answer.json({"error": "bug in tests/hub_server.py"}, 501)  # no client tries again on 501

    def _body(self, limit: int | None) -> bytes:
        """The request's content, or its first `limit` bytes; ConnectionError if the client stops in the middle."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length") or 0)
            return self._read(length if limit is None else min(length, limit))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            if limit is not None and len(body) + size >= limit:
                return body + self._read(limit - len(body))
            body += self._read(size)
            self._read(2)
        self._read(2)
        return body

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionError("the client went away")
        return data

    def _send(self, answer: Answer, cut: int | None) -> None:
        with contextlib.suppress(ConnectionError):
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[:cut])
        if cut is not None:
            self._drop()

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass
