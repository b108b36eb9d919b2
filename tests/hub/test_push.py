"""Pushing with the real client to a Hub on this machine: one commit or none, whatever goes wrong on the way."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_repos import Repo
from hub_server import HubServer
from huggingface_hub import HfApi

from hf_fer import FerError
from hf_fer._auto import METHODS
from hf_fer.hub import client
from hf_fer.hub.push import (
    CONFLICTS,
    Plan,
    check_access,
    push_folder,
    push_metric,
    push_prepared,
    push_release,
    push_space,
)
from hf_fer.hub.release import build_release
from hf_fer.repo_names import check_repo_name

ASSETS = Path(__file__).parents[2] / "hf_fer" / "assets"
TOKEN = "hf_nobody"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def api(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HfApi:
    return hub.connect(monkeypatch, tmp_path / "home")


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def push(api: HfApi, waits: list[float], folder: Path) -> Callable[..., str]:
    """Pushes the folder to me/faces; asks for nothing that a test does not name."""

    def call(**options: Any) -> str:
        return push_folder(folder, options.pop("repo", "me/faces"), api=api, sleep=waits.append, **options)

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "plots").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nour card\n")
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "model.safetensors").write_bytes(b"w" * 2000)
    (folder / "plots" / "curves.png").write_bytes(b"p" * 500)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def pushed(hub: HubServer, repo: str = "me/faces", kind: str = "model") -> dict[str, bytes]:
    """What lies on main, without the list of it."""
    return {name: data for name, data in hub.repos[kind, repo].files.items() if name != "release.json"}


def listing(files: dict[str, bytes]) -> bytes:
    """`release.json` as somebody may have written it."""
    entries = {
        name: {
            "sha256": hashlib.sha256(data).hexdigest(),
            "git_sha1": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
            "size": len(data),
        }
        for name, data in files.items()
    }
    return json.dumps({"hf_fer": "0", "files": entries}).encode()


def refused(call: Callable[..., str], **options: Any) -> str:
    """The one sentence that a push ends in."""
    with pytest.raises(FerError) as caught:
        call(**options)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 500
    assert TOKEN not in text and "Traceback" not in text
    return text


# --- what arrives ---------------------------------------------------------------------------------


def test_a_new_private_repository_in_one_commit(hub: HubServer, push: Callable[..., str], folder: Path) -> None:
    address = push(message="First")
    repo = hub.repos["model", "me/faces"]
    assert repo.private and repo.commits == ["First"]
    assert address == f"{hub.url}/me/faces/commit/{repo.sha}"
    assert pushed(hub) == contents(folder)
    listed = json.loads(repo.files["release.json"])["files"]
    assert {name: entry["size"] for name, entry in listed.items()} == {n: len(d) for n, d in contents(folder).items()}


def test_the_same_again_sends_nothing(hub: HubServer, push: Callable[..., str]) -> None:
    push()
    uploads, commits, calls = len(hub.uploads), list(hub.repos["model", "me/faces"].commits), len(hub.calls)
    assert push() == f"{hub.url}/me/faces"
    assert hub.repos["model", "me/faces"].commits == commits and len(hub.uploads) == uploads
    assert not [call for call in hub.calls[calls:] if call.startswith(("POST", "PUT"))]


def test_only_what_changed_is_sent_and_stale_files_go(hub: HubServer, push: Callable[..., str], folder: Path) -> None:
    push()
    hub.commit("model", "me/faces", {"notes.md": b"theirs", ".gitattributes": b"*.png lfs", "plots/own.png": b"x"})
    (folder / "plots" / "curves.png").unlink()
    (folder / "config.json").write_text('{"a": 2}')
    (folder / "README.md").write_text("a new card\n")
    hub.uploads.clear()
    push()
    assert {upload.name for upload in hub.uploads} == {"README.md", "config.json", "release.json"}
    theirs = {"notes.md": b"theirs", ".gitattributes": b"*.png lfs", "plots/own.png": b"x"}
    assert pushed(hub) == contents(folder) | theirs
    assert len(hub.repos["model", "me/faces"].commits) == 3


def test_a_name_of_ones_own_and_a_public_repository(hub: HubServer, push: Callable[..., str]) -> None:
    push(repo="faces", private=False)
    assert not hub.repos["model", "me/faces"].private
    push(repo="me/faces")  # what is there stays as it is
    assert "public" in refused(push, private=True)
    assert len(hub.repos["model", "me/faces"].commits) == 1


def test_a_branch_and_a_pull_request(hub: HubServer, push: Callable[..., str], folder: Path) -> None:
    push()
    repo = hub.repos["model", "me/faces"]
    repo.add_ref("refs/heads/next", "main")
    before = repo.sha
    (folder / "config.json").write_text("{}")
    assert "no branch typo (404)" in refused(push, revision="typo")
    push(revision="next")
    assert repo.at("next").files["config.json"] == b"{}" and repo.sha == before
    assert push(create_pr=True) == f"{hub.url}/me/faces/discussions/1"
    assert repo.pull_requests[1].files["config.json"] == b"{}" and repo.sha == before

    assert "me/new that this token can see, so it has no branch next" in refused(push, repo="me/new", revision="next")
    assert "no change can be proposed to it" in refused(push, repo="me/new", create_pr=True)
    assert ("model", "me/new") not in hub.repos


def test_a_dry_run_changes_nothing_and_tells_all(hub: HubServer, push: Callable[..., str], folder: Path) -> None:
    plans: list[Plan] = []
    names = sorted([*contents(folder), "release.json"])
    assert push(dry_run=True, show=plans.append) == f"{hub.url}/me/faces"
    assert not hub.repos and plans[0].new and list(plans[0].upload) == names
    push()
    hub.commit("model", "me/faces", {"notes.md": b"theirs"})
    (folder / "plots" / "curves.png").unlink()
    (folder / ".env").write_text("HF_TOKEN=hf_secretsecret")
    (folder / "__pycache__").mkdir()
    sha = hub.repos["model", "me/faces"].sha
    push(dry_run=True, show=plans.append)
    plan = plans[1]
    assert (plan.upload, plan.delete, plan.foreign) == (("release.json",), ("plots/curves.png",), ("notes.md",))
    assert plan.same == ("README.md", "config.json", "model.safetensors") and not plan.new
    assert plan.left_out == (".env", "__pycache__/")
    assert hub.repos["model", "me/faces"].sha == sha


def test_a_release_is_built_and_pushed(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    """Of a run folder with things in it that are nobody's business; a built one goes as it is."""
    run = shutil.copytree(ASSETS, tmp_path / "run", ignore=shutil.ignore_patterns("__pycache__", *METHODS))
    (run / "training_args.bin").write_bytes(b"pickle")
    (run / "checkpoints").mkdir()
    before = contents(run)
    push_release(run, "me/faces", api=api)
    assert contents(run) == before
    release = build_release(run, tmp_path / "release", repo_id="me/faces")
    assert hub.repos["model", "me/faces"].files == contents(release)
    assert push_release(release, "me/faces", api=api) == push_release(run, "me/faces", api=api) == f"{hub.url}/me/faces"
    plans: list[Plan] = []
    (release / "LICENSE").write_text("mine")
    push_release(release, "me/faces", api=api, show=plans.append)
    push_release(run, "me/faces", api=api, show=plans.append)
    assert [plan.left_out for plan in plans] == [("LICENSE",), ("checkpoints/", "training_args.bin")]
    (release / "README.md").write_text((release / "README.md").read_text() + "\nEdited before it was pushed.\n")
    push_release(release, "me/faces", api=api)
    assert b"Edited before" in hub.repos["model", "me/faces"].files["README.md"]
    assert len(hub.repos["model", "me/faces"].commits) == 2
    (release / "losses.py").write_text("evil")
    with pytest.raises(FerError, match=r"losses\.py"):
        push_release(release, "me/faces", api=api)


