"""Finding faces: the protocol, weights from anywhere, hostile files, and what YuNet finds in real and odd pictures."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_fer import FerError
from hf_fer.inference import detection
from hf_fer.inference.detection import Face, FaceDetector, YuNetDetector, load_detector

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("HF_FER_SHARED", ROOT.parent / "shared"))
YUNET = Path(os.environ.get("HF_FER_DETECTOR", SHARED / "models" / "face_detection_yunet_2026may.onnx"))
FERPLUS = SHARED / "data" / "ferplus"
# By hand, from looking at the picture four times enlarged: cheeks without ears, hairline under the fringe, chin.
ASTRONAUT_FACE = (181, 71, 269, 179)

cv2 = pytest.importorskip("cv2")
needs_weights = pytest.mark.skipif(not YUNET.is_file(), reason=f"YuNet's weights are not at {YUNET}")


@pytest.fixture(scope="module")
def yunet() -> YuNetDetector:
    if not YUNET.is_file():
        pytest.skip(f"YuNet's weights are not at {YUNET}")
    return YuNetDetector(YUNET)


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    """Eileen Collins (NASA, public domain)."""
    return Image.fromarray(pytest.importorskip("skimage.data").astronaut())


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


# --- without weights --------------------------------------------------------------------------------


def test_whole_image_is_one_face() -> None:
    detector = load_detector("none")
    assert isinstance(detector, FaceDetector)
    assert detector.name == "none"
    assert detector.detect(Image.new("L", (30, 20))) == [Face((0, 0, 30, 20), 1.0, None)]


class FakeNetwork:
    """Stands in for cv2.FaceDetectorYN: sees the same boxes, in 0..1 of what it is shown, every time."""

    def __init__(self, rows: list[tuple[float, float, float, float, float]]) -> None:
        self.rows, self.sizes = rows, []

    def setInputSize(self, size: tuple[int, int]) -> None:
        self.sizes.append(size)

    def detect(self, pixels: np.ndarray) -> tuple[int, np.ndarray | None]:
        height, width = pixels.shape[:2]
        assert (width, height) == self.sizes[-1]
        # The second look is at a square window: there the face is in the middle, whatever it was.
        if (width, height) == (192, 192):
            rows = [(0.15, 0.15, 0.7, 0.7, self.rows[0][4])] if self.rows else []
        else:
            rows = self.rows
        out = []
        for x, y, w, h, score in rows:
            points = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
            flat = [v for u, t in points for v in ((x + w * u) * width, (y + h * t) * height)]
            out.append([x * width, y * height, w * width, h * height, *flat, score])
        return 1, np.array(out, np.float32) if out else None


def fake(monkeypatch: pytest.MonkeyPatch, rows: list, **limits: float) -> YuNetDetector:
    network = FakeNetwork(rows)
    monkeypatch.setattr(detection, "_check_content", lambda content, shown: None)
    monkeypatch.setattr(detection, "_create", lambda content: network)
    return YuNetDetector(b"weights", **limits)


@pytest.mark.parametrize("size", [(640, 480), (8000, 6000), (333, 100), (50, 50)])
def test_boxes_are_of_the_picture_whatever_size_was_looked_at(monkeypatch, size) -> None:
    rows = [(0.1, 0.2, 0.2, 0.3, 0.9), (0.5, 0.2, 0.4, 0.6, 0.9)]
    faces = fake(monkeypatch, rows).detect(Image.new("RGB", size))
    assert len(faces) == 2
    assert faces[0].area > faces[1].area
    for face, (x, y, w, h, _) in zip(faces, rows[::-1], strict=True):
        centre = ((face.box[0] + face.box[2]) / 2 / size[0], (face.box[1] + face.box[3]) / 2 / size[1])
        assert centre == pytest.approx((x + w / 2, y + h / 2), abs=0.02)
        assert all(face.box[0] < px < face.box[2] and face.box[1] < py < face.box[3] for px, py in face.landmarks)


def test_cost_is_bounded_for_any_picture(monkeypatch) -> None:
    crowd = [(x / 40, y / 40, 0.02, 0.02, 0.9) for x in range(40) for y in range(40)]
    detector = fake(monkeypatch, crowd)
    faces = detector.detect(Image.new("RGB", (4000, 2000)))
    sizes = detector._network.sizes
    assert max(max(size) for size in sizes) <= 1920
    assert len(sizes) <= 302
    assert len(faces) <= 300


def test_boxes_are_clipped_and_what_lies_outside_is_dropped(monkeypatch) -> None:
    faces = fake(monkeypatch, [(-0.1, 0.5, 0.4, 0.7, 0.9), (1.3, 0.1, 0.2, 0.2, 0.9)]).detect(
        Image.new("RGB", (400, 300))
    )
    assert len(faces) == 1
    x0, y0, x1, y1 = faces[0].box
    assert 0 == x0 < x1 <= 400
    assert 0 < y0 < y1 == 300


def test_rows_that_are_no_numbers_are_dropped(monkeypatch) -> None:
    rows = [(float("nan"), 0.1, 0.2, 0.2, 0.9), (float("inf"), 0.1, 0.2, 0.2, 0.9)]
    assert fake(monkeypatch, rows).detect(Image.new("RGB", (100, 100))) == []


def test_small_and_uncertain_faces_are_left_out(monkeypatch) -> None:
    rows = [(0.1, 0.1, 0.3, 0.3, 0.8)]
    picture = Image.new("RGB", (200, 200))
    side = fake(monkeypatch, rows).detect(picture)[0].side
    assert fake(monkeypatch, rows, min_face=side - 1).detect(picture)
    assert not fake(monkeypatch, rows, min_face=side + 1).detect(picture)
    assert fake(monkeypatch, rows, min_score=0.79).detect(picture)
    assert not fake(monkeypatch, rows, min_score=0.81).detect(picture)


@pytest.mark.parametrize(
    "limits",
    [{"min_score": 0}, {"min_score": 1.1}, {"min_score": float("nan")}, {"min_face": -1}, {"min_face": np.inf}],
)
def test_limits_out_of_range_are_refused(limits: dict) -> None:
    with pytest.raises(FerError, match="least"):
        load_detector("none", **limits)


@pytest.mark.parametrize("name", ["", "retinaface", "/", "no\nsuch", "a\0b", 7])
def test_unknown_detector_is_one_sentence(name: object) -> None:
    with pytest.raises(FerError) as caught:
        load_detector(name)
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)


def test_without_opencv_the_message_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(FerError, match=r'pip install "hf-fer\[detect\]".*--no-detect'):
        load_detector("yunet")


def test_environment_names_the_weights(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_FER_DETECTOR", str(tmp_path / "gone.onnx"))
    with pytest.raises(FerError, match=r"gone\.onnx: no such file.*HF_FER_DETECTOR.*--no-detect"):
        load_detector("yunet")


def test_weights_come_from_the_cache_first_then_from_the_hub_newest_first(monkeypatch, tmp_path) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    monkeypatch.delenv("HF_FER_DETECTOR", raising=False)
    asked: list[tuple[str, str, bool]] = []
    here: set[tuple[str, bool]] = set()

    def download(repository: str, file: str, local_files_only: bool) -> str:
        asked.append((repository, file, local_files_only))
        if (file, local_files_only) in here:
            return str(tmp_path / file)
        kind = errors.LocalEntryNotFoundError if local_files_only else errors.EntryNotFoundError
        raise kind(f"no {file}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    new, old = detection.HUB_FILES
    with pytest.raises(FerError, match=r"no face detector.*HF_FER_DETECTOR"):
        load_detector("yunet")
    assert asked == [(detection.HUB_REPOSITORY, f, cached) for cached in (True, False) for f in (new, old)]
    here.add((old, False))
    assert detection._from_hub() == tmp_path / old
    here.add((new, False))
    assert detection._from_hub() == tmp_path / new
    here.add((old, True))
    asked.clear()
    assert detection._from_hub() == tmp_path / old
    assert all(cached for _, _, cached in asked)


def test_hub_that_is_out_of_reach_is_one_sentence(monkeypatch) -> None:
    import huggingface_hub

    monkeypatch.delenv("HF_FER_DETECTOR", raising=False)

    def fail(*_: object, **__: object) -> str:
        raise OSError("connection\nrefused")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(FerError, match=r"connection refused.*HF_FER_DETECTOR") as caught:
        load_detector("yunet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<!doctype html><html>404</html>", "OpenCV"),
        (bytes(17 * 2**20), "over 16 MB"),
    ],
)
def test_file_that_is_no_yunet_is_one_sentence(tmp_path, content: bytes, reason: str) -> None:
    path = tmp_path / "weights.onnx"
    path.write_bytes(content)
    with pytest.raises(FerError, match=reason) as caught:
        load_detector(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_is_tried_without_running_what_lies_in_the_current_folder(monkeypatch, tmp_path) -> None:
    for module in ("cv2", "numpy"):
        (tmp_path / f"{module}.py").write_text("open('ran', 'w')")
    (tmp_path / "weights.onnx").write_bytes(b"junk")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FerError, match="not YuNet's weights"):
        load_detector("weights.onnx")
    assert not (tmp_path / "ran").exists()


def test_logging_is_quietened_in_opencv_4_too(monkeypatch) -> None:
    """There `cv2.utils.logging` is missing."""
    levels = []
    monkeypatch.delattr(cv2.utils, "logging", raising=False)
    monkeypatch.setattr(cv2, "setLogLevel", lambda level: levels.append(level) or 3, raising=False)
    with pytest.raises(cv2.error):
        detection._create(b"junk")
    assert levels == [2, 3]


def test_other_onnx_model_is_refused(tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    tensor = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 320, 320])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, 320, 320])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [tensor], [out])
    path = tmp_path / "relu.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)]), path)
    with pytest.raises(FerError, match="not YuNet's weights"):
        load_detector(path)


def test_file_that_kills_opencv_does_not_kill_us(monkeypatch, tmp_path) -> None:
    path = tmp_path / "deadly.onnx"
    path.write_bytes(b"x")
    monkeypatch.setattr(detection, "_PROBE", "import os; os.abort()")
    with pytest.raises(FerError, match="crashed"):
        load_detector(path)
    monkeypatch.setattr(detection, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(detection, "_PROBE_SECONDS", 0.2)
    with pytest.raises(FerError, match="has not loaded"):
        load_detector(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_is_refused_without_being_read(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(FerError, match="not a regular file"):
        load_detector(tmp_path / "pipe.onnx")


def test_importing_is_light() -> None:
    code = (
        "import sys, hf_fer.inference.detection, hf_fer.inference.alignment;"
        "print([m for m in ('cv2', 'torch', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


# --- with YuNet -------------------------------------------------------------------------------------


def test_astronaut_has_one_face(yunet, astronaut) -> None:
    (face,) = yunet.detect(astronaut)
    assert iou(face.box, ASTRONAUT_FACE) >= 0.8
    assert face.score > 0.85
    eyes, nose, mouth = face.landmarks[:2], face.landmarks[2], face.landmarks[3:]
    assert eyes[0][0] < nose[0] < eyes[1][0]
    assert mouth[0][0] < mouth[1][0]
    assert max(eye[1] for eye in eyes) < nose[1] < min(corner[1] for corner in mouth)


@pytest.mark.parametrize("side", [128, 300, 1024, 2000])
def test_face_is_found_at_any_size_of_the_picture(yunet, astronaut, side: int) -> None:
    face = max(yunet.detect(astronaut.resize((side, side))), key=lambda face: face.score)
    assert iou(face.box, tuple(v * side / 512 for v in ASTRONAUT_FACE)) >= 0.7


@pytest.mark.parametrize("angle", [-45, -30, 30, 45])
def test_landmarks_of_a_leaning_face(yunet, astronaut, angle: int) -> None:
    upright = yunet.detect(astronaut)[0]
    face = yunet.detect(astronaut.rotate(angle, Image.Resampling.BICUBIC))[0]
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    expected = (np.array(upright.landmarks) - 256) @ np.array([[cos, -sin], [sin, cos]]) + 256
    error = np.linalg.norm(np.array(face.landmarks) - expected, axis=1).mean()
    assert error < 0.1 * upright.side  # without turning the face upright: 0.2


def test_fifty_faces_of_one_crowd(yunet, astronaut) -> None:
    head = astronaut.crop((150, 20, 300, 220)).resize((90, 120))
    crowd = Image.new("RGB", (1000, 700), (150, 150, 150))
    places = [(5 + 100 * x, 10 + 138 * y) for x in range(10) for y in range(5)]
    for place in places:
        crowd.paste(head, place)
    faces = yunet.detect(crowd)
    assert len(faces) == 50
    box = [(v - o) * 0.6 for v, o in zip(ASTRONAUT_FACE, (150, 20) * 2, strict=True)]
    for x, y in places:
        assert max(iou(face.box, (box[0] + x, box[1] + y, box[2] + x, box[3] + y)) for face in faces) > 0.6
    assert [face.area for face in faces] == sorted((face.area for face in faces), reverse=True)


@pytest.mark.parametrize("name", ["coffee", "chelsea", "brick", "coins", "text", "rocket"])
def test_photo_without_a_face_has_none(yunet, name: str) -> None:
    picture = getattr(pytest.importorskip("skimage.data"), name)()
    assert yunet.detect(Image.fromarray(picture)) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (8000, 3), (24, 24), (4000, 500)])
def test_odd_pictures_have_no_face(yunet, size) -> None:
    assert yunet.detect(Image.new("RGB", size, (128, 128, 128))) == []


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_any_mode_is_taken(yunet, astronaut, mode: str) -> None:
    faces = yunet.detect(astronaut.convert(mode))
    if mode != "1":
        assert iou(faces[0].box, ASTRONAUT_FACE) > 0.6


def test_threads_share_a_detector(yunet, astronaut) -> None:
    pictures = [astronaut.resize((side, side)) for side in (200, 256, 320, 400)]
    alone = [yunet.detect(picture) for picture in pictures]
    shared: dict[int, list[Face]] = {}

    def work(k: int) -> None:
        shared[k] = yunet.detect(pictures[k % 4])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared == {k: alone[k % 4] for k in range(8)}


def test_detector_survives_pickling(yunet, astronaut) -> None:
    assert pickle.loads(pickle.dumps(yunet)).detect(astronaut) == yunet.detect(astronaut)


@needs_weights
def test_unknown_but_good_weights_are_checked_and_taken(monkeypatch, astronaut, capfd) -> None:
    monkeypatch.setattr(detection, "_KNOWN", frozenset())
    assert YuNetDetector(YUNET).detect(astronaut)
    assert capfd.readouterr().err == ""  # OpenCV 5 would warn at every construction


@pytest.mark.skipif(not FERPLUS.is_dir(), reason=f"FERPlus is not at {FERPLUS}")
def test_montage_of_ferplus_faces(yunet, monkeypatch) -> None:
    from hf_fer import load_fer_dataset
    from hf_fer.inference.pipeline import load_pipeline

    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import detection as benchmark

    monkeypatch.delitem(sys.modules, "detection")
    pipeline = load_pipeline("default", detector=yunet, device="cpu")
    result = benchmark.measure(load_fer_dataset("ferplus", root=FERPLUS)["test"], pipeline, 54)
    # Chance alone moves shares of 42 faces by some points; all 3,153 are measured by the benchmark.
    assert result["from_40"]["recall"] >= 0.9
    assert result["from_40"]["agreement"] >= 0.8
    assert result["false_alarms"] <= 5
    assert "| from 40 | 42 |" in benchmark.table(result)


def test_benchmark_matches_each_face_once(monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import detection as benchmark

    monkeypatch.delitem(sys.modules, "detection")

    def answer(*box: int) -> dict:
        return {"box": dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))}

    good, twin, away = answer(10, 10, 50, 50), answer(12, 12, 50, 50), answer(300, 0, 340, 40)
    found, spare = benchmark.match([twin, away, good], [(10, 10, 50, 50), (100, 100, 140, 140)])
    assert found == [good, None]
    assert spare == 2
