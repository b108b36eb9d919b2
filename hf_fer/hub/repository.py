"""A repository on the Hub that is read and committed to; whatever goes wrong there becomes one sentence."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..digests import sha256
from ..errors import FerError
from ..evaluation.whole_files import shown
from .client import TRIES, is_missing, may_be_done, retried, sentence, shareable, status_of, without_credentials
from .release import MANIFEST, read_manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: Types of repositories, as people call them.
KINDS = {"model": "model", "dataset": "data set", "space": "Space"}

_PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
#: What the Hub puts into a repository that it makes.
_TEMPLATE = {".gitattributes", "README.md", "index.html", "style.css"}
_READ_LIMIT = 16 << 20  # bytes of a list of files


class Conflict(Exception):
    """The branch no longer is what was read; the cause is the client's error."""


@dataclass(frozen=True)
class Head:
    """A branch as it was read.

    Args:
        sha: of its last commit.
        entries: `huggingface_hub.RepoFile` of each file, by path.
        manifest: content of `release.json`; empty if there is none.
        listed: what an earlier push listed in it (see `release.read_manifest`).
    """

    sha: str | None = None
    entries: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    manifest: bytes = b""
    listed: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def ours(self) -> set[str]:
        """Paths of the files that are as an earlier push listed them."""
        return {name for name, entry in self.listed.items() if is_same(self.entries.get(name), entry)}


