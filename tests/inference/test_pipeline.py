"""The pipeline from any picture to faces with expressions: what it answers, and what it says about bad pictures.

A detector that is told where the faces are stands in for a real one; the tests at the end use YuNet where it is."""

from __future__ import annotations

import io
import itertools
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor, pipeline

from hf_fer import FerError, GReFELConfig, GReFELForImageClassification, embedded_model_path, predict_images
from hf_fer.inference.alignment import crop_face
from hf_fer.inference.detection import Face
from hf_fer.inference.download import download
from hf_fer.inference.images import FailedImage
from hf_fer.inference.pipeline import TASK, FacialExpressionPipeline, PictureFaces, iter_faces, load_pipeline
from hf_fer.training.export import build_processor

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "space" / "examples").glob("drawn_*.png"))
SHARED = Path(os.environ.get("HF_FER_SHARED", ROOT.parent / "shared"))
NAMES = ["neutral", "happiness", "anger"]


class Boxes:
    """A detector that finds faces at the same places in every picture."""

    name = "boxes"

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.boxes = sorted(boxes, key=lambda b: (b[0] - b[2]) * (b[3] - b[1]))

    def detect(self, image: Image.Image) -> list[Face]:
        return [Face(box, 0.9) for box in self.boxes]


class Sides:
    """A detector that finds one face: the left half of the picture, but nothing in a picture that is all black."""

    name = "sides"

    def detect(self, image: Image.Image) -> list[Face]:
        return [Face((0, 0, image.width / 2, image.height), 0.5)] if image.convert("L").getextrema()[1] else []


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def crops() -> FacialExpressionPipeline:
    """The embedded model, for pictures that are faces."""
    return load_pipeline(detector="none", device="cpu")


def same(a: dict[str, Any], b: dict[str, Any], within: float = 1e-5) -> bool:
    return a["label"] == b["label"] and a["probabilities"] == pytest.approx(b["probabilities"], abs=within)


def montage(columns: int = 10, rows: int = 5, side: int = 48) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    """Drawn faces in a grid, and their boxes."""
    sheet = Image.new("RGB", (columns * side, rows * side), "grey")
    faces = itertools.cycle(Image.open(path).convert("RGB").resize((side, side)) for path in EXAMPLES)
    places = [(x * side, y * side) for y in range(rows) for x in range(columns)]
    for place in places:
        sheet.paste(next(faces), place)
    return sheet, [(x, y, x + side, y + side) for x, y in places]


# --- answers --------------------------------------------------------------------------------------


