"""Pushing folders to the Hub: one commit with all that differs, or none; nothing of somebody else's is lost by it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import FerError
from ..evaluation.whole_files import shown
from ..repo_names import check_repo_name
from .client import hub_client, quiet, scrub
from .folder import FolderFiles, folder_files, is_repo_path
from .release import CARD, LOADED_FIRST, MANIFEST, is_release_name, link_release, listing, manifest, read_manifest
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
        replace: those of them that it has otherwise.
        delete: files that an earlier push brought, nobody changed, and this one no longer has.
        same: files that it has already.
        foreign: other files that are there; they stay.
        left_out: files of the folder that are not pushed.
        keeps_card: whether its own card stays instead of the folder's.
    """

    repo: str
    url: str
    new: bool
    upload: tuple[str, ...]
    replace: tuple[str, ...]
    delete: tuple[str, ...]
    same: tuple[str, ...]
    foreign: tuple[str, ...]
    left_out: tuple[str, ...]
    keeps_card: bool

    @property
    def changes(self) -> bool:
        return bool(self.upload or self.delete)


# --- what is pushed -------------------------------------------------------------------------------


def push_release(folder: str | os.PathLike[str], repo: str, **options: Any) -> str:
    """Pushes a model to a repository, as `push_folder` does: one commit, and none where nothing differs.

    Args:
        folder: a run folder, or one that `save_pretrained` wrote, or a release: what is pushed is a release that is
            built of it for this repository (`hub.release.build_release`).
        repo: see `push_folder`.
        options: those of `push_folder`, but for `repo_type` and `space_sdk`.

    Returns:
        The address of the commit or of the pull request; of the repository, when there was nothing to push.

    Raises:
        FerError: see `build_release` and `push_folder`.
    """

    def built(name: str, temporary: Path) -> FolderFiles:
        files = folder_files(link_release(folder, temporary / "release", repo_id=name)).files
        behind = [path for path in Path(folder).iterdir() if path.name not in files]
        return FolderFiles(files, tuple(sorted(f"{path.name}/" if path.is_dir() else path.name for path in behind)))

    options = {"message": "Release by hf-fer", **options}
    return _push(built, repo, "model", may_delete=is_release_name, loaded_first=LOADED_FIRST, **options)


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
    overwrite: bool = False,
    message: str | None = None,
    space_sdk: str | None = None,
    dry_run: bool = False,
    show: Callable[[Plan], object] | None = None,
    api: HfApi | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """Pushes the files of a folder, and `release.json` that lists them, in one commit.

    What an earlier push listed, and what is as it was listed, is replaced, or deleted in the same commit where the
    folder no longer has it. What somebody else brought or edited stays, and where the folder has another file or card
    (`README.md`) of that name, it is replaced only if that is asked for. Contents go up before the commit, and what the
    Hub has is not sent again: a push that was cut off has changed nothing, and the next one goes on. When somebody else
    commits in the meantime, the repository is read again and all is decided anew.

    Args:
        folder: hidden files in it, and what Python compiled, stay behind.
        repo: `owner/name`, or a name of your own; made where there is none.
        repo_type: "model", "dataset" or "space".
        private: True takes a private repository only. A new one is public only by False; one that is there stays as it
            is.
        revision: an existing branch; default: main.
        create_pr: propose the commit as a pull request instead.
        token: default: that of the environment or of `hf auth login`.
        keep_card: leave a card that somebody else wrote or edited as it is.
        overwrite_card: replace it.
        overwrite: replace other files that somebody else brought or edited.
        message: of the commit.
        space_sdk: of a new Space.
        dry_run: change nothing.
        show: called with the `Plan` before anything is uploaded, and again after a conflict.
        api: a client to use instead of a new one.
        sleep: waits so many seconds between tries.

    Returns:
        The address of the commit or of the pull request; of the repository, when there was nothing to push.

    Raises:
        FerError: see `folder_files` and `check_access`; a card or file of somebody else; a `release.json`, here or
            there, that is none of hf-fer's; no room on this machine; whatever the Hub refuses.
    """
    found = folder_files(folder)
    return _push(
        lambda *_: found, repo, repo_type, private=private, revision=revision, create_pr=create_pr, token=token,
        keep_card=keep_card, overwrite_card=overwrite_card, overwrite=overwrite, message=message, space_sdk=space_sdk,
        dry_run=dry_run, show=show, api=api, sleep=sleep,
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
    return push_folder(folder, repo, repo_type="dataset", private=private, **options)


# --- checks ---------------------------------------------------------------------------------------


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
        FerError: no name of a repository; no token, or one that is not valid or only reads; a repository of somebody
            else; a public one that was to be private; no network.
    """
    check_repo_name(repo)
    with quiet():
        client = hub_client(api, token)
        repository = Repository(client, repo, repo_type, None, bool(private), sleep).with_owner(check=True)
        repository.info()
    return repository.name


# --- how it is pushed -----------------------------------------------------------------------------


def _push(
    find: Callable[[str, Path], FolderFiles],
    repo: str,
    repo_type: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    keep_card: bool = False,
    overwrite_card: bool = False,
    overwrite: bool = False,
    message: str | None = None,
    may_delete: Callable[[str], bool] = is_repo_path,
    loaded_first: frozenset[str] = frozenset(),
    space_sdk: str | None = None,
    dry_run: bool = False,
    show: Callable[[Plan], object] | None = None,
    api: HfApi | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """`find` gives the files, for the repository's full name; it may write to the folder that it is given as well."""
    check_repo_name(repo)
    if repo_type not in KINDS:
        raise FerError(f"There are no repositories of type {str(repo_type)[:40]!r}; use one of {', '.join(KINDS)}.")
    if keep_card and overwrite_card:
        raise FerError("A card cannot be both kept and overwritten; choose one of keep_card and overwrite_card.")
    try:
        with quiet(), tempfile.TemporaryDirectory(prefix="hf-fer-push-", ignore_cleanup_errors=True) as folder:
            temporary = Path(folder)
            repository = Repository(hub_client(api, token), repo, repo_type, revision, bool(private), sleep)
            repository = repository.with_owner()
            info, made = repository.info(), False
            if info is None and (create_pr or revision not in (None, "main")):
                why = "no change can be proposed to it" if create_pr else f"it has no branch {revision}"
                raise FerError(
                    f"There is no {repository.kind} {repository.name} that this token can see, so {why}; check the "
                    "name, or push to its main branch to make it."
                )
            found = find(repository.name, temporary)
            files: dict[str, Path | bytes] = {**found.files}
            if MANIFEST in found.files:  # of an earlier push
                read_manifest(found.files[MANIFEST].read_bytes(), f"The folder for {repository.name}")
            listed = listing({name: path for name, path in found.files.items() if name != MANIFEST})
            if info is None and not dry_run:  # last, so that whatever is wrong here leaves no empty one
                made = repository.create(private is not False, space_sdk)
                repository = replace(repository, private=private is not False)
            for _ in range(CONFLICTS):
                head = Head() if info is None and dry_run else repository.read(temporary)
                others = _of_others(listed, head)
                if made or (others and repository.is_as_made(head)):
                    others = set()  # what the Hub itself puts into a new repository is nobody's
                _check_others(repository, others, keep_card or overwrite_card, overwrite)
                kept = others & {CARD} if keep_card else set()
                pushed = {name: entry for name, entry in listed.items() if name not in kept}
                files[MANIFEST] = manifest(pushed)
                upload = {name for name, entry in pushed.items() if not is_same(head.entries.get(name), entry)}
                upload |= {MANIFEST} if head.manifest != files[MANIFEST] else set()
                gone = {name for name in head.ours - {*listed, MANIFEST, CARD} if may_delete(name)}
                foreign = {*head.entries} - {*pushed, MANIFEST} - gone
                _check_foreign(repository, foreign, {*pushed, MANIFEST}, loaded_first)
                plan = Plan(
                    repo=repository.name,
                    url=repository.url,
                    new=info is None,
                    upload=tuple(sorted(upload)),
                    replace=tuple(sorted(upload & {*head.entries})),
                    delete=tuple(sorted(gone)),
                    same=tuple(sorted({*pushed, MANIFEST} - upload)),
                    foreign=tuple(sorted(foreign)),
                    left_out=found.left_out,
                    keeps_card=bool(kept),
                )
                if show is not None:
                    show(plan)
                if dry_run or not plan.changes:
                    return repository.url
                try:
                    changed = {name: files[name] for name in plan.upload}
                    message = message or "Upload by hf-fer"
                    return repository.commit(changed, listed, plan.delete, head, message, create_pr)
                except Conflict as conflict:
                    last, made = conflict.__cause__ or conflict, False
            repository.refuse(last)
    except OSError as error:  # of this machine: those of the Hub are sentences by now
        raise FerError(
            f"Nothing is pushed to {repo}, as a file on this machine cannot be read or written "
            f"({error.strerror or scrub(str(error))}); make room, or put that right."
        ) from error


def _of_others(listed: Mapping[str, Mapping[str, Any]], head: Head) -> set[str]:
    """Names of the files that would be replaced although they are not as an earlier push left them."""
    differ = {name for name in listed if name in head.entries and not is_same(head.entries[name], listed[name])}
    return differ - head.ours


def _check_others(repository: Repository, others: set[str], card: bool, overwrite: bool) -> None:
    if CARD in others and not card:
        raise FerError(
            f"The card (README.md) of {repository.name} is not the one that hf-fer pushed: somebody edited or wrote "
            "it; keep it as it is with --keep-card (keep_card=True), or replace it with --overwrite-card "
            "(overwrite_card=True)."
        )
    if (files := sorted(others - {CARD})) and not overwrite:
        raise FerError(
            f"{repository.name} has files that hf-fer did not push, or that somebody edited since "
            f"({', '.join(files[:5])}); replace them with --overwrite (overwrite=True), or push to another repository."
        )


def _check_foreign(repository: Repository, foreign: set[str], pushed: set[str], loaded_first: frozenset[str]) -> None:
    """Raises FerError where what stays there takes the place of what is pushed."""
    if first := sorted(foreign & loaded_first):
        raise FerError(
            f"{repository.name} has {', '.join(first)}, which would be loaded instead of what is pushed; delete it "
            "there first, or push to another repository."
        )
    if clash := sorted(foreign & _folders(pushed) | {name for name in foreign if _folders({name}) & pushed}):
        raise FerError(
            f"{repository.name} has {', '.join(map(shown, clash[:5]))}, and of a file and a folder of the same name "
            "only one can be there; delete it there first, or push to another repository."
        )


def _folders(names: set[str]) -> set[str]:
    return {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
