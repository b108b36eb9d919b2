"""hf_fer.labels: the orders as the datasets number them, names, mapping."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from hf_fer import labels
from hf_fer.errors import FerError
from hf_fer.labels import (
    EXPRESSIONS,
    LABEL_ORDERS,
    canonical_expression,
    id2label,
    label2id,
    label_names,
    map_labels,
)

# Written out by hand from the datasets' own documents, with their own words, not read from the module.
PUBLISHED = {
    ("ferplus", 8): "neutral happiness surprise sadness anger disgust fear contempt",
    ("ferplus", 7): "neutral happiness surprise sadness anger disgust fear",
    ("fer2013", 7): "Angry Disgust Fear Happy Sad Surprise Neutral",
    ("rafdb", 7): "Surprise Fear Disgust Happiness Sadness Anger Neutral",
    ("affectnet", 8): "Neutral Happy Sad Surprise Fear Disgust Anger Contempt",
    ("affectnet", 7): "Neutral Happy Sad Surprise Fear Disgust Anger",
    ("affwild2", 7): "Neutral Anger Disgust Fear Happiness Sadness Surprise",
    ("affwild2", 8): "Neutral Anger Disgust Fear Happiness Sadness Surprise Other",
    ("jaffe", 7): "AN DI FE HA NE SA SU",
    ("ferg", 7): "anger disgust fear joy neutral sadness surprise",
    ("sfew", 7): "Angry Disgust Fear Happy Neutral Sad Surprise",
    ("caers", 7): "Anger Disgust Fear Happy Neutral Sad Surprise",
    ("synthetic", 8): "neutral happiness surprise sadness anger disgust fear contempt",
}


@pytest.mark.parametrize(("dataset", "classes"), PUBLISHED)
def test_order_is_the_published_one(dataset: str, classes: int) -> None:
    published = tuple(canonical_expression(name) for name in PUBLISHED[dataset, classes].split())
    assert label_names(dataset, classes) == published


def test_every_dataset_is_checked_and_uses_known_names_once() -> None:
    assert {dataset for dataset, _ in PUBLISHED} == set(LABEL_ORDERS)
    for order in LABEL_ORDERS.values():
        assert len(set(order)) == len(order)
        assert set(order) <= {*EXPRESSIONS, "other"}


def test_usual_class_counts() -> None:
    counts = {dataset: len(label_names(dataset)) for dataset in LABEL_ORDERS}
    eight = {"ferplus", "affectnet", "synthetic"}
    assert counts == {dataset: 8 if dataset in eight else 7 for dataset in LABEL_ORDERS}


@pytest.mark.parametrize("classes", [0, 6, 9, True, 8.0, "8", -1])
def test_wrong_class_count(classes: object) -> None:
    with pytest.raises(FerError, match=r"'ferplus' has no release with classes=.*choose 8 or 7"):
        label_names("ferplus", classes)  # type: ignore[arg-type]


def test_unknown_dataset_names_the_nearest() -> None:
    with pytest.raises(FerError, match=r"did you mean 'ferplus'\?"):
        label_names("fer-plus")
    with pytest.raises(FerError, match="No label order"):
        label_names(["ferplus"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("happy", "happiness"),
        ("Happiness", "happiness"),
        ("JOY", "happiness"),
        (" happy ", "happiness"),
        ("angry", "anger"),
        ("Anger", "anger"),
        ("sad", "sadness"),
        ("fearful", "fear"),
        ("disgusted", "disgust"),
        ("surprised", "surprise"),
        ("neutrality", "neutral"),
        ("Sad_ness", "sadness"),
        ("con tempt", "contempt"),
        ("AN", "anger"),
        ("DI", "disgust"),
        ("FE", "fear"),
        ("HA", "happiness"),
        ("NE", "neutral"),
        ("SA", "sadness"),
        ("SU", "surprise"),
        ("Other", "other"),
    ],
)
def test_near_names(name: str, expected: str) -> None:
    assert canonical_expression(name) == expected


def test_vocabulary_is_canonical() -> None:
    assert [canonical_expression(name) for name in EXPRESSIONS] == list(EXPRESSIONS)


@pytest.mark.parametrize("name", ["unknown", "NF", "", "LABEL_0", "3", None, 3, b"happy", "x" * 100_000])
def test_unknown_names_are_refused(name: object) -> None:
    with pytest.raises(FerError) as error:
        canonical_expression(name)  # type: ignore[arg-type]
    assert all(expression in str(error.value) for expression in EXPRESSIONS)
    assert len(str(error.value)) < 400


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(FerError, match=r"'hapiness' is not .*did you mean 'happiness'\?"):
        canonical_expression("hapiness")


def test_mapping_goes_by_name_not_by_id() -> None:
    mapping = map_labels(("Angry", "Happy", "contempt"), ("neutral", "joy", "anger"))
    assert mapping.index == (2, 1, None)
    assert mapping.source == ("anger", "happiness", "contempt")
    assert mapping.target == ("neutral", "happiness", "anger")
    assert mapping.missing_in_target == ("contempt",)
    assert mapping.missing_in_source == ("neutral",)


@pytest.mark.parametrize("source", LABEL_ORDERS)
@pytest.mark.parametrize("target", LABEL_ORDERS)
def test_mapping_of_real_orders(source: str, target: str) -> None:
    names_from, names_to = label_names(source), label_names(target)
    mapping = map_labels(names_from, names_to)
    for name, index in zip(names_from, mapping.index, strict=True):
        assert (name in mapping.missing_in_target) == (index is None)
        assert index is None or names_to[index] == name
    assert set(mapping.missing_in_target) == set(names_from) - set(names_to)
    assert set(mapping.missing_in_source) == set(names_to) - set(names_from)


def test_mapping_describes_itself_in_one_line() -> None:
    text = map_labels(label_names("ferplus"), label_names("fer2013")).describe()
    assert text == ("7 of 8 source classes map by name; 7 to another id; target lacks contempt")
    text = map_labels(label_names("ferplus", 7), label_names("ferplus")).describe()
    assert text == "7 of 7 source classes map by name; ids unchanged; source lacks contempt"


def test_duplicates_are_an_error_even_under_two_names() -> None:
    with pytest.raises(FerError, match=r"source label order names 'happiness' more than once \('happy', 'joy'\)"):
        map_labels(["happy", "sad", "joy"], EXPRESSIONS)
    with pytest.raises(FerError, match="target label order names 'fear' more than once"):
        map_labels(EXPRESSIONS, ["fear", "fear"])


def test_a_single_string_is_not_an_order() -> None:
    with pytest.raises(FerError, match="must be a list of names"):
        map_labels("joy", EXPRESSIONS)


def test_mapping_is_frozen() -> None:
    mapping = map_labels(EXPRESSIONS, EXPRESSIONS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        mapping.index = ()  # type: ignore[misc]


def test_id_tables_are_each_others_inverse() -> None:
    names = label_names("rafdb")
    assert id2label(names)[0] == "surprise"
    assert label2id(names)["neutral"] == 6
    assert {name: index for index, name in id2label(names).items()} == label2id(names)


def test_labels_import_nothing_heavy() -> None:
    code = (
        f"import sys, runpy, types; sys.path.insert(0, {str(labels.__file__.rsplit('labels.py')[0])!r}); "
        "package = types.ModuleType('hf_fer'); package.__path__ = [sys.path[0]]; "
        "sys.modules['hf_fer'] = package; "
        "before = set(sys.modules); import hf_fer.labels; "
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    # The package is a stub here, so that only what labels.py itself imports is seen.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['hf_fer']"
