"""The checkpoint inside the package: loads anywhere, answers any file, and is as good as its report says."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hf_fer
from hf_fer.inference.images import open_image

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "hf_fer" / "assets"
MODELS = ROOT / "hf_fer" / "models"
SHARED = Path(os.environ.get("HF_FER_SHARED", ROOT.parent / "shared")) / "data" / "ferplus"


@pytest.fixture(scope="module")
def report() -> dict:
    return json.loads((ASSETS / "report.json").read_text())


def png_of_16_bit_colour(samples: np.ndarray) -> bytes:
    """A PNG file of (H, W, 3) big-endian uint16 samples."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One drawn smile as every kind of file people have."""
    folder = tmp_path_factory.mktemp("faces")
    face = Image.open(ROOT / "space" / "examples" / "drawn_happiness_160px.png").convert("RGB")
    grey = face.convert("L").resize((48, 48), Image.Resampling.BICUBIC)
    photo = face.resize((640, 480), Image.Resampling.BICUBIC)
    transparent = photo.convert("RGBA")
    transparent.putalpha(Image.new("L", photo.size, 255))
    wide = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    # Pillow has no 16-bit colour, so the PNG is put together by hand: each 8-bit sample v as v·257.
    deep = np.asarray(photo).astype(">u2") * 257
    (folder / "16bit_colour.png").write_bytes(png_of_16_bit_colour(deep))
    kinds = {
        "grey.png": grey,
        "colour.jpg": photo,
        "cmyk.jpg": photo.convert("CMYK"),
        "16bit.png": wide,
        "palette.gif": photo.quantize(256),
        "alpha.png": transparent,
    }
    for name, image in kinds.items():
        image.save(folder / name)
    return {name: folder / name for name in (*kinds, "16bit_colour.png")}


def test_it_is_small_and_carries_its_recipe_report_and_card() -> None:
    assert (ASSETS / "model.safetensors").stat().st_size <= 6_000_000
    assert sum(p.stat().st_size for p in ASSETS.iterdir()) < 7_000_000
    assert {"README.md", "recipe.yaml", "report.json", "metrics.jsonl", "curves.png"} <= {
        p.name for p in ASSETS.iterdir()
    }


def test_the_pipeline_answers_every_kind_of_file(faces: dict[str, Path]) -> None:
    from transformers import pipeline

    classify = pipeline("image-classification", model=hf_fer.embedded_model_path())
    answers = {}
    for name, path in faces.items():
        # transformers' loader clips 16-bit greys to white before any processor sees them; ours scales them.
        image = open_image(path) if name == "16bit.png" else str(path)
        answers[name] = {a["label"]: a["score"] for a in classify(image, top_k=8)}
    for name, scores in answers.items():
        assert max(scores, key=scores.get) == "happiness", (name, scores)
        assert scores["happiness"] == pytest.approx(answers["colour.jpg"]["happiness"], abs=0.1), name


def test_auto_classes_answer_like_predict(faces: dict[str, Path]) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(ASSETS).eval()
    assert type(model).__name__ == "MEKForImageClassification" and model.dtype == torch.float32
    processor = AutoImageProcessor.from_pretrained(ASSETS)
    with torch.inference_mode():
        pixels = processor(Image.open(faces["grey.png"]), return_tensors="pt")["pixel_values"]
        probabilities = model(pixel_values=pixels).logits.softmax(1)[0]
    (ours,) = hf_fer.predict_images([faces["grey.png"]], *hf_fer.load_classifier())
    for k, name in model.config.id2label.items():
        assert probabilities[k].item() == pytest.approx(ours.probabilities[name], abs=1e-5)


def test_it_loads_without_this_package(faces: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['hf_fer'] = None\n"
        "from transformers import pipeline\n"
        f"p = pipeline('image-classification', model={str(ASSETS)!r}, trust_remote_code=True)\n"
        f"print(p({str(faces['colour.jpg'])!r})[0]['label'])"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "happiness"


def test_its_code_is_the_packages_code() -> None:
    copies = list(ASSETS.glob("*.py"))
    assert copies
    for copy in copies:
        assert copy.read_text() == (MODELS / copy.name).read_text(), f"copy hf_fer/models/{copy.name} to hf_fer/assets"


def test_the_report_keeps_the_promise(report: dict) -> None:
    record = report["selected"]
    assert (record["dataset"], record["split"], record["n"]) == ("ferplus", "test", 3153)
    assert record["label_rule"] == "majority"
    for factor, least in (("1", 0.82), ("2", 0.80), ("4", 0.69)):
        assert record["resolutions"][factor]["accuracy"] >= least


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs FERPlus (set HF_FER_SHARED to a folder with data/ferplus)")
def test_the_command_line_measures_what_the_report_says(report: dict, tmp_path: Path) -> None:
    output = tmp_path / "record.json"
    command = [sys.executable, "-m", "hf_fer.cli", "evaluate", "default", "--data", "ferplus", "--root", str(SHARED)]
    command += ["--split", "test", "--resolutions", "1,2,4,8", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "record_confusion.png").is_file()
    record = json.loads(output.read_text())
    assert record["n"] == 3153
    for factor, metrics in report["selected"]["resolutions"].items():
        # Another CPU may sum in another order and tip a face or two that sit on the fence.
        assert record["resolutions"][factor]["accuracy"] == pytest.approx(metrics["accuracy"], abs=2e-3)


METHODS_INSIDE = [name.partition("-")[2] for name in hf_fer.embedded_models()[1:]]


@pytest.mark.parametrize("method", METHODS_INSIDE)
def test_a_methods_small_checkpoint_is_what_it_says(method: str, faces: dict[str, Path]) -> None:
    folder = Path(hf_fer.embedded_model_path(method))
    assert folder == ASSETS / method
    assert (folder / "model.safetensors").stat().st_size <= 6_000_000
    assert {"README.md", "recipe.yaml", "report.json", "metrics.jsonl"} <= {path.name for path in folder.iterdir()}
    for copy in folder.glob("*.py"):
        assert copy.read_text() == (MODELS / copy.name).read_text(), f"copy hf_fer/models/{copy.name} to {folder}"
    model, processor = hf_fer.load_classifier(f"default-{method}", "cpu")
    assert model.config.model_type == method
    report = json.loads((folder / "report.json").read_text())["selected"]
    assert (report["dataset"], report["split"], report["n"]) == ("ferplus", "test", 3153)
    assert list(report["resolutions"]) == ["1", "2", "4", "8"]
    (answer,) = hf_fer.predict_images([faces["colour.jpg"]], model, processor)
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("method", METHODS_INSIDE)
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs FERPlus (set HF_FER_SHARED to a folder with data/ferplus)")
def test_a_methods_small_checkpoint_is_as_good_as_its_report(method: str) -> None:
    """On every eighth test image, against the committed record of the whole split."""
    faces = hf_fer.load_fer_dataset("ferplus", SHARED)["test"]
    report = json.loads((ASSETS / method / "report.json").read_text())["selected"]["resolutions"]["1"]
    record = hf_fer.evaluate_model(f"default-{method}", faces.select(range(0, len(faces), 8)), dataset_name="ferplus")
    assert record["resolutions"]["1"]["accuracy"] == pytest.approx(report["accuracy"], abs=0.07)  # 3 standard errors
