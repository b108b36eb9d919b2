"""The command line: real subprocesses where the process matters, `main` in this process elsewhere."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported

import csv
import io
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

import hf_fer
from hf_fer import cli

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another test file has imported huggingface_hub already, the variable above came too late."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(NAMES)),
        label2id={name: k for k, name in enumerate(NAMES)},
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8)
    Image.fromarray(noise).save(folder / "a.jpg")
    Image.fromarray(noise[..., 0]).save(folder / "b.png")
    return folder


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Inputs without an answer, one of each kind."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty.jpg").touch()
    (folder / "page.jpg").write_text("<html>not found</html>")
    Image.effect_noise((64, 64), 50).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:1500])
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").touch()
    names = ("empty.jpg", "page.jpg", "cut.png", "missing.png", "texts", "*.tiff")
    return [str(folder / name) for name in names]


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`hf-fer` as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(
        [sys.executable, "-m", "hf_fer.cli", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
        check=False,
    )


def sentence(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `main` says about a mistake: one line on stderr, nothing on stdout, exit code 2."""
    assert cli.main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("hf-fer: ")
    return lines[0]


# --- as a process ----------------------------------------------------------------------------


def test_help_and_mistakes_import_nothing_heavy() -> None:
    code = (
        "import sys; from hf_fer.cli import main;"
        "codes = [main(['--help']), main(['--version']), main(['x'])];"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules);"
        "assert codes == [0, 0, 2] and not heavy, (codes, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout
    assert hf_fer.__version__ in done.stdout
    assert done.stderr.count("\n") == 1


def test_predict_without_network(checkpoint: str, photos: Path, bad: list[str], tmp_path: Path) -> None:
    """Good and bad inputs in one go, with a socket that nobody may use and the Hub not switched off."""
    log = tmp_path / "calls"
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(*a, **k):\n"
        f"    open({str(log)!r}, 'a').write(repr(a))\n"
        "    raise OSError('no network here')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
    )
    done = run(
        "predict",
        "--no-detect",
        bad[0],
        str(photos),
        *bad[1:],
        "--model",
        checkpoint,
        "--json",
        PYTHONPATH=str(tmp_path),
        HF_HUB_OFFLINE="0",
        HF_HOME=str(tmp_path / "home"),
    )
    assert done.returncode == 2
    assert not log.exists(), log.read_text()
    entries = {entry["path"]: entry for entry in json.loads(done.stdout)}
    for name in ("a.jpg", "b.png"):
        entry = entries.pop(str(photos / name))
        assert set(entry) == {"path", "width", "height", "faces"} and (entry["width"], entry["height"]) == (50, 60)
        (entry,) = entry["faces"]
        assert entry["box"] == {"xmin": 0, "ymin": 0, "xmax": 50, "ymax": 60} and entry["reliability"] is None
        assert sorted(entry["probabilities"]) == sorted(NAMES)
        assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert entry["probabilities"][entry["label"]] == entry["score"] == max(entry["probabilities"].values())
    assert sorted(entries) == sorted(bad)
    assert all(set(entry) == {"path", "error"} for entry in entries.values())
    # Nothing else on stderr: no advice, no loading bars, no traceback.
    lines = done.stderr.splitlines()
    assert lines[0] == f"hf-fer: {len(bad)} without an answer:"
    assert len(lines) == 1 + len(bad)
    for path in bad:
        assert sum(f"  {path}: " in line for line in lines) == 1


# --- predict ---------------------------------------------------------------------------------


