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
    find_expression,
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
        ("Suprise", "surprise"),  # as checkpoints and FER2013 scripts misspell them
        ("suprised", "surprise"),
        ("Digust", "disgust"),
        ("happyness", "happiness"),
    ],
)
def test_near_names(name: str, expected: str) -> None:
    assert canonical_expression(name) == find_expression(name) == expected


def test_vocabulary_is_canonical() -> None:
    assert [canonical_expression(name) for name in EXPRESSIONS] == list(EXPRESSIONS)


# What public checkpoints and data sets really have beside the expressions, and what nobody may guess.
NOT_NAMES = ["unknown", "NF", "", "LABEL_0", "3", None, 3, b"happy", "x" * 100_000]
NOT_NAMES += [
    "0_anger",
    "Anger 😠",
    "1. happy",
    "happy/surprise",
    "calm",
    "natural",
    "sorrow",
    "smile",
    "ahegao",
    "none",
]
NOT_NAMES += ["uncertain", "anxious", "happily surprised", "非常", "unhappy", "not angry", "sad\0"]


@pytest.mark.parametrize("name", NOT_NAMES)
def test_unknown_names_are_refused(name: object) -> None:
    with pytest.raises(FerError) as error:
        canonical_expression(name)  # type: ignore[arg-type]
    assert all(expression in str(error.value) for expression in EXPRESSIONS)
    assert len(str(error.value)) < 400
    assert find_expression(name) is None


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


AHEGAO = ["Ahegao", "Angry", "Happy", "Neutral", "Sad", "Suprise"]  # the classes of a much copied data set


def test_aliases_say_what_a_foreign_checkpoint_means() -> None:
    names = [f"LABEL_{i}" for i in range(3)]
    aliases = {"LABEL_2": "fear", "LABEL_0": "Happy", "LABEL_1": None}
    mapping = map_labels(names, ("anger", "fear", "happiness"), aliases=aliases)
    assert mapping.source == ("happiness", "LABEL_1", "fear")
    assert mapping.index == (2, None, 1)
    assert mapping.missing_in_target == ("LABEL_1",)
    assert mapping.missing_in_source == ("anger",)
    assert mapping.no_expression == ("LABEL_1",)
    assert mapping.renamed == (("LABEL_0", "happiness"), ("LABEL_2", "fear"))
    assert list(aliases) == ["LABEL_2", "LABEL_0", "LABEL_1"]  # not changed


def test_what_was_read_how_is_told() -> None:
    mapping = map_labels(AHEGAO, EXPRESSIONS, aliases={"Ahegao": None})
    assert mapping.renamed == (
        ("Angry", "anger"),
        ("Happy", "happiness"),
        ("Sad", "sadness"),
        ("Suprise", "surprise"),
    )
    assert mapping.describe() == (
        "5 of 6 source classes map by name; 5 to another id; source lacks disgust, fear, contempt; 'Angry' read as "
        "anger, 'Happy' read as happiness, 'Sad' read as sadness, 'Suprise' read as surprise, 'Ahegao' read as no "
        "expression"
    )


def test_case_spaces_and_hyphens_are_not_told() -> None:
    mapping = map_labels(["ANGER", "Con-tempt", " sad_ness "], EXPRESSIONS, aliases={"ANGER": "angry"})
    assert mapping.renamed == ()
    assert "read as" not in mapping.describe()


def test_aliases_win_over_the_vocabulary() -> None:
    swapped = map_labels(["sad", "fear"], ("sadness", "fear"), aliases={"sad": "fear", "fear": "sadness"})
    assert swapped.index == (1, 0)
    assert swapped.renamed == (("sad", "fear"), ("fear", "sadness"))
    # Even a class that is spelt like one of the target's is none if the caller says so.
    taken_out = map_labels(["happiness", "fear"], ("happiness", "fear"), aliases={"happiness": None})
    assert taken_out.index == (None, 1)
    assert taken_out.missing_in_target == taken_out.missing_in_source == ("happiness",)


def test_a_target_without_the_aliased_expression() -> None:
    mapping = map_labels(["LABEL_0", "fear"], ("fear",), aliases={"LABEL_0": "contempt"})
    assert mapping.index == (None, 0)
    assert mapping.missing_in_target == ("contempt",)
    assert mapping.no_expression == ()


def test_one_error_lists_every_label_that_means_nothing() -> None:
    with pytest.raises(FerError) as error:
        map_labels(["LABEL_0", "happy", "hapines", "0_anger"], EXPRESSIONS)
    text = str(error.value)
    assert text.startswith(
        "'LABEL_0', 'hapines' (did you mean 'happiness'?), '0_anger' (did you mean 'anger'?) are not expression names "
        "(3 of 4 source labels); say what they mean with aliases="
    )
    assert "--label-map NAME=EXPRESSION" in text
    assert all(expression in text for expression in EXPRESSIONS)


def test_a_long_list_of_labels_is_cut_with_its_count() -> None:
    with pytest.raises(FerError, match=r"'LABEL_9' and 990 more are not expression names \(1000 of 1000 ") as error:
        map_labels([f"LABEL_{i}" for i in range(1000)], EXPRESSIONS)
    assert "LABEL_10" not in str(error.value)
    with pytest.raises(FerError, match=r"and 20 more are not") as error:
        map_labels(["\x1b[31m" + "x" * 100_000 + str(i) for i in range(30)], EXPRESSIONS)
    assert len(str(error.value)) < 1500
    assert "\x1b" not in str(error.value)


def test_hostile_names_do_not_break_the_line() -> None:
    name = "a\nb\x1b[2J" + "c" * 1000
    text = map_labels([name, "happy"], EXPRESSIONS, aliases={name: None}).describe()
    assert text.isprintable() and len(text) < 300


def test_an_alias_for_a_name_that_source_lacks() -> None:
    with pytest.raises(
        FerError, match=r"have no 'ahegao' \(did you mean 'Ahegao'\?\), for which .* spell aliases exactly"
    ):
        map_labels(AHEGAO, EXPRESSIONS, aliases={"ahegao": None})


@pytest.mark.parametrize("meaning", ["", "hapiness", "none", 3, ["anger"], b"anger"])
def test_an_alias_must_mean_an_expression(meaning: object) -> None:
    with pytest.raises(FerError, match=r"^'Ahegao' is to mean .*not an expression name.*; the vocabulary is"):
        map_labels(AHEGAO, EXPRESSIONS, aliases={"Ahegao": meaning})  # type: ignore[dict-item]


def test_aliases_must_be_a_mapping() -> None:
    with pytest.raises(FerError, match="aliases must be a mapping"):
        map_labels(AHEGAO, EXPRESSIONS, aliases=["Ahegao"])  # type: ignore[arg-type]


def test_aliases_do_not_let_two_labels_mean_one_expression() -> None:
    with pytest.raises(FerError, match=r"names 'happiness' more than once \('happy', 'LABEL_0'\)"):
        map_labels(["happy", "LABEL_0"], EXPRESSIONS, aliases={"LABEL_0": "joy"})
    with pytest.raises(FerError, match="names 'x' more than once"):
        map_labels(["x", "x"], EXPRESSIONS, aliases={"x": None})


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
