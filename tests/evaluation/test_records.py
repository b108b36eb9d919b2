"""Result records: what is written and read again, and that no altered, contradictory or hostile one is believed."""

from __future__ import annotations

import copy
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_factory import make_record

from hf_fer.errors import FerError
from hf_fer.evaluation import read_record, write_record
from hf_fer.evaluation.records import MAX_BYTES, check_record, fields_table
from hf_fer.labels import EXPRESSIONS

ROOT = Path(__file__).parents[2]
Path_ = tuple[Any, ...]

TRAINING = {
    "report": "report.json",
    "dataset": "rafdb",
    "imbalance_factor": 100,
    "label_noise": 0.3,
    "selected_by": "accuracy on the validation split",
    "epoch": 3,
    "seed": 1,
}


def rich_record() -> dict[str, Any]:
    """Every field holds something: a class only the model has, one only the data set has, two factors, latency."""
    return make_record(
        accuracy=0.6,
        factors=(1, 4.5),
        n=60,
        classes=["happiness", "neutral", "fear", "anger"],
        model_classes=["neutral", "joy", "Contempt", "angry"],
        latency=2.5,
        training=TRAINING,
        revision="abc",
        reference_side=48,
        seed=3,
    )


RICH = rich_record()
# What no schema describes further: anything JSON may stand there.
FREE = {"options", "hardware"}


