"""One model, scored in every way there is: the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

import hf_fer
from hf_fer.evaluation import evaluate_model, label_mapping
from hf_fer.evaluation.protocols import multi_resolution, standard
from hf_fer.labels import canonical_expression

#: As a stock checkpoint has them: another order, other spellings, no contempt.
FOREIGN = ["angry", "disgusted", "Fearful", "happy", "sad", "Surprised", "neutral"]
SIZES = {"train": 8, "validation": 8, "test": 41}
OPTIONS = [f"--option={split}={count}" for split, count in SIZES.items()]
WHAT_COUNTS = ("n", "metrics", "resolutions", "average_low_resolution", "dataset", "split", "options", "label_rule")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock ViT that answers different faces differently."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        id2label=dict(enumerate(FOREIGN)), label2id={name: k for k, name in enumerate(FOREIGN)},
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    # The head is fitted to half of the very test faces by least squares: at chance level, orders of classes are hard
    # to tell apart.
    train = hf_fer.load_fer_dataset("synthetic", **SIZES)["test"].select(range(20))
    names = [train.features["label"].names[k] for k in train["label"]]
    targets = torch.tensor([[canonical_expression(own) == name for own in FOREIGN] for name in names]).float()
    pixels = processor(images=[face.convert("RGB") for face in train["image"]], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        features = model.vit(pixels).last_hidden_state[:, 0]
        features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
        solved = 8 * torch.linalg.lstsq(features, targets).solution
        model.classifier.weight.copy_(solved[:-1].T)
        model.classifier.bias.copy_(solved[-1])
    folder = tmp_path_factory.mktemp("foreign") / "stock-vit"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def command(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "hf_fer.cli", *arguments], capture_output=True, text=True, timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == expect, done.stderr[-3000:]
    return done


def read(path: Path) -> dict[str, Any]:
    return {key: value for key, value in json.loads(path.read_text()).items() if key in WHAT_COUNTS}


@pytest.fixture(scope="module")
def by_command(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the record of `hf-fer evaluate` and the predictions that it wrote."""
    folder = tmp_path_factory.mktemp("command")
    done = command(
        "evaluate", str(checkpoint), "--data=synthetic", *OPTIONS, "--resolutions=1,4",
        f"--output={folder / 'record.json'}", f"--predictions={folder / 'answers.csv'}", "--batch-size=41",
    )  # fmt: skip
    assert "7 of 7 source classes map by name" in done.stdout
    for given, meant in (("happy", "happiness"), ("angry", "anger"), ("Fearful", "fear")):
        assert f"{given!r} read as {meant}" in done.stdout
    assert "the model has no class contempt: such images count as errors" in done.stdout
    return folder


def test_scoring_the_exported_predictions_gives_the_very_record(by_command: Path) -> None:
    answers = by_command / "answers.csv"
    again = by_command / "again.json"
    command("score", str(answers), "--data=synthetic", *OPTIONS, f"--output={again}", "--force")
    assert read(again) == read(by_command / "record.json")


def test_evaluator_pipeline_and_loaded_model_agree_with_the_command(checkpoint: Path, tmp_path: Path) -> None:
    import evaluate

    record = tmp_path / "record.json"
    command("evaluate", str(checkpoint), "--data=synthetic", *OPTIONS, f"--output={record}")
    expected = json.loads(record.read_text())["resolutions"]["1"]
    assert 0.2 < expected["accuracy"] < 0.9 and sum(map(bool, np.sum(expected["confusion_matrix"], axis=0))) >= 3
    data = hf_fer.load_fer_dataset("synthetic", **SIZES)["test"]
    pipe = pipeline("image-classification", model=str(checkpoint), device="cpu")

    assert label_mapping(pipe, data) == {
        "angry": 4, "disgusted": 5, "Fearful": 6, "happy": 1, "sad": 3, "Surprised": 2, "neutral": 0
    }  # fmt: skip
    assert label_mapping(str(checkpoint), data) == label_mapping(pipe, data)
    by_evaluator = evaluate.evaluator("image-classification").compute(
        model_or_pipeline=str(checkpoint),
        data=data,
        metric=evaluate.load(hf_fer.metric_path("fer_metrics")),
        label_mapping=label_mapping(str(checkpoint), data),
    )
    for key in ("n", "accuracy", "mean_class_accuracy", "f1_macro", "challenge_score", "confusion_matrix"):
        assert by_evaluator[key] == expected[key], key

    for system in (pipe, str(checkpoint), pipe.model):
        own = standard(system, data, dataset_name="synthetic", progress=False)
        assert own["source"] == ("pipeline" if system is pipe else "model")
        figures = own["resolutions"]["1"]
        assert figures["confusion_matrix"] == expected["confusion_matrix"]
        for key in ("nll", "ece", "brier"):
            assert figures[key] == pytest.approx(expected[key], abs=1e-6), key
    with pytest.raises(hf_fer.FerError, match="processor cannot be set for a pipeline"):
        standard(pipe, data, processor=1)