# --- cards ----------------------------------------------------------------------------------------


def test_an_edited_card_is_not_overwritten(hub: HubServer, push: Callable[..., str], folder: Path) -> None:
    push()
    hub.commit("model", "me/faces", {"README.md": b"edited by hand"})
    (folder / "README.md").write_text("a newer card\n")
    (folder / "config.json").write_text('{"a": 2}')
    sha = hub.repos["model", "me/faces"].sha
    text = refused(push)
    assert "--keep-card" in text and "--overwrite-card" in text
    assert hub.repos["model", "me/faces"].sha == sha

    plans: list[Plan] = []
    for _ in range(2):  # what is kept does not become ours by that
        push(keep_card=True, show=plans.append)
        assert pushed(hub)["README.md"] == b"edited by hand" and plans[-1].keeps_card
        assert pushed(hub)["config.json"] == b'{"a": 2}'
        refused(push)
    assert len(hub.repos["model", "me/faces"].commits) == 3
    push(overwrite_card=True)
    assert pushed(hub)["README.md"] == b"a newer card\n"
    (folder / "README.md").write_text("the newest card\n")
    push(keep_card=True)  # it is ours again
    assert pushed(hub)["README.md"] == b"the newest card\n"
    assert "both" in refused(push, keep_card=True, overwrite_card=True)