def test_the_task_without_a_model_is_the_embedded_one(crops: FacialExpressionPipeline) -> None:
    stock = pipeline(TASK, detector="none", device="cpu")
    assert isinstance(stock, FacialExpressionPipeline) and stock.model.name_or_path == embedded_model_path()
    paths = [str(path) for path in EXAMPLES]
    for ours in (stock, crops):
        answers = ours(paths, batch_size=3)
        for path, faces, expected in zip(
            paths, answers, predict_images(paths, ours.model, ours.image_processor), strict=True
        ):
            (face,) = faces
            width, height = Image.open(path).size
            assert face["box"] == {"xmin": 0, "ymin": 0, "xmax": width, "ymax": height}
            assert (face["detection_score"], face["landmarks"]) == (1.0, None)
            assert face["label"] == expected.label and face["score"] == pytest.approx(expected.score, abs=1e-5)
            assert face["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
            assert [*face["probabilities"]] == [*expected.probabilities]
            assert 1 / 8 < face["reliability"] <= 1  # the package holds the embedded model's calibration
        assert json.loads(json.dumps(answers)) == answers


def test_every_kind_of_input_gives_the_same_answer(crops: FacialExpressionPipeline, tmp_path: Path) -> None:
    path = EXAMPLES[0]
    image = Image.open(path)
    array = np.asarray(image.convert("RGB"))
    expected = crops(str(path))[0]
    alpha = np.concatenate([array, np.full((*array.shape[:2], 1), 255, np.uint8)], axis=2)
    for given in (path, path.read_bytes(), image, array, np.asfortranarray(array), alpha):
        assert same(crops(given)[0], expected), type(given)
    grey = image.convert("L")
    palette, wide = grey.convert("P"), Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for given in (np.asarray(grey), np.asarray(grey)[:, :, None], palette, wide):
        assert same(crops(given)[0], crops(grey)[0]), type(given)
    assert crops([]) == []
    assert [len(faces) for faces in crops((str(path), array, grey))] == [1, 1, 1]


@pytest.mark.parametrize("batch_size", [3, 100])
def test_fifty_faces_are_batched_across_pictures(crops: FacialExpressionPipeline, batch_size: int) -> None:
    """As if each crop had been asked about by itself, whatever the batch."""
    sheet, boxes = montage()
    seen = []
    handle = crops.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    try:
        many, again = crops([sheet, sheet], detector=Boxes(*boxes), batch_size=batch_size)
    finally:
        handle.remove()
    assert sum(seen) == 100 and max(seen) == batch_size and len(seen) == -(-100 // batch_size)
    assert len(many) == len(again) == 50
    expected = crops.predict_crops([crop_face(sheet, Face(box, 1.0)) for box in boxes])
    for face, box, answer in zip(many, boxes, expected, strict=True):
        assert (*face["box"].values(),) == box
        assert face["detection_score"] == 0.9
        assert same(face, answer)
        assert face["reliability"] == pytest.approx(answer["reliability"], abs=1e-5)
    assert len({face["label"] for face in many}) > 2
    assert all(map(same, many, again))


def test_faces_keep_their_pictures_and_their_order(crops: FacialExpressionPipeline) -> None:
    sheet, _ = montage()
    boxes = [(0, 0, 48, 48), (48, 0, 144, 96), (0, 96, 30.4, 120.6), (-300, 200, 9.7, 260), (-9, -9, -1, 0)]
    faces = crops(sheet, detector=Boxes(*boxes))
    assert [(*face["box"].values(),) for face in faces] == [
        (48, 0, 144, 96),
        (0, 0, 48, 48),
        (0, 96, 30, 121),  # in whole pixels of the picture
        (0, 200, 10, 240),
    ]
    assert [len(crops(sheet, detector=Boxes(*boxes), min_face=side)) for side in (0, 20, 48, 97)] == [4, 3, 2, 0]
    black, white = Image.new("L", (40, 20)), Image.new("L", (40, 20), 255)
    answers = crops([black, white, black, white], detector=Sides())
    assert [len(faces) for faces in answers] == [0, 1, 0, 1]
    assert crops(black, detector=Sides()) == []
    (face,) = crops(white, detector=Sides(), top_k=2)
    assert (
        len(face["probabilities"]) == 2 and max(face["probabilities"], key=face["probabilities"].get) == face["label"]
    )


def test_landmarks_are_reported(crops: FacialExpressionPipeline) -> None:
    class Points:
        def detect(self, image: Image.Image) -> list[Face]:
            points = ((34.0, 50.0), (94.0, 50.0), (64.0, 80.0), (44.0, 100.0), (84.5, 100.0))
            return [Face((10.0, 10.0, 118.0, 120.0), np.float32(0.5), points)]

    (face,) = crops(Image.new("RGB", (128, 128), "tan"), detector=Points())
    assert face["landmarks"] == [[34, 50], [94, 50], [64, 80], [44, 100], [84.5, 100]]
    json.dumps(face)


def test_boxes_are_those_of_the_upright_picture(crops: FacialExpressionPipeline, tmp_path: Path) -> None:
    """The camera was held sideways: stored 60 x 40, meant 40 x 60."""
    stored = Image.effect_noise((60, 40), 80).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "rotated.png", exif=exif)
    upright = stored.transpose(Image.Transpose.ROTATE_270)
    expected = crops(upright, detector=Sides())
    assert expected[0]["box"] == {"xmin": 0, "ymin": 0, "xmax": 20, "ymax": 60}
    data = (tmp_path / "rotated.png").read_bytes()
    for given in (tmp_path / "rotated.png", data, Image.open(tmp_path / "rotated.png")):
        (face,) = crops(given, detector=Sides())
        assert face["box"] == expected[0]["box"] and same(face, expected[0])
    (answer,) = iter_faces([data], crops, detector=Sides(), keep_images=True)
    assert answer.size == (40, 60) and answer.image.tobytes() == upright.tobytes()


def test_a_generator_is_read_as_its_answers_are_asked_for(crops: FacialExpressionPipeline) -> None:
    taken = 0

    def endless() -> Iterator[Image.Image]:
        nonlocal taken
        while True:
            taken += 1
            yield Image.new("L", (8, 8), 99)

    answers = crops(endless(), batch_size=4)
    assert taken == 0
    assert len(next(answers)) == 1 and taken == 4
    assert [len(next(answers)) for _ in range(4)] == [1] * 4 and taken == 8
    # Pictures without a face are answered at once, and do not pile up behind one that waits for its batch.
    answers, taken = crops(endless(), batch_size=4, detector=Boxes()), 0
    assert next(answers) == [] and taken == 1
    found = iter([[Face((0, 0, 8, 8), 1.0)]])

    class Once:
        def detect(self, image: Image.Image) -> list[Face]:
            return next(found, [])

    answers, taken = crops(endless(), batch_size=4, detector=Once()), 0
    assert len(next(answers)) == 1 and taken == 16


def test_pictures_that_are_kept_do_not_pile_up(
    crops: FacialExpressionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_fer.inference.pipeline._MOST_KEPT", 3 * 64)
    for keep_images, most in ((True, 4), (False, 10)):
        taken, pictures = [], (Image.new("L", (8, 8), k) for k in range(10))
        answers = iter_faces((taken.append(p) or p for p in pictures), crops, batch_size=50, keep_images=keep_images)
        assert [a.image and a.image.getpixel((0, 0)) for a in [next(answers)]] == [(0, 0, 0) if keep_images else None]
        assert len(taken) == most
        assert len(list(answers)) == 9


def test_threads_may_share_it(crops: FacialExpressionPipeline) -> None:
    sheet, boxes = montage(rows=1)
    expected = crops(sheet, detector=Boxes(*boxes))
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda _: crops(sheet, detector=Boxes(*boxes), batch_size=3), range(8)):
            assert all(map(same, answer, expected))


# --- models ----------------------------------------------------------------------------------------


def stock_classifier(**options: Any) -> FacialExpressionPipeline:
    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: k for k, name in enumerate(NAMES)}}
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", **labels, **options)
    model = ResNetForImageClassification(config)
    torch.nn.init.normal_(model.classifier[1].weight, std=3.0)
    processor = ViTImageProcessor(size={"height": 48, "width": 48})
    return FacialExpressionPipeline(model, image_processor=processor, detector="none", device="cpu")