def test_stock_labels_are_scored_by_name(checkpoint: Path) -> None:
    """By id, the figures would have been others."""
    data = hf_fer.load_fer_dataset("synthetic", **SIZES)["test"]
    record = evaluate_model(str(checkpoint), data, progress=False)
    pipe = pipeline("image-classification", model=str(checkpoint), device="cpu")
    names = {"angry": "anger", "disgusted": "disgust", "Fearful": "fear", "happy": "happiness", "sad": "sadness",
             "Surprised": "surprise", "neutral": "neutral"}  # fmt: skip
    answers = [names[pipe(image)[0]["label"]] for image in data["image"]]
    truth = [data.features["label"].names[k] for k in data["label"]]
    by_hand = np.mean([a == b for a, b in zip(answers, truth, strict=True)])
    assert record["metrics"]["accuracy"] == pytest.approx(by_hand)
    by_id = np.mean(
        [FOREIGN.index(pipe(image)[0]["label"]) == k for image, k in zip(data["image"], data["label"], strict=True)]
    )
    assert by_id != pytest.approx(by_hand)
    assert record["labels"]["missing_in_model"] == ["contempt"]


def test_labels_that_mean_nothing_are_listed_and_can_be_told(checkpoint: Path, tmp_path: Path) -> None:
    data = hf_fer.load_fer_dataset("synthetic", **SIZES)["test"]
    model = ViTForImageClassification.from_pretrained(checkpoint)
    told = evaluate_model(model, data, progress=False)
    processor = ViTImageProcessor.from_pretrained(checkpoint)
    model.config.id2label = {k: f"LABEL_{k}" for k in range(7)}
    model.config.label2id = {f"LABEL_{k}": k for k in range(7)}
    model.save_pretrained(tmp_path / "unnamed")
    processor.save_pretrained(tmp_path / "unnamed")
    output = f"--output={tmp_path / 'r.json'}"
    base = ["evaluate", str(tmp_path / "unnamed"), "--data=synthetic", *OPTIONS, output]
    with pytest.raises(hf_fer.FerError, match="--label-map NAME=EXPRESSION") as refused:
        evaluate_model(str(tmp_path / "unnamed"), data, progress=False)
    assert all(f"LABEL_{k}" in str(refused.value) for k in range(7))
    meanings = [f"--label-map=LABEL_{k}={name}" for k, name in enumerate(FOREIGN)]
    assert "'LABEL_3' read as happiness" in command(*base, *meanings).stdout
    named = json.loads((tmp_path / "r.json").read_text())
    assert named["resolutions"]["1"]["confusion_matrix"] == told["resolutions"]["1"]["confusion_matrix"]
    # A label without meaning: answering it is an error.
    record = evaluate_model(
        str(tmp_path / "unnamed"), data, progress=False,
        label_map={f"LABEL_{k}": (None if name == "happy" else name) for k, name in enumerate(FOREIGN)},
    )  # fmt: skip
    assert record["labels"]["missing_in_model"] == ["happiness", "contempt"]
    assert record["labels"]["missing_in_dataset"] == ["LABEL_3"]
    assert record["metrics"]["accuracy"] < told["metrics"]["accuracy"]


def test_answers_alone_are_scored_without_calibration(by_command: Path, tmp_path: Path) -> None:
    import csv

    answers = by_command / "answers.csv"
    rows = list(csv.DictReader(answers.open()))
    bare = tmp_path / "bare.csv"
    with bare.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "factor"])
        writer.writerows([row["id"], row["label"], row["factor"]] for row in reversed(rows))
    data = hf_fer.load_fer_dataset("synthetic", **SIZES)
    record = multi_resolution(bare, data, dataset_name="synthetic", progress=False)
    whole = multi_resolution(answers, data, dataset_name="synthetic", progress=False)
    assert record["source"] == "predictions" and record["metrics"]["nll"] is None
    for factor in ("1", "4"):
        got, want = (one["resolutions"][factor] for one in (record, whole))
        assert "ece" not in got and got["confusion_matrix"] == want["confusion_matrix"]
    assert record["labels"]["missing_in_model"] == []  # what its author knows, nobody can tell