def test_what_was_pushed_beside_another_card_is_a_release(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    hub.commit("model", "me/faces", {"README.md": b"theirs"})
    push_release(ASSETS, "me/faces", api=api, keep_card=True)
    downloaded = tmp_path / "downloaded"
    downloaded.mkdir()
    for name, data in hub.repos["model", "me/faces"].files.items():
        (downloaded / name).write_bytes(data)
    push_release(downloaded, "me/other", api=api)
    assert pushed(hub, "me/other") == pushed(hub)


def test_a_card_of_somebody_else_is_not_overwritten(hub: HubServer, push: Callable[..., str]) -> None:
    hub.commit("model", "me/faces", {"README.md": b"theirs"})
    assert "--keep-card" in refused(push)
    hub.commit("model", "me/faces", {"README.md": None})
    push()
    hub.commit("model", "me/faces", {"release.json": None, "README.md": b"x" * (17 << 20)})
    assert "--keep-card" in refused(push)  # too large to be read, so nobody's card of ours


def test_what_the_hub_writes_into_a_new_repository_is_nobodys_card(hub: HubServer, push: Callable[..., str]) -> None:
    hub.first_files = {"README.md": b"---\nsdk: static\n---\n", ".gitattributes": b"*.png filter=lfs"}
    push()
    assert pushed(hub)["README.md"].endswith(b"our card\n") and ".gitattributes" in pushed(hub)


def test_a_card_that_appears_meanwhile_counts(hub: HubServer, push: Callable[..., str]) -> None:
    """Between the reading and the commit, even in a repository that this push has made."""
    hub.before("POST", "/commit/", lambda: hub.commit("model", "me/faces", {"README.md": b"theirs"}))
    assert "--keep-card" in refused(push)
    assert hub.repos["model", "me/faces"].files == {"README.md": b"theirs"}


@pytest.mark.parametrize("name", ["../x", ".gitattributes", "a/../b", "/etc/passwd", ".git/config"])
def test_a_strange_list_deletes_nothing_of_others(hub: HubServer, push: Callable[..., str], name: str) -> None:
    hub.commit("model", "me/faces", {name: b"theirs", "release.json": listing({name: b"theirs"})})
    push(keep_card=True)
    assert hub.repos["model", "me/faces"].files[name] == b"theirs"


# --- files of others ------------------------------------------------------------------------------


def test_what_somebody_edited_since_is_not_deleted(hub: HubServer, push: Callable[..., str], folder: Path) -> None:
    (folder / "thesis.md").write_text("ours")
    push()
    theirs = {"thesis.md": b"edited", "plots/curves.png": b"their picture"}
    hub.commit("model", "me/faces", theirs)
    (folder / "thesis.md").unlink()
    (folder / "plots" / "curves.png").unlink()
    plans: list[Plan] = []
    push(show=plans.append)
    assert pushed(hub) == contents(folder) | theirs
    assert plans[0].foreign == ("plots/curves.png", "thesis.md") and not plans[0].delete


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "processor_config.json", "adapter_config.json"])
def test_a_release_is_not_put_beside_what_would_be_loaded_instead(hub: HubServer, api: HfApi, name: str) -> None:
    sha = hub.commit("model", "me/faces", {name: b"{}"})
    for options in ({"overwrite": True}, {"dry_run": True}):
        with pytest.raises(FerError, match=f"me/faces has {name}, which would be loaded instead"):
            push_release(ASSETS, "me/faces", api=api, **options)
    assert hub.repos["model", "me/faces"].sha == sha


@pytest.mark.parametrize(("theirs", "ours"), [("a.txt/x", "a.txt"), ("a", "a/b/c.txt"), ("a/b", "a/b/c.txt")])
def test_a_file_and_a_folder_of_the_same_name(
    hub: HubServer, push: Callable[..., str], folder: Path, theirs: str, ours: str
) -> None:
    sha = hub.commit("model", "me/faces", {theirs: b"theirs"})
    (folder / ours).parent.mkdir(parents=True, exist_ok=True)
    (folder / ours).write_text("ours")
    assert f"me/faces has {theirs}, and of a file and a folder" in refused(push, overwrite=True)
    assert hub.repos["model", "me/faces"].sha == sha


def test_a_list_of_somebody_else_deletes_nothing_that_is_in_no_release(hub: HubServer, api: HfApi) -> None:
    """Be it true of the files that it names."""
    theirs = {"thesis.md": b"theirs", "data/a.parquet": b"theirs"}
    ours = {"losses_of_before.py": b"ours"}
    hub.commit("model", "me/faces", {**theirs, **ours, "release.json": listing({**theirs, **ours, "notes.py": b""})})
    push_release(ASSETS, "me/faces", api=api)
    files = pushed(hub)
    assert files.items() >= theirs.items() and "losses_of_before.py" not in files and "config.json" in files


