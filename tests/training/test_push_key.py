"""The recipe key `push`: checked before the training, done after it, and never a reason to lose a run."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from runs import TINY

from hf_fer import FerError
from hf_fer import cli as hf_fer_cli
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
    with pytest.raises(FerError, match="is not the name of a repository; write it as owner/name"):
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
    assert "finished, but not pushed" in text and f"`hf-fer push {finished} me/faces --public` pushes it." in text
    assert (finished / "README.md").is_file() and (finished / "model.safetensors").is_file()
    (finished / "report.json").write_text("{")
    with pytest.raises(FerError, match=r"is finished, but not pushed: .*report\.json"):
        finish(finished)
    with pytest.raises(FerError, match=r"is finished, but has no card yet: .*`hf-fer card .* writes it\."):
        cli._finisher(recipe(finished))(finished)


def command_of(text: str) -> list[str]:
    """The arguments of the `hf-fer` command that a sentence names."""
    return shlex.split(text.split("`")[1])[1:]


def test_the_command_that_is_named_publishes_nothing(hub: HubServer, tmp_path: Path, finished: Path) -> None:
    """Run as it stands, with a space in the path, where the repository was made public in the meantime."""
    folder = finished.rename(tmp_path / "my run; echo")
    finish = cli._finisher(recipe(folder, push="faces"))
    hub.commit("model", "me/faces", {})
    with pytest.raises(FerError, match="already and public") as caught:
        finish(folder)
    command = command_of(str(caught.value))
    assert hf_fer_cli.main(command) == 2 and not hub.repos["model", "me/faces"].files
    hub.repos["model", "me/faces"].private = True
    assert hf_fer_cli.main(command) == 0
    assert b"me/faces" in hub.repos["model", "me/faces"].files["README.md"]
    assert "me/faces" in (folder / "README.md").read_text()  # the recipe's own card: with its owner, too


def test_who_interrupts_the_push_is_told_how_to_go_on(
    hub: HubServer, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def interrupted(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "_run", lambda *_: (finished, True))
    command = [*TINY, f"--output_dir={finished}", "--push=me/faces"]
    for function, status in ((interrupted, 130), (full, 2)):
        with monkeypatch.context() as patch:
            patch.setattr("hf_fer.hub.push.push_release", function)
            assert cli.main("mek", command) == status
        err = capsys.readouterr().err
        assert "the run is finished, but not pushed" in err.lower() and "resume" not in err
        assert command_of(err) == ["push", str(finished), "me/faces", "--private"]
    monkeypatch.undo()


def test_resuming_a_finished_run_names_the_push(finished: Path) -> None:
    with pytest.raises(FerError, match=r"finished; there is nothing to resume, and `.*` pushes it\.") as caught:
        run._check_folder(finished, recipe(finished, resume=True))
    assert command_of(str(caught.value)) == ["push", str(finished), "OWNER/NAME", "--private"]


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
