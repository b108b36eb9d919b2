"""Repositories as the Hub keeps them: branches, tags and pull requests that point to commits, which are snapshots."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatch
from functools import cached_property
from types import MappingProxyType
from typing import Any

import yaml

LARGE_SUFFIXES = (".parquet", ".safetensors", ".png", ".bin", ".onnx")  # what .gitattributes gives to LFS
LARGE_SIZE = 10 << 20


class HubError(Exception):
    """An answer that is no success; `code` is what the client tells errors apart by."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.headers |= {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True, eq=False)
class Commit:
    title: str
    message: str
    parent: Commit | None
    files: Mapping[str, bytes]
    date: str = field(default_factory=lambda: f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.000Z}")

    @cached_property
    def sha(self) -> str:
        parent = self.parent.sha if self.parent else ""
        content = sorted((path, git_oid(data)) for path, data in self.files.items())
        return hashlib.sha1(repr((self.title, self.message, parent, content)).encode()).hexdigest()

    def history(self) -> Iterable[Commit]:
        """This commit, its parent, and so on to the first."""
        commit: Commit | None = self
        while commit:
            yield commit
            commit = commit.parent


class Repo:
    """One repository, at first with one commit of `files`; what is asked for without a branch is that of main."""

    def __init__(
        self,
        private: bool = False,
        gated: bool = False,
        files: Mapping[str, bytes] | None = None,
        sdk: str | None = None,
    ) -> None:
        self.private, self.gated, self.sdk = private, gated, sdk
        first = Commit("initial commit", "", None, MappingProxyType(dict(files or {})))
        self.refs = {"refs/heads/main": first}

    @property
    def files(self) -> Mapping[str, bytes]:
        return self.at("main").files

    @property
    def commits(self) -> list[str]:
        """Titles of the commits on main, oldest first, without the one that made the repository."""
        return [commit.title for commit in self.at("main").history()][-2::-1]

    @property
    def sha(self) -> str:
        return self.at("main").sha

    @property
    def pull_requests(self) -> dict[int, Commit]:
        return {int(ref[8:]): commit for ref, commit in self.refs.items() if ref.startswith("refs/pr/")}

    def at(self, revision: str) -> Commit:
        """The commit of a branch, tag, ref or SHA (seven digits and more)."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.refs[ref]
        if re.fullmatch("[0-9a-f]{7,40}", revision):
            for head in self.refs.values():
                for commit in head.history():
                    if commit.sha.startswith(revision):
                        return commit
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def add_ref(self, ref: str, start: str) -> None:
        commit = self.at(start)
        if ref in self.refs:
            raise HubError(409, f"Reference already exists: {ref}")
        self.refs[ref] = commit

    def delete_ref(self, ref: str) -> None:
        if self.refs.pop(ref, None) is None:
            raise HubError(404, f"Invalid rev id: {ref}", "RevisionNotFound")

    def commit(
        self,
        branch: str,
        change: Callable[[dict[str, bytes]], None],
        title: str,
        message: str = "",
        parent: str | None = None,
        create_pr: bool = False,
    ) -> tuple[Commit, int | None]:
        """Apply `change` to a copy of the branch's files; all of it, or nothing when it raises."""
        head = self.at(branch)
        ref = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
        number = None
        if create_pr:
            number = max(self.pull_requests, default=0) + 1
            ref, head = f"refs/pr/{number}", self.at(parent) if parent else head
        elif ref not in self.refs:
            raise HubError(400, f"{branch} is no branch")
        elif parent is not None and not head.sha.startswith(parent):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        change(files)
        self.refs[ref] = commit = Commit(title, message, head, MappingProxyType(files))
        return commit, number


