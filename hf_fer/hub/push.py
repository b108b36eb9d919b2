"""Pushing folders to the Hub: one commit with all that differs, or none; nothing of somebody else's is lost by it."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FerError
from ..evaluation.whole_files import shown
from .client import hub_client, quiet, scrub
from .folder import folder_files, is_repo_path
from .release import CARD, MANIFEST, is_release, link_release, manifest, release_files, sha256
from .repository import KINDS, Conflict, Head, Repository, is_same

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: How often a push begins anew when somebody else commits in the meantime.
CONFLICTS = 3


@dataclass(frozen=True)
class Plan:
    """What a push does to a repository, by names of files.

    Args:
        repo: `owner/name`.
        url: its address.
        new: whether the repository has to be made.
        upload: files that it lacks or has otherwise.
        delete: files that an earlier push brought and this one no longer has.
        same: files that it has already.
        foreign: files that are there, of which this push knows nothing; they stay.
        left_out: files of the folder that are not pushed.
        keeps_card: whether its own card stays instead of the folder's.
    """

    repo: str
    url: str
    new: bool
    upload: tuple[str, ...]
    delete: tuple[str, ...]
    same: tuple[str, ...]
    foreign: tuple[str, ...]
    left_out: tuple[str, ...]
    keeps_card: bool

    @property
    def changes(self) -> bool:
        return bool(self.upload or self.delete)


# --- what is pushed -------------------------------------------------------------------------------


def push_release(
    folder: str | os.PathLike[str],
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    keep_card: bool = False,
    overwrite_card: bool = False,
    message: str | None = None,
    dry_run: bool = False,
    show: Callable[[Plan], object] | None = None,
    api: HfApi | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """Pushes a model to a repository, as `push_folder` does: one commit, and none where nothing differs.

    Args:
        folder: a run folder, or one that `save_pretrained` wrote, of which a release is built first
            (`hub.release.build_release`); or a release that is built already.
        repo, private, revision, create_pr, token, keep_card, overwrite_card, message, dry_run, show, api, sleep: see
            `push_folder`.

    Returns:
        The address of the commit or of the pull request; of the repository, when there was nothing to push.

    Raises:
        FerError: see `build_release`, `release_files` and `push_folder`.
    """
    check_repo_name(repo)
    options: dict[str, Any] = {
        "private": private, "revision": revision, "create_pr": create_pr, "token": token, "keep_card": keep_card,
        "overwrite_card": overwrite_card, "message": message or "Release by hf-fer", "dry_run": dry_run, "show": show,
        "api": api, "sleep": sleep,
    }  # fmt: skip
    if is_release(folder):
        return _push(release_files(folder), (), repo, "model", **options)
    with tempfile.TemporaryDirectory(prefix="hf-fer-release-") as temporary:
        release = link_release(folder, Path(temporary) / repo.split("/")[-1], repo_id=repo)
        return _push(release_files(release), (), repo, "model", **options)


def push_folder(
    folder: str | os.PathLike[str],
    repo: str,
    *,
    repo_type: str = "model",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    keep_card: bool = False,
    overwrite_card: bool = False,
    message: str | None = None,
    replace: Sequence[str] = (),
    space_sdk: str | None = None,
    dry_run: bool = False,
    show: Callable[[Plan], object] | None = None,
    api: HfApi | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """Pushes the files of a folder, and `release.json` that lists them, in one commit.

    Files that an earlier push listed and that the folder no longer has are deleted in the same commit; all others in
    the repository stay. The card (`README.md`) is replaced only if it is the one of the earlier push. Contents go up
    before the commit, and what the Hub has is not sent again: a push that was cut off has changed nothing, and the next
    one goes on. When somebody else commits in the meantime, the repository is read again and all is decided anew.

    Args:
        folder: hidden files in it, and what Python compiled, stay behind.
        repo: `owner/name`, or a name of your own; made where there is none.
        repo_type: "model", "dataset" or "space".
        private: True takes a private repository only. A new one is public only by False; one that is there stays as it
            is.
        revision: an existing branch; default: main.
        create_pr: propose the commit as a pull request instead.
        token: default: that of the environment or of `hf auth login`.
        keep_card: leave a card that somebody edited as it is.
        overwrite_card: replace it.
        message: of the commit.
        replace: patterns of file names (`data/*.parquet`) that belong to this push, whoever brought them.
        space_sdk: of a new Space.
        dry_run: change nothing.
        show: called with the `Plan` before anything is uploaded, and again after a conflict.
        api: a client to use instead of a new one.
        sleep: waits so many seconds between tries.

    Returns:
        The address of the commit or of the pull request; of the repository, when there was nothing to push.

    Raises:
        FerError: see `folder_files` and `check_access`; a card that somebody edited; whatever the Hub refuses.
    """
    check_repo_name(repo)
    found = folder_files(folder)
    files = {name: path for name, path in found.files.items() if name != MANIFEST}
    return _push(
        files, found.left_out, repo, repo_type, private=private, revision=revision, create_pr=create_pr, token=token,
        keep_card=keep_card, overwrite_card=overwrite_card, message=message or "Upload by hf-fer", replace=replace,
        space_sdk=space_sdk, dry_run=dry_run, show=show, api=api, sleep=sleep,
    )  # fmt: skip


def push_metric(name: str, repo: str, **options: Any) -> str:
    """Pushes an `evaluate` module of ours (see `hf_fer.metric_path`) as a Space.

    Args:
        name: such as "fer_metrics".
        repo, options: see `push_folder`.

    Raises:
        FerError: no such module; see `push_folder`.
    """
    from ..evaluation import metric_path

    return push_folder(metric_path(name), repo, repo_type="space", space_sdk="static", **options)


def push_space(folder: str | os.PathLike[str], repo: str, **options: Any) -> str:
    """Pushes the folder of a Gradio app as a Space.

    Args:
        folder: with `app.py`, and `README.md` whose metadata say `sdk: gradio`.
        repo, options: see `push_folder`.

    Raises:
        FerError: one of these is missing; see `push_folder`.
    """
    from huggingface_hub import metadata_load

    folder = Path(folder)
    for name in ("app.py", CARD):
        if not (folder / name).is_file():
            raise FerError(f"{shown(folder)} has no {name}, and a Space needs it; name the folder of a Gradio app.")
    try:
        sdk = (metadata_load(folder / CARD) or {}).get("sdk")
    except Exception as error:  # of whatever reads YAML
        raise FerError(f"The metadata of {shown(folder / CARD)} cannot be read ({scrub(str(error))}).") from error
    if sdk != "gradio":
        raise FerError(f"The metadata of {shown(folder / CARD)} must say `sdk: gradio`, not {str(sdk)[:40]!r}.")
    return push_folder(folder, repo, repo_type="space", space_sdk=sdk, **options)


def push_prepared(folder: str | os.PathLike[str], name: str, repo: str, *, private: bool, **options: Any) -> str:
    """Pushes a data set that `hf_fer.data.prepare` wrote.

    Args:
        folder: as `prepare` wrote it.
        name: of the data set it was made from, which decides whether it may be public.
        repo, options: see `push_folder`.
        private: to a private repository only; False makes a new one public.

    Raises:
        FerError: see `hf_fer.data.prepare.check_push` and `push_folder`.
    """
    from ..data.prepare import check_push

    check_push(name, repo, private)
    options = {"message": "Upload data prepared by hf-fer", **options}
    return push_folder(folder, repo, repo_type="dataset", private=private, replace=["data/*.parquet"], **options)


# --- checks ---------------------------------------------------------------------------------------


def check_repo_name(repo: str) -> None:
    """Raises FerError where `repo` cannot be the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise FerError(
            f"{shown(str(repo)[:100])} is not the name of a repository ({scrub(str(error))}); write it as owner/name."
        ) from error