def test_a_stock_classifier(tmp_path: Path) -> None:
    ours = stock_classifier()
    stock = pipeline("image-classification", model=ours.model, image_processor=ours.image_processor, device="cpu")
    for path in EXAMPLES[:3]:
        (face,) = ours(path)
        expected = {entry["label"]: entry["score"] for entry in stock(str(path))}
        assert face["probabilities"] == pytest.approx(expected, abs=1e-5) and face["label"] in NAMES
        assert face["reliability"] is None  # nobody has calibrated it
    ours.save_pretrained(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json"}
    again = pipeline(TASK, model=str(tmp_path / "saved"), detector="none", device="cpu")
    assert same(again(EXAMPLES[0])[0], ours(EXAMPLES[0])[0])
    many = stock_classifier(problem_type="multi_label_classification")
    assert many.predict_crops([Image.open(EXAMPLES[0])])[0]["probabilities"] == pytest.approx(
        {e["label"]: e["score"] for e in pipeline("image-classification", model=many.model, device="cpu",
         image_processor=many.image_processor)(str(EXAMPLES[0]))}, abs=1e-5,
    )  # fmt: skip


def test_grefel_says_its_own_reliability() -> None:
    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: k for k, name in enumerate(NAMES)}}
    model = GReFELForImageClassification(GReFELConfig(**labels, **GReFELConfig.tiny)).eval()
    processor = build_processor(model.config.image_size)
    ours = FacialExpressionPipeline(model, image_processor=processor, detector="none", device="cpu")
    images = [Image.open(path).convert("RGB") for path in EXAMPLES[:3]]
    with torch.no_grad():
        output = model(**processor(images=images, return_tensors="pt"))
    assert [a["reliability"] for a in ours.predict_crops(images)] == pytest.approx(
        output.final_confidence.tolist(), abs=1e-5
    )


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    ours = stock_classifier()
    torch.nn.init.constant_(ours.model.classifier[1].bias, float("nan"))
    with pytest.raises(FerError, match=r"^inputs\[1\]: .*not a number"):
        ours([Image.new("L", (8, 8))] * 2, detector=Once([], [Face((0, 0, 8, 8), 1.0)]))
    with pytest.raises(FerError, match=r"^images\[0\]: .*not a number"):
        ours.predict_crops([Image.new("L", (8, 8))])


class Once:
    """A detector that finds in one picture after the other what it is told."""

    def __init__(self, *found: Any) -> None:
        self.found = iter(found)

    def detect(self, image: Image.Image) -> list[Face]:
        found = next(self.found)
        if isinstance(found, Exception):
            raise found
        return found


