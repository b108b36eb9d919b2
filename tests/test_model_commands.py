"""`hf-fer explain`, `export`, `calibrate` and `demo`, as the command line calls them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_fer import cli
from hf_fer.data.drawn_faces import draw_face

ASSETS = Path(__file__).parents[1] / "hf_fer" / "assets"


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("faces") / "face.png"
    draw_face("happiness", np.random.default_rng(0), size=96, clean=True).save(path)
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What `main` prints; of a mistake its one line."""
    assert cli.main(list(arguments)) == code
    out, err = capsys.readouterr()
    if code:
        assert out == "" and err.startswith("hf-fer: ") and err.count("\n") == 1, err
        return err
    return out


def test_explain(face: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "why.png"
    command = ("explain", face, "--no-detect", "--resolutions", "1,4", "--top", "2", "--output", str(target))
    out = said(capsys, *command)
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["x1", "x4"] and "class activation maps" in out
    assert min(Image.open(target).size) > 300
    assert "exists already" in said(capsys, *command, code=2)
    assert "only one found" in said(capsys, *command, "--force", "--face", "2", code=2)
    assert "'saliency' is no method" in said(capsys, *command, "--force", "--method", "saliency", code=2)
    assert "no such file" in said(capsys, "explain", "nowhere.jpg", "--no-detect", code=2)


def test_export(face: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason='exports need ONNX: pip install "hf-fer[onnx]"')
    target = tmp_path / "model.onnx"
    command = ("export", "default", "--to", "onnx", "--output", str(target))
    out = said(capsys, *command)
    assert "100.0% the same expression" in out and f"written: {target} (float32" in out
    assert "exists already" in said(capsys, *command, code=2)
    assert "add --int8" in said(capsys, *command, "--force", "--data", "synthetic", code=2)
    tested = ("--int8", "--data", "synthetic", "--split", "test")
    assert "would flatter" in said(capsys, *command, "--force", *tested, code=2)
    for flag, value in (("--root", "raw"), ("--split", "test"), ("--label-rule", "argmax"), ("--option", "a=1")):
        assert f"{flag} belongs to --data" in said(capsys, *command, "--force", "--int8", flag, value, code=2)
    assert "--output is missing" in said(capsys, "export", "default", code=2)

    import onnxruntime

    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    image = Image.open(face).convert("RGB").resize((48, 48), Image.Resampling.BICUBIC)
    pixels = ((np.asarray(image, np.float32) / 255 - 0.5) / 0.25).transpose(2, 0, 1)[None]
    answer = session.run(["probabilities"], {"pixel_values": pixels})[0][0]
    entry = json.loads(said(capsys, "predict", "--no-detect", face, "--json"))[0]["faces"][0]
    labels = json.loads((ASSETS / "config.json").read_text())["id2label"]
    for k, p in enumerate(answer):
        assert entry["probabilities"][labels[str(k)]] == pytest.approx(float(p), abs=1e-4)


def test_calibrate(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        shutil.copy(ASSETS / name, folder)
    command = ("calibrate", str(folder), "--data", "synthetic", "--option", "validation=64", "--option", "train=8")
    monkeypatch.setattr(
        "sys.argv", ["hf-fer", *command, "--root=/home/me/raw", "--data=/home/me/faces", "--root", "my"]
    )
    out = said(capsys, *command, "--resolutions", "1,4")
    assert "64 images" in out and "x4" in out
    found = json.loads((folder / "calibration.json").read_text())
    assert [*found["temperatures"]] == ["1", "4"] and found["split"] == "validation"
    assert found["command"].startswith(
        "hf-fer calibrate model --data synthetic --option validation=64 --option train=8"
    )
    assert found["command"].endswith(" --root=DIR --data=faces --root DIR"), "no place of this machine"
    assert all(scores["nll"] <= scores["nll_before"] for scores in found["scores"].values())
    assert "exists already" in said(capsys, *command, code=2)
    assert "would flatter the model" in said(capsys, *command, "--force", "--split", "test", code=2)


def test_demo_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason='the demo needs gradio: pip install "hf-fer[demo]"')
    assert "nowhere.onnx" in said(capsys, "demo", "--detector", str(tmp_path / "nowhere.onnx"), code=2)
    assert "--port" in said(capsys, "demo", "--port", "no", code=2)
    assert "no such folder" in said(capsys, "demo", "--detector", "none", "default", "./nowhere", code=2)
