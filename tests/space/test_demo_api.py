"""The demo as programs use it: its endpoints, its limits, and what it does with files that mean no good."""

from __future__ import annotations

import json
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the demo needs gradio")
pytest.importorskip("av", reason="the demo's videos need PyAV")
from demo_server import ASTRONAUT, CLIP, ROOT, AstronautDetector, running_demo

from hf_fer.checkpoints.loading import embedded_models
from hf_fer.demo import Limits
from hf_fer.errors import FerError
from hf_fer.labels import EXPRESSIONS

LIMITS = Limits(file_mb=2, pixels=2_000_000, video_seconds=7, kept_seconds=600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(folder: Path) -> Iterator[Any]:
    with running_demo(folder / "cache", limits=LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def client(demo: Any, folder: Path) -> Any:
    from gradio_client import Client

    return Client(demo.local_url, verbose=False, analytics_enabled=False, download_files=str(folder / "client"))


def ask(client: Any, path: Path, *more: Any, api_name: str) -> Any:
    from gradio_client import handle_file

    return client.predict(handle_file(str(path)), *more, api_name=api_name)


def huge_png() -> bytes:
    """20,000 x 20,000 px of one colour in 50 kB: 1.2 GB once decoded to RGB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows, row = zlib.compressobj(9), bytes(1 + 20_000 // 8)
    packed = b"".join(rows.compress(row * 100) for _ in range(200)) + rows.flush()
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


# --- answers ---------------------------------------------------------------------------------------


def test_the_named_endpoints_are_these(client: Any) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)
    assert not endpoints["unnamed_endpoints"]
    assert set(endpoints["named_endpoints"]) == {
        "/photo", "/annotate", "/resolution", "/explain", "/video", "/leaderboard", "/models",
    }  # fmt: skip
    assert client.predict(api_name="/models") == embedded_models()


def test_each_method_in_the_package_answers(client: Any) -> None:
    for name in embedded_models():
        (face,) = ask(client, ASTRONAUT, name, api_name="/photo")
        assert face["label"] == "happiness", name
    curve = ask(client, ASTRONAUT, "default-mek", 4, api_name="/resolution")
    assert list(curve["probabilities"]) == ["default-mek", *(n for n in embedded_models() if n != "default-mek")]


def test_a_photo_is_answered_face_by_face(client: Any) -> None:
    (face,) = ask(client, ASTRONAUT, "default", api_name="/photo")
    assert face["label"] == "happiness" and face["score"] > 0.9
    assert face["box"] == pytest.approx({"xmin": 176.6, "ymin": 64, "xmax": 268.8, "ymax": 179.2}, abs=1)
    assert set(face["probabilities"]) == set(EXPRESSIONS)
    assert sum(face["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert list(face["probabilities"].values()) == sorted(face["probabilities"].values(), reverse=True)


def test_the_annotated_picture_is_the_picture_with_a_box(client: Any) -> None:
    from PIL import ImageChops

    path = ask(client, ASTRONAUT, "default", api_name="/annotate")
    with Image.open(path) as drawn, Image.open(ASTRONAUT) as given:
        assert drawn.size == given.size
        changed = ImageChops.difference(drawn.convert("RGB"), given.convert("RGB")).convert("L").point(lambda v: v > 60)
        left, top, right, bottom = changed.getbbox()
    assert abs(left - 177) < 12 and abs(right - 269) < 60 and top < 70 and abs(bottom - 179) < 12


def test_the_curve_goes_down_with_the_resolution(client: Any) -> None:
    curve = ask(client, ASTRONAUT, "default", 5.5, api_name="/resolution")
    assert curve["reference_side"] == 48 and 5.5 in curve["factors"]
    assert curve["factors"] == sorted(curve["factors"]) and curve["factors"][-1] == 16
    happiness = [answer["happiness"] for answer in curve["probabilities"]["default"]]
    assert len(happiness) == len(curve["factors"])
    assert happiness[0] > 0.9 and happiness[-1] < 0.7


def test_the_curve_is_the_models_own_answer_to_the_degraded_face(client: Any) -> None:
    from hf_fer.data.resolution import degrade_image
    from hf_fer.inference.alignment import crop_face, face_template
    from hf_fer.inference.pipeline import load_pipeline

    detector = AstronautDetector()
    pipeline = load_pipeline("default", detector=detector, device="cpu")
    image = Image.open(ASTRONAUT).convert("RGB")
    crop = crop_face(image, detector.detect(image)[0], face_template(pipeline.model.config))
    (expected,) = pipeline.predict_crops([degrade_image(crop, 4, reference_side=48)])
    curve = ask(client, ASTRONAUT, "default", 4, api_name="/resolution")
    answered = curve["probabilities"]["default"][curve["factors"].index(4)]
    for label, share in expected["probabilities"].items():
        assert answered[label] == pytest.approx(share, abs=1e-4)


def test_the_maps_add_up_to_the_answer(client: Any) -> None:
    maps = ask(client, ASTRONAUT, "default", api_name="/explain")
    assert maps["factors"] == [1, 2, 4, 8] and maps["method"] == "cam"
    assert len(maps["maps"]) == 4 and len(maps["maps"][0]) == len(maps["labels"]) == 8
    row = dict(zip(maps["labels"], maps["probabilities"][0], strict=True))
    assert max(row, key=row.get) == "happiness"


def test_a_clip_is_answered_over_time(client: Any) -> None:
    frames = ask(client, CLIP, "default", api_name="/video")
    assert [f["seconds"] for f in frames] == pytest.approx([k / 5 for k in range(30)], abs=0.09)
    assert {face["track"] for frame in frames for face in frame["faces"]} == {frames[0]["faces"][0]["track"]}


def test_the_leaderboard_is_that_of_the_repository(client: Any) -> None:
    from hf_fer.demo.leaderboard import packaged_leaderboard

    written = ROOT / "leaderboard" / "leaderboard.json"
    assert packaged_leaderboard().read_text() == written.read_text(), "cp leaderboard/leaderboard.json hf_fer/demo/"
    for board in json.loads(written.read_text())["boards"]:
        shown = client.predict(board["slug"], api_name="/leaderboard")
        rows = [dict(zip(shown["headers"], row, strict=True)) for row in shown["data"]]
        assert [row["Model"] for row in rows] == [row["model"] for row in board["rows"]]
        for row, source in zip(rows, board["rows"], strict=True):
            assert row["Accuracy, %"] == pytest.approx(100 * source["figures"]["accuracy"], abs=0.005)


# --- refusals --------------------------------------------------------------------------------------


def refusal(client: Any, path: Path, *more: Any, api_name: str = "/photo") -> str:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as error:
        ask(client, path, *more, api_name=api_name)
    said = str(error.value)
    # One sentence, which names the file and not where it lies on the server.
    assert said.endswith(".") and "\n" not in said and "Traceback" not in said and str(path.parent) not in said
    assert not re.search(r"/[^ ]*cache", said), said
    return said


def test_files_that_mean_no_good_are_refused_with_a_sentence(client: Any, tmp_path: Path) -> None:
    files: dict[str, tuple[bytes, str]] = {
        "page.jpg": (b"<!doctype html><html><script>alert(1)</script></html>", "web page"),
        "cut.jpg": (ASTRONAUT.read_bytes()[:9000], "damaged"),
        "noise.png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, "cannot|not an image|damaged"),
        "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', "not an image"),
        "huge.png": (huge_png(), "limit"),
        "<img src=x>.jpg": (b"GIF89a", "cannot|not an image|damaged"),
    }
    for name, (content, says) in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        for endpoint in ("/photo", "/explain"):
            said = refusal(client, path, "default", api_name=endpoint)
            assert re.search(says, said), (name, said)
            assert "<img" not in said
    assert ask(client, ASTRONAUT, "default", api_name="/photo"), "and the next visitor is answered"


def test_a_picture_over_the_limit_of_pixels_is_refused(client: Any, tmp_path: Path) -> None:
    Image.new("L", (2000, 1001)).save(tmp_path / "large.png")
    assert "2000 x 1001" in refusal(client, tmp_path / "large.png", "default")


def test_an_upright_exif_picture_has_upright_boxes(client: Any, tmp_path: Path) -> None:
    with Image.open(ASTRONAUT) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned clockwise to stand upright
        image.crop((0, 0, 512, 400)).transpose(Image.Transpose.ROTATE_90).save(
            tmp_path / "r.jpg", exif=exif, quality=95
        )
    (face,) = ask(client, tmp_path / "r.jpg", "default", api_name="/photo")
    x0, y0 = 0.345 * 512, 0.125 * 400
    assert abs(face["box"]["xmin"] - x0) < 2 and abs(face["box"]["ymin"] - y0) < 2


def test_a_picture_without_a_face_has_no_faces(client: Any, tmp_path: Path) -> None:
    Image.new("RGB", (200, 200), "navy").save(tmp_path / "blank.png")
    assert ask(client, tmp_path / "blank.png", "default", api_name="/photo") == []
    assert "No face" in refusal(client, tmp_path / "blank.png", "default", api_name="/explain")


def test_videos_that_mean_no_good_are_refused_with_a_sentence(client: Any, tmp_path: Path) -> None:
    import av

    (tmp_path / "page.mp4").write_bytes(b"<!doctype html><html></html>" * 20)
    with av.open(str(tmp_path / "long.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"preset": "ultrafast"})
        stream.width = stream.height = 64
        for _ in range(40):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 64)))))
        container.mux(stream.encode())
    assert "8 s" in refusal(client, tmp_path / "long.mp4", "default", api_name="/video")
    assert "page.mp4" in refusal(client, tmp_path / "page.mp4", "default", api_name="/video")


def test_unknown_models_factors_and_missing_files_are_refused(client: Any) -> None:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=r"not in the list of choices|no model"):
        ask(client, ASTRONAUT, "../../etc", api_name="/photo")
    for factor in (0.5, 17, 1e30):
        with pytest.raises(AppError, match=r"factor|maximum|minimum|range|than"):
            ask(client, ASTRONAUT, "default", factor, api_name="/resolution")
    with pytest.raises(AppError, match="No file was sent"):
        client.predict(None, "default", api_name="/photo")


def test_addresses_are_not_fetched(client: Any, demo: Any) -> None:
    fetched = threading.Event()

    def serve(connection: Any) -> None:
        connection.accept()
        fetched.set()

    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.jpg"
        said = raw_call(demo, "photo", [{"path": url, "meta": {"_type": "gradio.FileData"}}, "default"])
        assert "not fetched" in said
        assert not fetched.is_set()


def test_files_of_the_machine_are_not_read(demo: Any) -> None:
    said = raw_call(demo, "photo", [{"path": str(ROOT / "LICENSE"), "meta": {"_type": "gradio.FileData"}}, "default"])
    assert "error" in said and "Apache" not in said
    response = httpx.get(f"{demo.local_url}gradio_api/file={ROOT / 'LICENSE'}")
    assert response.status_code in (403, 404)


def raw_call(demo: Any, name: str, data: list[Any]) -> str:
    """What the server says to a call put together by hand: gradio_client is too polite for some."""
    base = f"{demo.local_url}gradio_api/call/{name}"
    event = httpx.post(base, json={"data": data}).json()["event_id"]
    return httpx.get(f"{base}/{event}", timeout=30).text


def test_large_uploads_and_large_calls_are_refused(demo: Any) -> None:
    url = f"{demo.local_url}gradio_api/upload"
    one = httpx.post(url, files={"files": ("x.jpg", bytes(2 * 2**20 + 1))})
    assert one.status_code == 413 and "size" in one.text
    many = httpx.post(url, files=[("files", (f"{k}.jpg", bytes(2**20))) for k in range(6)])
    assert many.status_code == 413 and many.text.endswith(".")
    call = httpx.post(f"{demo.local_url}gradio_api/call/photo", content=b'{"data": ["' + b"x" * 4 * 2**20 + b'"]}')
    assert call.status_code == 413
    chunked = httpx.post(f"{demo.local_url}gradio_api/call/photo", content=(b"[" * 2**18 for _ in range(16)))
    assert chunked.status_code in (400, 413), "its length is not stated, so it is known only once so much was read"


# --- privacy ---------------------------------------------------------------------------------------


def test_nothing_is_recorded(demo: Any) -> None:
    config = httpx.get(f"{demo.local_url}config").json()
    assert config["analytics_enabled"] is False
    assert not config.get("run_history") and config["footer_links"] == ["api"]
    assert demo.delete_cache == (60, LIMITS.kept_seconds)
    assert demo.enable_monitoring is False and not demo.share and not demo.mcp_server
    assert httpx.get(f"{demo.local_url}monitoring").status_code in (401, 403, 404)
    page = httpx.get(demo.local_url).text
    assert "googleapis" not in page and "cdnjs" not in page


def test_what_was_sent_is_deleted_by_age_and_at_the_end(tmp_path: Path) -> None:
    from gradio.route_utils import delete_files_created_by_app
    from gradio_client import Client

    def files() -> set[Path]:
        return {path for path in (tmp_path / "cache").rglob("*") if path.is_file()}

    with running_demo(tmp_path / "cache") as demo:
        mine = tmp_path / "mine.png"
        Image.open(ASTRONAUT).resize((200, 200)).save(mine)
        before = files()
        client = Client(demo.local_url, verbose=False, analytics_enabled=False, download_files=str(tmp_path / "got"))
        ask(client, mine, "default", api_name="/annotate")
        assert len(files() - before) >= 2, "the upload, and the answer"
        delete_files_created_by_app(demo, 3600)
        assert files() - before, "they are not an hour old"
        delete_files_created_by_app(demo, 0)  # what runs every minute, with the age of `delete_cache`
        assert files() == before, "the examples stay"
        ask(client, mine, "default", api_name="/annotate")
    assert not files() - before


# --- parts -----------------------------------------------------------------------------------------


def test_models_are_loaded_when_asked_for_and_make_room() -> None:
    from hf_fer.demo.models import ModelPool

    loaded: list[str] = []
    pool = ModelPool(
        ["a", "b", "c"], AstronautDetector(), 2, lambda name, detector: loaded.append(name) or name.upper()
    )
    assert loaded == []
    assert [pool.pipeline(name) for name in "abab"] == ["A", "B", "A", "B"] and loaded == ["a", "b"]
    pool.pipeline("c")  # a was asked for longest ago
    pool.pipeline("b")
    assert loaded == ["a", "b", "c"]
    pool.pipeline("a")
    assert loaded == ["a", "b", "c", "a"]
    with pytest.raises(FerError, match="no model 'd'"):
        pool.pipeline("d")
    with pytest.raises(FerError, match="one name"):
        ModelPool(["a", "a"], AstronautDetector())


def test_visitors_do_not_learn_where_a_model_lies(tmp_path: Path) -> None:
    from hf_fer.demo.models import ModelPool

    (tmp_path / "mine").mkdir()
    pool = ModelPool([str(tmp_path / "mine"), "owner/name"], AstronautDetector())
    assert pool.names == ["mine", "owner/name"]
    with pytest.raises(FerError) as error:
        pool.pipeline("mine")
    assert "mine" in str(error.value) and str(tmp_path) not in str(error.value)
    (tmp_path / "default").mkdir()  # somebody's folder, not ours
    pool = ModelPool([str(tmp_path / "default")], AstronautDetector())
    assert pool.choices == [("default", "default")]


def test_grefel_shows_its_answer_before_and_after_correction() -> None:
    """And its maps as `plot_explanation` draws them: rollout has no zero to count from."""
    import torch

    from hf_fer import GReFELConfig, GReFELForImageClassification
    from hf_fer.demo import markup
    from hf_fer.demo.why import _grid
    from hf_fer.inference.explain import explain_resolutions
    from hf_fer.inference.explain_plot import class_heats, overlay
    from hf_fer.training.export import build_processor

    torch.manual_seed(0)
    model = GReFELForImageClassification(GReFELConfig(num_labels=8, **GReFELConfig.tiny)).eval()
    face = Image.open(ASTRONAUT)
    found = explain_resolutions(model, build_processor(model.config.image_size), face, factors=(1, 4))
    page = _grid(found)
    for words in ("Primary distribution", "Corrected distribution", "Final distribution"):
        assert page.count(f"<h2>{words}</h2>") == 1
    best = int(found.explanation.probabilities[0].argmax())
    for image, heat in zip(found.images, class_heats(found.explanation, best), strict=True):
        assert markup.data_uri(overlay(image, heat)) in page


def test_a_crowd_is_drawn_whole_and_listed_in_part() -> None:
    from hf_fer.demo.photo import _listed

    shares = dict.fromkeys(EXPRESSIONS, 1 / 8)
    box = {"xmin": 5, "ymin": 5, "xmax": 25, "ymax": 30}
    face = {"box": box, "label": "fear", "score": 1 / 8, "reliability": 0.5, "probabilities": shares}
    html = _listed(Image.new("RGB", (60, 60)), [face] * 50, 12)
    assert html.count("<article") == 12 and "50 faces found" in html and "38 smaller faces" in html


def test_faces_are_numbered_in_the_picture_as_in_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_fer.demo.photo import _drawn
    from hf_fer.inference import annotate

    drawn: list[Any] = []
    monkeypatch.setattr(annotate, "draw_faces", lambda image, faces: drawn.append(faces) or image)
    box = {"xmin": 5, "ymin": 5, "xmax": 25, "ymax": 30}
    face = {"box": box, "label": "fear", "score": 0.5, "probabilities": {"fear": 0.5}}
    _drawn(Image.new("RGB", (60, 60)), [face, face])
    _drawn(Image.new("RGB", (60, 60)), [face])
    assert [[face.get("track") for face in faces] for faces in drawn] == [[1, 2], [None]]


def test_without_a_detector_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_fer.demo import models
    from hf_fer.inference import detection

    original = detection.load_detector

    def none_there(name: Any = "yunet", **options: Any) -> Any:
        if name == "yunet":
            raise FerError("no weights")
        return original(name, **options)

    monkeypatch.setattr(detection, "load_detector", none_there)
    pool = models.ModelPool(["default"])
    assert pool.detector.name == "none" and "no face detector" in pool.notice.lower()
    with pytest.raises(FerError, match="no weights"):
        models.ModelPool(["default"], "yunet")


def test_lines_are_seen_on_both_pages() -> None:
    from hf_fer.demo.charts import expression_lines, luminance, method_lines
    from hf_fer.inference.annotate import EXPRESSION_COLORS

    colors = {**expression_lines(list(EXPRESSION_COLORS)), **method_lines([str(k) for k in range(6)])}
    page = luminance("#1e293b")  # a block of the dark theme
    for name, color in colors.items():
        assert (1 + 0.05) / (luminance(color) + 0.05) >= 3, (name, "on white")
        assert (luminance(color) + 0.05) / (page + 0.05) >= 2.5, (name, "on dark")
    assert len(set(expression_lines(list(EXPRESSION_COLORS)).values())) == len(EXPRESSION_COLORS)


def test_nothing_uncertain_is_called_certain() -> None:
    from hf_fer.demo.markup import percent

    assert [percent(share) for share in (0, 0.004, 0.994, 0.996, 0.99999, 1)] == [
        "0\u00a0%", "0\u00a0%", "99\u00a0%", ">99\u00a0%", ">99\u00a0%", "100\u00a0%",
    ]  # fmt: skip


def test_the_page_says_where_pictures_go_and_who_finds_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_fer.demo import build_demo

    def page(**options: Any) -> str:
        demo = build_demo(["default"], AstronautDetector(), **options)
        return " ".join(" ".join(str(getattr(block, "value", "")) for block in demo.blocks.values()).split())

    alone, shared = page(), page(share=True)
    assert "stay on the machine" in alone and "sent nowhere else" in alone
    assert "servers to" in shared and "sent nowhere else" not in shared and "stay on" not in shared
    assert "found by YuNet" not in alone, "this detector is another"
    monkeypatch.setattr(AstronautDetector, "name", "yunet")
    assert "found by YuNet" in page()


def test_places_that_cannot_be_listened_at_are_refused_in_a_sentence() -> None:
    import socket

    from hf_fer.demo import launch_demo

    common: dict[str, Any] = {"models": ["default"], "detector": AstronautDetector(), "block": False, "quiet": True}
    with pytest.raises(FerError, match="no port 70000"):
        launch_demo(port=70_000, **common)
    with pytest.raises(FerError, match=r"any port of nowhere\.invalid"):
        launch_demo(host="nowhere.invalid", **common)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FerError, match=f"cannot listen at port {port} of this machine; choose another"):
            launch_demo(port=port, **common)


def test_what_comes_from_outside_is_escaped() -> None:
    from hf_fer.demo import markup

    evil = "<script>alert('x')</script>${value}{{value}}"
    face = {"box": {"xmin": 0, "ymin": 0, "xmax": 9, "ymax": 9}, "label": evil, "score": 1.0, "reliability": None}
    html = markup.face_card({**face, "probabilities": {evil: 1.0}}, 1) + markup.alert(evil) + markup.hint(evil)
    assert "<script" not in html and "${" not in html and "{{" not in html and "alert(&#x27;x&#x27;)" in html


def test_the_readme_of_the_space_says_what_is_so() -> None:
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "space" / "README.md").read_text()
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    metadata = yaml.safe_load(head)
    assert metadata["sdk"] == "gradio" and metadata["app_file"] == "app.py"
    assert re.fullmatch(r"6\.\d+\.\d+", metadata["sdk_version"])
    assert len(metadata["short_description"]) <= 60  # the Hub refuses longer ones
    limits = Limits()
    for words in (
        f"{limits.file_mb} MB a file",
        f"{limits.pixels // 10**6} megapixels",
        f"{limits.video_seconds:g} seconds a clip",
        f"{limits.queue} waiting requests",
    ):
        assert words in " ".join(body.split())
    assert "public domain" in body


def test_the_examples_are_small_pictures() -> None:
    from hf_fer.demo.examples import CLIP as clip
    from hf_fer.demo.examples import PHOTOS, examples_folder

    for name in (*PHOTOS, clip):
        assert (examples_folder() / name).stat().st_size < 120_000
