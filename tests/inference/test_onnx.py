"""An exported file answers as PyTorch does, says how it is to be used, and hostile files end in one sentence."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hf_fer
from hf_fer._auto import METHODS, config_class, model_class
from hf_fer.data.drawn_faces import GEOMETRIES, draw_face
from hf_fer.data.ferplus import apply_label_rule
from hf_fer.errors import FerError
from hf_fer.evaluation.systems import digest_of
from hf_fer.inference import onnx_export
from hf_fer.inference.onnx_export import OnnxReport, export_onnx
from hf_fer.inference.onnx_preprocessing import Preprocessing
from hf_fer.inference.onnx_runtime import OnnxClassifier
from hf_fer.models import mobilefacenet
from hf_fer.models.mobilefacenet import Residual
from hf_fer.training.export import build_processor, save_release

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger"]
ROOT = Path(__file__).resolve().parents[2]
FERPLUS = ROOT.parent / "shared" / "data" / "ferplus" / "test-00000-of-00001.parquet"


def drawn(count: int, side: int = 96, seed: int = 5) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [draw_face([*GEOMETRIES][k % 8], rng, side) for k in range(count)]


# Enough of each kind of layer; what takes time is to trace them again and again.
SMALLER: dict[str, dict[str, Any]] = {
    "neural_resizer": {"backbone_kwargs": {"embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4}}
}


def save_tiny(method: str, folder: Path) -> torch.nn.Module:
    """A tiny model whose every tensor differs from any default, saved with its processor."""
    torch.manual_seed(0)
    config = config_class(method)
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: k for k, name in enumerate(NAMES)}}
    model = model_class(method)(config(**names, **{**config.tiny, **SMALLER.get(method, {})})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
    save_release(model, build_processor(model.config.image_size), folder)
    return model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, OnnxReport]:
    """A checkpoint folder, the file made of it, and the report."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    save_tiny("mek", folder)
    path = folder.parent / "tiny.onnx"
    return folder, path, export_onnx(folder, path)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OnnxReport]:
    """The embedded model in int8, its ranges from drawn faces."""
    path = tmp_path_factory.mktemp("int8") / "default.onnx"
    return path, export_onnx("default", path, int8=True)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_as_in_pytorch(
    method: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mobilefacenet, "Residual", lambda width, wide, depth: Residual(width, wide, 1))
    if method == "mek":
        folder, path, report = request.getfixturevalue("tiny")
        model, _ = hf_fer.load_classifier(folder, "cpu")
    else:
        model, path = save_tiny(method, tmp_path / "run"), tmp_path / "new" / "m.onnx"
        report = export_onnx(tmp_path / "run", path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    side = model.config.image_size
    probabilities_seen = []
    for batch in (1, 3):  # 3 is none of those that the export looks at
        pixels = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            expected = model(pixel_values=pixels).logits
        logits, probabilities = session.run(["logits", "probabilities"], {"pixel_values": pixels.numpy()})
        np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(probabilities, expected.softmax(1).numpy(), rtol=0, atol=1e-4)
        probabilities_seen.append(probabilities)
    assert np.ptp(np.concatenate(probabilities_seen), axis=0).max() > 1e-3  # the pictures do matter
    assert report.max_logit_difference <= 1e-4 and report.max_probability_difference <= 1e-4
    assert report.input_shape == ("batch", 3, side, side)
    assert (report.precision, report.labels, report.same_label, report.calibration_images) == ("float32", NAMES, 1, 0)


def test_a_file_says_what_goes_in_and_comes_out(tiny: tuple[Path, Path, OnnxReport]) -> None:
    folder, path, report = tiny
    said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(said["labels"]) == NAMES
    preprocessing = json.loads(said["preprocessing"])
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert preprocessing["resize"] == [64, 64] and preprocessing["resample"] == "bicubic"
    assert (preprocessing["mean"], preprocessing["std"]) == (processor["image_mean"], processor["image_std"])
    assert (preprocessing["layout"], preprocessing["channels"]) == ("NCHW", "RGB")
    assert preprocessing["scale"] == pytest.approx(1 / 255)
    assert said["model_digest"] == digest_of(folder)
    assert (said["model"], said["precision"], said["activation"]) == ("run", "float32", "softmax")
    assert (said["hf_fer_version"], json.loads(said["face_template"])) == (hf_fer.__version__, "ferplus")
    assert "not what its owner feels" in said["responsible_use"]
    content = path.read_bytes()
    assert report.size_bytes == len(content)
    assert b".py" not in content and str(folder.parent).encode() not in content  # nothing of where it was made


def test_the_embedded_model_in_int8(int8: tuple[Path, OnnxReport]) -> None:
    path, report = int8
    assert report.calibration_images == 256 and report.precision == "int8"
    weights = (Path(hf_fer.embedded_model_path()) / "model.safetensors").stat().st_size  # two bytes a weight
    assert report.size_bytes < 0.6 * weights
    classifier = OnnxClassifier(path, threads=1)
    assert (classifier.metadata["model"], classifier.metadata["license"]) == ("hf-fer-default", "apache-2.0")
    model, processor = hf_fer.load_classifier("default", "cpu")
    faces = drawn(24)
    with torch.inference_mode():
        expected = model(**processor(images=faces, return_tensors="pt")).logits.softmax(1).numpy()
    found = classifier.probabilities(faces, batch_size=7)
    assert np.abs(found - expected).max() < 0.15 and np.abs(found - expected).mean() < 0.02
    assert np.abs(found - expected).max() > 1e-4  # or it would not be quantised
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


@pytest.mark.skipif(not FERPLUS.is_file(), reason="FERPlus is not beside the repository (../shared/data/ferplus)")
def test_int8_costs_at_most_half_a_point_on_ferplus(int8: tuple[Path, OnnxReport]) -> None:
    from pyarrow.parquet import read_table

    # Straight from the file: the loader would build and check the other splits, too, in as long as all this takes.
    rows = read_table(FERPLUS, columns=["image", "votes"])
    keep, labels = apply_label_rule(np.array(rows["votes"].to_pylist()))
    images = [Image.open(io.BytesIO(row["bytes"])) for row in rows["image"].filter(keep).to_pylist()]
    record = json.loads((ROOT / "leaderboard" / "records" / "default.json").read_text())
    classifier = OnnxClassifier(int8[0], threads=1)
    assert classifier.labels == [*hf_fer.label_names("ferplus")]
    top = classifier.probabilities(images, batch_size=64).argmax(axis=1)
    accuracy = float((top == labels[keep]).mean())
    assert record["n"] == len(top)
    assert accuracy >= record["metrics"]["accuracy"] - 0.005


def test_predictions_are_those_of_the_checkpoint(tiny: tuple[Path, Path, OnnxReport], tmp_path: Path) -> None:
    folder, path, _ = tiny
    pictures = [drawn(1, 64)[0], drawn(1, 224)[0].convert("L"), drawn(1, 40)[0].convert("RGBA").resize((40, 60))]
    files = [tmp_path / f"{k}.png" for k in range(len(pictures))]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file)
    answers = OnnxClassifier(path).predict(pictures, batch_size=2)
    expected = hf_fer.predict_images(files, *hf_fer.load_classifier(folder, "cpu"))
    for answer, one in zip(answers, expected, strict=True):
        assert [*answer.values()] == sorted(answer.values(), reverse=True) and {*answer} == {*NAMES}
        assert answer == pytest.approx(one.probabilities, abs=2e-3)  # a grey level here and there
    assert OnnxClassifier(path).predict([]) == []


