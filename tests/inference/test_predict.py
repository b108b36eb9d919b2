"""`load_classifier` and `predict_images` on a tiny stock checkpoint, and the checkpoints that are refused."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    ViTImageProcessor,
    pipeline,
)

from hf_fer.checkpoints import loading
from hf_fer.checkpoints.loading import (
    embedded_model_path,
    embedded_models,
    embedded_name,
    load_classifier,
    resolve_model,
)
from hf_fer.errors import FerError
from hf_fer.inference.images import FailedImage, open_image
from hf_fer.inference.predict import Prediction, predict_images

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]


def resnet_config() -> ResNetConfig:
    return ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(NAMES)),
        label2id={name: k for k, name in enumerate(NAMES)},
    )


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another test file has imported huggingface_hub already, the variable above came too late."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = ResNetForImageClassification(resnet_config())
    torch.nn.init.normal_(model.classifier[1].weight, std=3.0)  # answers that differ from image to image
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(checkpoint: Path) -> tuple:
    return load_classifier(checkpoint, "cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kinds of files people have, of one picture."""
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[:480, :640]
    grey = ((0.7 * x / 639 + 0.3 * y / 479) * 255).astype(np.uint8)
    image = Image.fromarray(np.stack([grey, 255 - grey, np.roll(grey, 100, axis=1)], axis=-1))
    Image.fromarray(grey).resize((48, 48)).save(folder / "grey48.png")
    image.save(folder / "colour.jpg")
    image.save(folder / "colour.png")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.quantize(256).save(folder / "palette.gif")
    Image.fromarray(grey).save(folder / "grey8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "grey16.png")
    image.putalpha(255)
    image.save(folder / "alpha.png")
    return folder


def answers(paths: list, classifier: tuple, **options: int) -> list[Prediction | FailedImage]:
    return list(predict_images(paths, *classifier, **options))


# --- answers ---------------------------------------------------------------------------------


def test_agrees_with_the_stock_pipeline(checkpoint: Path, classifier: tuple, photos: Path) -> None:
    stock = pipeline("image-classification", model=str(checkpoint), device="cpu")
    for name in ("grey48.png", "colour.jpg", "cmyk.jpg", "palette.gif", "alpha.png"):
        expected = {a["label"]: a["score"] for a in stock(str(photos / name), top_k=len(NAMES))}
        (answer,) = answers([photos / name], classifier)
        assert answer.probabilities == pytest.approx(expected, abs=1e-5), name
        assert list(answer.probabilities) == sorted(expected, key=expected.get, reverse=True)
        assert (answer.label, answer.score) == next(iter(answer.probabilities.items()))
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    # transformers' own loader clips 16 bits to white; what we open can be handed to the pipeline instead.
    opened = {a["label"]: a["score"] for a in stock(open_image(photos / "grey16.png"), top_k=len(NAMES))}
    (answer,) = answers([photos / "grey16.png"], classifier)
    assert answer.probabilities == pytest.approx(opened, abs=1e-5)


def test_kinds_of_files_of_one_picture_agree(classifier: tuple, photos: Path) -> None:
    names = ["colour.png", "colour.jpg", "cmyk.jpg", "palette.gif", "alpha.png", "grey8.png", "grey16.png"]
    by_name = dict(zip(names, answers([photos / n for n in names], classifier), strict=True))
    for name in names[1:5]:
        assert by_name[name].probabilities == pytest.approx(by_name["colour.png"].probabilities, abs=0.05), name
    assert by_name["grey16.png"].probabilities == by_name["grey8.png"].probabilities


def test_one_bad_image_stops_nothing_and_order_is_kept(classifier: tuple, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    good = sorted(photos.iterdir())
    paths = [tmp_path / "missing.png", *good[:3], tmp_path / "empty.png", *good[3:], tmp_path]
    for batch_size in (1, 3, 100):
        results = answers(paths, classifier, batch_size=batch_size)
        assert [r.path for r in results] == [str(p) for p in paths]
        failed = [r for r in results if isinstance(r, FailedImage)]
        assert [r.path for r in failed] == [
            str(tmp_path / "missing.png"),
            str(tmp_path / "empty.png"),
            str(tmp_path),
        ]
        assert all(r.path in r.reason and "\n" not in r.reason for r in failed)


def test_the_batch_size_changes_no_answer(classifier: tuple, photos: Path) -> None:
    paths = sorted(photos.iterdir())
    one, many = answers(paths, classifier, batch_size=1), answers(paths, classifier, batch_size=5)
    for a, b in zip(one, many, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
    with pytest.raises(FerError, match="batch size"):
        answers(paths, classifier, batch_size=0)


def test_streams(classifier: tuple, photos: Path) -> None:
    """Paths are taken and images opened only as the answers are asked for."""
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield photos / "grey48.png"

    results = predict_images(endless(), *classifier, batch_size=4)
    assert taken == 0
    assert isinstance(next(results), Prediction)
    assert taken == 4
    results.close()

    missing = predict_images((f"missing{k}" for k in range(1000)), *classifier, batch_size=2)
    assert isinstance(next(missing), FailedImage)


def test_an_image_that_cannot_be_preprocessed_fails_alone(classifier: tuple, photos: Path) -> None:
    model, processor = classifier

    def picky(images: Image.Image, **options: str):
        if images.size == (48, 48):
            raise RuntimeError("too small")
        return processor(images=images, **options)

    small, large = predict_images([photos / "grey48.png", photos / "colour.jpg"], model, picky)
    assert isinstance(small, FailedImage)
    assert "48 x 48" in small.reason
    assert "too small" in small.reason
    assert isinstance(large, Prediction)


def test_sizes_that_cannot_share_a_batch(checkpoint: Path, photos: Path) -> None:
    model, processor = load_classifier(checkpoint, "cpu")
    processor.do_resize = False
    paths = [photos / "grey48.png", photos / "colour.jpg"]
    assert all(isinstance(r, Prediction) for r in predict_images(paths, model, processor))


def test_an_answer_that_is_not_a_number_is_a_failure(checkpoint: Path, photos: Path) -> None:
    model, processor = load_classifier(checkpoint, "cpu")
    torch.nn.init.constant_(model.classifier[1].bias, float("nan"))
    (result,) = predict_images([photos / "grey48.png"], model, processor)
    assert isinstance(result, FailedImage)
    assert "not a number" in result.reason


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (3, 3), (500, 1)])
def test_odd_shapes(shape: tuple[int, int], classifier: tuple, tmp_path: Path) -> None:
    Image.new("L", shape, 90).save(tmp_path / "a.png")
    (result,) = answers([tmp_path / "a.png"], classifier)
    assert isinstance(result, Prediction)


# --- checkpoints -----------------------------------------------------------------------------


def test_the_model_is_ready(classifier: tuple) -> None:
    model, _ = classifier
    assert not model.training
    assert model.dtype == torch.float32


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def unknown_model_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')


def wants_remote_code(folder: Path) -> None:
    auto_map = {"AutoConfig": "configuration_x.XConfig", "AutoModelForImageClassification": "modeling_x.X"}
    (folder / "config.json").write_text(json.dumps({"model_type": "xyz", "auto_map": auto_map}))
    (folder / "configuration_x.py").write_text("raise SystemExit('this code must not run')")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def noise_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 1000)