def test_arguments_that_are_of_no_use(crops: FacialExpressionPipeline, tmp_path: Path) -> None:
    for options, words in (
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"min_face": -1}, "min_face=-1"),
        ({"top_k": 0}, "top_k=0"),
        ({"detector": 3}, "int is no face detector"),
        ({"detector": "no-such-detector"}, "no such detector"),
        ({"detector": str(tmp_path / "none.onnx")}, "no such file"),
    ):
        for call in (lambda o: crops(EXAMPLES[0], **o), lambda o: iter_faces([EXAMPLES[0]], crops, **o)):
            with pytest.raises(FerError, match=words):
                call(options)
    with pytest.raises(TypeError, match="threshold"):
        crops(EXAMPLES[0], threshold=0.5)
    with pytest.raises(FerError, match=r"images\[1\]: a str is no PIL image"):
        crops.predict_crops([Image.new("L", (3, 3)), "photo.jpg"])
    with pytest.raises(FerError, match="no image processor"):
        FacialExpressionPipeline(crops.model, detector="none", device="cpu")
    with pytest.raises(FerError, match="no such folder"):
        load_pipeline(tmp_path / "nowhere", detector="none")


# --- pictures that are none ----------------------------------------------------------------------------


def huge_png(side: int = 20_000) -> bytes:
    """A whole, honest picture of one bit a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    packer, row = zlib.compressobj(1), bytes(1 + side // 8)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bad_pictures(folder: Path) -> dict[str, tuple[Any, str]]:
    """What people pass for a picture, and what they are told."""
    (folder / "page.jpg").write_text("<!DOCTYPE html><title>404</title>")
    (folder / "huge.png").write_bytes(huge_png())
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("a")
    whole = io.BytesIO()
    Image.effect_noise((200, 200), 90).save(whole, "JPEG")
    (folder / "cut.jpg").write_bytes(whole.getvalue()[:3000])
    (folder / "weird\n\x1b[31m.jpg").write_text("x")
    lazy = Image.open(folder / "cut.jpg")
    large = Image.new("1", (1, 1)).resize((9000, 9000))
    return {
        "page": (folder / "page.jpg", "it holds a web page"),
        "huge": (folder / "huge.png", "over the limit of 64,000,000 pixels"),
        "huge bytes": ((folder / "huge.png").read_bytes(), "over the limit of 64,000,000 pixels"),
        "large": (large, "9000 x 9000 is over the limit"),
        "empty": (folder / "empty.png", "the file is empty"),
        "no bytes": (b"", "the file is empty"),
        "text": (folder / "notes.txt", "not an image file"),
        "text bytes": (b"\0\1\2", "not an image file"),
        "cut": (folder / "cut.jpg", "damaged or cut short"),
        "cut, opened": (lazy, "damaged or cut short"),
        "missing": (folder / "no.jpg", "no such file"),
        "folder": (folder, "a folder"),
        "empty name": ("", "an empty path"),
        "null": ("a\0b.jpg", "cannot be read"),
        "control": (folder / "weird\n\x1b[31m.jpg", "not an image file"),
        "address": ("s3://bucket/a.jpg", "only addresses of http and https"),
        "data": ("data:image/png;base64," + "A" * 9000, "an address, not a local file"),
        "floats": (np.zeros((4, 4, 3)), "convert it to uint8"),
        "batch": (np.zeros((2, 4, 4, 3), np.uint8), "a batch as a list"),
        "planes": (np.zeros((3, 9, 9), np.uint8), "no picture"),
        "nothing": (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        "tensor": (torch.zeros(3, 4, 4), "Tensor is no picture"),
        "None": (None, "NoneType is no picture"),
    }


def test_a_bad_picture_gets_one_sentence_and_keeps_back_no_other(
    crops: FacialExpressionPipeline, tmp_path: Path
) -> None:
    good = EXAMPLES[0]
    bad = bad_pictures(tmp_path)
    inputs = [picture for given, _ in bad.values() for picture in (given, good)]
    answers = list(iter_faces(inputs, crops, batch_size=2))
    assert len(answers) == len(inputs)
    for k, (kind, (given, words)) in enumerate(bad.items()):
        failed, answered = answers[2 * k : 2 * k + 2]
        assert isinstance(failed, FailedImage) and isinstance(answered, PictureFaces), kind
        assert words in failed.reason and "\n" not in failed.reason and len(failed.reason) < 500, (kind, failed)
        assert "\x1b" not in failed.reason
        assert failed.path == (str(given) if isinstance(given, str | Path) else f"inputs[{2 * k}]"), kind
        assert answered.path == str(good) and len(answered.faces) == 1
        # A list says which one it was.
        with pytest.raises(FerError) as caught:
            crops([good, given])
        assert str(caught.value).startswith("inputs[1]: ") and words in str(caught.value), kind
        if isinstance(given, str | Path | bytes | Image.Image | np.ndarray):
            with pytest.raises(FerError) as caught:
                crops(given)
            assert words in str(caught.value) and not str(caught.value).startswith("inputs"), kind
    for given in (None, 3, {"image": 1}):
        with pytest.raises(FerError, match="is no picture"):
            crops(given)


def test_what_looks_odd_and_is_fine(crops: FacialExpressionPipeline, tmp_path: Path) -> None:
    """An animation is its first frame; a line is a picture; a larger limit is the caller's to give."""
    frames = [Image.open(path).convert("RGB").resize((64, 64)).quantize(64) for path in EXAMPLES[:2]]
    frames[0].save(tmp_path / "animated.gif", save_all=True, append_images=frames[1:])
    assert same(crops(tmp_path / "animated.gif")[0], crops(frames[0])[0], 0.05)
    assert len(crops(Image.new("L", (1, 500)))) == len(crops(Image.new("RGBA", (1, 1)))) == 1
    (tmp_path / "ten.png").write_bytes(huge_png(8 * 40))
    with pytest.raises(FerError, match="320 x 320 is over the limit of 1,000 pixels"):
        crops(tmp_path / "ten.png", max_pixels=1000)
    assert len(crops(tmp_path / "ten.png", max_pixels=320 * 320)) == 1


