"""Degradation, the evaluation loop on tiny stock transformers models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import CLASSES, make_dataset, noise, reordered, tiny_resnet, tiny_vit

from hf_fer.errors import FerError
from hf_fer.evaluation import degrade_image, evaluate_model, predict_probabilities
from hf_fer.evaluation.fer_metrics.scores import score_predictions


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")


# degrade_image


def test_factor_one_is_the_image_itself():
    image = noise()
    assert degrade_image(image, 1) is image
    assert degrade_image(image, 1.0) is image


@pytest.mark.parametrize("factor", [1.5, 2, 3.7, 8, 1000])
@pytest.mark.parametrize("size", [(64, 64), (48, 48), (50, 31), (1, 7)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_size_and_mode_are_kept(factor, size, mode):
    image = noise(size, mode=mode)
    degraded = degrade_image(image, factor)
    assert degraded.size == size
    assert degraded.mode == mode


def test_it_is_bicubic_down_and_up():
    image = noise((50, 31))
    small = image.resize((round(50 / 4), round(31 / 4)), Image.Resampling.BICUBIC)
    expected = small.resize((50, 31), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(degrade_image(image, 4)), np.asarray(expected))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_high_frequencies_are_gone(factor):
    def energy(image):
        pixels = np.asarray(image.convert("L"), dtype=np.float64)
        spectrum = np.abs(np.fft.fft2(pixels - pixels.mean())) ** 2
        frequency = np.abs(np.fft.fftfreq(64))
        high = np.maximum(frequency[:, None], frequency[None, :]) > 1.2 * 0.5 / factor  # above the new Nyquist limit
        return spectrum[high].sum(), spectrum[~high].sum()

    image = noise(mode="L")
    high_before, low_before = energy(image)
    high_after, low_after = energy(degrade_image(image, factor))
    assert high_after < 0.05 * high_before
    assert low_after > 0.3 * low_before


def test_reference_side_is_the_papers_protocol():
    image = noise((48, 60))
    assert degrade_image(image, 1, reference_side=224).size == (224, 280)
    degraded = degrade_image(image, 8, reference_side=224)
    expected = image.resize((28, 35), Image.Resampling.BICUBIC).resize((224, 280), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(degraded), np.asarray(expected))


def test_palette_images_become_rgb():
    assert degrade_image(noise().convert("P"), 2).mode == "RGB"


@pytest.mark.parametrize("factor", [0, 0.5, -1, float("nan"), float("inf")])
def test_wrong_factor(factor):
    with pytest.raises(FerError, match="not a finite number of at least 1"):
        degrade_image(noise(), factor)


# The models and data of the tests below


@pytest.fixture(scope="module")
def processor():
    from transformers import ViTImageProcessor

    return ViTImageProcessor(size={"height": 16, "width": 16})


def run(model, data, processor, **options):
    return evaluate_model(model, data, processor=processor, progress=False, **options)


# predict_probabilities


@pytest.mark.parametrize("build", [tiny_vit, tiny_resnet])
def test_probabilities_are_the_softmax_of_one_image_at_a_time(build, processor):
    model = build(CLASSES).train()
    data = make_dataset(n=7)
    got = predict_probabilities(model, processor, data["image"], batch_size=3, factor=2, progress=False)
    assert model.training  # restored
    assert got.dtype == np.float64
    assert got.shape == (7, 4)
    model.eval()
    for row, image in zip(got, data["image"], strict=True):
        pixels = processor(degrade_image(image.convert("RGB"), 2), return_tensors="pt").pixel_values
        with torch.no_grad():
            expected = model(pixels).logits[0].double().softmax(-1).numpy()
        assert row == pytest.approx(expected, abs=1e-5)
    as_list = predict_probabilities(model, processor, list(data["image"]), factor=2, progress=False)
    assert as_list == pytest.approx(got, abs=1e-5)


def test_each_image_is_decoded_once_for_all_factors(processor):
    class Column:
        reads = 0

        def __iter__(self):
            for i in range(5):
                Column.reads += 1
                yield noise((24, 24), seed=i)

    from hf_fer.evaluation.systems import probabilities_by_factor

    out = probabilities_by_factor(
        lambda images: np.full((len(images), 4), 0.25), Column(), factors=(1, 2, 4), batch_size=2, progress=False
    )
    assert Column.reads == 5
    assert [len(p) for p in out] == [5, 5, 5]


def test_prediction_errors_are_one_sentence(processor):
    model = tiny_vit(CLASSES)
    with pytest.raises(FerError, match="no images"):
        predict_probabilities(model, processor, [], progress=False)
    with pytest.raises(FerError, match="batch_size=0"):
        predict_probabilities(model, processor, [noise()], batch_size=0, progress=False)
    with pytest.raises(FerError, match="Image 1 is a str"):
        predict_probabilities(model, processor, [noise(), "x.png"], progress=False)
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    with pytest.raises(FerError, match="logits for image 0"):
        predict_probabilities(model, processor, [noise()], progress=False)


# evaluate_model


@pytest.mark.parametrize("build", [tiny_vit, tiny_resnet])
def test_another_label_order_and_other_spellings_score_the_same(build, processor):
    data = make_dataset()
    model = build(CLASSES)
    record = run(model, data, processor, resolutions=(1, 2))
    order = [2, 0, 3, 1]
    other = reordered(model, build, ["Neutral", "happy", "Surprised", "sad"], order)
    again = run(other, data, processor, resolutions=(1, 2))
    for factor in ("1", "2"):
        assert again["resolutions"][factor]["confusion_matrix"] == record["resolutions"][factor]["confusion_matrix"]
        for key in ("accuracy", "mean_class_accuracy", "f1_macro", "nll", "ece"):
            assert again["resolutions"][factor][key] == pytest.approx(record["resolutions"][factor][key], abs=1e-6)
    assert again["labels"]["model_to_dataset"]["happy"] == "happiness"
    # By id, without names, the figures would have been others: the test can tell.
    own = predict_probabilities(other, processor, data["image"], progress=False).argmax(1)
    by_id = score_predictions(own, list(data["label"]), CLASSES)
    assert by_id["confusion_matrix"] != record["resolutions"]["1"]["confusion_matrix"]


def test_record_holds_what_the_design_asks(processor):
    data = make_dataset()
    model = tiny_vit(CLASSES)
    record = run(model, data, processor, resolutions=(1, 2, 4), model_name="tiny", dataset_name="drawn", split="test")
    assert record["protocol"] == "multi_resolution"
    assert (record["model"], record["dataset"], record["split"], record["n"]) == ("tiny", "drawn", "test", 30)
    assert list(record["resolutions"]) == ["1", "2", "4"]
    low = [record["resolutions"][k]["accuracy"] for k in ("2", "4")]
    assert record["average_low_resolution"] == pytest.approx(np.mean(low))
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    assert {"python", "torch", "transformers", "hf_fer", "timm"} <= set(record["versions"])
    assert record["seed"] is None
    probabilities = predict_probabilities(model, processor, data["image"], factor=4, progress=False)
    expected = score_predictions(probabilities.argmax(1), list(data["label"]), CLASSES, probabilities)
    got = dict(record["resolutions"]["4"])
    low_bound, high_bound = got.pop("ci95")["accuracy"]
    assert low_bound <= got["accuracy"] <= high_bound
    assert got["nll"] == pytest.approx(expected["nll"], abs=1e-6)
    assert got["confusion_matrix"] == expected["confusion_matrix"]
    json.dumps(record, allow_nan=False)
    plain = run(model, data, processor)
    assert plain["protocol"] == "standard"
    assert plain["average_low_resolution"] is None
    assert plain["metrics"]["accuracy"] == plain["resolutions"]["1"]["accuracy"]


def test_class_the_model_lacks_counts_as_errors(processor):
    data = make_dataset([*CLASSES, "contempt"], n=60)
    record = run(tiny_vit(CLASSES), data, processor)
    metrics = record["resolutions"]["1"]
    assert record["labels"]["missing_in_model"] == ["contempt"]
    assert sum(sum(column) > 0 for column in zip(*metrics["confusion_matrix"], strict=True)) >= 3
    assert metrics["per_class"]["contempt"]["recall"] == 0.0
    assert metrics["per_class"]["contempt"]["support"] == list(data["label"]).count(4) > 0
    assert [row[4] for row in metrics["confusion_matrix"]] == [0] * 5


def test_class_the_dataset_lacks_may_be_answered_and_is_an_error(processor):
    data = make_dataset(["happiness", "neutral"], n=60)
    model = tiny_vit(["contempt", "neutral", "happiness"])
    record = run(model, data, processor)
    metrics = record["resolutions"]["1"]
    own = predict_probabilities(model, processor, data["image"], progress=False)
    target = np.array([2, 1])[list(data["label"])]
    assert (own.argmax(1) == 0).any()  # contempt is answered
    assert metrics["accuracy"] == pytest.approx((own.argmax(1) == target).mean())
    assert record["labels"]["missing_in_dataset"] == ["contempt"]
    assert list(metrics["per_class"]) == ["happiness", "neutral", "contempt"]
    f1 = [metrics["per_class"][name]["f1"] for name in ("happiness", "neutral")]
    assert metrics["f1_macro"] == pytest.approx(np.mean(f1))
    restricted = run(model, data, processor, restrict_to_dataset_classes=True)
    assert restricted["labels"]["restricted_to_dataset_classes"] is True
    allowed = own[:, 1:].argmax(1) + 1
    assert restricted["resolutions"]["1"]["accuracy"] == pytest.approx((allowed == target).mean())


def test_from_a_saved_folder_and_a_named_dataset(tmp_path, processor, monkeypatch):
    from datasets import DatasetDict

    import hf_fer.data

    model = tiny_vit(CLASSES)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    data = make_dataset()
    calls = []

    def load(name, root=None, **options):
        calls.append((name, root, options))
        return DatasetDict({"test": data})

    monkeypatch.setattr(hf_fer.data, "load_fer_dataset", load)
    options = {"label_rule": "plurality", "classes": 7}
    record = evaluate_model(
        str(tmp_path / "model"), "ferplus", root="raw", options=options, device="cpu", progress=False
    )
    assert calls == [("ferplus", "raw", options)]
    assert record["label_rule"] == "plurality"
    assert record["options"]["classes"] == 7
    assert record["model"] == str(tmp_path / "model")
    direct = run(model, data, processor)
    assert record["resolutions"]["1"]["accuracy"] == direct["resolutions"]["1"]["accuracy"]
    # The rule that nobody spelt out is in the record too.
    default = evaluate_model(str(tmp_path / "model"), "ferplus", root="raw", device="cpu", progress=False)
    assert default["label_rule"] == "majority"
    with pytest.raises(FerError, match="no split 'dev'; it has test"):
        evaluate_model(str(tmp_path / "model"), "ferplus", root="raw", split="dev", progress=False)


def test_evaluation_errors_are_one_sentence(tmp_path, processor):
    data, model = make_dataset(), tiny_vit(CLASSES)
    with pytest.raises(FerError, match="no such folder"):
        evaluate_model(str(tmp_path / "nothing"), data, progress=False)
    with pytest.raises(FerError, match="has no image processor; pass processor="):
        evaluate_model(model, data, progress=False)
    model.save_pretrained(tmp_path / "bare")
    with pytest.raises(FerError, match="image processor"):
        evaluate_model(str(tmp_path / "bare"), data, progress=False)
    headless = tiny_vit(CLASSES)
    state = {name: value for name, value in headless.state_dict().items() if not name.startswith("classifier")}
    headless.save_pretrained(tmp_path / "headless", state_dict=state)
    with pytest.raises(FerError, match="not a trained image classifier"):  # its answers would be chance
        evaluate_model(str(tmp_path / "headless"), data, processor=processor, progress=False)
    with pytest.raises(FerError, match="no column 'label'"):
        run(model, data.remove_columns("label"), processor)
    with pytest.raises(FerError, match="resolutions is empty"):
        run(model, data, processor, resolutions=())
    with pytest.raises(FerError, match="repeats a factor"):
        run(model, data, processor, resolutions=(1, 1.0))
    with pytest.raises(FerError, match=r"0\.5, which is not a factor"):
        run(model, data, processor, resolutions=(0.5,))
    with pytest.raises(FerError, match="shares no name"):
        run(tiny_vit(["fear", "disgust"]), data, processor)
    with pytest.raises(FerError, match="cannot be matched: 'LABEL_0'"):
        run(tiny_vit(["LABEL_0", "LABEL_1"]), data, processor)
    from datasets import Value

    with pytest.raises(FerError, match="no class names"):
        run(model, data.cast_column("label", Value("int64")), processor)
