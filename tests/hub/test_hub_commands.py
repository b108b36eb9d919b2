"""`hf-fer push`, `push-metric`, `push-space` and `card` as people call them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer

from hf_fer import cli
from hf_fer.hub.card import build_card

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "hf_fer" / "assets"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        server.connect(monkeypatch, tmp_path / "home")
        yield server


def test_push_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Once, again, to where it may not, and with another's card: the token is nowhere but in requests."""
    run = shutil.copytree(ASSETS, tmp_path / "run", ignore=shutil.ignore_patterns("__pycache__"))
    code = "import sys, json; from hf_fer.cli import main; print(*[main(c) for c in json.loads(sys.argv[1])])"
    token = "hf_aVerySecretToken123"
    commands = [
        ["push", str(run), "me/faces", "--dry-run"],
        ["push", str(run), "me/faces", "--message", "First release"],
        ["push", str(run), "me/faces"],
        ["push", str(run), "other/faces"],
        ["push", str(run), "me/theirs"],
    ]
    with HubServer() as hub:
        hub.tokens = {token: "write"}
        hub.commit("model", "me/theirs", {"README.md": b"theirs"})
        hub.fail("POST", "/commit/", status=500, times=1)
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(commands)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **hub.environment(tmp_path / "home", token)},
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    out = done.stdout.splitlines()
    assert out[-1] == "0 0 0 2 2"
    repo = hub.repos["model", "me/faces"]
    assert repo.commits == ["First release"] and repo.private
    assert f"{hub.url}/me/faces (new): {len(repo.files)} to upload, 0 to delete, 0 there already" in out
    assert f"would be pushed to: {hub.url}/me/faces" in out and "  + model.safetensors" in out
    assert f"pushed: {hub.url}/me/faces/commit/{repo.sha}" in out
    assert f"pushed: {hub.url}/me/faces" in out
    errors = [line for line in done.stderr.splitlines() if line.startswith("hf-fer: ")]
    assert len(errors) == 2 and "(403)" in errors[0] and "--keep-card" in errors[1]
    assert "Traceback" not in done.stderr and "HTTP Error" not in done.stderr
    assert token not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if token.encode() in path.read_bytes()]
    assert not any(token.encode() in data for data in repo.files.values())


def test_push_metric_and_push_space(hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["push-metric", "fer_metrics", "me/fer_metrics", "--public"]) == 0
    assert not hub.repos["space", "me/fer_metrics"].private
    assert f"pushed: {hub.url}/spaces/me/fer_metrics/commit/" in capsys.readouterr().out
    assert cli.main(["push-metric", "nothing", "me/x"]) == 2
    assert "known: " in capsys.readouterr().err
    space = tmp_path / "space"
    space.mkdir()
    assert cli.main(["push-space", str(space), "me/demo"]) == 2
    assert "app.py" in capsys.readouterr().err
    (space / "app.py").write_text("")
    (space / ".env").write_text("")
    (space / "README.md").write_text("---\nsdk: gradio\n---\n")
    assert cli.main(["push-space", str(space), "me/demo"]) == 0
    assert "not pushed: .env" in capsys.readouterr().out
    assert {*hub.repos["space", "me/demo"].files} == {"app.py", "README.md", "release.json"}


def test_our_own_space_can_be_pushed(hub: HubServer) -> None:
    assert cli.main(["push-space", str(ROOT / "space"), "me/demo"]) == 0
    repo = hub.repos["space", "me/demo"]
    assert {"app.py", "README.md", "requirements.txt"} <= {*repo.files}
    assert b"sdk: gradio" in repo.files["README.md"] and repo.files["requirements.txt"] == b"hf-fer[demo]\n"


def test_flags_reach_the_push(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    hub.commit("space", "me/m", {"README.md": b"edited", "own.txt": b""})
    command = ["push-metric", "fer_metrics", "me/m"]
    assert cli.main([*command, "--keep-card", "--create-pr"]) == 0
    out = capsys.readouterr().out
    assert "/discussions/1" in out and "is kept" in out and "own.txt" in out
    assert cli.main([*command, "--revision", "next"]) == 2
    assert "no branch next" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite-card"]) == 0
    assert hub.repos["space", "me/m"].files["README.md"] != b"edited"
    assert cli.main([*command, "--keep-card", "--overwrite-card"]) == 2
    assert "not allowed with" in capsys.readouterr().err
    assert cli.main([*command, "--private", "--public"]) == 2
    assert "not allowed with" in capsys.readouterr().err
    assert cli.main([*command, "--private"]) == 2
    assert "already and public" in capsys.readouterr().err
    hub.commit("space", "me/m", {"scores.py": b"theirs"})
    assert cli.main([*command]) == 2
    assert "(scores.py); replace them with --overwrite " in capsys.readouterr().err
    assert cli.main([*command, "--overwrite"]) == 0
    out = capsys.readouterr().out
    assert "  ~ scores.py (replaced)" in out and hub.repos["space", "me/m"].files["scores.py"] != b"theirs"


def test_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(ASSETS, tmp_path / "run", ignore=shutil.ignore_patterns("__pycache__"))
    assert cli.main(["card", str(run), "--repo", "me/faces"]) == 0
    assert capsys.readouterr().out == build_card(run, "me/faces")
    out = tmp_path / "new" / "card.md"
    assert cli.main(["card", str(run), "--output", str(out)]) == 0
    assert out.read_text().startswith("---\n")
    assert cli.main(["card", str(run), "--output", str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert cli.main(["card", str(run), "--output", str(out), "--force"]) == 0
    assert cli.main(["card", str(tmp_path)]) == 2
