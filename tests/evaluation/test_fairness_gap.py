"""The gap between groups against loops in float64, scikit-learn, hand-computed cases, and every refusal."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_fer.evaluation.fairness_gap.scores import score_groups

GROUPS = ["child", "adult", "old"]


def make_rows(seed, n=120, classes=range(5), groups=GROUPS):
    rng = np.random.default_rng(seed)
    references = rng.choice(list(classes), n)
    group = rng.choice(len(groups), n, p=np.arange(1, len(groups) + 1) / sum(range(1, len(groups) + 1)))
    right = rng.random(n) < 0.5 + 0.15 * group
    predictions = np.where(right, references, rng.integers(0, 6, n))
    return predictions, references, [groups[g] for g in group]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [range(5), [0, 3], [2]], ids=["all", "some", "one"])
def test_every_figure_equals_sklearn(seed, classes):
    from sklearn import metrics

    predictions, references, groups = make_rows(seed, classes=classes)
    got = score_groups(predictions, references, groups)
    assert got["n"] == 120
    assert list(got["per_group"]) == sorted(set(groups))
    for name, own in got["per_group"].items():
        inside = np.array(groups) == name
        truth, answers = references[inside], predictions[inside]
        assert set(own) == {"n", "accuracy", "mean_class_accuracy"}
        assert own["n"] == inside.sum()
        assert own["accuracy"] == pytest.approx(metrics.accuracy_score(truth, answers), abs=1e-12)
        recall = metrics.recall_score(truth, answers, labels=np.unique(truth), average="macro", zero_division=0)
        assert own["mean_class_accuracy"] == pytest.approx(recall, abs=1e-12)
    for prefix, best, worst in (
        ("accuracy", "best_group", "worst_group"),
        ("mean_class_accuracy", "mean_class_accuracy_best_group", "mean_class_accuracy_worst_group"),
    ):
        figures = {name: own[prefix] for name, own in got["per_group"].items()}
        assert got[f"{prefix}_gap"] == pytest.approx(max(figures.values()) - min(figures.values()), abs=1e-12)
        assert figures[got[best]] == max(figures.values())
        assert figures[got[worst]] == min(figures.values())
    assert got["left_out"] == [] and got["min_support"] == 1 and "ci95" not in got
    json.dumps(got, allow_nan=False)


def test_by_hand_where_the_two_gaps_disagree():
    # "a": 3 of 4 right, but recalls 3/3 and 0/1. "b": 1 of 2 right, of the only class it has.
    got = score_groups([0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 1, 1], ["a"] * 4 + ["b"] * 2)
    assert got["per_group"] == {
        "a": {"n": 4, "accuracy": 0.75, "mean_class_accuracy": 0.5},
        "b": {"n": 2, "accuracy": 0.5, "mean_class_accuracy": 0.5},
    }
    assert (got["accuracy_gap"], got["best_group"], got["worst_group"]) == (0.25, "a", "b")
    assert got["mean_class_accuracy_gap"] == 0.0  # of equals the first by name, in both places
    assert got["mean_class_accuracy_best_group"] == got["mean_class_accuracy_worst_group"] == "a"


def test_ties_go_to_the_first_name_whatever_the_order_of_rows():
    groups = ["z", "b", "c", "a"]
    got = score_groups([0, 0, 1, 1], [0, 0, 0, 0], groups)
    assert (got["accuracy_gap"], got["best_group"], got["worst_group"]) == (1.0, "b", "a")


def test_small_groups_are_scored_and_left_out_of_the_gap():
    predictions, references = [0] * 5 + [1, 1], [0] * 4 + [1] + [0, 1]
    groups = ["big"] * 4 + ["tiny"] + ["small"] * 2
    everyone = score_groups(predictions, references, groups)
    assert (everyone["accuracy_gap"], everyone["worst_group"]) == (1.0, "tiny")
    got = score_groups(predictions, references, groups, min_support=2, bootstrap=50)
    assert got["left_out"] == ["tiny"] and got["min_support"] == 2
    assert got["per_group"]["tiny"]["accuracy"] == 0.0
    assert got["per_group"]["tiny"]["ci95"]["accuracy"] == [0.0, 0.0]
    assert (got["accuracy_gap"], got["best_group"], got["worst_group"]) == (0.5, "big", "small")
    # "big" is always right and "small" right in 0, 1 or 2 of 2: with "tiny" inside, the gap would always be 1.
    assert got["ci95"]["accuracy_gap"] == [0.0, 1.0]
    assert score_groups(predictions, references, groups, bootstrap=50)["ci95"]["accuracy_gap"] == [1.0, 1.0]


def test_bootstrap_agrees_with_resampling_within_the_groups():
    predictions, references, groups = make_rows(2, classes=[0, 0, 0, 0, 1, 1, 2])
    got = score_groups(predictions, references, groups, bootstrap=2000)
    assert got == score_groups(predictions, references, groups, bootstrap=2000)
    assert got["ci95"] != score_groups(predictions, references, groups, bootstrap=2000, seed=1)["ci95"]
    assert (got["ci95"]["resamples"], got["ci95"]["seed"]) == (2000, 0)
    rng = np.random.default_rng(8)
    figures = []
    for _ in range(2000):
        row = []
        for name in sorted(GROUPS):
            inside = np.flatnonzero(np.array(groups) == name)
            draw = rng.choice(inside, len(inside))
            truth, right = references[draw], predictions[draw] == references[draw]
            row.append([right.mean(), np.mean([right[truth == k].mean() for k in np.unique(truth)])])
        figures.append(row)
    figures = np.array(figures)  # (R, G, 2)
    for g, name in enumerate(sorted(GROUPS)):
        for column, key in enumerate(("accuracy", "mean_class_accuracy")):
            bounds = np.percentile(figures[:, g, column], [2.5, 97.5])
            assert got["per_group"][name]["ci95"][key] == pytest.approx(bounds, abs=0.04), (name, key)
    gaps = figures.max(axis=1) - figures.min(axis=1)
    for column, key in enumerate(("accuracy_gap", "mean_class_accuracy_gap")):
        assert got["ci95"][key] == pytest.approx(np.percentile(gaps[:, column], [2.5, 97.5]), abs=0.04), key


def test_a_fair_classifier_still_has_a_gap():
    """What the card warns of: the gap is never negative, so its interval says nothing against fairness."""
    rng = np.random.default_rng(0)
    groups = [f"g{k}" for k in range(8) for _ in range(20)]
    lows = [
        score_groups(rng.random(160) < 0.7, np.ones(160), groups, bootstrap=100)["ci95"]["accuracy_gap"][0]
        for _ in range(10)
    ]
    assert min(lows) > 0


def test_names_are_taken_as_spelled_and_kept_as_plain_text():
    got = score_groups([0, 0, 0], [0, 0, 1], np.array(["Female", "female", "*[x](y)*"]))
    assert list(got["per_group"]) == ["*[x](y)*", "Female", "female"]
    assert {type(name) for name in (*got["per_group"], got["best_group"])} == {str}


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], [], []), {}, "nothing to score"),
        (([0], [0, 1], ["a", "b"]), {}, "1 predictions for 2 references .row 1 "),
        (([0, 1], [0, 1], ["a"]), {}, "1 groups for 2 references .row 1 "),
        (([0, 1], [0, 0.5], ["a", "b"]), {}, r"references\[1\] is 0.5"),
        (([0, -1], [0, 1], ["a", "b"]), {}, r"predictions\[1\] is -1"),
        (([0, 1], [0, 1], ["a", None]), {}, r"groups\[1\] is None, which is not text"),
        (([0, 1], [0, 1], ["a", 3]), {}, r"groups\[1\] is 3, which is not text"),
        (([0, 1], [0, 1], ["a", " "]), {}, r"groups\[1\] is empty"),
        (([0, 1], [0, 1], ["a", "\ud800"]), {}, r"groups\[1\] is .*not valid Unicode"),
        (([0, 1], [0, 1], "ab"), {}, "groups is not a list"),
        (([0, 1], [0, 1], None), {}, "groups is not a list"),
        (
            ([0, 1], [0, 1], ["a", "a"]),
            {},
            r"two groups with .*min_support=1 images, but there are 1 of 1 .*'a' with 2",
        ),
        (([0, 1], [0, 1], ["a", "b"]), {"min_support": 2}, "min_support=2 images, but there are 0 of 2"),
        (([0, 1], [0, 1], ["a\n" * 10**6] * 2), {}, "but there are 1 of 1"),
        (([0] * 1001, [0] * 1001, [f"g{k}" for k in range(1001)]), {}, "1001 different texts, more than 1000"),
        (([0, 1], [0, 1], ["a", "b"]), {"min_support": 0}, "min_support=0 is not a number of images"),
        (([0, 1], [0, 1], ["a", "b"]), {"min_support": True}, "min_support=True"),
        (([0, 1], [0, 1], ["a", "b"]), {"bootstrap": "x" * 10**6}, r"bootstrap='x{39}\.\.\. is not"),
    ],
)
def test_wrong_input_is_one_sentence_with_the_row(arguments, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        score_groups(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 300


def test_as_an_evaluate_module(tmp_path):
    from hf_fer.evaluation.fairness_gap.fairness_gap import FairnessGap

    metric = FairnessGap(cache_dir=str(tmp_path))
    predictions, references, groups = make_rows(1)
    rows = {"predictions": predictions, "references": references, "groups": groups}
    options = {"min_support": 5, "bootstrap": 20, "seed": 4}
    expected = score_groups(predictions, references, groups, **options)
    assert metric.compute(**rows, **options) == expected
    for bad, message in (
        ({}, "nothing to score"),
        ({**rows, "groups": None}, "0 groups for 120 references"),
        ({**rows, "groups": ["a"] * 120}, "needs two groups"),
        ({**rows, "min_support": 1.5}, "min_support=1.5"),
        ({**rows, "bootstrap": True}, "bootstrap=True"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.compute(**bad)
    with pytest.raises(ValueError, match=r"groups\[0\] is 3"):  # Arrow would make it the text "3"
        metric.add_batch(predictions=[1], references=[1], groups=[3])
    for start in range(0, 140, 20):  # the last batch is empty
        metric.add_batch(**{key: column[start : start + 20] for key, column in rows.items()})
    with pytest.raises(ValueError, match="min_support=0"):  # a wrong option costs no batch
        metric.compute(min_support=0)
    assert metric.compute(**options) == expected
    metric.add(prediction=0, reference=0, groups="a")
    metric.add(prediction=0, reference=1, groups="b")
    assert metric.compute()["accuracy_gap"] == 1.0