def test_files_of_others_are_not_overwritten_unasked(hub: HubServer, push: Callable[..., str], folder: Path) -> None:
    hub.commit("model", "me/faces", {"config.json": b"theirs", "model.safetensors": b"their weights", "a.txt": b"a"})
    sha = hub.repos["model", "me/faces"].sha
    for options in ({}, {"overwrite_card": True}, {"dry_run": True}):
        text = refused(push, **options)
        assert "(config.json, model.safetensors)" in text and "--overwrite " in text
    assert hub.repos["model", "me/faces"].sha == sha
    plans: list[Plan] = []
    push(overwrite=True, show=plans.append)
    assert pushed(hub) == contents(folder) | {"a.txt": b"a"}
    assert plans[0].replace == ("config.json", "model.safetensors") and "README.md" in plans[0].upload
    (folder / "config.json").write_text('{"a": 2}')
    push()  # they are ours by now
    hub.commit("model", "me/faces", {"config.json": b"edited by hand"})
    push_again = pushed(hub)
    assert "(config.json)" in refused(push)
    assert pushed(hub) == push_again
    hub.commit("model", "me/faces", {"config.json": b'{"a": 2}'})
    push()  # the same is nobody's loss
    hub.commit("model", "me/faces", {"README.md": b"edited", "config.json": b"edited"})
    assert "--keep-card" in refused(push, overwrite=True)
    push(overwrite=True, keep_card=True)
    assert pushed(hub) == contents(folder) | {"a.txt": b"a", "README.md": b"edited"}


@pytest.mark.parametrize("keep_card", [True, False])
def test_what_the_hub_puts_into_a_new_repository_does_not_count(
    hub: HubServer, push: Callable[..., str], folder: Path, keep_card: bool
) -> None:
    hub.first_files = {"README.md": b"template", "config.json": b"template", ".gitattributes": b""}
    push(keep_card=keep_card)
    assert pushed(hub) == contents(folder) | {".gitattributes": b""}


def test_a_first_push_that_was_cut_off_can_be_made_again(
    hub: HubServer, push: Callable[..., str], folder: Path
) -> None:
    hub.first_files = {"README.md": b"template", "index.html": b"template", "style.css": b"template"}
    (folder / "index.html").write_text("our page")
    hub.fail(*COMMIT, status=400)
    refused(push)
    push()
    assert pushed(hub) == contents(folder) | {"style.css": b"template"}
    hub.cut_answer(*CREATE)
    push(repo="me/unseen")
    assert pushed(hub, "me/unseen") == contents(folder) | {"style.css": b"template"}


@pytest.mark.parametrize("theirs", [{"README.md": b"theirs"}, {"app.py": b"theirs"}])
def test_a_history_of_one_commit_may_be_somebodys(
    hub: HubServer, push: Callable[..., str], folder: Path, theirs: dict[str, bytes]
) -> None:
    (folder / "app.py").write_text("ours")
    title = "Super-squash branch 'main'" if "README.md" in theirs else "initial commit"
    hub.repos["model", "me/faces"] = repo = Repo(files=theirs)
    repo.refs["refs/heads/main"] = replace(repo.at("main"), title=title)
    refused(push)
    assert repo.files == theirs


@pytest.mark.parametrize("data", [b"", b"[]", b'{"files": {}}', b'{"hf_fer": "1", "files": []}', b"x" * (17 << 20)])
def test_a_list_that_is_none_of_ours_is_not_lost(
    hub: HubServer, push: Callable[..., str], folder: Path, data: bytes
) -> None:
    hub.commit("model", "me/faces", {"release.json": data})
    sha = hub.repos["model", "me/faces"].sha
    assert "me/faces has a release.json that is none of hf-fer's" in refused(push, overwrite=True)
    assert hub.repos["model", "me/faces"].sha == sha
    (folder / "release.json").write_bytes(data)
    assert "has a release.json that is none of hf-fer's" in refused(push, repo="me/new")
    assert ("model", "me/new") not in hub.repos