def other_class_count(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "a", "1": "b"}
    config["label2id"] = {"a": 0, "b": 1}
    (folder / "config.json").write_text(json.dumps(config))


def no_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def broken_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text("[]")


def text_model(folder: Path) -> None:
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    BertForSequenceClassification(config).save_pretrained(folder)


def no_trained_head(folder: Path) -> None:
    ResNetModel(resnet_config()).save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (no_config, "no config.json"),
        (broken_config, "config.json cannot be used"),
        (unknown_model_type, "config.json cannot be used"),
        (wants_remote_code, "--trust-remote-code"),
        (no_weights, "weights cannot be loaded"),
        (cut_weights, "weights cannot be loaded"),
        (noise_weights, "weights cannot be loaded"),
        (other_class_count, "weights cannot be loaded"),
        (no_processor, "image processor cannot be loaded"),
        (broken_processor, "image processor cannot be loaded"),
        (text_model, "bert model, which is not an image classifier"),
        (no_trained_head, "not a trained image classifier"),
    ],
)
def test_a_checkpoint_that_is_refused(
    spoil: Callable[[Path], None], says: str, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    spoil(folder)
    with pytest.raises(FerError) as caught:
        load_classifier(folder, "cpu")
    message = str(caught.value)
    assert str(folder) in message
    assert says in message
    assert "\n" not in message


def test_what_is_no_checkpoint_at_all(tmp_path: Path, checkpoint: Path) -> None:
    for model, says in (
        (tmp_path / "missing", "no such folder"),
        (checkpoint / "model.safetensors", "a file"),
        ("a/b/c", "no such folder"),
        ("", "no such folder"),
        ("owner/no-such-model", "no such folder here, and the Hub gave no such model"),
    ):
        with pytest.raises(FerError, match=says):
            load_classifier(model, "cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta0"])
def test_a_device_that_is_not_there(device: str, checkpoint: Path) -> None:
    with pytest.raises(FerError, match="cannot be used"):
        load_classifier(checkpoint, device)


def test_default_means_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path) -> None:
    monkeypatch.setattr(loading, "__file__", str(tmp_path / "hf_fer" / "checkpoints" / "loading.py"))
    with pytest.raises(FerError, match="reinstall"):
        resolve_model(None)
    shutil.copytree(checkpoint, tmp_path / "hf_fer" / "assets")
    assert resolve_model(None) == resolve_model("default") == (str(tmp_path / "hf_fer" / "assets"), True)
    assert load_classifier(device="cpu")[0].config.num_labels == len(NAMES)
    assert embedded_models() == ["default"]
    with pytest.raises(FerError, match="no checkpoint of 'hsac' comes inside the package; there are those of none"):
        embedded_model_path("hsac")
    (tmp_path / "hf_fer" / "assets" / "config.json").unlink()  # an installation without it still names other folders
    assert embedded_name(checkpoint) is None
    assert resolve_model("default-hsac") == ("default-hsac", False)  # as good a Hub id as any


def test_the_methods_small_checkpoints_have_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path
) -> None:
    monkeypatch.setattr(loading, "__file__", str(tmp_path / "hf_fer" / "checkpoints" / "loading.py"))
    assets = tmp_path / "hf_fer" / "assets"
    for folder in (assets, assets / "mek", assets / "hsac", assets / "other"):
        shutil.copytree(checkpoint, folder)
    assert embedded_models() == ["default", "default-hsac", "default-mek"]
    assert resolve_model("default-mek") == (str(assets / "mek"), True)
    assert embedded_model_path("hsac") == str(assets / "hsac") and embedded_model_path() == str(assets)
    assert [embedded_name(folder) for folder in (assets, assets / "mek", assets / "other")] == [
        "default",
        "default-mek",
        None,
    ]
    with pytest.raises(FerError, match=r"no checkpoint of 'grefel' .* there are those of hsac, mek"):
        embedded_model_path("grefel")
