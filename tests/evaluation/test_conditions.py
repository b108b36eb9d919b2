"""Protocols about how a classifier was trained: imbalance, label noise, another data set; who says so is recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import CLASSES, make_dataset, tiny_vit
from transformers import ViTImageProcessor

from hf_fer.errors import FerError
from hf_fer.evaluation import PROTOCOLS, cross_dataset, imbalance, label_noise, multi_resolution, standard
from hf_fer.evaluation.records import check_record


@pytest.fixture(scope="module")
def processor() -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": 16, "width": 16})


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, processor: ViTImageProcessor) -> Path:
    folder = tmp_path_factory.mktemp("bare") / "model"
    tiny_vit(CLASSES).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def run_folder(bare: Path, tmp_path: Path):
    """A copy of the checkpoint in a run folder that reports these facts of its data."""
    import shutil

    def make(dataset: str = "ferplus", **data: Any) -> Path:
        folder = tmp_path / "run"
        shutil.copytree(bare, folder)
        selected = {"dataset": dataset, "epoch": 3, "seed": 0}
        (folder / "report.json").write_text(
            json.dumps({"selected": selected, "selected_by": "accuracy on the validation split", "data": data})
        )
        return folder

    return make


QUIET = {"progress": False, "dataset_name": "drawn"}


def test_every_protocol_by_name_gives_a_record_that_says_so(bare: Path) -> None:
    needs = {"imbalance": {"imbalance_factor": 50}, "label_noise": {"label_noise": 0.1}}
    needs["cross_dataset"] = {"trained_on": "rafdb"}
    data = make_dataset()
    for name, protocol in PROTOCOLS.items():
        record = protocol(str(bare), data, **needs.get(name, {}), **QUIET)
        check_record(record, name)
        assert record["protocol"] == name and record["n"] == 30
        assert list(record["resolutions"]) == (["1", "2", "4", "8"] if name == "multi_resolution" else ["1"])
        if name in needs:
            assert record["conditions"]["stated_by"] == "caller"


@pytest.mark.parametrize(
    ("protocol", "key", "value", "wrong", "flag"),
    [
        (imbalance, "imbalance_factor", 100.0, 50, "--imbalance-factor"),
        (label_noise, "label_noise", 0.3, 0.2, "--label-noise"),
    ],
)
def test_the_run_folder_has_the_last_word(protocol, key, value, wrong, flag, run_folder, bare: Path) -> None:
    data, folder = make_dataset(), run_folder(**{key: value})
    for given in ({}, {key: value}):
        record = protocol(str(folder), data, **given, **QUIET)
        assert record["conditions"] == {key: value, "stated_by": "report"}
        assert record["training"]["selected_by"] == "accuracy on the validation split"
    with pytest.raises(FerError, match=f"{key}={wrong}, but report.json beside the model says {value:g}"):
        protocol(str(folder), data, **{key: wrong}, **QUIET)
    with pytest.raises(FerError, match=rf"pass {key}= \({flag}\)"):
        protocol(str(bare), data, **QUIET)
    with pytest.raises(FerError, match="out of range"):
        protocol(str(bare), data, **{key: -1}, **QUIET)
    record = protocol(str(bare), data, **{key: value}, resolutions=(1, 2), **QUIET)
    assert record["conditions"] == {key: value, "stated_by": "caller"} and len(record["resolutions"]) == 2


def test_a_run_on_whole_clean_data_is_not_scored_as_anything_else(run_folder) -> None:
    folder, data = run_folder(), make_dataset()
    with pytest.raises(FerError, match="tells of a training without imbalance factor; use the protocol standard"):
        imbalance(str(folder), data, imbalance_factor=100, **QUIET)
    with pytest.raises(FerError, match="without label noise"):
        label_noise(str(folder), data, label_noise=0.1, **QUIET)


def test_cross_dataset_scores_what_both_know(bare: Path, run_folder) -> None:
    # The model knows neutral, happiness, surprise, sadness; the data neutral, happiness and fear.
    data = make_dataset(["fear", "neutral", "happiness"], n=60)
    labels = np.asarray(data["label"])
    record = cross_dataset(str(bare), data, trained_on=["rafdb", "affectnet"], **QUIET)
    check_record(record, "here")
    assert record["conditions"] == {"trained_on": ["affectnet", "rafdb"], "stated_by": "caller"}
    assert record["n"] == (labels != 0).sum() < 60
    assert record["labels"]["left_out"] == {"fear": int((labels == 0).sum())}
    assert record["labels"]["missing_in_dataset"] == ["surprise", "sadness"]
    figures = record["resolutions"]["1"]
    assert np.asarray(figures["confusion_matrix"])[:, 3:].sum() == 0 and figures["per_class"]["fear"]["support"] == 0
    strict = cross_dataset(str(bare), data, trained_on="rafdb", shared_classes_only=False, **QUIET)
    assert strict["n"] == 60 and strict["labels"]["left_out"] == {}
    assert np.asarray(strict["resolutions"]["1"]["confusion_matrix"])[:, 3:].sum() > 0
    # Among the images of shared classes, taking foreign answers away can only help.
    hits = [np.trace(one["resolutions"]["1"]["confusion_matrix"]) for one in (strict, record)]
    assert hits[0] < hits[1]

    folder = run_folder("rafdb")
    assert cross_dataset(str(folder), data, **QUIET)["conditions"] == {"trained_on": ["rafdb"], "stated_by": "report"}
    with pytest.raises(FerError, match=r"trained_on=sfew, but report\.json beside the model says rafdb"):
        cross_dataset(str(folder), data, trained_on="sfew", **QUIET)
    with pytest.raises(FerError, match="trained on drawn itself; use the protocol standard"):
        cross_dataset(str(bare), data, trained_on="drawn", **QUIET)
    with pytest.raises(FerError, match="Nothing says what the model was trained on"):
        cross_dataset(str(bare), data, **QUIET)


def test_leaving_classes_out_is_the_same_from_a_file(bare: Path, tmp_path: Path) -> None:
    data = make_dataset(["fear", "neutral", "happiness"], n=60)
    file = tmp_path / "answers.csv"
    record = cross_dataset(str(bare), data, trained_on="rafdb", predictions=file, **QUIET)
    again = cross_dataset(file, data, trained_on="rafdb", **QUIET)
    for key in ("n", "resolutions", "metrics", "conditions"):
        assert again[key] == record[key]
    assert again["labels"]["left_out"] == record["labels"]["left_out"]
    lines = file.read_text().splitlines()
    assert len(lines) == 61  # every image, scored or not
    bare_file = tmp_path / "bare.csv"
    bare_file.write_text("\n".join(",".join(line.split(",")[:2]) for line in lines))
    with pytest.raises(FerError, match="no probabilities to fall back on"):
        cross_dataset(bare_file, data, trained_on="rafdb", **QUIET)
    assert cross_dataset(bare_file, data, trained_on="rafdb", shared_classes_only=False, **QUIET)["n"] == 60


def test_certain_foreign_answers_leave_no_nan(tmp_path: Path) -> None:
    file = tmp_path / "sure.csv"
    ids = [f"test/{row}" for row in range(30)]
    file.write_text("id,p_neutral,p_happiness,p_fear\n" + "".join(f"{name},0,0,1\n" for name in ids))
    data = make_dataset(["happiness", "neutral"])
    record = standard(file, data, restrict_to_dataset_classes=True, **QUIET)
    assert record["metrics"]["nll"] == pytest.approx(np.log(2))  # nothing to prefer either class for


def test_standard_is_the_image_as_it_is(bare: Path) -> None:
    data = make_dataset()
    for options in ({"resolutions": (1, 2)}, {"reference_side": 224}):
        with pytest.raises(FerError, match="use multi_resolution"):
            standard(str(bare), data, **options, **QUIET)
    assert multi_resolution(str(bare), data, resolutions=(1, 2), **QUIET)["protocol"] == "multi_resolution"
    with pytest.raises(FerError, match=r"resolutions holds 1\.33333333"):
        multi_resolution(str(bare), data, resolutions=(1, 4 / 3), **QUIET)


@pytest.mark.parametrize(
    "report", ["[1]", "{", '{"selected": {"dataset": 5}}', '{"selected": {"dataset": "a\\u0007"}}']
)
def test_a_foreign_report_tells_nothing(report: str, bare: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(bare, tmp_path / "other")
    (tmp_path / "other" / "report.json").write_text(report)
    record = standard(str(tmp_path / "other"), make_dataset(), **QUIET)
    assert record["training"] is None and record["revision"].startswith("sha256:")


def test_latency_is_of_single_images(bare: Path) -> None:
    latency = standard(str(bare), make_dataset(), latency=True, **QUIET)["latency"]
    assert latency["batch_size"] == 1 and 0 < latency["median_ms"] <= latency["p90_ms"]
    assert latency["device"] == "cpu" and latency["processor"] and latency["dtype"] == "float32"