def test_one_that_becomes_public_meanwhile_gets_nothing(hub: HubServer, push: Callable[..., str], folder: Path) -> None:
    """Private data: between the rounds, and while the contents go up."""
    hub.commit("model", "me/faces", {"a.txt": b"a"})
    repo = hub.repos["model", "me/faces"]

    def open_up() -> None:
        repo.private = False

    for place in (PUT, PREUPLOAD):
        repo.private = True
        hub.before(*place, open_up)
        assert "already and public" in refused(push, private=True), place
    repo.private = True
    hub.before(*COMMIT, lambda: (open_up(), hub.commit("model", "me/faces", {"b.txt": b"b"})))
    assert "already and public" in refused(push, private=True)
    assert repo.files == {"a.txt": b"a", "b.txt": b"b"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("place", [("GET", "/tree/"), ("POST", "/preupload/"), ("POST", "/objects/batch")])
def test_a_file_that_changes_meanwhile_is_not_committed(
    hub: HubServer, push: Callable[..., str], folder: Path, name: str, place: tuple[str, str]
) -> None:
    data = (folder / name).read_bytes()
    hub.before(*place, lambda: (folder / name).write_bytes(data[::-1] + b"x"))
    text = refused(push)
    assert f"{name} changed while it was pushed" in text or (name == "model.safetensors" and "Hub" in text)
    assert not hub.repos["model", "me/faces"].files
    push()
    assert pushed(hub) == contents(folder)


def test_a_disk_that_is_full_is_a_sentence_and_leaves_no_repository(
    hub: HubServer, push: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("hf_fer.hub.push.listing", full)
        assert "No space left on device" in refused(push)
    monkeypatch.setattr("tempfile.mkdtemp", full)
    assert "No space left on device" in refused(push)
    with pytest.raises(FerError, match="No space left"):
        push_release(ASSETS, "me/faces")
    assert not hub.repos


def test_the_card_names_the_repository_that_it_lies_in(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    push_release(ASSETS, "faces", api=api)
    card = hub.repos["model", "me/faces"].files["README.md"].decode()
    assert "me/faces" in card and not re.search(r"(?<!/)\bfaces['\"]", card)
    release = build_release(ASSETS, tmp_path / "folders-name")
    push_release(release, "me/other", api=api)
    card = hub.repos["model", "me/other"].files["README.md"].decode()
    assert "me/other" in card and "folders-name" not in card
    (release / "README.md").write_text("edited")
    push_release(release, "me/third", api=api)
    assert hub.repos["model", "me/third"].files["README.md"] == b"edited"


# --- other kinds of repositories ------------------------------------------------------------------


def test_a_metric_becomes_a_space(hub: HubServer, api: HfApi) -> None:
    push_metric("fer_metrics", "me/fer_metrics", api=api)
    repo = hub.repos["space", "me/fer_metrics"]
    assert repo.sdk == "static" and {"fer_metrics.py", "scores.py", "README.md", "index.html"} <= {*repo.files}
    assert not [name for name in repo.files if "__pycache__" in name or name.endswith(".pyc")]
    with pytest.raises(FerError, match="no metric"):
        push_metric("nothing", "me/x", api=api)


def test_a_space_needs_an_app_and_its_metadata(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    space = tmp_path / "space"
    space.mkdir()
    (space / "README.md").write_text("---\nsdk: gradio\n---\n")
    with pytest.raises(FerError, match=r"has no app\.py"):
        push_space(space, "me/demo", api=api)
    (space / "app.py").write_text("import gradio")
    for text, words in (
        ("no metadata", "sdk: gradio"),
        ("---\nsdk: static\n---\n", "'static'"),
        ("---\n{\n---\n", "read"),
    ):
        (space / "README.md").write_text(text)
        with pytest.raises(FerError, match=words):
            push_space(space, "me/demo", api=api)
    assert not hub.repos
    (space / "README.md").write_text("---\nsdk: gradio\n---\n")
    push_space(space, "me/demo", api=api)
    assert hub.repos["space", "me/demo"].sdk == "gradio"


def test_a_data_set_replaces_its_own_parquet_files_alone(hub: HubServer, api: HfApi, folder: Path) -> None:
    data = folder / "data"
    data.mkdir()
    shards = [data / f"train-0000{k}-of-00002.parquet" for k in range(2)]
    for shard in shards:
        shard.write_bytes(b"PAR1" + shard.name.encode())
    push_prepared(folder, "ferplus", "me/faces", private=True, api=api)
    theirs = {"data/other/deep/x.parquet": b"theirs", "data/y.parquet": b"theirs", "notes/a.parquet": b"theirs"}
    hub.commit("dataset", "me/faces", theirs)
    for shard in shards:
        shard.unlink()
    (data / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    push_prepared(folder, "ferplus", "me/faces", private=True, api=api)
    assert pushed(hub, kind="dataset") == contents(folder) | theirs
    with pytest.raises(FerError, match="--private"):
        push_prepared(folder, "ferplus", "me/other", private=False, api=api)
    hub.commit("dataset", "me/public", {})
    with pytest.raises(FerError, match="already and public"):
        push_prepared(folder, "ferplus", "me/public", private=True, api=api)
    push_prepared(folder, "synthetic", "me/drawn", private=False, api=api)
    assert not hub.repos["dataset", "me/drawn"].private


# --- files that do not go -------------------------------------------------------------------------


def test_links_and_strange_names_are_refused(hub: HubServer, push: Callable[..., str], folder: Path) -> None:
    outside = folder.parent / "secret.txt"
    outside.write_text("secret")
    (folder / "link.txt").symlink_to(outside)
    assert "leads out" in refused(push)
    (folder / "link.txt").unlink()
    (folder / "sub").symlink_to(folder.parent)
    assert "link to a folder" in refused(push)
    (folder / "sub").unlink()
    for name in ("a\\b.txt", "a\nb.txt", "C:x", "a:b", "why?.txt", "a.", "a ", "NUL", "com1.tar.gz", 'say "a"', "a|b"):
        (folder / name).write_text("")
        assert "name that a repository cannot hold" in refused(push)
        (folder / name).unlink()
    (folder / "inside.txt").symlink_to("config.json")
    (folder / "empty").mkdir()
    push()
    assert pushed(hub)["inside.txt"] == b'{"a": 1}'
    with pytest.raises(FerError, match="no file to push"):
        push_folder(folder / "empty", "me/faces")
    with pytest.raises(FerError, match="no folder"):
        push_folder(folder / "nowhere", "me/faces")


@pytest.mark.parametrize("target", [".env", ".git/config", "__pycache__/a", "code.pyc", "plots/.env"])
def test_links_to_what_stays_behind_are_refused(
    hub: HubServer, push: Callable[..., str], folder: Path, target: str
) -> None:
    (folder / target).parent.mkdir(exist_ok=True)
    (folder / target).write_text("secret")
    (folder / "metrics.jsonl").symlink_to(target)
    assert "metrics.jsonl is a link to a file that stays on this machine" in refused(push)
    assert not hub.repos


def test_a_gitignore_up_there_skips_nothing_silently(hub: HubServer, push: Callable[..., str]) -> None:
    sha = hub.commit("model", "me/faces", {".gitignore": b"*.png\n"})
    assert "plots/curves.png" in refused(push)
    assert hub.repos["model", "me/faces"].sha == sha


@pytest.mark.parametrize(
    "name", ["", "a/b/c", "a b", "../x", "a//b", "-x", "me/" + "x" * 97, "https://hf.co/me/x", "a\nb"]
)
def test_names_that_are_none(name: str, api: HfApi, hub: HubServer, folder: Path) -> None:
    for call in (lambda: check_repo_name(name), lambda: push_folder(folder, name, api=api)):
        with pytest.raises(FerError, match="owner/name") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not hub.calls


# --- faults ---------------------------------------------------------------------------------------

CREATE, COMMIT, INFO = ("POST", "/api/repos/create"), ("POST", "/commit/"), ("GET", "/api/models/me/faces$")
WHOAMI, PREUPLOAD, BATCH = ("GET", "whoami"), ("POST", "/preupload/"), ("POST", "/objects/batch")
YAML, PUT, TREE, RESOLVE = ("POST", "validate-yaml"), ("PUT", "/lfs/"), ("GET", "/tree/"), ("GET|HEAD", "/resolve/")


@pytest.mark.parametrize("place", [CREATE, COMMIT, INFO, WHOAMI, PREUPLOAD, BATCH, YAML, PUT, TREE])
@pytest.mark.parametrize("status", [500, 503, 429])
def test_twice_no_then_yes(
    hub: HubServer, push: Callable[..., str], folder: Path, place: tuple[str, str], status: int
) -> None:
    hub.fail(*place, status=status, times=2, body=b"<html>a proxy's page</html>")
    push()
    assert pushed(hub) == contents(folder) and len(hub.repos["model", "me/faces"].commits) == 1


def test_reading_what_is_there_is_tried_again(hub: HubServer, push: Callable[..., str], folder: Path) -> None:
    push()
    (folder / "config.json").write_text("{}")
    hub.fail(*RESOLVE, status=500, times=2)
    hub.cut_answer("GET", "/resolve/", after=5)
    push()
    assert pushed(hub) == contents(folder)


@pytest.mark.parametrize("place", [CREATE, COMMIT, WHOAMI, YAML])
def test_retry_after_is_heeded(
    hub: HubServer, push: Callable[..., str], waits: list[float], place: tuple[str, str]
) -> None:
    hub.fail(*place, status=429, headers={"Retry-After": "7"})
    hub.fail(*place, status=429, headers={"RateLimit": '"api";r=0;t=11'})
    hub.fail(*place, status=503)
    push()
    assert waits == [7, 11, 4]


@pytest.mark.parametrize("place", [CREATE, COMMIT, INFO, WHOAMI, PREUPLOAD, BATCH, YAML, PUT, TREE])
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, r"does not accept the token.*hf auth login"),
        (403, r"may not write .*\(403\).*--create-pr"),
        (429, r"\(429\); run the command again"),
        (500, r"keeps failing .*\(500\); run the command again later"),
        (413, r"refuses .*\(413: .*put that right"),
    ],
)
def test_no_for_good_is_one_sentence(
    hub: HubServer, push: Callable[..., str], waits: list[float], place: tuple[str, str], status: int, words: str
) -> None:
    hub.fail(*place, status=status, times=1000)
    assert re.search(words, text := refused(push)) and "me/faces" in text
    assert len(waits) <= 4
    repo = hub.repos.get(("model", "me/faces"))
    assert repo is None or not repo.files  # never a half of it


def test_a_very_long_wait_is_not_sat_out(hub: HubServer, push: Callable[..., str], waits: list[float]) -> None:
    hub.fail(*COMMIT, status=429, headers={"Retry-After": "86400"}, times=9)
    assert "asks to wait 86400 s" in refused(push)
    assert waits == []


def test_missing_and_forbidden_places(hub: HubServer, push: Callable[..., str], api: HfApi) -> None:
    assert "(403)" in refused(push, repo="other/faces")
    hub.commit("model", "other/public", {"a.txt": b"a"})
    assert "--create-pr" in refused(push, repo="other/public")
    assert push(repo="other/public", create_pr=True) == f"{hub.url}/other/public/discussions/1"
    hub.commit("model", "other/secret", {"a.txt": b"a"})
    hub.repos["model", "other/secret"].private = True
    assert "(403)" in refused(push, repo="other/secret")
    assert hub.repos["model", "other/public"].files == {"a.txt": b"a"}
    assert hub.repos["model", "other/secret"].files == {"a.txt": b"a"}


def test_tokens(
    hub: HubServer, push: Callable[..., str], api: HfApi, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    hub.tokens = {"hf_reads_only": "read", "hf_writes_too": "write"}
    assert "does not accept the token" in refused(push)
    text = refused(push, token="hf_reads_only")
    assert "only reads" in text and "/settings/tokens" in text and "hf_reads_only" not in text
    for bad in ("hf_é" + "x" * 9, "hf_new\nline12345"):
        text = refused(push, token=bad)
        assert "no token of the Hub" in text and "12345" not in text and "xxx" not in text
    monkeypatch.setenv("HF_TOKEN", "")
    assert "No token" in refused(push)
    assert not hub.repos and not waits
    push(token="hf_writes_too")


def test_no_network(push: Callable[..., str], hub: HubServer, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    nowhere = HfApi(endpoint="http://127.0.0.1:9", token="hf_secretsecret")
    waits: list[float] = []
    text = refused(lambda: push_folder(folder, "me/faces", api=nowhere, sleep=waits.append))
    assert "check the network" in text and "hf_secret" not in text and waits == [1, 2, 4, 8]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(push)
    assert not hub.repos


def test_a_token_that_is_echoed_goes_nowhere(
    hub: HubServer, api: HfApi, folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = "hf_AbCdEfGh12345678"
    hub.tokens[secret] = "write"
    echo = {"error": f"Bearer {secret} and hf_someOtherToken99 at https://user:{secret}@example.org/a?X-Signature=abc"}
    hub.fail(*PUT, status=500, times=100)
    with pytest.raises(FerError) as other:
        push_folder(folder, "me/faces", token=secret, api=api)
    hub._faults.clear()
    hub.fail(*COMMIT, status=400, body=echo)
    with pytest.raises(FerError) as caught:
        push_folder(folder, "me/faces", token=secret, api=api)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    out = "".join([str(caught.value), str(other.value), *capfd.readouterr(), caplog.text])
    for word in (secret, "someOtherToken", "X-Signature", "user:", TOKEN):
        assert word not in out
    push_folder(folder, "me/faces", token=secret, api=api)
    assert not any(secret.encode() in data for data in hub.repos["model", "me/faces"].files.values())
    assert not any(secret.encode() in data for data in contents(folder.parent).values())


def test_signed_addresses_are_not_logged(
    hub: HubServer, push: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        push()
        levels = [logging.getLogger(name).level for name in ("httpx2", "httpx", "httpcore")]
    assert any("X-Signature" in call for call in hub.calls) and "X-Signature" not in caplog.text
    assert levels == [logging.NOTSET] * 3  # as they were


@pytest.mark.parametrize("place", [CREATE, COMMIT, PREUPLOAD, BATCH, YAML])
def test_a_connection_cut_once(hub: HubServer, push: Callable[..., str], folder: Path, place: tuple[str, str]) -> None:
    hub.cut(*place, after=10)
    push()
    assert pushed(hub) == contents(folder) and len(hub.repos["model", "me/faces"].commits) == 1


def test_an_upload_that_is_cut_for_good_leaves_nothing_and_goes_on(
    hub: HubServer, push: Callable[..., str], folder: Path
) -> None:
    hub.cut("PUT", "/lfs/", after=100, times=1000, skip=1)  # the first of the two large files arrives
    assert "connection to the Hub broke" in refused(push)
    assert not hub.repos["model", "me/faces"].files and len(hub.objects) == 1
    hub._faults.clear()
    arrived = {upload.name for upload in hub.uploads}
    hub.uploads.clear()
    push()
    assert pushed(hub) == contents(folder)
    assert not arrived & {upload.name for upload in hub.uploads}


def test_a_commit_whose_answer_is_lost_is_not_made_twice(
    hub: HubServer, push: Callable[..., str], folder: Path
) -> None:
    hub.cut_answer("POST", "/commit/", after=3)
    push()
    assert pushed(hub) == contents(folder) and len(hub.repos["model", "me/faces"].commits) == 1


def test_a_pull_request_whose_answer_is_lost_is_not_opened_twice(
    hub: HubServer, push: Callable[..., str], folder: Path
) -> None:
    push()
    (folder / "config.json").write_text("{}")
    hub.cut_answer("POST", "/commit/", after=3)
    assert f"look whether it is open, at {hub.url}/me/faces/discussions" in refused(push, create_pr=True)
    assert len(hub.repos["model", "me/faces"].pull_requests) == 1
    hub.fail(*COMMIT, status=429)
    push(create_pr=True)
    assert len(hub.repos["model", "me/faces"].pull_requests) == 2


def test_a_repository_that_was_made_unseen_is_used(hub: HubServer, push: Callable[..., str], folder: Path) -> None:
    hub.cut_answer("POST", "/api/repos/create")
    push()
    assert pushed(hub) == contents(folder)


def test_one_that_appears_in_public_meanwhile_is_not(hub: HubServer, push: Callable[..., str]) -> None:
    hub.before("POST", "/api/repos/create", lambda: hub.commit("model", "me/faces", {"a.txt": b"a"}))
    assert "already and public" in refused(push)
    assert hub.repos["model", "me/faces"].files == {"a.txt": b"a"}


def test_somebody_elses_commit_is_built_upon(hub: HubServer, push: Callable[..., str], folder: Path) -> None:
    push()
    (folder / "config.json").write_text("{}")
    hub.before("POST", "/commit/", lambda: hub.commit("model", "me/faces", {"notes.md": b"theirs"}))
    hub.fail(*COMMIT, status=409, skip=1)
    push()
    assert pushed(hub) == contents(folder) | {"notes.md": b"theirs"}
    assert len(hub.repos["model", "me/faces"].commits) == 3


def test_endless_conflicts_end_in_a_sentence(hub: HubServer, push: Callable[..., str]) -> None:
    numbers = iter(range(100))
    hub.before(*COMMIT, lambda: hub.commit("model", "me/faces", {"n.txt": str(next(numbers)).encode()}), times=100)
    assert "changed again and again" in refused(push)
    assert next(numbers) == CONFLICTS
    assert {*hub.repos["model", "me/faces"].files} == {"n.txt"}


def test_metadata_that_the_hub_does_not_take(hub: HubServer, push: Callable[..., str], folder: Path) -> None:
    (folder / "README.md").write_text("---\n{\n---\n")
    assert "400: YAML metadata" in refused(push)
    assert not hub.repos["model", "me/faces"].files


def test_access_is_checked_without_changing_anything(hub: HubServer, api: HfApi) -> None:
    assert check_access("faces", private=True, api=api) == "me/faces"
    hub.commit("model", "me/public", {})
    with pytest.raises(FerError, match="already and public"):
        check_access("me/public", private=True, api=api)
    assert check_access("me/public", api=api) == "me/public"
    hub.commit("model", "stranger/public", {})
    for name in ("stranger/public", "stranger/new", "me2/x"):
        with pytest.raises(FerError, match=rf"{name} is neither of this token's account \(me\)"):
            check_access(name, api=api)
    hub.orgs = ["lab"]
    assert check_access("lab/new", api=api) == "lab/new"
    scoped = [{"entity": {"type": "model", "name": "stranger/public"}, "permissions": ["repo.write"]}]
    token = {"role": "fineGrained", "fineGrained": {"scoped": scoped}}
    hub.fail(*WHOAMI, status=200, times=2, body={"name": "me", "orgs": [], "auth": {"accessToken": token}})
    assert check_access("stranger/public", api=api) == "stranger/public"
    with pytest.raises(FerError, match="stranger/new is neither"):
        check_access("stranger/new", api=api)
    with pytest.raises(FerError, match="owner/name"):
        check_access("a/b/c", api=api)
    hub.tokens = {}
    with pytest.raises(FerError, match="does not accept"):
        check_access("me/faces", api=api)
    assert {*hub.repos} == {("model", "me/public"), ("model", "stranger/public")}


# --- waiting and scrubbing ------------------------------------------------------------------------


def answered(status: int, **headers: str) -> OSError:
    error = OSError(f"status {status}")
    error.response = SimpleNamespace(status_code=status, headers={k.replace("_", "-"): v for k, v in headers.items()})  # type: ignore[attr-defined]
    return error


def test_what_is_not_done_twice() -> None:
    for status, repeatable, calls in ((500, True, 5), (500, False, 1), (429, False, 5), (404, True, 1), (501, True, 1)):
        seen: list[int] = []

        def call(status: int = status, seen: list[int] = seen) -> None:
            seen.append(status)
            raise answered(status)

        with pytest.raises(OSError, match=str(status)):
            client.retried(call, lambda seconds: None, repeatable)
        assert len(seen) == calls


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 -99999999999999", None),
    ],
)
def test_retry_after_in_its_forms(value: str, seconds: float | None) -> None:
    assert client._retry_after(answered(429, retry_after=value)) == seconds


def test_scrubbing() -> None:
    text = "hf_fer at hf_hub: hf_AAAA1111 hf_oauth_x.y-z1 https://me:pw@hf.co/a?sig=1 \x1b[31m" + "x" * 500
    clean = client.scrub(text)
    assert clean.startswith("hf_fer at hf_hub: *** *** https://hf.co/a [31m") and len(clean) == 240
