"""The accuracy over resolution against loops in float64, scikit-learn, hand-computed cases, and every refusal."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from hf_fer.evaluation.resolution_robustness import inputs
from hf_fer.evaluation.resolution_robustness.scores import score_resolutions

FACTORS = [1, 2, 4, 8]


def make_rows(seed, images=40, classes=range(5), factors=FACTORS):
    """Predictions, references, factors and image ids in random order; larger factors are answered worse."""
    rng = np.random.default_rng(seed)
    true = rng.choice(list(classes), images)
    rows = []
    for f, factor in enumerate(factors):
        right = rng.random(images) < 0.9 - 0.15 * f
        answers = np.where(right, true, rng.integers(0, 6, images))
        rows += [(answers[m], true[m], factor, f"image/{m}") for m in range(images)]
    order = rng.permutation(len(rows))
    return [list(column) for column in zip(*(rows[k] for k in order), strict=True)]


def oracle(predictions, references, factors):
    accuracy, mean_class = {}, {}
    for factor in sorted(set(factors)):
        own = [(p, r) for p, r, f in zip(predictions, references, factors, strict=True) if f == factor]
        accuracy[factor] = sum(p == r for p, r in own) / len(own)
        recalls = []
        for k in {r for _, r in own}:
            answers = [p for p, r in own if r == k]
            recalls.append(sum(p == k for p in answers) / len(answers))
        mean_class[factor] = sum(recalls) / len(recalls)
    low = [value for factor, value in accuracy.items() if factor > 1]
    points = sorted((math.log2(factor), value) for factor, value in accuracy.items())
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in itertools.pairwise(points))
    return {
        "accuracy": accuracy,
        "mean_class_accuracy": mean_class,
        "average_low_resolution": sum(low) / len(low) if low else None,
        "area_under_curve": area / (points[-1][0] - points[0][0]) if len(points) > 1 else None,
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [range(5), [0, 3], [2]], ids=["all", "some", "one"])
@pytest.mark.parametrize("factors", [FACTORS, [1], [4], [1.5, 3, 7], [1, 4]], ids=str)
def test_every_figure_equals_the_loop_oracle_and_sklearn(seed, classes, factors):
    from sklearn import metrics

    predictions, references, factor, ids = make_rows(seed, classes=classes, factors=factors)
    got = score_resolutions(predictions, references, factor, ids)
    assert got == score_resolutions(np.array(predictions), np.array(references), np.array(factor, dtype=float))
    expected = oracle(predictions, references, factor)
    assert got["n"] == 40 and got["factors"] == factors
    assert list(got["accuracy"]) == list(got["mean_class_accuracy"]) == [str(f) for f in factors]
    for f in factors:
        own = np.array(factor) == f
        truth, answers = np.array(references)[own], np.array(predictions)[own]
        assert got["accuracy"][str(f)] == pytest.approx(expected["accuracy"][f], abs=1e-12)
        assert got["accuracy"][str(f)] == pytest.approx(metrics.accuracy_score(truth, answers), abs=1e-12)
        assert got["mean_class_accuracy"][str(f)] == pytest.approx(expected["mean_class_accuracy"][f], abs=1e-12)
        recall = metrics.recall_score(truth, answers, labels=np.unique(truth), average="macro", zero_division=0)
        assert got["mean_class_accuracy"][str(f)] == pytest.approx(recall, abs=1e-12)
    for key in ("average_low_resolution", "area_under_curve"):
        assert got[key] == (None if expected[key] is None else pytest.approx(expected[key], abs=1e-12))
    if len(factors) > 1:
        x = np.log2(factors)
        area = metrics.auc(x, list(got["accuracy"].values())) / (x[-1] - x[0])
        assert got["area_under_curve"] == pytest.approx(area, abs=1e-12)
    assert "ci95" not in got
    json.dumps(got, allow_nan=False)


def test_summaries_by_hand():
    # Two images; right answers: 2 at x1, 2 at x2, 1 at x4, 0 at x8.
    got = score_resolutions([0, 1, 0, 1, 0, 0, 1, 0], [0, 1] * 4, np.repeat(FACTORS, 2))
    assert got["accuracy"] == {"1": 1.0, "2": 1.0, "4": 0.5, "8": 0.0}
    assert got["average_low_resolution"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert got["area_under_curve"] == pytest.approx((1 + 0.75 + 0.25) / 3)
    # Unequal steps of log2: 1 to 2 weighs one, 2 to 8 weighs two.
    got = score_resolutions([0, 0, 1], [0, 0, 0], [1, 2, 8])
    assert got["area_under_curve"] == pytest.approx((1 * 1 + 2 * 0.5) / 3)
    # Without factor 1 the average is over all; all right is 1, not more by rounding.
    got = score_resolutions([0, 0, 0], [0, 0, 0], [2, 3, 5])
    assert got["average_low_resolution"] == pytest.approx(1.0, abs=1e-12)
    assert got["area_under_curve"] == pytest.approx(1.0, abs=1e-12)


def test_published_average_of_hsac():
    """Lee et al. (WACV 2024), RAF-DB: 90.58 / 90.03 / 86.25 at x2, x4, x8 give Avg 88.95."""
    n, rows = 10_000, []
    for factor, right in ((2, 9058), (4, 9003), (8, 8625)):
        rows += [(int(k >= right), 0, factor) for k in range(n)]
    got = score_resolutions(*zip(*rows, strict=True))
    assert round(100 * got["average_low_resolution"], 2) == 88.95


@pytest.mark.parametrize("by_id", [True, False], ids=["image_ids", "order"])
def test_bootstrap_agrees_with_resampling_the_images(by_id):
    predictions, references, factors, ids = make_rows(3, images=60, classes=[0, 0, 0, 0, 1, 1, 2])
    if not by_id:
        rows = sorted(zip(factors, ids, predictions, references, strict=True))
        factors, ids, predictions, references = zip(*rows, strict=True)
    options = {"image_ids": ids if by_id else None, "bootstrap": 2000}
    got = score_resolutions(predictions, references, factors, **options)
    interval = got["ci95"]
    assert interval == score_resolutions(predictions, references, factors, **options)["ci95"]
    assert interval != score_resolutions(predictions, references, factors, **options, seed=1)["ci95"]
    assert interval["paired_by"] == ("image_ids" if by_id else "order")
    assert (interval["resamples"], interval["seed"]) == (2000, 0)

    images = sorted(set(ids))
    answer = {(i, f): p == r for i, f, p, r in zip(ids, factors, predictions, references, strict=True)}
    correct = np.array([[answer[i, f] for i in images] for f in FACTORS])
    class_of = dict(zip(ids, references, strict=True))
    true = np.array([class_of[i] for i in images])
    figures = []
    for draw in np.random.default_rng(9).integers(0, 60, size=(2000, 60)):
        right, truth = correct[:, draw], true[draw]
        accuracy = right.mean(axis=1)
        recall = np.mean([right[:, truth == k].mean(axis=1) for k in np.unique(truth)], axis=0)
        figures.append([*accuracy, *recall, accuracy[1:].mean(), np.dot(accuracy, [1, 2, 2, 1]) / 6])
    bounds = np.percentile(figures, [2.5, 97.5], axis=0).T
    got_bounds = [
        *interval["accuracy"].values(),
        *interval["mean_class_accuracy"].values(),
        interval["average_low_resolution"],
        interval["area_under_curve"],
    ]
    assert np.array(got_bounds) == pytest.approx(bounds, abs=0.03)
    json.dumps(got, allow_nan=False)


def test_pairing_matters_to_the_summaries_and_not_to_the_factors():
    """Answers that fail together spread the average more than answers that fail by turns."""
    right = np.array([True] * 50 + [False] * 50)
    together = np.concatenate([right, right])
    by_turns = np.concatenate([right, ~right])
    width = {}
    for name, correct in (("together", together), ("by_turns", by_turns)):
        got = score_resolutions(np.where(correct, 0, 1), np.zeros(200), np.repeat([2, 4], 100), bootstrap=1000)["ci95"]
        low, high = got["average_low_resolution"]
        width[name] = high - low
        assert got["accuracy"]["2"] == pytest.approx([0.4, 0.6], abs=0.02)
    assert width["by_turns"] == pytest.approx(0.0, abs=1e-12)  # each image is right at one of the two: always 0.5
    assert width["together"] > 0.15


def test_bootstrap_with_one_factor_and_all_right():
    got = score_resolutions([0, 1, 1], [0, 1, 1], [1, 1, 1], bootstrap=20)["ci95"]
    assert got["accuracy"] == got["mean_class_accuracy"] == {"1": [1.0, 1.0]}
    assert got["average_low_resolution"] is None and got["area_under_curve"] is None


def test_large_and_scattered_ids_cost_no_memory():
    got = score_resolutions([10**15, 5, 5], [10**15, 5, 7], [1, 1, 1], bootstrap=5)
    assert got["mean_class_accuracy"]["1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], [], []), {}, "nothing to score"),
        (([0], [0, 1], [1, 1]), {}, "1 predictions for 2 references .row 1 "),
        (([0, 1], [0, 1], [1]), {}, "1 factors for 2 references .row 1 "),
        (([0, 1.5], [0, 1], [1, 1]), {}, r"predictions\[1\] is 1.5"),
        (([0, 1], [0, -1], [1, 1]), {}, r"references\[1\] is -1"),
        (([0, 1], [0, 1], [1, 0.5]), {}, r"factors\[1\] is 0.5, which is not a resolution factor"),
        (([0, 1], [0, 1], [1, float("nan")]), {}, r"factors\[1\] is nan"),
        (([0, 1], [0, 1], [float("inf"), 1]), {}, r"factors\[0\] is inf"),
        (([0, 1], [0, 1], ["1", "2"]), {}, "factors is not a flat list of numbers"),
        (([0, 1], [0, 1], ["x", 2]), {}, "factors is not a flat list of numbers"),
        (([0, 1], [0, 1], [[1], [2]]), {}, "factors is not a flat list of numbers"),
        (([0, 1], [0, 1], [True, True]), {}, "factors is not a flat list of numbers"),
        (([0, 1], [0, 1], None), {}, "factors is not a flat list of numbers"),
        (([0] * 3, [0] * 3, [1, 1, 2]), {}, "Factor 2 has 1 rows where factor 1 has 2"),
        (([0] * 4, [0, 1, 1, 1], [1, 1, 4, 4]), {}, "Factor 4 has 0 images of class 0 where factor 1 has 1"),
        (([0] * 4, [0, 1, 0, 9], [1, 1, 4, 4]), {}, "Factor 4 has 0 images of class 1 where factor 1 has 1"),
        (([0, 0], [0, 0], [2, 2.0000001]), {}, "factors 2.0 and 2.0000001 would both be called 2"),
        (([0] * 101, [0] * 101, range(1, 102)), {}, "101 different values, more than 100"),
        (([0, 0], [0, 0], [1, 2]), {"image_ids": ["a"]}, "1 image_ids for 2 references"),
        (([0, 0], [0, 0], [1, 2]), {"image_ids": "ab"}, "image_ids is not a list"),
        (([0, 0], [0, 0], [1, 2]), {"image_ids": ["a", 0.5]}, r"image_ids\[1\] is 0.5, which is neither text nor"),
        (([0, 0], [0, 0], [1, 2]), {"image_ids": ["a", "b"]}, r"image_ids\[1\] is 'b', an image of factor 2 that fac"),
        (([0, 0], [0, 0], [1, 2]), {"image_ids": ["a", "b" * 10**6]}, r"\[1\] is 'b{39}\.\.\., an image of factor 2"),
        (
            ([0] * 4, [0] * 4, [1, 1, 2, 2]),
            {"image_ids": [7, 7, 7, 8]},
            r"image_ids\[1\] is 7 for the second time at f",
        ),
        (
            ([0] * 4, [0] * 4, [1, 1, 2, 2]),
            {"image_ids": [7, 8, 8, 8]},
            r"image_ids\[3\] is 8 for the second .* factor 2",
        ),
        (
            ([0] * 4, [0, 1, 0, 1], [1, 1, 2, 2]),
            {"image_ids": ["a", "b", "b", "a"]},
            r"references\[2\] is 0 for image 'b' at factor 2, but 1 at factor 1",
        ),
        (
            ([0] * 4, [0, 1, 1, 0], [1, 1, 2, 2]),
            {"bootstrap": 10},
            r"references\[2\] is 1, image 0 of factor 2, but image 0 of factor 1 is of class 0",
        ),
        (([0], [0], [1]), {"bootstrap": -1}, "bootstrap=-1 is not a number of resamples"),
        (([0], [0], [1]), {"bootstrap": 10, "seed": 0.5}, "seed=0.5 is not a seed"),
    ],
)
def test_wrong_input_is_one_sentence_with_the_row_or_factor(arguments, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        score_resolutions(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 300


def test_other_order_is_no_error_without_bootstrap_or_with_ids():
    rows = [0] * 4, [0, 1, 1, 0], [1, 1, 2, 2]
    assert score_resolutions(*rows)["accuracy"] == {"1": 0.5, "2": 0.5}
    assert score_resolutions(*rows, ["a", "b", "b", "a"], bootstrap=10)["ci95"]["paired_by"] == "image_ids"


def test_factor_keys_are_those_of_the_result_record():
    assert [inputs.factor_key(f) for f in (1.0, 2.0, 1.5, 8)] == ["1", "2", "1.5", "8"]


def test_as_an_evaluate_module(tmp_path):
    from hf_fer.evaluation.resolution_robustness.resolution_robustness import ResolutionRobustness

    metric = ResolutionRobustness(cache_dir=str(tmp_path))
    predictions, references, factors, ids = make_rows(1)
    rows = {"predictions": predictions, "references": references, "factors": factors}
    expected = score_resolutions(predictions, references, factors, ids, bootstrap=20, seed=4)
    assert metric.compute(**rows, image_ids=ids, bootstrap=20, seed=4) == expected
    for bad, message in (
        ({}, "nothing to score"),
        ({**rows, "factors": None}, "0 factors for 160 references"),
        ({**rows, "factors": [0] * 160}, r"factors\[0\] is 0"),
        ({**rows, "bootstrap": 10}, "pass image_ids to pair them"),
        ({**rows, "bootstrap": True}, "bootstrap=True"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.compute(**bad)
    with pytest.raises(ValueError, match=r"predictions\[0\] is 1.7"):
        metric.add_batch(predictions=[1.7], references=[1], factors=[1])
    for start in range(0, 180, 20):  # the last batch is empty
        metric.add_batch(**{key: column[start : start + 20] for key, column in rows.items()})
    assert metric.compute(image_ids=ids, bootstrap=20, seed=4) == expected
    metric.add(prediction=0, reference=0, factors=2)
    assert metric.compute()["accuracy"] == {"2": 1.0}