def test_a_detector_or_a_crop_that_fails_names_the_picture(crops: FacialExpressionPipeline) -> None:
    image = Image.new("L", (64, 64), 9)
    face = [Face((0, 0, 64, 64), 1.0)]
    found = Once(face, RuntimeError("bad\nmatrix. And more"), FerError("the detector gave up"), face)
    answers = list(iter_faces([image] * 4, crops, detector=found, batch_size=2))
    assert [isinstance(answer, FailedImage) for answer in answers] == [False, True, True, False]
    assert answers[1].reason == "inputs[1]: the face detector Once failed on it (bad matrix)"
    assert answers[2].reason == "inputs[2]: the detector gave up"
    with pytest.raises(FerError, match=r"^the picture: the face detector Once failed on it \(it found the box"):
        crops(image, detector=Once([Face((0, 0, float("nan"), 9), 1.0)]))

    for wrong in (Face((0, 0, 9, 9), "high"), Face((0, 0, 9, 9), 1.0, (1, 2, 3))):
        bad, good = iter_faces([image] * 2, crops, detector=Once([wrong], face))
        assert bad.reason.startswith("inputs[0]: the face detector Once failed on it (")
        assert len(good.faces) == 1

    def picky(images: Image.Image, **options: str) -> Any:
        if images.size == (48, 48):
            raise RuntimeError("too small")
        return crops.image_processor(images=images, **options)

    ours = FacialExpressionPipeline(crops.model, image_processor=picky, detector="none", device="cpu")
    small, large = iter_faces([Image.new("L", (48, 48)), image], ours)
    assert small.reason == "inputs[0]: the face (48 x 48) cannot be preprocessed (too small)"
    assert len(large.faces) == 1


def test_sizes_that_cannot_share_a_batch() -> None:
    ours = stock_classifier()
    ours.image_processor.do_resize = False
    images = [Image.effect_noise((side, side), 90) for side in (40, 56, 56, 40)]
    for image, (face,) in zip(images, ours(images), strict=True):
        assert same(face, ours(image)[0])