@dataclass(frozen=True)
class Repository:
    """A repository, which need not exist, and the way to it. Every method raises FerError for what the Hub refuses.

    Args:
        api: the client.
        name: `owner/name`, or a name of the token's owner.
        repo_type: a key of `KINDS`.
        revision: a branch; None is main.
        private: whether one that is public is refused, whenever it is looked at.
        sleep: waits so many seconds between tries.
    """

    api: HfApi
    name: str
    repo_type: str = "model"
    revision: str | None = None
    private: bool = False
    sleep: Callable[[float], object] = time.sleep

    @property
    def kind(self) -> str:
        return KINDS[self.repo_type]

    @property
    def url(self) -> str:
        return without_credentials(f"{self.api.endpoint}/{_PREFIXES[self.repo_type]}{self.name}")

    @property
    def _where(self) -> dict[str, Any]:
        return {"repo_id": self.name, "repo_type": self.repo_type}

    def refuse(self, error: BaseException) -> NoReturn:
        """Raises the FerError that says what an error of the client means."""
        raise sentence(error, self.api, self.name, self.kind, self.revision) from shareable(error, self.api)

    def with_owner(self, *, check: bool = False) -> Repository:
        """The same with its owner's name, once the token is known to be valid and to write; `check`: to write there."""
        who = self._call(self.api.whoami)
        token = (who.get("auth") or {}).get("accessToken") or {}
        if token.get("role") == "read":
            raise FerError(
                f"This token only reads, so {self.name} cannot be pushed to; make one that writes at "
                f"{without_credentials(self.api.endpoint)}/settings/tokens."
            )
        name = self.name if "/" in self.name else f"{who['name']}/{self.name}"
        scopes = (token.get("fineGrained") or {}).get("scoped") or []
        places = {who["name"], *(org["name"] for org in who.get("orgs") or [])}
        places |= {(scope.get("entity") or {}).get("name") for scope in scopes}
        if check and not places & {name, name.split("/")[0]}:
            raise FerError(
                f"The {self.kind} {name} is neither of this token's account ({who['name']}) nor of an organisation of "
                "it, so it cannot be pushed to; choose a repository of your own."
            )
        return dataclasses.replace(self, name=name)

    def info(self) -> Any:
        """What the Hub says about it; None if there is no such repository (that this token can see)."""
        try:
            info = retried(lambda: self.api.repo_info(**self._where), self.sleep)
        except Exception as error:
            if is_missing(error, "RepositoryNotFoundError"):
                return None
            self.refuse(error)
        return self._checked(info)

    def _checked(self, info: Any) -> Any:
        if self.private and not info.private:
            raise FerError(
                f"The {self.kind} {self.name} is there already and public; make it private first, or push to another "
                "repository."
            )
        return info

    def create(self, private: bool, space_sdk: str | None) -> bool:
        """Makes it; False if it was there already."""
        try:
            retried(lambda: self.api.create_repo(**self._where, private=private, space_sdk=space_sdk), self.sleep)
        except Exception as error:
            if status_of(error) == 409:  # made meanwhile, or by a request whose answer was lost
                return False
            self.refuse(error)
        return True

    def read(self, folder: Path) -> Head:
        """The branch as it is now; what has to be downloaded for that goes to `folder`."""
        from huggingface_hub.hf_api import RepoFile

        sha = self._checked(self._call(self.api.repo_info, **self._where, revision=self.revision)).sha

        def listing() -> dict[str, Any]:
            tree = self.api.list_repo_tree(**self._where, revision=sha, recursive=True)
            return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

        entries = self._call(listing)
        if MANIFEST not in entries:
            return Head(sha, entries)
        content = b""  # which is no list, as none of ours is that large
        if entries[MANIFEST].size <= _READ_LIMIT:
            file = {**self._where, "filename": MANIFEST, "revision": sha}
            content = Path(self._call(self.api.hf_hub_download, **file, cache_dir=folder)).read_bytes()
        return Head(sha, entries, content, read_manifest(content, f"The {self.kind} {self.name}"))

    def is_as_made(self, head: Head) -> bool:
        """Whether all there is at `head` is what the Hub put there when the repository was made."""
        if not {*head.entries} <= _TEMPLATE:
            return False
        commits = self._call(self.api.list_repo_commits, **self._where, revision=head.sha)
        return [commit.title for commit in commits] == ["initial commit"]  # a squashed history has another title

    def commit(
        self,
        files: Mapping[str, Path | bytes],
        listed: Mapping[str, Mapping[str, Any]],
        deleted: Sequence[str],
        head: Head,
        message: str,
        create_pr: bool = False,
    ) -> str:
        """Uploads files and deletes others, in one commit on `head`; returns its address, or the pull request's.

        Large contents go first: until the commit, which changes all or nothing, nobody sees any of it.

        Args:
            files: each file, or its content.
            listed: of each file what `release.listing` said about it.

        Raises:
            Conflict: the branch is no longer at `head`.
            FerError: also where a file is no longer as it is listed.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        additions = [
            CommitOperationAdd(name, file if isinstance(file, bytes) else str(file)) for name, file in files.items()
        ]
        local = {name: file for name, file in files.items() if isinstance(file, Path)}
        for addition in additions:
            if (name := addition.path_in_repo) in local:
                _check_unchanged(local[name], addition.upload_info.sha256.hex(), listed[name])
        options = {**self._where, "revision": self.revision, "create_pr": create_pr}
        # The client itself tries these requests again, which its earlier versions did for some of them only.
        self._call(self.api.preupload_lfs_files, tries=3, **options, additions=additions, free_memory=False)
        ignored = [addition.path_in_repo for addition in additions if getattr(addition, "_should_ignore", False)]
        if ignored:
            raise FerError(
                f"The .gitignore of {self.name} keeps files of this push out ({', '.join(ignored[:5])}); change it "
                "there first."
            )
        if self.private:
            self.info()  # again: the upload may have taken hours
        operations = [*additions, *(CommitOperationDelete(name, is_folder=False) for name in deleted)]
        options |= {"operations": operations, "commit_message": message, "parent_commit": head.sha}

        def commit() -> Any:
            for name, file in local.items():  # the client reads the small ones once more
                _check_unchanged(file, sha256(file), listed[name])
            return self.api.create_commit(**options)

        try:
            # A commit on `head` that was made, and whose answer was lost, is a conflict the next time. A pull request
            # would be opened twice.
            done = retried(commit, self.sleep, repeatable=not create_pr)
        except Exception as error:
            if status_of(error) in (409, 412):
                raise Conflict from error
            if create_pr and may_be_done(error):
                raise FerError(
                    f"The Hub's answer to the pull request for {self.name} was lost; look whether it is open, at "
                    f"{self.url}/discussions, before you run the command again."
                ) from shareable(error, self.api)
            self.refuse(error)
        return without_credentials(done.pr_url if create_pr and done.pr_url else done.commit_url)

    def _call(self, function: Callable[..., Any], *, tries: int = TRIES, **arguments: Any) -> Any:
        """`function(**arguments)`, tried again where that helps."""
        try:
            return retried(lambda: function(**arguments), self.sleep, tries=tries)
        except Exception as error:
            self.refuse(error)


def _check_unchanged(path: Path, digest: str, listed: Mapping[str, Any]) -> None:
    if digest != listed["sha256"]:
        raise FerError(
            f"{shown(path)} changed while it was pushed, so nothing of it was committed; run the command again once "
            "nothing writes to it."
        )


def is_same(entry: Any, listed: Mapping[str, Any] | None) -> bool:
    """Whether a `RepoFile` (or None) is the file that a list (see `release.listing`) describes.

    By SHA-256 where LFS keeps it, else by the SHA-1 that git gives to it.
    """
    if entry is None or listed is None:
        return False
    if entry.lfs is not None:
        return bool(entry.lfs.sha256 == listed.get("sha256"))
    return bool(entry.blob_id == listed.get("git_sha1"))
