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
    for own in ("drawn", "Drawn", "somewhere/drawn"):
        with pytest.raises(FerError, match=f"trained on {own}, the images of drawn; use the protocol standard"):
            cross_dataset(str(bare), data, trained_on=own, **QUIET)
    with pytest.raises(FerError, match="trained on fer2013, the images of FERPlus"):  # other labels, the same faces
        cross_dataset(str(bare), data, trained_on="fer2013", dataset_name="FERPlus", progress=False)
    more = cross_dataset(str(folder), data, trained_on=["rafdb", "sfew", "sfew"], **QUIET)
    assert more["conditions"] == {"trained_on": ["rafdb", "sfew"], "stated_by": "caller"}  # the report says rafdb alone
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
    with pytest.raises(FerError, match="holds answers alone, so nobody can tell which classes"):
        cross_dataset(bare_file, data, trained_on="rafdb", **QUIET)
    assert cross_dataset(bare_file, data, trained_on="rafdb", shared_classes_only=False, **QUIET)["n"] == 60


def test_taking_foreign_answers_away_touches_no_other(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    data = make_dataset(["happiness", "neutral"])
    options = {"restrict_to_dataset_classes": True, **QUIET}
    # The author's own choice of a tie stays; where fear was answered, the most probable class that is left counts.
    rows = ["happiness,.4,.4,.2", "neutral,.4,.4,.2", "fear,.2,.3,.5"] * 10
    file.write_text("id,label,p_neutral,p_happiness,p_fear\n" + "".join(f"test/{k},{r}\n" for k, r in enumerate(rows)))
    record = standard(file, data, **options)
    truth = [["happiness", "neutral"][label] for label in data["label"]]
    hits = [want == name for want, name in zip(truth, ["happiness", "neutral", "happiness"] * 10, strict=True)]
    assert record["metrics"]["accuracy"] == pytest.approx(np.mean(hits))
    # A certain foreign answer leaves nothing to fall back on: no class is credited with it.
    file.write_text("id,p_neutral,p_happiness,p_fear\n" + "".join(f"test/{k},0,0,1\n" for k in range(30)))
    with pytest.raises(FerError, match=r"Image 0 at factor 1 has no probability at all .*30 of 30 images"):
        standard(file, data, **options)
    assert standard(file, data, **QUIET)["metrics"]["accuracy"] == 0


def test_answers_are_read_by_meaning_however_they_are_spelt(tmp_path: Path) -> None:
    data, file = make_dataset(), tmp_path / "answers.csv"
    truth = [CLASSES[label] for label in data["label"]]
    spelt = {"neutral": "Neutral", "happiness": "joy", "surprise": "S!", "sadness": "sad"}
    label_map = {"S!": "surprise"}
    # Labels alone, one expression in several spellings.
    names = [spelt[name] if k % 2 else name for k, name in enumerate(truth)]
    file.write_text("id,label\n" + "".join(f"test/{k},{name}\n" for k, name in enumerate(names)))
    record = standard(file, data, label_map=label_map, **QUIET)
    assert record["metrics"]["accuracy"] == 1 and "'joy' read as happiness" in record["labels"]["note"]
    check_record(record, "labels")
    # Beside columns that are spelt otherwise than the labels.
    columns = [name in truth for name in CLASSES]
    assert all(columns)
    rows = [",".join(f"{float(c == want):g}" for c in CLASSES) for want in truth]
    file.write_text(
        "id,label,p_neutral,p_happy,p_surprised,p_sadness\n"
        + "".join(f"test/{k},{spelt[want]},{row}\n" for k, (want, row) in enumerate(zip(truth, rows, strict=True)))
    )
    record = standard(file, data, label_map=label_map, **QUIET)
    assert record["metrics"]["accuracy"] == record["metrics"]["top2_accuracy"] == 1
    check_record(record, "both")


def test_a_record_says_no_more_than_is_known(bare: Path, tmp_path: Path) -> None:
    from transformers import ViTForImageClassification

    from hf_fer import load_fer_dataset

    drawn = load_fer_dataset("synthetic", train=12, validation=8, test=10)
    record = standard(str(bare), drawn["train"], progress=False)
    assert record["split"] == "train" and record["n"] == 12 and record["options"] == {}
    assert standard(str(bare), drawn, dataset_name="synthetic", progress=False)["options"] == {}  # nobody said any
    assert standard(str(bare), drawn, options={"test": 10}, progress=False)["options"] == {"test": 10}
    # A loaded model may have changed since: neither the folder's report nor its digest speaks for it.
    model = ViTForImageClassification.from_pretrained(bare)
    loaded = standard(model, make_dataset(), **QUIET)
    assert loaded["revision"] is None and loaded["training"] is None
    one, other = tmp_path / "a" / "predictions.csv", tmp_path / "b" / "predictions.csv"
    for file, name in ((one, "neutral"), (other, "happiness")):
        file.parent.mkdir()
        file.write_text("id,label\n" + "".join(f"test/{k},{name}\n" for k in range(30)))
    revisions = [standard(file, make_dataset(), **QUIET)["revision"] for file in (one, other)]
    assert revisions[0] != revisions[1] and all(revision.startswith("sha256:") for revision in revisions)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m, d: multi_resolution(m, d, resolutions=4, **QUIET), FerError, "is no list of factors"),
        (lambda m, d: standard(m, [1], **QUIET), FerError, "A list cannot be scored on"),
        (lambda m, d: standard(m, d.to_iterable_dataset(), **QUIET), FerError, "not streamed"),
        (lambda m, d: standard(5, d, **QUIET), FerError, "A int cannot be scored"),
        (lambda m, d: label_noise(m, d, label_noise="0.3", **QUIET), FerError, "is no number"),
        (
            lambda m, d: standard(m, d, leave_out_missing=True, **QUIET),
            TypeError,
            "unexpected keyword argument 'leave_out_missing'",
        ),
        (lambda m, d: standard(m, d, model_name="a\tb", **QUIET), FerError, "cannot stand in a record"),
        (lambda m, d: standard(m, d, model_name="x" * 501, **QUIET), FerError, "cannot stand in a record"),
        (
            lambda m, d: cross_dataset(m, d, trained_on="a", restrict_to_dataset_classes=True, **QUIET),
            FerError,
            "shared_classes_only",
        ),
    ],
)
def test_mistakes_are_one_sentence(call, error, says, bare: Path) -> None:
    with pytest.raises(error, match=says):
        call(str(bare), make_dataset())