# --- addresses ----------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    stop = threading.Event()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        body = EXAMPLES[0].read_bytes()
        if path == "/face.png" or path == "/%C3%A9.png":
            self.reply(200, body)
        elif path.startswith("/to/"):
            target = {"face": "/face.png", "loop": "/to/loop", "file": "file:///etc/passwd", "ftp": "ftp://h/a"}
            target |= {"data": "data:image/png;base64,AAAA", "permanent": "/face.png"}
            name = path.removeprefix("/to/")
            self.reply(308 if name == "permanent" else 302, b"", Location=target[name])
        elif path == "/page.png":
            self.reply(200, b"<html><body>Sign in</body></html>")
        elif path == "/long":
            self.reply(200, b"", **{"Content-Length": str(10**12)})
        elif path == "/endless":
            self.reply(200, None)
            self.trickle(bytes(1 << 16), 0)
        elif path == "/slow":
            self.reply(200, None)
            self.trickle(b"a", 0.05)
        elif path == "/slow-headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: ")
            self.trickle(b"a", 0.05)
        elif path == "/cut":
            self.reply(200, body[:100], **{"Content-Length": str(len(body))})
        elif path == "/empty":
            self.reply(200, b"")
        elif path == "/rubbish":
            self.wfile.write(b"\x00\x01 nonsense\r\n\r\n")
        else:
            self.reply(404, b"gone")

    def reply(self, status: int, body: bytes | None, **headers: str) -> None:
        self.send_response(status)
        if body is not None:
            headers = {"Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body or b"")

    def trickle(self, data: bytes, pause: float) -> None:
        while not self.stop.is_set():
            try:
                self.wfile.write(data)
                self.wfile.flush()
            except OSError:
                return
            self.stop.wait(pause)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.stop.clear()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    Handler.stop.set()
    server.shutdown()
    server.server_close()


def test_an_address(crops: FacialExpressionPipeline, site: str) -> None:
    expected = crops(EXAMPLES[0])[0]
    for place in ("/face.png", "/face.png?token=1#a", "/é.png", "/to/face", "/to/permanent"):
        assert same(crops(site + place)[0], expected), place
    (answer,) = iter_faces([f"{site}/face.png?a=1"], crops)
    assert answer.path == f"{site}/face.png?a=1"
    for place, words in (
        ("/nowhere.png", "the server answered 404"),
        ("/page.png", "it holds a web page"),
        ("/to/loop", "answered 302|redirect"),
        ("/to/file", r"redirects to file:///etc/passwd, which is not read"),
        ("/to/ftp", r"redirects to ftp://h/a, which is not read"),
        ("/to/data", "which is not read"),
        ("/long", "over the limit of 67,108,864 bytes"),
        ("/cut", "broke off after 100 of"),
        ("/empty", "the file is empty"),
        ("/rubbish", "cannot be read"),
    ):
        with pytest.raises(FerError, match=words) as caught:
            crops(f"{site}{place}?key=SECRET")
        message = str(caught.value)
        assert message.startswith(f"{site}{place}: ") and "SECRET" not in message and "\n" not in message, message
    for place in ("me:SECRET@127.0.0.1:9", "me:SECRET@127.0.0.1", "SECRET@h"):
        with pytest.raises(FerError, match="with a user name or password are not read") as caught:
            crops(f"http://{place}/a.jpg")
        assert "SECRET" not in str(caught.value)
    with pytest.raises(FerError, match="cannot be read"):
        crops("http://[::1/a.jpg")


def test_an_address_that_never_ends(crops: FacialExpressionPipeline, site: str) -> None:
    with pytest.raises(FerError, match="over the limit of 1,000,000 bytes"):
        download(f"{site}/endless", max_bytes=1_000_000)
    for place in ("/slow", "/slow-headers"):
        started = time.monotonic()
        with pytest.raises(FerError, match=r"took longer than 0\.3 s"):
            crops(f"{site}{place}", timeout=0.3)
        assert time.monotonic() - started < 30  # and not for ever
    with pytest.raises(FerError, match="timeout=0"):
        crops(f"{site}/face.png", timeout=0)


# --- a real detector ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faces() -> FacialExpressionPipeline:
    pytest.importorskip("cv2")
    weights = SHARED / "models" / "face_detection_yunet_2026may.onnx"
    if not weights.is_file():
        pytest.skip("needs YuNet's weights (set HF_FER_SHARED to a folder with models/)")
    return load_pipeline(detector=weights, device="cpu")


def test_the_astronaut_smiles(faces: FacialExpressionPipeline) -> None:
    data = pytest.importorskip("skimage.data")
    photo = data.astronaut()
    (face,) = faces(photo)
    assert face["label"] == "happiness" and face["score"] > 0.9 and face["reliability"] > 0.5
    assert len(face["landmarks"]) == 5
    sideways = Image.fromarray(photo).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    sideways.save(file, "PNG", exif=exif)
    (again,) = faces(file.getvalue())
    assert again["box"] == face["box"] and same(again, face)
    assert faces(photo[250:]) == []


def test_no_face_and_huge_noise(faces: FacialExpressionPipeline) -> None:
    assert faces(Image.new("RGB", (640, 480), "skyblue")) == []
    assert faces(Image.new("L", (1, 1))) == []