def test_the_file_runs_without_torch(tiny: tuple[Path, Path, OnnxReport]) -> None:
    code = f"""
import sys
from PIL import Image
from hf_fer.inference.onnx_runtime import OnnxClassifier
answer = OnnxClassifier({str(tiny[1])!r}).predict([Image.new("RGB", (30, 30), "grey")])[0]
print(abs(sum(answer.values()) - 1) < 1e-5, [name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split("\n")[0] == "True []", done.stderr


def test_a_stock_model_with_independent_labels(tmp_path: Path) -> None:
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3, problem_type="multi_label_classification"
    )
    model = ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "stock")
    processor = ConvNextImageProcessor(size={"shortest_edge": 56}, crop_pct=0.875)
    processor.save_pretrained(tmp_path / "stock")
    report = export_onnx(tmp_path / "stock", tmp_path / "stock.onnx")
    assert report.input_shape == ("batch", 3, 56, 56)
    classifier = OnnxClassifier(tmp_path / "stock.onnx")
    assert classifier.metadata["activation"] == "sigmoid" and json.loads(classifier.metadata["face_template"]) is None
    faces = drawn(3, 64)
    with torch.inference_mode():
        expected = model(**processor(images=faces, return_tensors="pt")).logits.sigmoid().numpy()
    np.testing.assert_allclose(classifier.probabilities(faces), expected, atol=2e-3)


# --- preprocessing --------------------------------------------------------------------------------------------


def _processors() -> list[Any]:
    from transformers import BitImageProcessor, ConvNextImageProcessor, ViTImageProcessor

    return [
        ViTImageProcessor(size={"height": 40, "width": 30}, resample=2, do_rescale=False, image_std=[9, 10, 11]),
        BitImageProcessor(size={"shortest_edge": 50}, crop_size={"height": 44, "width": 41}, resample=3),
        BitImageProcessor(size={"shortest_edge": 20}, crop_size={"height": 44, "width": 44}),  # black borders
        ConvNextImageProcessor(size={"shortest_edge": 48}, crop_pct=0.8),
        ConvNextImageProcessor(size={"shortest_edge": 384}, crop_pct=0.8),
    ]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("size", [(48, 48), (96, 61), (33, 80)])
def test_pictures_become_what_the_processor_makes_of_them(number: int, size: tuple[int, int]) -> None:
    processor = _processors()[number]
    preprocessing = Preprocessing.from_processor(processor)
    assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing
    face = drawn(1, 128, seed=number)[0].resize(size)
    expected = processor(images=face, return_tensors="np")["pixel_values"]
    found = preprocessing([face])
    assert found.dtype == np.float32 and found.shape == expected.shape
    levels = np.abs(found - expected) * np.array(preprocessing.std)[:, None, None] / preprocessing.scale
    assert levels.max() < 3.5 and levels.mean() < 0.1


def test_a_thread_like_picture_is_refused_before_it_takes_all_memory() -> None:
    preprocessing = Preprocessing(224, "bicubic", (224, 224), 1 / 255, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(FerError, match="1 x 60000 px is too long and thin"):
        preprocessing([Image.new("L", (1, 60_000))])


# --- what is refused ------------------------------------------------------------------------------------------


def _props(**values: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        said = {entry.key: entry.value for entry in model.metadata_props}
        onnx.helper.set_model_props(model, {**said, **values})

    return change


def _preprocessing(**values: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        said = {entry.key: entry.value for entry in model.metadata_props}
        _props(preprocessing=json.dumps({**json.loads(said["preprocessing"]), **values}))(model)

    return change


def _external(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    tensor.ClearField("raw_data")


def _sparse(model: Any) -> None:
    """onnxruntime 1.32 reads the values of such a constant from another file."""
    values = onnx.TensorProto(data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    values.external_data.add(key="location", value="secret")
    where = onnx.helper.make_tensor("where", onnx.TensorProto.INT64, [1], [0])
    sparse = onnx.helper.make_sparse_tensor(values, where, [1])
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["leak"], sparse_value=sparse))


def _foreign(model: Any) -> None:
    model.graph.node[0].domain = "evil.example"


def _loop(model: Any) -> None:
    branch = onnx.helper.make_graph([], "branch", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["logits"], ["x"], then_branch=branch, else_branch=branch))


def _function(model: Any) -> None:
    model.functions.add(name="Relu", domain="")


def _scaled(model: Any) -> None:
    next(node for node in model.graph.node if node.op_type == "Softmax").output[0] = "elsewhere"


def _infinite(model: Any) -> None:
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 4:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, np.inf), tensor.name))


HOSTILE = {
    "no metadata": (lambda model: model.ClearField("metadata_props"), "not exported by hf-fer export"),
    "labels no JSON": (_props(labels="[" * 100_000), "labels are no JSON"),
    "labels no list": (_props(labels='{"0": "a"}'), "labels are not a list"),
    "label with control characters": (_props(labels=json.dumps(["\x1b[2J", *NAMES[1:]])), "must be a printable text"),
    "same labels": (_props(labels=json.dumps([NAMES[0]] * 5)), "two of its labels are the same"),
    "too few labels": (_props(labels=json.dumps(NAMES[:4])), r"logits are float32 \(1, 5\), not float32 \(1, 4\)"),
    "preprocessing no JSON": (_props(preprocessing="{"), "its preprocessing cannot be used"),
    "huge": (_preprocessing(resize=[10**9, 10**9]), "from 1 to 4096 px"),
    "other size": (_preprocessing(resize=[63, 64]), "takes no pixel_values"),
    "no size": (_preprocessing(resize=None), "fixes the size"),
    "std 0": (_preprocessing(std=[0, 1, 1]), "std must not be 0"),
    "not finite": (_preprocessing(mean=[float("nan"), 0, 0]), "finite numbers"),
    "beyond floats": (_preprocessing(scale=10**400), "its preprocessing cannot be used"),
    "filter": (_preprocessing(resample="__class__"), "resample must be one of"),
    "layout": (_preprocessing(layout="NHWC"), "not RGB, NCHW"),
    "other file": (_external, "in another file, which is not read"),
    "sparse constant in another file": (_sparse, "has a sparse constant"),
    "foreign operator": (_foreign, "operators of 'evil.example'"),
    "branches": (_loop, "loops or branches"),
    "function": (_function, "functions"),
    "no such output": (_scaled, "onnxruntime cannot load it"),
    "infinite weights": (_infinite, "not finite"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_end_in_one_sentence(
    case: str, tiny: tuple[Path, Path, OnnxReport], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change, sentence = HOSTILE[case]
    model = onnx.load(tiny[1])
    change(model)
    path = tmp_path / "hostile.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FerError, match=sentence) as caught:
        OnnxClassifier(path).predict(drawn(1))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600
    assert capfd.readouterr() == ("", "")  # said once


def test_what_is_no_onnx_file_ends_in_one_sentence(
    tiny: tuple[Path, Path, OnnxReport], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = tiny[1].read_bytes()
    files = {
        "empty": b"",
        "page": b"<!doctype html><p>not found",
        "cut": whole[: len(whole) // 2],
        "noise": b"\xff" * 99,
        "text": whole.replace(b"Conv", b"Co\xffv"),
    }
    for name, content in files.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(FerError, match=r"an ONNX file|not exported by hf-fer|cannot load it"):
            OnnxClassifier(path)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(FerError, match="No such file"):
        OnnxClassifier(tmp_path / "missing.onnx")
    with pytest.raises(FerError, match="not a file"):
        OnnxClassifier(tmp_path)
    with pytest.raises(FerError, match="must be a PIL image, not a ndarray"):
        OnnxClassifier(tiny[1]).predict([np.zeros((8, 8, 3), np.uint8)])


def test_export_refuses_and_leaves_nothing(
    tiny: tuple[Path, Path, OnnxReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, path, _ = tiny
    before = path.read_bytes()
    with pytest.raises(FerError, match="exists already"):
        export_onnx(folder, path)
    assert path.read_bytes() == before
    output = tmp_path / "out.onnx"
    with pytest.raises(FerError, match="a folder; name the file"):
        export_onnx(folder, tmp_path)
    with pytest.raises(FerError, match="opset must be at least 18"):
        export_onnx(folder, output, opset=17)
    with pytest.raises(FerError, match="for int8 only"):
        export_onnx(folder, output, calibration_images=drawn(1))
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(FerError, match=r'pip install "hf-fer\[onnx\]"'):
            export_onnx(folder, output)
    with monkeypatch.context() as patch:
        other = Preprocessing((64, 64), "nearest", None, 1 / 255, (0.5,) * 3, (0.25,) * 3)
        patch.setattr(Preprocessing, "from_processor", lambda _: other)
        with pytest.raises(FerError, match="does more than its numbers say"):
            export_onnx(folder, output)
    assert [*tmp_path.iterdir()] == []


def test_a_parity_that_does_not_hold_is_refused(
    tiny: tuple[Path, Path, OnnxReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slightly_wrong(*_: Any) -> Any:
        model = onnx.load(tiny[1])
        bias = next(t for t in model.graph.initializer if t.name.endswith("classifier.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(3e-4), bias.name))
        return model

    monkeypatch.setattr(onnx_export, "_export_graph", slightly_wrong)
    with pytest.raises(FerError, match=r"differ from PyTorch's by 3\.0e-04 \(logits\)"):
        export_onnx(tiny[0], tmp_path / "out.onnx")
    assert [*tmp_path.iterdir()] == []


def test_int8_takes_its_ranges_from_the_images_given(
    tiny: tuple[Path, Path, OnnxReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "_export_graph", lambda *_: onnx.load(tiny[1]))  # the network, exported once
    output = tmp_path / "out.onnx"
    for none in ([], iter(())):
        with pytest.raises(FerError, match="there are no calibration images"):
            export_onnx(tiny[0], output, int8=True, calibration_images=none)
    with pytest.raises(FerError, match="must be a PIL image, not a str"):
        export_onnx(tiny[0], output, int8=True, calibration_images=["face.png"])
    assert not output.exists()
    report = export_onnx(tiny[0], output, int8=True, calibration_images=iter(drawn(20)))
    assert report.calibration_images == 20
    black = export_onnx(tiny[0], tmp_path / "b.onnx", int8=True, calibration_images=[Image.new("L", (9, 9))])
    assert black.max_logit_difference > 2 * report.max_logit_difference  # ranges of a black picture fit no face


def test_calibration_images_of_16_bits_keep_their_greys() -> None:
    seen: list[np.ndarray] = []

    def processor(images: Image.Image, **_: Any) -> dict[str, np.ndarray]:
        seen.append(np.asarray(images))
        return {"pixel_values": np.zeros((1, 3, 2, 2), np.float32)}

    deep = Image.fromarray(np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16))
    [*onnx_export._pixels([deep], processor)]
    assert seen[0][..., 0].tolist() == [[0, 100], [200, 255]]


def test_a_license_is_that_of_the_card_also_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    card = tmp_path / "README.md"
    card.write_text("---\nlicense: mit\n---\n")
    asked: list[Any] = []

    def download(name: str, file: str, revision: str) -> str:
        asked.append((name, file, revision))
        return str(card)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    network = torch.nn.Module()
    network.config = type("Config", (), {"_commit_hash": "abc"})
    assert onnx_export._license(onnx_export._hub_card("me/model", network)) == "mit"
    assert asked == [("me/model", "README.md", "abc")]  # of the commit that was loaded
    card.write_text("---\nlicense: [1]\n---\n")
    assert onnx_export._license(card) == onnx_export._license(None) == "unknown"