def test_a_class_of_the_data_that_is_no_expression_is_blamed_on_the_data(bare: Path) -> None:
    from datasets import ClassLabel

    data = make_dataset()
    strange = data.cast_column("label", ClassLabel(names=["neutral", "happiness", "unknown", "sadness"]))
    with pytest.raises(FerError, match="The data set's class 'unknown' is no expression"):
        standard(str(bare), strange, **QUIET)
    near = data.cast_column("label", ClassLabel(names=["neutral", "joy", "surprise", "sadness"]))
    assert "the data set's 'joy' read as happiness" in standard(str(bare), near, **QUIET)["labels"]["note"]


def test_the_order_of_the_factors_changes_nothing(bare: Path) -> None:
    data = make_dataset()
    records = [multi_resolution(str(bare), data, resolutions=order, **QUIET) for order in ((1, 8), (8, 1))]
    for key in ("metrics", "resolutions", "average_low_resolution"):
        assert records[0][key] == records[1][key]
    assert list(records[1]["resolutions"]) == ["1", "8"]


def test_the_metric_for_a_model_that_knows_more_than_the_data(bare: Path) -> None:
    """`evaluate.evaluator` and the protocols agree there too."""
    import evaluate

    from hf_fer.evaluation import label_mapping, metric_for

    data = make_dataset(["happiness", "neutral"], n=60)
    expected = standard(str(bare), data, **QUIET)["resolutions"]["1"]
    assert sum(row[2] + row[3] for row in expected["confusion_matrix"]) > 0  # classes of the model alone are answered
    found = evaluate.evaluator("image-classification").compute(
        model_or_pipeline=str(bare), data=data, metric=metric_for(str(bare), data),
        label_mapping=label_mapping(str(bare), data),
    )  # fmt: skip
    for key in ("accuracy", "mean_class_accuracy", "f1_macro", "challenge_score", "per_class", "confusion_matrix"):
        assert found[key] == expected[key], key


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
