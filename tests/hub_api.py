"""What the Hub answers to each request that `huggingface_hub`, datasets and evaluate make."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from hub_repos import HubError, Repo, apply_operation, card_data, entry, facts, git_oid, is_ignored, is_large, tree

if TYPE_CHECKING:
    from hub_server import HubServer

_PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_KINDS = {prefix: kind for kind, prefix in _PREFIXES.items()}
_REFS = {"branches": "refs/heads/", "tags": "refs/tags/", "converts": "refs/convert/", "pullRequests": "refs/pr/"}
_API, _GIT = r"/api/(model|dataset|space)s/([^/]+/[^/]+)", r"/(datasets/|spaces/|)([^/]+/[^/]+)"


class Upload(NamedTuple):
    """A file that arrived and counted: `name` is a path if it came with a commit, an SHA-256 if it came for LFS."""

    name: str
    size: int


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
        return cls(json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})})


class Request:
    """One request to the Hub; `answer` calls the method that ROUTES names with the parts of the path."""

    ROUTES = (
        ("GET", "/api/whoami-v2", "whoami"),
        ("POST", "/api/validate-yaml", "validate_yaml"),
        ("POST|DELETE", "/api/repos/(create|delete)", "create_or_delete"),
        ("GET", _API + "(?:/revision/([^/]+))?", "info"),
        ("PUT", _API + "/settings", "settings"),
        ("GET", _API + "/refs", "refs"),
        ("GET", _API + "/commits/([^/]+)", "history"),
        ("GET", _API + "/tree/([^/]+)(?:/(.*))?", "tree"),
        ("POST", _API + "/paths-info/([^/]+)", "paths_info"),
        ("POST|DELETE", _API + "/(branch|tag)/([^/]+)", "ref"),
        ("POST", _API + "/preupload/([^/]+)", "preupload"),
        ("POST", _API + "/commit/([^/]+)", "commit"),
        ("POST", _GIT + r"\.git/info/lfs/objects/batch", "lfs_batch"),
        ("POST", _GIT + r"\.git/info/lfs/verify", "lfs_verify"),
        ("PUT", "/lfs/([0-9a-f]{64})", "lfs_put"),
        ("GET", _GIT + "/resolve/([^/]+)/(.+)", "resolve"),
    )

    def __init__(self, hub: HubServer, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        self.hub, self.method, self.body = hub, method.replace("HEAD", "GET"), body
        url = urlsplit(path)
        self.path, self.query = url.path, {key: values[-1] for key, values in parse_qs(url.query).items()}
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.token = self.headers.get("authorization", "").removeprefix("Bearer ") or None

    def answer(self) -> Answer:
        """Raises HubError for answers that are errors."""
        for methods, pattern, name in self.ROUTES:
            found = re.fullmatch(pattern, self.path)
            if found and self.method in methods.split("|"):
                if self.token and self.token not in self.hub.tokens:
                    raise HubError(401, "Invalid credentials in Authorization header")
                return getattr(self, name)(*(part and unquote(part) for part in found.groups()))
        raise HubError(404, f"Nothing at {self.path}")

    def content(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")

    # --- who may what ---------------------------------------------------------------------------------

    def owns(self, name: str) -> bool:
        return self.token is not None and name.partition("/")[0] in ("me", *self.hub.orgs)

    def repo(self, kind: str, name: str) -> Repo:
        """The repository, if it is there and this token may read it: who may not is not told that it is there."""
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and not self.owns(name)):
            if self.token is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, kind: str, name: str, pull_request: bool = False) -> Repo:
        """The repository, if this token may write to it; pull requests are open to others' tokens that write."""
        repo = self.repo(kind, name)
        if self.token is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        if self.hub.tokens[self.token] != "write" or not (pull_request or self.owns(name)):
            raise HubError(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repo

    def is_pull_request(self, revision: str) -> bool:
        return "create_pr" in self.query or revision.startswith("refs/pr/")

    def whoami(self) -> Answer:
        if self.token is None:
            raise HubError(401, "Invalid username or password.")
        answer = {"type": "user", "id": "1", "name": "me", "fullname": "Me", "isPro": False}
        answer |= {"orgs": [{"type": "org", "id": name, "name": name} for name in self.hub.orgs]}
        access = {"displayName": "test", "role": self.hub.tokens[self.token]}
        return Answer.json(answer | {"auth": {"type": "access_token", "accessToken": access}})

    # --- repositories ---------------------------------------------------------------------------------

    def create_or_delete(self, action: str) -> Answer:
        wanted = self.content()
        kind, owner = wanted.get("type") or "model", wanted.get("organization") or "me"
        name = f"{owner}/{wanted['name']}"
        if self.token is None:
            raise HubError(401, "Invalid username or password.")
        if self.hub.tokens[self.token] != "write" or not self.owns(name):
            raise HubError(403, f'You don\'t have the rights to {action} a {kind} under the namespace "{owner}"')
        if action == "delete":
            self.repo(kind, name)
            del self.hub.repos[kind, name]
            return Answer.json({})
        url = f"{self.hub.url}/{_PREFIXES[kind]}{name}"
        if (kind, name) in self.hub.repos:
            return Answer.json({"error": f"You already created this {kind} repo: {name}", "url": url}, 409)
        self.hub.repos[kind, name] = Repo(_is_private(wanted), files=self.hub.first_files, sdk=wanted.get("sdk"))
        return Answer.json({"url": url, "name": name, "id": "1"})

    def settings(self, kind: str, name: str) -> Answer:
        repo, wanted = self.writable(kind, name), self.content()
        if "visibility" in wanted or "private" in wanted:
            repo.private = _is_private(wanted)
        repo.gated = bool(wanted.get("gated", repo.gated))
        return Answer.json({})

    def info(self, kind: str, name: str, revision: str | None) -> Answer:
        repo = self.repo(kind, name)
        return Answer.json(facts(kind, name, repo, repo.at(revision or "main")))

    def refs(self, kind: str, name: str) -> Answer:
        refs = self.repo(kind, name).refs.items()
        groups = {
            group: [
                {"name": ref.removeprefix(start), "ref": ref, "targetCommit": commit.sha}
                for ref, commit in refs
                if ref.startswith(start)
            ]
            for group, start in _REFS.items()
        }
        if "include_prs" not in self.query:
            del groups["pullRequests"]
        return Answer.json(groups)

    def history(self, kind: str, name: str, revision: str) -> Answer:
        return Answer.json(
            [
                {"id": c.sha, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": "me"}]}
                for c in self.repo(kind, name).at(revision).history()
            ]
        )

    def ref(self, kind: str, name: str, what: str, revision: str) -> Answer:
        repo, wanted = self.writable(kind, name), self.content()
        folder = {"branch": "refs/heads/", "tag": "refs/tags/"}[what]
        if self.method == "DELETE":
            repo.delete_ref(folder + revision)
        elif what == "tag":
            repo.add_ref(folder + wanted["tag"], revision)
        else:
            repo.add_ref(folder + revision, wanted.get("startingPoint") or "main")
        return Answer.json({})

    def tree(self, kind: str, name: str, revision: str, folder: str | None) -> Answer:
        recursive, expand = (self.query.get(flag, "").lower() == "true" for flag in ("recursive", "expand"))
        return Answer.json(tree(self.repo(kind, name).at(revision), folder or "", recursive, expand))

    def paths_info(self, kind: str, name: str, revision: str) -> Answer:
        commit = self.repo(kind, name).at(revision)
        form = parse_qs(self.body.decode())
        everything = {e["path"]: e for e in tree(commit, "", True, form.get("expand") == ["true"])}
        return Answer.json([everything[path] for path in form["paths"] if path in everything])

    def resolve(self, prefix: str, name: str, revision: str, path: str) -> Answer:
        kind = _KINDS[prefix]
        repo = self.repo(kind, name)
        if repo.gated and not self.owns(name):
            raise HubError(403 if self.token else 401, f"Access to {kind} {name} is restricted.", "GatedRepo")
        commit = repo.at(revision)
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.sha)
        data, about = commit.files[path], entry(path, commit)
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{about["oid"]}"', "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        if lfs := about.get("lfs"):
            headers |= {"ETag": f'"{lfs["oid"]}"', "X-Linked-Etag": f'"{lfs["oid"]}"', "X-Linked-Size": str(len(data))}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("range", ""))
        if not wanted or not any(wanted.groups()):
            return Answer(data, 200, headers)
        first, last = wanted.groups()
        start = int(first) if first else max(len(data) - int(last), 0)
        stop = min(int(last) + 1, len(data)) if first and last else len(data)
        if start >= stop:
            return Answer(b"", 416, headers | {"Content-Range": f"bytes */{len(data)}"})
        return Answer(data[start:stop], 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

    # --- uploads --------------------------------------------------------------------------------------

    def validate_yaml(self) -> Answer:
        try:
            empty = not card_data(self.content()["content"])
        except ValueError as error:
            return Answer.json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        warnings = [{"message": "empty or missing yaml metadata in repo card"}] if empty else []
        return Answer.json({"errors": [], "warnings": warnings})

    def preupload(self, kind: str, name: str, revision: str) -> Answer:
        there = self.writable(kind, name, self.is_pull_request(revision)).at(revision).files
        wanted = self.content()
        ignored = wanted.get("gitIgnore", there.get(".gitignore", b"").decode())
        files = []
        for file in wanted["files"]:
            path, data = file["path"], there.get(file["path"])
            mode = "lfs" if is_large(path, file["size"]) else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": is_ignored(path, ignored)}
            if data is not None:  # what the client compares with its own file, to leave out what did not change
                answer["oid"] = hashlib.sha256(data).hexdigest() if is_large(path, len(data)) else git_oid(data)
            files.append(answer)
        return Answer.json({"files": files})

    def lfs_batch(self, prefix: str, name: str) -> Answer:
        self.writable(_KINDS[prefix], name, pull_request=True)  # a batch does not say whether it is for a pull request
        verify = {"href": f"{self.hub.url}/{prefix}{name}.git/info/lfs/verify"}
        objects = []
        for wanted in self.content()["objects"]:
            actions = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}?X-Signature=s"}, "verify": verify}
            objects.append(wanted if wanted["oid"] in self.hub.objects else {**wanted, "actions": actions})
        return Answer.json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "The content does not have this SHA-256")
        self.hub.objects[oid] = self.body
        self.hub.uploads.append(Upload(oid, len(self.body)))
        return Answer()

    def lfs_verify(self, prefix: str, name: str) -> Answer:
        self.writable(_KINDS[prefix], name, pull_request=True)
        wanted = self.content()
        if wanted["oid"] not in self.hub.objects or len(self.hub.objects[wanted["oid"]]) != wanted["size"]:
            raise HubError(404, f"Object {wanted['oid']} does not exist")
        return Answer.json({})

    def commit(self, kind: str, name: str, revision: str) -> Answer:
        create_pr = "create_pr" in self.query
        repo = self.writable(kind, name, self.is_pull_request(revision))
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        operations = [(line["key"], line["value"]) for line in lines if line["key"] != "header"]

        def change(files: dict[str, bytes]) -> None:
            for key, value in operations:
                apply_operation(files, key, value, self.hub.objects)

        commit, number = repo.commit(
            revision, change, header["summary"], header.get("description", ""), header.get("parentCommit"), create_pr
        )
        sent = [value["path"] for key, value in operations if key == "file"]
        self.hub.uploads += [Upload(path, len(commit.files[path])) for path in sent]
        url = f"{self.hub.url}/{_PREFIXES[kind]}{name}"
        answer = {"success": True, "commitOid": commit.sha, "commitUrl": f"{url}/commit/{commit.sha}", "hookOutput": ""}
        return Answer.json(answer | ({"pullRequestUrl": f"{url}/discussions/{number}"} if number else {}))


def _is_private(wanted: Mapping[str, Any]) -> bool:
    # "visibility" of newer clients was "private" in older ones.
    return wanted.get("visibility") == "private" or bool(wanted.get("private"))