def apply_operation(files: dict[str, bytes], key: str, value: Mapping[str, Any], objects: Mapping[str, bytes]) -> None:
    """One line of a commit; `objects` are those of LFS."""
    path = value["path"]
    if {"", ".", "..", ".git"} & set(path.rstrip("/").split("/")):
        raise HubError(400, f"Invalid path: {path}")
    if key == "file":
        files[path] = base64.b64decode(value["content"], validate=True)
    elif key == "lfsFile":
        if value["oid"] not in objects:
            raise HubError(400, f"An LFS pointer pointed to a file that does not exist. Offending file: {path}")
        files[path] = objects[value["oid"]]
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    elif key == "deletedFolder":
        inside = [file for file in files if file.startswith(path.rstrip("/") + "/")]
        if not inside:
            raise HubError(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
        for file in inside:
            del files[file]
    else:
        raise HubError(400, f"Unknown operation: {key}")


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(path: str, size: int) -> bool:
    """Whether LFS keeps such a file; the client always sends empty ones the other way."""
    return size > 0 and (path.endswith(LARGE_SUFFIXES) or size > LARGE_SIZE)


def is_ignored(path: str, gitignore: str) -> bool:
    """By plain patterns of names, paths and folders, which is less than what git knows."""
    patterns = [line.strip() for line in gitignore.splitlines() if line.strip() and not line.startswith("#")]
    parts = path.split("/")
    return any(
        fnmatch(path, pattern) or any(fnmatch(part, pattern.rstrip("/")) for part in parts) for pattern in patterns
    )


def entry(path: str, commit: Commit, expand: bool = False) -> dict[str, Any]:
    """What the tree lists for a file."""
    data = commit.files[path]
    facts: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
    if is_large(path, len(data)):
        sha = hashlib.sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {len(data)}\n".encode()
        facts |= {"oid": git_oid(pointer), "lfs": {"oid": sha, "size": len(data), "pointerSize": len(pointer)}}
    return facts | (_expanded(path, commit) if expand else {})


def tree(commit: Commit, folder: str, recursive: bool, expand: bool = False) -> list[dict[str, Any]]:
    """Files and folders in `folder` ("" is the root), as they are named, be it "../x"."""
    prefix = folder.strip("/") + "/" if folder.strip("/") else ""
    inside = sorted(path for path in commit.files if path.startswith(prefix))
    if prefix and not inside:
        raise HubError(404, f"{folder} does not exist", "EntryNotFound", X_Repo_Commit=commit.sha)
    folders: dict[str, dict[str, Any]] = {}
    files = []
    for path in inside:
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            name = prefix + "/".join(parts[:depth])
            folders[name] = {"type": "directory", "path": name, "size": 0, "oid": git_oid(name.encode())}
            folders[name] |= {"lastCommit": _expanded(path, commit)["lastCommit"]} if expand else {}
        if recursive or len(parts) == 1:
            files.append(entry(path, commit, expand))
    return [*folders.values(), *files]


def _expanded(path: str, commit: Commit) -> dict[str, Any]:
    last = commit
    for older in commit.history():
        if older.files.get(path) != commit.files[path]:
            break
        last = older
    scan = {"status": "unscanned", "avScan": None, "pickleImportScan": None}
    return {"lastCommit": {"id": last.sha, "title": last.title, "date": last.date}, "securityFileStatus": scan}


def facts(kind: str, name: str, repo: Repo, commit: Commit) -> dict[str, Any]:
    """What the Hub says about a repository at a commit."""
    siblings = []
    for path in sorted(commit.files):
        about = entry(path, commit)
        sibling = {"rfilename": path, "size": about["size"], "blobId": about["oid"]}
        if lfs := about.get("lfs"):
            sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        siblings.append(sibling)
    try:
        card = card_data(commit.files.get("README.md", b"").decode()) or {}
    except (UnicodeDecodeError, ValueError):
        card = {}
    *_, first = commit.history()
    answer = {"_id": "1", "id": name, "author": name.partition("/")[0], "sha": commit.sha, "siblings": siblings}
    answer |= {"private": repo.private, "gated": "auto" if repo.gated else False, "disabled": False, "cardData": card}
    answer |= {"tags": card.get("tags") or [], "downloads": 0, "likes": 0}
    answer |= {"createdAt": first.date, "lastModified": commit.date}
    if kind == "model":
        answer |= {key: card[key] for key in ("pipeline_tag", "library_name") if key in card} | {"modelId": name}
    return answer | ({"sdk": repo.sdk} if kind == "space" else {})


def card_data(content: str) -> dict[str, Any] | None:
    """The YAML at the top of a README, None without any; ValueError if it is no mapping."""
    found = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", content, re.DOTALL)
    if not found:
        return None
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise ValueError(f"YAML metadata: {error}") from None
    if data is not None and not isinstance(data, dict):
        raise ValueError("YAML metadata must be a mapping")
    return data
