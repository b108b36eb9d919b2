"""`hf-fer predict` on photos and videos: who is found, what is written where, and what is said about the rest."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_fer import cli
from hf_fer.data.drawn_faces import draw_face
from hf_fer.inference.detection import Face
from hf_fer.predict_output import Answer, write_csv

ROOT = Path(__file__).parents[1]
YUNET = next(iter(sorted((ROOT / ".." / "shared" / "models").glob("face_detection_yunet*.onnx"))), None)
CORNERS = [(8, 16, 72, 80), (96, 8, 128, 40)]  # of the faces that `photo` draws


class Bright:
    """Finds the drawn faces: a detector for pictures whose background is black."""

    name = "bright"

    def detect(self, image: Image.Image) -> list[Face]:
        grey = np.asarray(image.convert("L"))
        return [Face(box, 0.9, None) for box in CORNERS if grey[box[1] : box[3], box[0] : box[2]].mean() > 60]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_fer.inference.detection.load_detector", lambda name, **_: Bright())


def scene(faces: int) -> Image.Image:
    image = Image.new("RGB", (160, 96))
    for k, (x, y, right, _) in enumerate(CORNERS[:faces]):
        drawn = draw_face(["happiness", "surprise"][k], np.random.default_rng(k), size=right - x, clean=True)
        image.paste(drawn.convert("RGB"), (x, y))
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two faces, one, none, and a file that is no picture."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for faces, name in ((2, "a.png"), (1, "b.jpg"), (0, "c.png")):
        scene(faces).save(photos / name)
    return photos


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert cli.main(["predict", *arguments]) == code
    out, err = capsys.readouterr()
    return out, err


def test_every_face_of_every_photo(fake: None, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.jpg").write_text("<html>")
    out, err = run(capsys, str(folder), "--json", code=2)
    answers = {Path(entry.pop("path")).name: entry for entry in json.loads(out)}
    boxes = [[tuple(face["box"].values()) for face in answers[name]["faces"]] for name in ("a.png", "b.jpg", "c.png")]
    assert boxes == [CORNERS, CORNERS[:1], []]
    assert set(answers["broken.jpg"]) == {"error"} and "broken.jpg: not an image file" in err
    assert all(0 < face["reliability"] <= 1 for entry in answers.values() for face in entry.get("faces", []))
    assert "no face found in " in err and "c.png" in err and "--no-detect" in err

    rows = list(csv.DictReader(io.StringIO(run(capsys, str(folder), "--csv", code=2)[0])))
    assert [(Path(r["path"]).name, r["face"]) for r in rows] == [
        *(("a.png", "1"), ("a.png", "2"), ("b.jpg", "1"), ("broken.jpg", ""), ("c.png", "0"))
    ]
    assert rows[1]["xmin"] == "96" and rows[1]["detection_score"] == "0.9" and rows[4]["label"] == ""

    table = run(capsys, str(folder), "--min-face", "40", code=2)[0].splitlines()
    assert [line.split()[1:3] for line in table[1:3]] == [["1", "64"], ["1", "64"]]  # the small face is left out
    assert "c.png" in table[3] and table[3].endswith("no face found")


def test_annotated_photos(fake: None, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sub").mkdir()
    scene(1).save(folder / "sub" / "a.png")
    target = tmp_path / "drawn"
    _, err = run(capsys, str(folder), "--annotate", str(target))
    assert sorted(path.name for path in target.iterdir()) == ["a-2.png", "a.png", "b.jpg", "c.png"]
    assert f"drawn into {target}" in err
    drawn = Image.open(target / "a.png")
    assert drawn.size == (160, 96) and np.abs(np.asarray(drawn, int) - np.asarray(scene(2), int)).max() > 50
    assert (np.asarray(Image.open(target / "c.png")) == np.asarray(scene(0))).all()  # nobody there, nothing drawn

    _, err = run(capsys, str(folder), "--annotate", str(target), code=2)
    assert "exists already" in err and "--force" in err
    run(capsys, str(folder), "--annotate", str(target), "--force")
    assert Image.open(folder / "a.png").tobytes() == scene(2).tobytes()


def test_nothing_is_drawn_over_another_input(fake: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.gif", "a.png"):  # the drawing of the first would have the name of the second
        scene(1).save(tmp_path / name)
    before = (tmp_path / "a.png").read_bytes()
    _, err = run(capsys, str(tmp_path), "--annotate", str(tmp_path), "--force", code=2)
    assert "a.png: would be drawn over itself" in err
    assert (tmp_path / "a.png").read_bytes() == before


def test_what_to_do_without_a_face(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run(capsys, str(folder / "a.png"), "--no-detect", "--min-face", "97")
    assert err.endswith(f"no face of at least 97 px found in {folder / 'a.png'}\n")


def test_csv_is_written_as_the_answers_come() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="utf-8")
    rows = []

    def answers() -> Iterator[Answer]:
        for path in ("a", "b"):
            yield Answer(path)
            rows.append(raw.getvalue().count(b"\n"))

    write_csv(answers(), out, None, ["anger"])
    assert rows == [2, 3]


def write_video(path: Path, seconds: float, picture: Image.Image, sound: bool = False) -> None:
    av = pytest.importorskip("av", reason='videos need PyAV: pip install "hf-fer[video]"')
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "1"})  # frames of one size
        stream.width, stream.height, stream.pix_fmt = *picture.size, "yuv420p"
        if sound:
            tone = container.add_stream("pcm_s16le", rate=8000, layout="mono")
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
            silence.sample_rate, silence.pts = 8000, 0
            container.mux(tone.encode(silence))
        for _ in range(round(10 * seconds)):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


def test_videos(fake: None, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = folder / "d.mkv"
    write_video(film, 2, scene(2), sound=True)
    drawn = tmp_path / "drawn"
    out, err = run(capsys, str(folder), "--json", "--fps", "2", "--annotate", str(drawn))
    frames = [entry for entry in json.loads(out) if Path(entry["path"]).name == "d.mkv"]
    assert [(entry["frame"], entry["seconds"]) for entry in frames] == [(0, 0), (5, 0.5), (10, 1), (15, 1.5)]
    assert [[face["track"] for face in entry["faces"]] for entry in frames] == [[1, 2]] * 4
    assert (drawn / "d.mp4").stat().st_size > 1000 and f"{film} is drawn without its sound" in err

    rows = list(csv.DictReader(io.StringIO(run(capsys, str(film), "--csv", "--fps", "2", "--max-seconds", "1")[0])))
    assert [(row["seconds"], row["face"]) for row in rows] == [("0.0", "1"), ("0.0", "2"), ("0.5", "1"), ("0.5", "2")]

    # A broken tail: what came before is answered, and the exit status says that something is missing.
    write_video(film, 4, scene(2))
    film.write_bytes(film.read_bytes()[: round(film.stat().st_size * 0.6)])
    out, err = run(capsys, str(film), "--json", "--fps", "5", code=2)
    assert 2 < len(json.loads(out)) < 20 and "d.mkv" in err
    film.write_bytes(b"")
    out, err = run(capsys, str(film), "--json", code=2)
    assert [set(entry) for entry in json.loads(out)] == [{"path", "error"}] and "empty" in err


def test_without_a_detector_it_says_how_to_go_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_FER_DETECTOR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    out, err = run(capsys, str(folder / "a.png"), code=2)
    assert out == "" and err.count("\n") == 1
    assert "--no-detect" in err and ("HF_FER_DETECTOR" in err or "hf-fer[detect]" in err)


@pytest.mark.skipif(YUNET is None, reason="the weights of YuNet are not at hand (../shared/models)")
def test_a_real_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    skimage_data = pytest.importorskip("skimage.data", reason="the photo is scikit-image's")
    pytest.importorskip("cv2", reason='finding faces needs OpenCV: pip install "hf-fer[detect]"')
    monkeypatch.setenv("HF_FER_DETECTOR", str(YUNET))
    photo = tmp_path / "astronaut.png"
    Image.fromarray(skimage_data.astronaut()).save(photo)
    (entry,) = json.loads(run(capsys, str(photo), "--json")[0])
    (face,) = entry["faces"]
    assert face["label"] == "happiness"
