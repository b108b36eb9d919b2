"""Temperatures against an independent search, and a `calibration.json` that is only believed where it fits."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hub_server import HubServer
from PIL import Image
from transformers import pipeline

from hf_fer import (
    FerError,
    GReFELConfig,
    GReFELForImageClassification,
    embedded_model_path,
    load_classifier,
    load_fer_dataset,
)
from hf_fer.evaluation.systems import digest_of
from hf_fer.inference.calibration import (
    Calibration,
    calibrate_model,
    find_calibration,
    fit_temperature,
    read_calibration,
    write_calibration,
)
from hf_fer.inference.pipeline import TASK, load_pipeline
from hf_fer.training.export import build_processor

ASSETS = Path(embedded_model_path())
DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "ferplus"


def loop_nll(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Sample by sample, in float64."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        scaled = [value / temperature for value in row]
        top = max(scaled)
        total += top + math.log(sum(math.exp(value - top) for value in scaled)) - scaled[label]
    return total / len(labels)


def drawn_answers(temperature: float, n: int, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels that follow softmax(logits / temperature)."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (n, classes))
    weights = np.exp(logits / temperature)
    cumulated = (weights / weights.sum(1, keepdims=True)).cumsum(1)
    return logits, (random.random((n, 1)) > cumulated).sum(1).clip(max=classes - 1)


# --- temperatures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_the_one_with_the_least_loss(temperature: float) -> None:
    logits, labels = drawn_answers(temperature, 300)
    found = fit_temperature(logits, labels)
    grid = np.exp(np.linspace(np.log(0.1), np.log(10), 400))
    losses = [loop_nll(logits, labels, t) for t in grid]
    best = int(np.argmin(losses))
    assert grid[best - 1] < found < grid[best + 1]
    least = loop_nll(logits, labels, found)
    assert least <= losses[best]
    for nearby in (0.999, 1.001):
        assert loop_nll(logits, labels, found * nearby) > least


def test_it_finds_the_temperature_that_made_the_labels() -> None:
    """Whatever is added to the logits of a sample, and however large they are."""
    logits, labels = drawn_answers(2.0, 10_000)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(2.0, rel=0.03)
    shift = np.random.default_rng(1).normal(0, 1000, (len(logits), 1))
    assert fit_temperature(logits + shift, labels) == pytest.approx(found, rel=1e-6)
    assert fit_temperature(logits * 20, labels) == pytest.approx(found * 20, rel=1e-6)
    assert fit_temperature(logits.astype(np.float32), labels) == pytest.approx(found, rel=1e-5)


def test_answers_that_no_temperature_fits() -> None:
    logits, labels = drawn_answers(1.0, 50)
    for bad_logits, bad_labels, words in (
        (logits, logits.argmax(1), "all of them are right"),
        (logits, logits.argmin(1), "more than by chance"),
        (logits[:0], labels[:0], "do not fit"),
        (logits[:, :1], labels * 0, "do not fit"),
        (logits, labels[:-1], "do not fit"),
        (logits, labels + 5, "integers from 0 to 4"),
        (logits, labels - 5, "integers from 0 to 4"),
        (logits, labels.astype(float), "integers from 0 to 4"),
        (np.where(logits > 5, np.nan, logits), labels, "not all finite"),
    ):
        with pytest.raises(FerError, match=words) as caught:
            fit_temperature(bad_logits, bad_labels)
        assert "\n" not in str(caught.value)


def test_reliability_is_the_top_probability_at_the_faces_resolution() -> None:
    fitted = Calibration({1.0: 0.5, 2.0: 1.0, 8.0: 4.0}, 48)
    for side, temperature in ((48, 0.5), (24, 1.0), (6, 4.0), (12, 2.0), (480, 0.5), (1, 4.0), (0, 4.0)):
        assert fitted.temperature([side])[0] == pytest.approx(temperature)
    # Halfway between factor 1 and 2 is sqrt(2), not 1.5.
    assert fitted.temperature([48 / math.sqrt(2)])[0] == pytest.approx(math.sqrt(0.5))
    logits = np.random.default_rng(0).normal(0, 4, (20, 6))
    sides = [48, 24, 12, 6] * 5
    found = fitted.reliability(logits, sides)
    for row, side, value in zip(logits.tolist(), sides, found.tolist(), strict=True):
        temperature = {48: 0.5, 24: 1.0, 12: 2.0, 6: 4.0}[side]
        weights = [math.exp(x / temperature) for x in row]
        assert value == pytest.approx(max(weights) / sum(weights))
    assert fitted.reliability(np.array([[1e9, -1e9], [0, 0]]), [48, 48]).tolist() == [1.0, 0.5]
    assert fitted.reliability(np.zeros((0, 6)), []).shape == (0,)
    assert Calibration({2.0: 3.0}, 48).temperature([48, 3]).tolist() == pytest.approx([3, 3])


# --- of a model ---------------------------------------------------------------------------------------


def test_a_model_is_calibrated_by_factor_and_class_names(tmp_path: Path) -> None:
    """The temperatures are those of logits that are computed here one image at a time."""
    folder = shutil.copytree(ASSETS, tmp_path / "model", ignore=shutil.ignore_patterns("*.py", "calibration.json"))
    before = digest_of(folder)
    data = load_fer_dataset("synthetic", train=8, validation=30, test=8)
    content = calibrate_model(folder, data, factors=(4, 1), batch_size=16, progress=False, device="cpu", command="x")
    assert {**content, "temperatures": 0, "scores": 0, "dataset": 0, "reference_side": 0} == {
        "version": 1, "split": "validation", "n": 30, "label_rule": None, "model_digest": before, "command": "x",
        "temperatures": 0, "scores": 0, "dataset": 0, "reference_side": 0,
    }  # fmt: skip
    split = data["validation"]
    names = split.features["label"].names
    images = [row["image"] for row in split]
    assert content["reference_side"] == int(np.median([min(image.size) for image in images]))
    model, processor = load_classifier(folder, "cpu")
    labels = np.array([model.config.label2id[names[k]] for k in split["label"]])
    for factor in (1, 4):
        logits = []
        for image in images:
            small = [max(1, round(side / factor)) for side in image.size]
            if factor > 1:
                image = (
                    image.convert("RGB")
                    .resize(small, Image.Resampling.BICUBIC)
                    .resize(image.size, Image.Resampling.BICUBIC)
                )
            with torch.no_grad():
                logits.append(model(**processor(images=image.convert("RGB"), return_tensors="pt")).logits[0].numpy())
        temperature = content["temperatures"][str(factor)]
        assert temperature == pytest.approx(fit_temperature(np.array(logits), labels), rel=1e-3)
        scores = content["scores"][str(factor)]
        assert scores["nll"] == pytest.approx(loop_nll(np.array(logits, np.float64), labels, temperature), abs=1e-3)
        assert scores["nll_before"] == pytest.approx(loop_nll(np.array(logits, np.float64), labels, 1), abs=1e-3)
        assert scores["nll"] <= scores["nll_before"]

    assert find_calibration(model) is None
    path = write_calibration(content, folder)
    assert digest_of(folder) == before  # the model is the same one
    assert json.loads(path.read_text()) == content
    with pytest.raises(FerError, match="exists already"):
        write_calibration(content, folder)
    assert write_calibration(content, folder, overwrite=True) == path
    found = find_calibration(model)
    assert found == Calibration({1.0: content["temperatures"]["1"], 4.0: content["temperatures"]["4"]},
                                content["reference_side"])  # fmt: skip
    (answer,) = load_pipeline(folder, detector="none", device="cpu").predict_crops([images[0]])
    with torch.no_grad():
        logits = model(**processor(images=images[0].convert("RGB"), return_tensors="pt")).logits.numpy()
    assert answer["reliability"] == pytest.approx(found.reliability(logits, [min(images[0].size)])[0], abs=1e-5)


def test_what_cannot_be_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_fer_dataset("synthetic", train=8, validation=8, test=8)
    for options, words in (
        ({"model": "owner/name"}, "download it with `hf download owner/name`"),
        ({"split": "test"}, "would flatter the model"),
        ({"split": "train"}, "would flatter the model"),
        ({"split": "nothing"}, "has no split"),
        ({"factors": ()}, "different numbers"),
        ({"factors": (1, 1.0)}, "different numbers"),
        ({"factors": (1, 1.0000001)}, "different numbers"),  # of one name in the file
        ({"factors": (0.5, 1)}, "0.5"),
        ({"factors": (1, 20_000)}, "from 1 to 10,000"),  # which `read_calibration` would not take
        ({"dataset": data["validation"].remove_columns("image")}, "no column 'image'"),
    ):
        with pytest.raises(FerError, match=words):
            calibrate_model(**{"model": ASSETS, "dataset": data, "progress": False, "device": "cpu", **options})
    with pytest.raises(FerError, match="no checkpoint folder here"):
        write_calibration({}, "owner/name")

    folder = tmp_path / "model"
    shutil.copytree(ASSETS, folder, ignore=shutil.ignore_patterns("*.py"))
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {k: "other" if v == "anger" else v for k, v in config["id2label"].items()}
    config["label2id"] = {v: int(k) for k, v in config["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FerError, match="images of anger, which"):
        calibrate_model(folder, data, progress=False, device="cpu", label_map={"other": None})


def test_grefel_and_answers_by_sigmoid_need_no_calibration(tmp_path: Path) -> None:
    data = load_fer_dataset("synthetic", train=8, validation=8, test=8)
    names = data["validation"].features["label"].names
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}}
    for options, words in (
        ({}, "a confidence of its own"),
        ({"problem_type": "multi_label_classification"}, "by itself"),
    ):
        model = GReFELForImageClassification(GReFELConfig(**labels, **options, **GReFELConfig.tiny))
        folder = tmp_path / words.replace(" ", "-")
        model.save_pretrained(folder)
        build_processor(model.config.image_size).save_pretrained(folder)
        with pytest.raises(FerError, match=words):
            calibrate_model(folder, data, progress=False, device="cpu")


# --- calibration.json ------------------------------------------------------------------------------------


GOOD = {"version": 1, "temperatures": {"1": 0.6, "2": 0.7}, "reference_side": 48}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that a digest is taken of, small ones."""
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_a_calibration_is_read(folder: Path) -> None:
    assert read_calibration(folder) is None
    path = folder / "calibration.json"
    path.write_text(json.dumps({**GOOD, "temperatures": {"8": 2, "1": 0.6}, "model_digest": digest_of(folder)}))
    assert read_calibration(folder) == Calibration({1.0: 0.6, 8.0: 2.0}, 48.0)
    assert [*read_calibration(folder).temperatures] == [1.0, 8.0]
    (folder / "model.safetensors").write_text("other weights")
    with pytest.raises(FerError, match="another model than the one beside it") as caught:
        read_calibration(folder)
    assert "hf-fer calibrate" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"null", b"3", b'{"version": ' + b"9" * 5000 + b"}",
        *(json.dumps({**GOOD, "model_digest": "sha256:0", **change}).encode() for change in (
            {"version": 2}, {"version": None}, {"temperatures": {}}, {"temperatures": [1, 2]}, {"temperatures": None},
            {"temperatures": {"1": 0}}, {"temperatures": {"1": -1}}, {"temperatures": {"1": float("nan")}},
            {"temperatures": {"1": float("inf")}}, {"temperatures": {"1": "0.5"}}, {"temperatures": {"1": True}},
            {"temperatures": {"1": 1e9}}, {"temperatures": {"1": 10**400}}, {"temperatures": {"x": 1}},
            {"temperatures": {"nan": 1}}, {"temperatures": {"0": 1}}, {"temperatures": {"0.5": 1}},
            {"temperatures": {"1": 1, "1.0": 2}}, {"temperatures": {"1" * 5000: 1}},
            {"temperatures": {str(k): 1 for k in range(1, 200)}}, {"reference_side": 0}, {"reference_side": "48"},
            {"reference_side": None}, {"reference_side": float("nan")}, {"model_digest": None}, {"model_digest": 5},
            {"model_digest": {"a": 1}}, {"padding": "a" * (2 << 20)},
        )),
    ],
)  # fmt: skip
def test_a_calibration_that_is_not_believed(folder: Path, content: bytes) -> None:
    (folder / "calibration.json").write_bytes(content)
    with pytest.raises(FerError, match=r"calibration\.json cannot be used \(") as caught:
        read_calibration(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_calibration_that_is_no_file(folder: Path) -> None:
    path = folder / "calibration.json"
    path.mkdir()
    with pytest.raises(FerError, match="not a regular file"):
        read_calibration(folder)
    path.rmdir()
    path.symlink_to(folder / "nowhere")
    with pytest.raises(FerError, match="not a regular file"):
        read_calibration(folder)


def test_a_model_from_nowhere_has_none(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Also where a file of that name happens to lie in the working directory."""
    (folder / "calibration.json").write_text("{")
    monkeypatch.chdir(folder)
    model, _ = load_classifier(device="cpu")
    model.name_or_path = ""
    assert find_calibration(model) is None
    model.name_or_path = "owner/never-downloaded"
    assert find_calibration(model) is None
    model.config._commit_hash = "0" * 40
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_calibration(model) is None


# --- from the Hub -----------------------------------------------------------------------------------------


def test_a_calibration_comes_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    files = {name: (ASSETS / name).read_bytes() for name in names}
    own = (ASSETS / "calibration.json").read_bytes()
    expected = read_calibration(ASSETS)
    with HubServer() as hub:
        hub.connect(monkeypatch, tmp_path / "home")
        hub.commit("model", "me/with", files | {"calibration.json": own})
        hub.commit("model", "me/stock", files | {"calibration.json": own})
        hub.commit("model", "me/without", files)
        foreign = json.dumps({**json.loads(own), "model_digest": "sha256:0"}).encode()
        hub.commit("model", "me/foreign", files | {"calibration.json": foreign})
        assert load_pipeline("me/with", detector="none", device="cpu").calibration == expected
        stock = pipeline(TASK, model="me/stock", detector="none", device="cpu")
        known = getattr(stock.model.config, "_commit_hash", None)  # which no transformers from 5.24 on tells
        assert stock.calibration == (expected if known else None)
        assert load_pipeline("me/without", detector="none", device="cpu").calibration is None
        with pytest.raises(FerError, match="another model than the one beside it"):
            load_pipeline("me/foreign", detector="none", device="cpu")
        assert not caplog.records
        model, _ = load_classifier("me/without", "cpu")
        hub.fail(method="HEAD", path="me/without/resolve/.*/calibration.json", status=403)
        assert find_calibration(model) is None
        assert "me/without: whether it has a calibration.json could not be asked" in caplog.text
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_pipeline("me/with", detector="none", device="cpu").calibration == expected


# --- the one in the package -----------------------------------------------------------------------------


def test_the_embedded_calibration_is_of_the_embedded_model() -> None:
    content = json.loads((ASSETS / "calibration.json").read_text())
    assert content["model_digest"] == digest_of(ASSETS)
    assert (content["dataset"], content["split"], content["label_rule"]) == ("ferplus", "validation", "majority")
    assert [*content["temperatures"]] == ["1", "2", "4", "8"] and content["reference_side"] == 48
    assert content["command"].startswith("hf-fer calibrate default")
    for scores in content["scores"].values():
        assert scores["nll"] < scores["nll_before"] and scores["ece"] < scores["ece_before"]
    found = read_calibration(ASSETS)
    assert [*found.temperatures.values()] == [*content["temperatures"].values()]


@pytest.mark.skipif(
    not [*DATA.glob("test-*.parquet")], reason="needs FERPlus as Parquet (shared/data/ferplus beside the repository)"
)
def test_it_holds_on_faces_it_was_not_fitted_on() -> None:
    """Of 300 test faces, as large as they are and at 12 px: reliability is nearer to the share of right answers."""
    from hf_fer.data.ferplus import apply_label_rule
    from hf_fer.evaluation.fer_metrics.scores import ECE_BINS
    from hf_fer.labels import label_names

    rows = pq.read_table(next(DATA.glob("test-*.parquet"))).to_pylist()[::10]
    keep, labels = apply_label_rule(np.array([row["votes"] for row in rows]))
    images = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("L") for row in rows]
    images = [image for image, kept in zip(images, keep, strict=True) if kept]
    truth = [label_names("ferplus")[k] for k in labels[keep]]
    ours = load_pipeline(detector="none", device="cpu")

    def gap(sure: list[float], right: list[bool]) -> float:
        """Expected calibration error."""
        total = 0.0
        for k in range(ECE_BINS):
            inside = [i for i, s in enumerate(sure) if k / ECE_BINS < s <= (k + 1) / ECE_BINS]
            total += abs(sum(sure[i] - right[i] for i in inside))
        return total / len(sure)

    for side, limit in ((48, 0.06), (12, 0.08)):
        answers = ours.predict_crops([image.resize((side, side), Image.Resampling.BICUBIC) for image in images])
        right = [answer["label"] == name for answer, name in zip(answers, truth, strict=True)]
        before = gap([answer["score"] for answer in answers], right)
        after = gap([answer["reliability"] for answer in answers], right)
        assert after < limit and after < before, (side, before, after)