def check_access(
    repo: str,
    *,
    repo_type: str = "model",
    private: bool | None = None,
    token: str | None = None,
    api: HfApi | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """`owner/name` of a repository that may be pushed to, as far as can be told without doing it.

    Args:
        repo, repo_type, private, token, api, sleep: see `push_folder`.

    Raises:
        FerError: no name of a repository; no token, or one that is not valid or only reads; a public repository that
            was to be private; no network.
    """
    check_repo_name(repo)
    with quiet():
        repository = Repository(hub_client(api, token), repo, repo_type, None, sleep).with_owner()
        _check_visibility(repository, repository.info(), private)
    return repository.name


def _check_visibility(repository: Repository, info: Any, private: bool | None) -> None:
    if private and info is not None and not info.private:
        raise FerError(
            f"The {repository.kind} {repository.name} is there already and public; make it private first, or push to "
            "another repository."
        )


# --- how it is pushed -----------------------------------------------------------------------------


def _push(
    files: dict[str, Path],
    left_out: tuple[str, ...],
    repo: str,
    repo_type: str,
    *,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
    token: str | None,
    keep_card: bool,
    overwrite_card: bool,
    message: str,
    replace: Sequence[str] = (),
    space_sdk: str | None = None,
    dry_run: bool = False,
    show: Callable[[Plan], object] | None = None,
    api: HfApi | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    if repo_type not in KINDS:
        raise FerError(f"There are no repositories of type {str(repo_type)[:40]!r}; use one of {', '.join(KINDS)}.")
    if keep_card and overwrite_card:
        raise FerError("A card cannot be both kept and overwritten; choose one of keep_card and overwrite_card.")
    with quiet(), tempfile.TemporaryDirectory(prefix="hf-fer-push-") as temporary:
        repository = Repository(hub_client(api, token), repo, repo_type, revision, sleep).with_owner()
        info = repository.info()
        _check_visibility(repository, info, private)
        made = False
        if info is None:
            if create_pr or revision not in (None, "main"):
                why = "no change can be proposed to it" if create_pr else f"it has no branch {revision}"
                raise FerError(
                    f"There is no {repository.kind} {repository.name} that this token can see, so {why}; check the "
                    "name, or push to its main branch to make it."
                )
            if not dry_run:
                made = repository.create(private is not False, space_sdk)
                _check_visibility(repository, repository.info(), private is None or private)
        for _ in range(CONFLICTS):
            head = Head() if info is None and dry_run else repository.read(Path(temporary))
            # What the Hub itself put into a repository that was made just now is nobody's card.
            keeps = _keeps_card(repository, files, head, keep_card, overwrite_card or made)
            pushed = {name: path for name, path in files.items() if not (keeps and name == CARD)}
            listing = Path(temporary) / MANIFEST
            listing.write_bytes(manifest(pushed))
            pushed[MANIFEST] = listing
            plan = _plan(repository, pushed, head, replace, left_out, keeps, new=info is None)
            if show is not None:
                show(plan)
            if dry_run or not plan.changes:
                return repository.url
            try:
                changed = {name: pushed[name] for name in plan.upload}
                return repository.commit(changed, plan.delete, head, message, create_pr)
            except Conflict as conflict:
                last, made = conflict.__cause__ or conflict, False
        repository.refuse(last)


def _keeps_card(repository: Repository, files: Mapping[str, Path], head: Head, keep: bool, overwrite: bool) -> bool:
    """Whether the repository's own card stays.

    Raises:
        FerError: it is neither ours nor the same, and nobody said what to do about it.
    """
    if CARD not in files or CARD not in head.entries:
        return False
    if head.card is not None:
        theirs = hashlib.sha256(head.card).hexdigest()
        if theirs in (head.listed.get(CARD), sha256(files[CARD])):
            return False
    if not keep and not overwrite:
        raise FerError(
            f"The card (README.md) of {repository.name} is not the one that hf-fer pushed: somebody edited or wrote "
            "it; keep it as it is with --keep-card (keep_card=True), or replace it with --overwrite-card "
            "(overwrite_card=True)."
        )
    return keep


def _plan(
    repository: Repository,
    pushed: Mapping[str, Path],
    head: Head,
    replace: Sequence[str],
    left_out: tuple[str, ...],
    keeps_card: bool,
    new: bool,
) -> Plan:
    same = {name for name, path in pushed.items() if is_same(path, head.entries.get(name))}
    gone = {
        name
        for name in head.entries
        if name not in pushed
        and (name in head.listed or any(fnmatch.fnmatchcase(name, pattern) for pattern in replace))
        and name != CARD
        and is_repo_path(name)  # what a list that somebody else wrote could name besides
    }
    return Plan(
        repo=repository.name,
        url=repository.url,
        new=new,
        upload=tuple(sorted({*pushed} - same)),
        delete=tuple(sorted(gone)),
        same=tuple(sorted(same)),
        foreign=tuple(sorted({*head.entries} - {*pushed} - gone)),
        left_out=left_out,
        keeps_card=keeps_card,
    )