def test_table(checkpoint: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "--no-detect", str(photos), "--model", checkpoint]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    header, *lines = out.splitlines()
    assert header.split()[:4] == ["image", "face", "px", "expression"]
    assert [line.split()[0] for line in lines] == [str(photos / "a.jpg"), str(photos / "b.png")]
    assert all(line.split()[1:3] == ["1", "60"] for line in lines)
    assert all(line.split()[3] in NAMES and line.count(",") == 2 for line in lines)
    assert cli.main(["predict", "--no-detect", str(photos / "a.jpg"), "--model", checkpoint, "--top", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].count(",") == 0


def test_csv(checkpoint: str, photos: Path, bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "--no-detect", str(photos), bad[0], "--model", checkpoint, "--csv", "--top", "2"]) == 2
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["path"] for row in rows] == [str(photos / "a.jpg"), str(photos / "b.png"), bad[0]]
    for row in rows[:2]:
        assert (row["error"], row["face"], row["xmax"], row["ymax"]) == ("", "1", "50", "60")
        assert float(row["score"]) == float(row[f"p_{row['label']}"])
        assert sum(row[f"p_{name}"] != "" for name in NAMES) == 2
    assert rows[2]["label"] == ""
    assert "empty" in rows[2]["error"]


def test_output_file(checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "answers.json"  # JSON by its ending
    command = ["predict", "--no-detect", str(photos), "--model", checkpoint, "--output", str(target), "--top", "3"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == ""
    assert [len(entry["faces"][0]["probabilities"]) for entry in json.loads(target.read_text())] == [3, 3]
    assert [path.name for path in target.parent.iterdir()] == ["answers.json"]

    target.write_text("mine")
    assert "--force" in sentence(capsys, *command)
    assert target.read_text() == "mine"
    assert cli.main([*command, "--force", "--csv"]) == 0
    assert target.read_text().startswith("path,frame,seconds,face,label,score")
    assert "a folder" in sentence(capsys, *command[:-3], str(tmp_path), "--force")


def test_a_file_is_kept_when_the_run_fails(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "answers.json"
    target.write_text("mine")
    sentence(
        capsys, "predict", "--no-detect", str(photos), "--model", str(tmp_path), "--output", str(target), "--force"
    )
    assert target.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["answers.json"]


def test_only_failures_need_no_model(bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", bad[4], bad[5], "--model", "no/model", "--json"]) == 2
    out, err = capsys.readouterr()
    assert [entry["path"] for entry in json.loads(out)] == bad[4:]
    assert err.count("\n") == 3


def test_progress_is_for_many(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k in range(33):
        (tmp_path / f"{k}.png").write_bytes((photos / "b.png").read_bytes())
    assert cli.main(["predict", "--no-detect", str(tmp_path), "--model", checkpoint, "--csv"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 34
    assert "33/33" in err


def test_mistakes(checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = str(photos / "a.jpg")
    predict = ("predict", "--no-detect", photo, "--model", checkpoint)
    assert "COMMAND" in sentence(capsys)
    assert "invalid choice" in sentence(capsys, "frobnicate")
    assert "PATH" in sentence(capsys, "predict")
    assert "--top" in sentence(capsys, *predict, "--top", "0")
    assert "not allowed with" in sentence(capsys, *predict, "--detector", "yunet")
    assert "--min-face" in sentence(capsys, *predict, "--min-face", "small")
    assert "--fps" in sentence(capsys, *predict, "--fps", "0")
    assert "names no camera" in sentence(capsys, "predict", "webcam:x")
    assert "a file; name a folder" in sentence(capsys, *predict, "--annotate", photo)
    assert "--annotate names no folder" in sentence(capsys, *predict, "--annotate", "")
    assert "says no format" in sentence(capsys, *predict, "--output", str(tmp_path / "faces.jsonl"))
    assert "over itself" in sentence(capsys, *predict, "--annotate", str(photos))
    assert "--batch-size" in sentence(capsys, *predict, "--batch-size", "many")
    assert "not allowed with" in sentence(capsys, *predict, "--json", "--csv")
    assert "unrecognized" in sentence(capsys, *predict, "--no-such-option")
    assert "device" in sentence(capsys, *predict, "--device", "gpu")
    assert "no config.json" in sentence(capsys, "predict", "--no-detect", photo, "--model", str(tmp_path))
    assert "no such folder" in sentence(capsys, "predict", "--no-detect", photo, "--model", "./nowhere")
    assert "no such folder" in sentence(capsys, "predict", "--no-detect", photo, "--model", "owner/nothing")
    assert "--resolutions" in sentence(capsys, "evaluate", checkpoint, "--data", "synthetic", "--resolutions", "1,0")
    assert "--data" in sentence(capsys, "evaluate", checkpoint)
    assert "NAME=VALUE" in sentence(
        capsys,
        "evaluate",
        checkpoint,
        "--data",
        "synthetic",
        "--option",
        "test",
        "--output",
        str(tmp_path / "r.json"),
    )
    assert ".json" in sentence(
        capsys, "evaluate", checkpoint, "--data", "synthetic", "--output", str(tmp_path / "r.txt")
    )


# --- evaluate --------------------------------------------------------------------------------


def test_evaluate(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("datasets")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    small = [f"--option={split}=16" for split in ("train", "validation", "test")]
    command = [
        "evaluate",
        checkpoint,
        "--data",
        "synthetic",
        *small,
        "--classes",
        "8",
        "--resolutions",
        "1,4",
    ]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert "1/4" in out
    names = {f"tiny-synthetic-test{end}" for end in (".json", "_confusion.png", "_resolution.png")}
    assert {path.name for path in (tmp_path / "results").iterdir()} == names
    record = json.loads((tmp_path / "results" / "tiny-synthetic-test.json").read_text())
    assert record["model"] == "tiny"  # the rest of the path is nobody's business
    assert record["revision"].startswith("sha256:")
    assert record["n"] == 16
    assert list(record["resolutions"]) == ["1", "4"]
    assert record["options"]["test"] == 16
    assert re.search(rf"full +{record['resolutions']['1']['accuracy']:.4f} ", out)
    assert "--force" in sentence(capsys, *command)
    assert cli.main([*command, "--force", "--resolutions", "1"]) == 0


# --- what main promises ----------------------------------------------------------------------


def test_train_hands_its_flags_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, list[str]]] = []
    stub = types.ModuleType("hf_fer.training.cli")
    stub.main = lambda method, argv: seen.append((method, argv)) or 0
    monkeypatch.setitem(sys.modules, "hf_fer.training.cli", stub)
    config = tmp_path / "mek_small.yaml"
    config.touch()
    assert cli.main(["train", str(config), "--epochs", "3", "--dataset_options", "{a: 1}", "--no_ema"]) == 0
    assert cli.main(["--debug", "train", str(config), "--method", "mek", "--lr=0.1"]) == 0
    flags = ["--epochs", "3", "--dataset_options", "{a: 1}", "--no_ema"]
    assert seen == [
        ("mek", ["--config", str(config), *flags]),
        ("mek", ["--config", str(config), "--lr=0.1", "--debug"]),
    ]
    assert "one of hsac, mek" in sentence(capsys, "train", str(config), "--method", "nothing")
    assert "no such configuration" in sentence(capsys, "train", str(tmp_path / "mek_x.yaml"))
    assert "CONFIG" in sentence(capsys, "train")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (hf_fer.FerError("this\nand that"), 2, "hf-fer: this and that\n"),
        (ValueError("wrong"), 2, "hf-fer: wrong\n"),
        (PermissionError(13, "Permission denied", "/x"), 2, "hf-fer: /x: Permission denied\n"),
        (ModuleNotFoundError("m", name="datasets.features"), 2, "pip install hf-fer[train]"),
        (ModuleNotFoundError("m", name="cv2"), 2, "pip install hf-fer[detect]"),
        (ModuleNotFoundError("m", name="other"), 2, "pip install other"),
        (RuntimeError("a bug"), 1, "unexpected RuntimeError: a bug"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (SystemExit(3), 3, ""),
    ],
)
def test_errors_become_one_line(
    error: BaseException,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main([]) == code
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") <= 1
    assert "Traceback" not in err
    cli.main(["--debug"])
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, Exception)