def fields(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every value in a record with its path, parents first."""
    if path:
        yield path, value
    if path and path[-1] in FREE:
        return
    for key, child in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from fields(child, (*path, key))


def altered(record: dict[str, Any], path: Path_, change: Callable[[Any, Any], None]) -> dict[str, Any]:
    """A copy with `change(container, key)` applied at `path`."""
    record = copy.deepcopy(record)
    container: Any = record
    for step in path[:-1]:
        container = container[step]
    change(container, path[-1])
    return record


def at(record: dict[str, Any], path: Path_) -> Any:
    value: Any = record
    for step in path:
        value = value[step]
    return value


def put(record: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    return altered(record, path, lambda container, key: container.__setitem__(key, value))


def refusal(record: dict[str, Any]) -> str:
    with pytest.raises(FerError) as caught:
        check_record(record, "r.json")
    message = str(caught.value)
    assert message.startswith("The record r.json is refused: $") and "\n" not in message and len(message) < 500
    return message


def name_of(path: Path_) -> str:
    return next(str(step) for step in reversed(path) if isinstance(step, str))


# What is right passes


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"with_probabilities": False},
        {"factors": (1, 2, 4, 8)},
        {"factors": (8, 2.5, 1e6)},
        {"reference_side": 224, "protocol": "multi_resolution"},
        {"protocol": "imbalance"},
        {"protocol": "label_noise", "latency": 3.0},
        {"protocol": "cross_dataset", "factors": (1, 2)},
        {"protocol": "imbalance", "conditions": {"imbalance_factor": 100, "stated_by": "report"}, "training": TRAINING},
        {"protocol": "label_noise", "conditions": {"label_noise": 0.3, "stated_by": "report"}, "training": TRAINING},
        {
            "protocol": "cross_dataset",
            "conditions": {"trained_on": ["affectnet", "rafdb"], "stated_by": "report"},
            "training": TRAINING,
        },
        {"date": "2025-01-31T12:00:00Z"},
        {"date": "2025-01-31T12:00:00.123456-05:30"},
        {"epoch": 7},  # as training runs add it
        {"classes": 2, "accuracy": 0.0},
        {"n": 3},  # classes without an image
        {"model": "modèle <b>|*名*"},
    ],
)
def test_a_good_record_passes(options: dict[str, Any]) -> None:
    check_record(make_record(**options), "r.json")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 40),
    accuracy=st.floats(0, 1),
    classes=st.permutations(EXPRESSIONS).flatmap(lambda names: st.integers(1, 8).map(lambda k: names[:k])),
    own=st.permutations(EXPRESSIONS).flatmap(lambda names: st.integers(2, 8).map(lambda k: names[:k])),
    factors=st.sampled_from([(1,), (1, 2, 4), (3,)]),
    probabilities=st.booleans(),
)
def test_figures_of_scikit_learn_are_those_computed_anew(seed, n, accuracy, classes, own, factors, probabilities):
    """score_predictions has them from scikit-learn, the check from the matrix; whichever classes either side lacks."""
    if not {*classes} & {*own}:
        return
    record = make_record(
        seed=seed, n=n, accuracy=accuracy, classes=classes, model_classes=own, factors=factors,
        with_probabilities=probabilities,
    )  # fmt: skip
    check_record(record, "r.json")


def test_a_file_of_answers_alone_may_leave_open_what_its_author_cannot_answer() -> None:
    record = make_record(classes=3, model_classes=EXPRESSIONS[:2], with_probabilities=False, source="predictions")
    check_record(record, "r.json")
    open_ = put(record, ("labels", "missing_in_model"), [])
    check_record(open_, "r.json")
    assert "missing_in_model" in refusal({**open_, "source": "model"})


# What was altered does not


def test_the_record_under_test_holds_every_described_field() -> None:
    described = set(re.findall(r"^\| `([^`]+)`", fields_table(), re.MULTILINE))
    held = {
        re.sub(r"^(resolutions)\.[^.]+?(?=$|\.[a-z])", r"\1.*", ".".join(str(step) for step in path))
        for path, _ in fields(RICH)
        if not any(isinstance(step, int) for step in path)
    }
    held = {re.sub(r"(per_class)\.\w+", r"\1.*", name) for name in held}
    assert {name for name in described if not name.startswith("conditions.")} <= held


@pytest.mark.parametrize("path", [path for path, _ in fields(RICH) if isinstance(path[-1], str)], ids=str)
def test_no_key_may_be_removed_but_the_intervals_of_the_scores(path: Path_) -> None:
    record = altered(RICH, path, lambda container, key: container.__delitem__(key))
    if path[-2:] in {("ci95", "f1_macro"), ("ci95", "challenge_score")} or path[:-1] == ("versions",):
        check_record(record, "r.json")
    elif len(path) == 2 and path[0] == "resolutions":  # the first factor, or one in the average
        assert ("$.metrics" if path[1] == "1" else "$.average_low_resolution") in refusal(record)
    else:
        message = refusal(record)
        assert name_of(path) in message or name_of(path[:-1]) in message


def another_like_it(path: Path_) -> bool:
    """The second factor, and all classes and rows of the matrix but the last."""
    if path[0] != "resolutions":
        return False
    return path[1:2] == ("4.5",) or (len(path) > 3 and path[3] in {*LIKE_THE_LAST, 0, 1, 2, 3} and "ci95" not in path)


LIKE_THE_LAST = RICH["labels"]["dataset"]


@pytest.mark.parametrize("path", [path for path, _ in fields(RICH) if not another_like_it(path)], ids=str)
def test_no_value_may_have_another_type(path: Path_) -> None:
    value = at(RICH, path)
    for other in ([], "text", 1.5, True, None, {"a": 1}):
        if isinstance(other, type(value)) or (isinstance(value, int | float) and isinstance(other, float)):
            continue
        if path in ANYTHING_ELSE and ANYTHING_ELSE[path](other):
            continue
        message = refusal(put(RICH, path, other))
        assert name_of(path) in message or name_of(path[:-1]) in message, f"{path} = {other!r}: {message}"


def _is_null(value: Any) -> bool:
    return value is None


# Paths that take another type too.
ANYTHING_ELSE: dict[Path_, Callable[[Any], bool]] = {
    **{(name,): _is_null for name in ("revision", "dataset_fingerprint", "label_rule", "reference_side")},
    **{(name,): _is_null for name in ("parameters", "batch_size", "seed", "latency", "training", "hardware")},
    **{("training", name): _is_null for name in TRAINING if name != "report"},
    **{("versions", name): lambda value: value is None or isinstance(value, str) for name in RICH["versions"]},
    ("latency", "threads"): _is_null,
}


def derived(path: Path_) -> bool:
    """Whether a figure follows from the confusion matrices or other fields."""
    return (
        path in {("n",), ("average_low_resolution",)}
        or path[0] == "metrics"
        or (
            path[0] == "resolutions"
            and "ci95" not in path
            and path[-1] not in {"nll", "ece", "brier"}
            and not (path[-1] == "top2_accuracy" and len(path) != 3)
        )
    )


@pytest.mark.parametrize(
    "path",
    [path for path, value in fields(RICH) if type(value) in (int, float) and derived(path)],
    ids=str,
)
def test_no_figure_may_be_typed_in(path: Path_) -> None:
    """Counts move by 1, for the validator takes only integers."""
    value = at(RICH, path)
    for step in (1, -1) if isinstance(value, int) else (1e-3, -1e-3, 1e-8):
        if path[-1] == "top2_accuracy" and step == 1e-8 and path[0] == "resolutions":
            continue  # only known to be a share of the images, to rounding
        message = refusal(put(RICH, path, value + step))
        assert (f"resolutions[{path[1]!r}]" if "confusion_matrix" in path else name_of(path)) in message


def test_agreement_is_to_a_billionth() -> None:
    for path in (("resolutions", "4.5", "f1_macro"), ("metrics", "nll"), ("average_low_resolution",)):
        change = {1e-10: None, 1e-8: path[-1]}
        for step, named in change.items():
            record = altered(
                RICH, path, lambda container, key, step=step: container.update({key: container[key] + step})
            )
            if named:
                assert named in refusal(record)
            else:
                check_record(record, "r.json")


CONTRADICTIONS: list[tuple[Path_, Any, str]] = [
    (("record_version",), 2, "record_version"),
    (("source",), "guess", "source"),
    (("protocol",), "mine", "protocol"),
    (("protocol",), "standard", "protocol: standard is factor 1 alone"),
    (("protocol",), "imbalance", "'imbalance_factor' is a required property"),
    (("protocol",), "label_noise", "'label_noise' is a required property"),
    (("protocol",), "cross_dataset", "'trained_on' is a required property"),
    (("conditions",), {"imbalance_factor": 10}, "conditions"),
    (("labels", "matched_by"), "id", "matched_by"),
    (("labels", "model_to_dataset", "joy"), "neutral", "model_to_dataset.*is the target of another"),
    (("labels", "model_to_dataset", "joy"), "joy", "model_to_dataset.joy: 'joy' is not one of labels.dataset"),
    (("labels", "model_to_dataset", "joy"), None, "labels.missing_in_model"),
    (("labels", "model_to_dataset", "sad"), None, "model_to_dataset: its keys"),
    (("labels", "missing_in_model"), [], "missing_in_model"),
    (("labels", "missing_in_dataset"), [], "missing_in_dataset"),
    (("labels", "missing_in_dataset"), ["contempt"], "missing_in_dataset"),
    (("labels", "dataset"), ["neutral", "happiness", "fear", "anger"], "per_class"),
    (("labels", "dataset"), ["happiness", "neutral", "fear"], "labels"),
    (("labels", "model"), ["neutral", "joy", "Contempt", "Contempt"], "labels.model.*non-unique"),
    (("labels", "left_out"), {"happiness": 2}, "left_out.happiness"),
    (("labels", "left_out"), {"fear": 2}, "confusion_matrix: a class in labels.left_out has images"),
    (("labels", "restricted_to_dataset_classes"), True, "restricted_to_dataset_classes rules out was answered"),
    (("latency", "p90_ms"), 2.0, "latency.p90_ms"),
    (("latency", "batch_size"), 2, "latency.batch_size"),
    (("latency", "median_ms"), 0, "latency.median_ms"),
    (("latency", "calls"), 0, "latency.calls"),
    (("training", "report"), "other.json", "training.report"),
    (("training", "label_noise"), 1.1, "training.label_noise"),
    (("date",), "2025-01-01T00:00:00", "date"),
    (("date",), "2025-13-01T00:00:00Z", "date: '2025-13-01T00:00:00Z' is no date"),
    (("date",), "2025-01-01T00:00:00Z\n", "date"),
    (("date",), "yesterday", "date"),
    (("seconds",), -1, "seconds"),
    (("parameters",), -1, "parameters"),
    (("batch_size",), 0, "batch_size"),
    (("n",), 60.0, "n: 60.0 is not of type 'integer'"),
    (("n",), 0, "n: 0 is less than the minimum"),
    (("reference_side",), 0, "reference_side"),
    (("resolutions",), {}, "resolutions"),
    (("resolutions", "1", "confusion_matrix"), [[60]], "confusion_matrix: the matrix is not 5 x 5"),
    (("resolutions", "1", "confusion_matrix", 0, 0), -1, "confusion_matrix"),
    (("resolutions", "1", "confusion_matrix", 0, 0), 1.0, "confusion_matrix"),
    (("resolutions", "1", "confusion_matrix", 0, 0), 10**30, "confusion_matrix"),
    (("resolutions", "1", "confusion_matrix"), [[0] * 5] * 5, "confusion_matrix: there is no image"),
    (("resolutions", "1", "confusion_matrix", 4, 4), 1, "confusion_matrix: a class that the data set lacks has images"),
    (("resolutions", "1", "confusion_matrix", 0, 2), 1, "confusion_matrix: a class in labels.missing_in_model"),
    (("resolutions", "1", "classes_absent"), [], "classes_absent"),
    (("resolutions", "1", "my_score"), 0.9, "my_score"),
    (("resolutions", "1", "per_class", "surprise"), RICH["resolutions"]["1"]["per_class"]["fear"], "per_class"),
    (("resolutions", "1", "nll"), 37.0, "nll"),
    (("resolutions", "1", "ece"), 1.1, "ece"),
    (("resolutions", "1", "brier"), 2.1, "brier"),
    (("resolutions", "1", "top2_accuracy"), -0.1, "top2_accuracy"),
    (("resolutions", "1", "ci95", "accuracy"), [0.9, 0.1], "ci95.accuracy"),
    (("resolutions", "1", "ci95", "accuracy"), [0.99, 1.0], "does not hold the accuracy"),
    (("resolutions", "1", "top2_accuracy"), 0.0, "it is below the accuracy"),
    (("resolutions", "1", "ci95", "f1_macro"), [0.5, 1.1], "ci95.f1_macro"),
    (("resolutions", "1", "ci95", "mean_class_accuracy"), [0.5], "ci95.mean_class_accuracy"),
    (("resolutions", "1", "ci95", "resamples"), 0, "ci95.resamples"),
    (("metrics", "nll"), None, "metrics.nll"),
    (("metrics", "mine"), 1.0, "mine"),
]


@pytest.mark.parametrize(("path", "value", "message"), CONTRADICTIONS, ids=lambda value: str(value)[:50])
def test_contradictions_are_named(path: Path_, value: Any, message: str) -> None:
    assert re.search(message, refusal(put(RICH, path, value)))


def test_a_typed_in_record_is_caught_even_where_all_its_figures_agree_with_each_other() -> None:
    record = make_record(accuracy=0.5)
    record["metrics"]["accuracy"] = record["resolutions"]["1"]["accuracy"] = 0.99
    assert "that follows from the confusion matrix" in refusal(record)


def test_figures_are_held_against_the_other_factors() -> None:
    other = make_record(n=88, accuracy=0.6)["resolutions"]["1"]
    record = make_record(factors=(1, 2), n=80)
    record["resolutions"]["2"] = other
    assert "$.n: 80 is not the 88 images of the confusion matrix at factor 2" in refusal(record)
    confusion = np.diag([11, 9, *[10] * 6]).tolist()
    record["resolutions"]["2"] = make_record(confusion=confusion, model="b")["resolutions"]["1"]
    record["average_low_resolution"] = 1.0
    assert "support: the same images are scored at each factor" in refusal(record)


@pytest.mark.parametrize("missing", [["nll"], ["brier", "top2_accuracy"], ["nll", "ece", "brier"]])
def test_figures_of_the_probabilities_come_all_or_none(missing: list[str]) -> None:
    record = make_record()
    for name in missing:
        del record["resolutions"]["1"][name]
        record["metrics"][name] = None
    assert any(f"{name}' is a dependency" in refusal(record) for name in missing)


def test_two_classes_are_always_the_two_most_probable() -> None:
    record = make_record(classes=2)
    record["metrics"]["top2_accuracy"] = record["resolutions"]["1"]["top2_accuracy"] = 0.5
    assert "top2_accuracy: 0.5 is not 1" in refusal(record)


@pytest.mark.parametrize(
    "key", ["1.0", "2.0", "0.5", "0", "-1", "nan", "inf", "1e400", "x", "", " 1", "1_0", "1.2345678"]
)
def test_factors_are_canonical(key: str) -> None:
    record = make_record(factors=(1, 2))
    record["resolutions"] = {"1": record["resolutions"]["1"], key: record["resolutions"]["2"]}
    assert f"$.resolutions{'.' + key if key.isidentifier() else f'[{key!r}]'}: the" in refusal(record)


def test_standard_is_full_resolution_alone() -> None:
    for record in (make_record(factors=(2,)), make_record(factors=(1, 2)), make_record(reference_side=48)):
        assert "protocol" in refusal({**record, "protocol": "standard"})


@pytest.mark.parametrize(
    ("protocol", "conditions", "message"),
    [
        ("imbalance", {"imbalance_factor": 1, "stated_by": "caller"}, "imbalance_factor"),
        ("imbalance", {"imbalance_factor": 50, "stated_by": "report"}, "imbalance_factor: 50 is not the 100"),
        ("imbalance", {"imbalance_factor": 50}, "stated_by"),
        ("imbalance", {"imbalance_factor": 50, "stated_by": "me"}, "stated_by"),
        ("imbalance", {"imbalance_factor": 50, "stated_by": "caller", "more": 1}, "conditions"),
        ("imbalance", {"label_noise": 0.5, "stated_by": "caller"}, "imbalance_factor"),
        ("label_noise", {"label_noise": 1, "stated_by": "caller"}, "label_noise"),
        ("label_noise", {"label_noise": 0.5, "stated_by": "report"}, "label_noise: 0.5 is not the 0.3"),
        ("cross_dataset", {"trained_on": [], "stated_by": "caller"}, "trained_on"),
        ("cross_dataset", {"trained_on": "rafdb", "stated_by": "caller"}, "trained_on"),
        ("cross_dataset", {"trained_on": ["ferplus"], "stated_by": "caller"}, "trained_on: cross_dataset scores on"),
        ("cross_dataset", {"trained_on": ["affectnet"], "stated_by": "report"}, "trained_on: training.dataset"),
        ("standard", {"stated_by": "caller"}, "conditions"),
    ],
)
def test_conditions_fit_the_protocol(protocol: str, conditions: dict[str, Any], message: str) -> None:
    record = make_record(protocol=protocol, conditions=conditions, training=TRAINING)
    assert message in refusal(record)
    if conditions.get("stated_by") == "report":
        assert "stated_by: there is no report" in refusal({**record, "training": None})


@pytest.mark.parametrize("path", [("model",), ("dataset",), ("split",), ("revision",), ("labels", "model", 0)])
@pytest.mark.parametrize("text", ["a\nb", "a\x00", "\x1b[2J", "a\u202eb", "a\x9b", "a" * 501, "name\n"])
def test_names_hold_no_control_characters(path: Path_, text: str) -> None:
    message = refusal(put(RICH, path, text))
    assert name_of(path) in message and text not in message and message.isprintable()


# Files


def test_round_trip_and_no_overwriting(tmp_path: Path) -> None:
    record = make_record()
    path = write_record(record, tmp_path / "new" / "r.json")
    assert read_record(path) == record
    before = path.read_bytes()
    other = make_record(accuracy=0.4)
    with pytest.raises(FerError, match="exists already"):
        write_record(other, path)
    assert path.read_bytes() == before
    write_record(other, path, overwrite=True)
    assert read_record(path) == other
    assert list(path.parent.iterdir()) == [path]  # no temporary file stays


def test_numpy_values_mappings_and_paths_become_json(tmp_path: Path) -> None:
    record = make_record(n=80)
    changed = OrderedDict(record)
    changed["n"], changed["seconds"], changed["model"] = np.int64(80), np.float64(1.5), Path("a")
    scores = record["resolutions"]["1"]
    changed["resolutions"] = {"1": {**scores, "confusion_matrix": np.array(scores["confusion_matrix"])}}
    check_record(changed, "r.json")
    assert read_record(write_record(changed, tmp_path / "r.json")) == record


def test_a_real_record_round_trips(tmp_path: Path) -> None:
    from tiny_models import CLASSES, make_dataset, tiny_vit
    from transformers import ViTImageProcessor

    from hf_fer.evaluation import evaluate_model

    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    model = tiny_vit([*CLASSES[1:], "fear"])
    record = evaluate_model(
        model, make_dataset(), processor=processor, resolutions=(1, 2), latency=True, progress=False
    )
    assert record["labels"]["missing_in_model"] == CLASSES[:1] and record["labels"]["missing_in_dataset"] == ["fear"]
    assert read_record(write_record(record, tmp_path / "r.json")) == record


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": float("nan")}, "cannot be written as JSON"),
        ({"n": object()}, "cannot be written as JSON"),
        ({"model": "\ud800"}, "cannot be written as JSON"),
        ({"options": {1: 1, "1": 2}}, "the key '1' stands twice"),
        ({"options": {"x": "a" * MAX_BYTES}}, "larger than 8 MiB"),
        ({"split": ""}, r"\$\.split"),
    ],
)
def test_failed_writes_leave_nothing(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FerError, match=message):
        write_record({**make_record(), **changes}, tmp_path / "new" / "r.json")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FerError, match="cannot be written"):
        write_record(make_record(), tmp_path / "file" / "r.json")


def nested(depth: int) -> str:
    return '{"x": ' * depth + "1" + "}" * depth


GOOD = json.dumps(make_record())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[]", "JSON list, not an object"),
        (b"null", "JSON NoneType, not an object"),
        (b"{}", "'record_version' is a required property"),
        (b"\xff\xfe{}", "is not UTF-8"),
        (b"\xef\xbb\xbf" + GOOD.encode(), "is not JSON"),
        (GOOD.replace("1.5", "NaN").encode(), "NaN is no JSON number"),
        (GOOD.replace("1.5", "-Infinity").encode(), "-Infinity is no JSON number"),
        (GOOD.replace("1.5", "1e999").encode(), "'1e999' is too large"),
        (GOOD.replace("1.5", "9" * 5000).encode(), "is not JSON|seconds"),
        (GOOD.replace("1.5", "9" * 400).encode(), "seconds"),
        (GOOD.replace('"seconds"', '"date": "2025-01-01T00:00:00Z", "seconds"').encode(), "'date' stands twice"),
        (GOOD.replace('"support": 10', '"support": 10, "support": 10', 1).encode(), "'support' stands twice"),
        (GOOD.replace('"majority"', r'"\ud800"').encode(), "half a surrogate pair"),
        (
            GOOD.replace('"options": {', '"options": {"x": ' + "[" * 200_000 + "]" * 200_000 + ", ").encode(),
            "nests too",
        ),
        (nested(200_000).encode(), "nests too deeply"),
        (b" " * (MAX_BYTES + 1), "larger than 8 MiB"),
        (GOOD.replace('"n": 80', '"n": 80.0', 1).encode(), r"\$\.n: 80.0 is not of type 'integer'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_record_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(data)
    with pytest.raises(FerError, match=message) as caught:
        read_record(path)
    assert "r.json" in str(caught.value) and len(str(caught.value)) < 500 + len(str(path))


def test_a_missing_file_or_a_folder_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path, "a\0b"):
        with pytest.raises(FerError, match="cannot be read"):
            read_record(path)


def test_limits_on_size(tmp_path: Path) -> None:
    record = make_record(factors=tuple(range(1, 66)), n=8, with_probabilities=False)
    assert "resolutions" in refusal(record)
    many = [f"class {k}" for k in range(1001)]
    assert "labels.dataset" in refusal(put(RICH, ("labels", "dataset"), many))
    assert "confusion_matrix" in refusal(put(RICH, ("resolutions", "1", "confusion_matrix"), [[0]] * 1001))
    assert "confusion_matrix" in refusal(put(RICH, ("resolutions", "1", "confusion_matrix", 0), [0] * 1001))


def test_a_hostile_path_cannot_break_the_line() -> None:
    with pytest.raises(FerError) as caught:
        check_record({}, "a\n\x1b[2J" + "b" * 10_000)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


# The schema and its page


def load_schema() -> dict[str, Any]:
    import importlib.resources

    return json.loads(importlib.resources.files("hf_fer.evaluation").joinpath("record.schema.json").read_text("utf-8"))


def test_the_schema_is_one_and_describes_every_field() -> None:
    from jsonschema import Draft202012Validator

    schema = load_schema()
    Draft202012Validator.check_schema(schema)

    def undescribed(node: Any, path: str) -> Iterator[str]:
        for key, child in node.get("properties", {}).items():
            if not child.get("description", "").rstrip().endswith("."):
                yield f"{path}.{key}"
            yield from undescribed(child, f"{path}.{key}")
        if isinstance(node.get("additionalProperties"), dict):
            yield from undescribed(node["additionalProperties"], f"{path}.*")

    assert list(undescribed(schema, "$")) == []
    for record in (RICH, make_record(), make_record(with_probabilities=False, protocol="imbalance")):
        Draft202012Validator(schema).validate(record)  # as anybody else would validate it


def test_the_table_is_made_from_a_schema() -> None:
    shared = {"$defs": {"share": {"type": "number", "minimum": 0, "maximum": 1}}}
    leaf = {"$ref": "#/$defs/share", "description": "A | b."}
    inner = {"type": "object", "required": [], "properties": {"x": leaf}, "description": "Inner."}
    table = fields_table({**shared, "properties": {"a": {**inner, "type": ["object", "null"]}}})
    assert table.splitlines()[2:] == [
        "| `a` | object or null |  | Inner. |",
        "| `a.x` | number, optional | ≥ 0, ≤ 1 | A \\| b. |",
    ]


def test_the_page_holds_the_table_and_an_example_that_is_true() -> None:
    page = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    command = 'python -c "from hf_fer.evaluation.records import fields_table; print(fields_table())"'
    assert fields_table() in page, f"Put the output of this into docs/records.md: {command}"
    assert command in page
    example = page.split("```\n{")[1].split("```")[0]
    record = make_record(
        "my-model", classes=2, model_classes=["happy", "neutral"], confusion=[[3, 1], [1, 3]], dataset="my-faces"
    )
    check_record(record, "r.json")
    rest = re.sub(r"\s", "", json.dumps(record)[1:])
    for part in re.sub(r"\s", "", example).split("..."):
        assert part in rest, f"{part} is not in the record, or not in this order"
        rest = rest.partition(part)[2]
