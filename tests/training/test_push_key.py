"""The recipe key `push`: checked before the training, done after it, and never a reason to lose a run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from runs import TINY

from hf_fer import FerError
from hf_fer._auto import config_class
from hf_fer.training import cli, run
from hf_fer.training.recipe import Recipe, load_recipe
from hf_fer.training.sweep_plan import plan

ASSETS = Path(__file__).parents[2] / "hf_fer" / "assets"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        server.connect(monkeypatch, tmp_path / "home")
        yield server


def recipe(folder: Path, **values: Any) -> Recipe:
    return Recipe(output_dir=str(folder), dataset="synthetic", **values)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run folder, without its card."""
    folder = tmp_path / "run"
    return shutil.copytree(ASSETS, folder, ignore=shutil.ignore_patterns("__pycache__", "README.md"))


def test_who_repeats_a_run_does_not_push(tmp_path: Path) -> None:
    with_push = recipe(tmp_path, push="me/faces", push_private=False)
    assert with_push.to_yaml() == recipe(tmp_path).to_yaml()
    assert "push" not in with_push.to_yaml()
    flags = ["--dataset=synthetic", "--output_dir=x", "--push=me/faces", "--push_private=false"]
    loaded = load_recipe(config_class("mek"), None, flags)
    assert (loaded.push, loaded.push_private) == ("me/faces", False)
    assert recipe(tmp_path).push is None and recipe(tmp_path).push_private


@pytest.mark.parametrize("name", ["a/b/c", "", "a b", "../x"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FerError, match="Recipe key push must be a repository's owner/name"):
        recipe(tmp_path, push=name)


def test_access_is_checked_before_the_training(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.commit("model", "me/public", {})
    command = [*TINY, f"--output_dir={tmp_path / 'run'}"]
    assert cli.main("mek", [*command, "--push=me/public"]) == 2
    assert "me/public is there already and public" in capsys.readouterr().err
    hub.tokens = {"hf_nobody": "read"}
    assert cli.main("mek", [*command, "--push=me/faces"]) == 2
    assert "only reads" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "")
    assert cli.main("mek", [*command, "--push=me/faces"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "No token" in err
    assert not (tmp_path / "run").exists() and {*hub.repos} == {("model", "me/public")}

    calls = len(hub.calls)
    monkeypatch.setenv("RANK", "1")  # the other processes of a launcher leave it to the first
    cli._finisher(recipe(tmp_path, push="me/faces"))
    assert len(hub.calls) == calls


def test_the_card_is_written_and_the_run_pushed(hub: HubServer, finished: Path, capsys: Any) -> None:
    cli._finisher(recipe(finished))(finished)
    assert (finished / "README.md").is_file() and not hub.repos
    cli._finisher(recipe(finished, push="me/faces"))(finished)
    repo = hub.repos["model", "me/faces"]
    assert repo.private and f"pushed: {hub.url}/me/faces/commit/{repo.sha}" in capsys.readouterr().out
    assert "me/faces" in (finished / "README.md").read_text() and "me/faces" in repo.files["README.md"].decode()
    cli._finisher(recipe(finished, push="me/open", push_private=False))(finished)
    assert not hub.repos["model", "me/open"].private


def test_a_push_that_fails_leaves_the_run_and_says_how_to_go_on(hub: HubServer, finished: Path) -> None:
    finish = cli._finisher(recipe(finished, push="me/faces", push_private=False))
    hub.fail("POST", "/commit/", status=403)
    with pytest.raises(FerError) as caught:
        finish(finished)
    text = str(caught.value)
    assert "finished, but not pushed" in text and f"`hf-fer push {finished} me/faces --public`" in text
    assert (finished / "README.md").is_file() and (finished / "model.safetensors").is_file()
    (finished / "report.json").write_text("{")
    with pytest.raises(FerError, match="is finished, but has no card yet"):
        finish(finished)


@pytest.mark.parametrize("is_main", [True, False])
def test_only_the_main_process_finishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_main: bool) -> None:
    monkeypatch.setattr(run, "_run", lambda *_: (tmp_path, is_main))
    seen: list[Path] = []
    assert run.run_recipe(object, recipe(tmp_path), seen.append) == tmp_path
    assert seen == [tmp_path] * is_main


def test_a_sweep_does_not_push(tmp_path: Path) -> None:
    config = tmp_path / "mek.yaml"
    config.write_text(f"dataset: synthetic\noutput_dir: {tmp_path / 'sweep'}\n")
    with pytest.raises(FerError, match=r"over each other in me/faces.*hf-fer push"):
        plan("mek", str(config), [], 2, ["--push=me/faces"])
    with pytest.raises(FerError, match="push cannot be in a grid"):
        plan("mek", str(config), ["push=me/a,me/b"], 1)
