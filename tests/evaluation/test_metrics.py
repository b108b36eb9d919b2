"""The metric against a float64 loop oracle, scikit-learn, hand-computed cases, and `evaluate.load`
offline."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hf_fer.evaluation as evaluation
from hf_fer.errors import FerError
from hf_fer.evaluation.fer_metrics.scores import (
    bootstrap_ci95,
    challenge_score,
    expected_calibration_error,
    negative_log_likelihood,
    score_predictions,
)

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]


def oracle(predictions, references, names, probabilities=None):
    """Every figure by counting, one sample at a time."""
    size = len(names)
    matrix = [[0] * size for _ in range(size)]
    for p, r in zip(predictions, references, strict=True):
        matrix[int(r)][int(p)] += 1
    n = len(references)
    per_class, recalls, f1s = {}, [], []
    for k in range(size):
        hit = matrix[k][k]
        support = sum(matrix[k])
        answered = sum(matrix[row][k] for row in range(size))
        precision = hit / answered if answered else 0.0
        recall = hit / support if support else 0.0
        f1 = 2 * precision * recall / (precision + recall) if hit else 0.0
        per_class[names[k]] = {"precision": precision, "recall": recall, "f1": f1, "support": support}
        if support:
            recalls.append(recall)
        if support or answered:
            f1s.append(f1)
    result = {
        "n": n,
        "accuracy": sum(matrix[k][k] for k in range(size)) / n,
        "mean_class_accuracy": sum(recalls) / len(recalls),
        "f1_macro": sum(f1s) / len(f1s),
        "confusion_matrix": matrix,
        "per_class": per_class,
        "classes_absent": [names[k] for k in range(size) if not sum(matrix[k])],
    }
    result["challenge_score"] = 0.33 * result["accuracy"] + 0.67 * result["f1_macro"]
    if probabilities is not None:
        result["nll"] = (
            sum(-math.log(max(row[r], 2.0**-52)) for row, r in zip(probabilities, references, strict=True)) / n
        )
        ece = 0.0
        for b in range(15):
            inside = [
                (max(row), int(np.argmax(row)) == r)
                for row, r in zip(probabilities, references, strict=True)
                if b / 15 < max(row) <= (b + 1) / 15
            ]
            if inside:
                accuracy = sum(ok for _, ok in inside) / len(inside)
                confidence = sum(c for c, _ in inside) / len(inside)
                ece += len(inside) / n * abs(accuracy - confidence)
        result["ece"] = ece
    return result


def assert_same(got, expected):
    assert set(got) == set(expected)
    for key, value in expected.items():
        if key == "per_class":
            assert list(got[key]) == list(value)
            for name in value:
                assert got[key][name] == pytest.approx(value[name], abs=1e-12), name
        elif isinstance(value, float):
            assert got[key] == pytest.approx(value, abs=1e-12), key
        else:
            assert got[key] == value, key


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("present", [range(8), [0, 2, 5], [3]], ids=["all", "some", "one"])
def test_every_figure_equals_the_loop_oracle_and_sklearn(seed, present):
    from sklearn import metrics

    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 200))
    references = rng.choice(list(present), size=n)
    probabilities = rng.dirichlet(np.full(8, 0.4), size=n)
    predictions = probabilities.argmax(axis=1)
    got = score_predictions(predictions, references, NAMES, probabilities)
    assert_same(got, oracle(predictions, references, NAMES, probabilities))
    assert got["accuracy"] == pytest.approx(metrics.accuracy_score(references, predictions), abs=1e-12)
    assert got["f1_macro"] == pytest.approx(
        metrics.f1_score(references, predictions, average="macro", zero_division=0), abs=1e-12
    )
    assert got["nll"] == pytest.approx(metrics.log_loss(references, probabilities, labels=range(8)), abs=1e-12)
    recall = metrics.recall_score(
        references, predictions, labels=np.unique(references), average="macro", zero_division=0
    )
    assert got["mean_class_accuracy"] == pytest.approx(recall, abs=1e-12)
    json.dumps(got, allow_nan=False)


def test_without_names_or_probabilities():
    got = score_predictions([0, 2, 2], [0, 2, 0])
    assert_same(got, oracle([0, 2, 2], [0, 2, 0], ["0", "1", "2"]))
    assert got["classes_absent"] == ["1"]


def test_only_one_class_and_all_right():
    got = score_predictions([1, 1], [1, 1], ["a", "b"])
    assert got["accuracy"] == got["mean_class_accuracy"] == got["f1_macro"] == 1.0
    assert got["challenge_score"] == pytest.approx(1.0)
    assert got["classes_absent"] == ["a"]


def test_answer_only_class_is_an_error_but_not_a_class_of_the_mean():
    got = score_predictions([0, 1, 2], [0, 1, 1], ["a", "b", "extra"], answer_only=[2])
    assert got["accuracy"] == pytest.approx(2 / 3)
    assert got["f1_macro"] == pytest.approx((1 + 2 / 3) / 2)
    assert score_predictions([0, 1, 2], [0, 1, 1])["f1_macro"] == pytest.approx((1 + 2 / 3) / 3)


def test_challenge_score_of_massoli():
    assert round(challenge_score(0.970, 0.964), 3) == 0.966


def test_nll_by_hand():
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
    assert negative_log_likelihood(probabilities, np.array([0, 0, 0])) == pytest.approx(math.log(8) / 3)
    impossible = negative_log_likelihood(probabilities[2:], np.array([1]))
    assert impossible == pytest.approx(52 * math.log(2))  # clipped at 2**-52, not infinite


def test_ece_by_hand():
    # Confidences 0.8, 0.8 (one right: gap 0.3) and 1.0 (right: gap 0) and 0.6 (wrong: gap 0.6).
    probabilities = np.array([[0.8, 0.2], [0.8, 0.2], [0.0, 1.0], [0.6, 0.4]])
    references = np.array([0, 1, 1, 1])
    assert expected_calibration_error(probabilities, references) == pytest.approx(2 / 4 * 0.3 + 1 / 4 * 0.6)
    # On an edge (0.6 = 9/15) the bin is the lower one, (8/15, 9/15]: 0.61 is in another.
    edge = np.array([[0.6, 0.4], [0.61, 0.39]])
    assert expected_calibration_error(edge, np.array([0, 1])) == pytest.approx((0.4 + 0.61) / 2)
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0.0
    # A classifier that says 70 % and is right 7 times in 10 is calibrated.
    seventy = np.tile([0.7, 0.3], (10, 1))
    assert expected_calibration_error(seventy, np.array([0] * 7 + [1] * 3)) == pytest.approx(0.0, abs=1e-12)


def test_bootstrap_is_seeded_and_agrees_with_resampling_the_samples():
    rng = np.random.default_rng(1)
    references = rng.choice(4, size=400, p=[0.5, 0.3, 0.17, 0.03])
    predictions = np.where(rng.random(400) < 0.7, references, rng.integers(0, 4, 400))
    matrix = score_predictions(predictions, references)["confusion_matrix"]
    interval = bootstrap_ci95(matrix)
    assert interval == bootstrap_ci95(matrix)
    assert interval["resamples"] == 1000
    draws = rng.integers(0, 400, size=(4000, 400))
    figures = np.array(
        [
            [(r == p).mean(), np.mean([(p[r == k] == k).mean() for k in np.unique(r)])]
            for r, p in ((references[d], predictions[d]) for d in draws)
        ]
    )
    for column, key in enumerate(("accuracy", "mean_class_accuracy")):
        assert interval[key] == pytest.approx(np.percentile(figures[:, column], [2.5, 97.5]), abs=0.012)
    perfect = bootstrap_ci95(np.diag([5, 3, 0]))
    assert perfect["accuracy"] == perfect["mean_class_accuracy"] == [1.0, 1.0]
    with pytest.raises(ValueError, match="square confusion matrix"):
        bootstrap_ci95(np.zeros((2, 2)))


GOOD = [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "nothing to score"),
        (([0, 1], [0]), "2 predictions for 1 references .row 1 "),
        (([0, 1], [0, 2], ["a", "b"]), r"references\[1\] is 2, outside 0..1"),
        (([0, -1], [0, 1], ["a", "b"]), r"predictions\[1\] is -1"),
        (([0, -1], [0, 1]), r"predictions\[1\] is -1"),
        (([0.0, 1.5], [0, 1]), r"predictions\[1\] is .*1.5.*not a class id"),
        ((["0", "1"], [0, 1]), r"predictions\[0\] is .*not a class id"),
        (([0, None], [0, 1]), r"predictions\[1\].*not a class id"),
        (([[0.1, 0.9]], [1]), "flat list of class ids"),
        (([0, 1], [0, 1], ["a", "a"]), "'a' more than once"),
        (([0, 1], [0, 1], ["a", "b", "c"], GOOD), "2 columns for 3 label_names"),
        (([0, 1], [0, 1], ["a", "b"], GOOD[:1]), "1 rows for 2 references"),
        (([0, 1], [0, 1], ["a", "b"], [[0.5, 0.5], [np.nan, 1.0]]), r"probabilities\[1\] holds NaN"),
        (([0, 1], [0, 1], ["a", "b"], [[0.5, 0.5], [0.5, 0.6]]), r"probabilities\[1\] sums to 1.1"),
        (([0, 1], [0, 1], ["a", "b"], [[-1.0, 2.0], [0.5, 0.5]]), r"probabilities\[0\] .* from -1 to 2"),
        (([0, 1], [0, 1], ["a", "b"], [[1.0], [0.5, 0.5]]), "rows of one length"),
        (([0, 1], [0, 1], ["a", "b"], [1.0, 1.0]), "shape"),
    ],
)
def test_wrong_input_is_one_sentence_with_the_row(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        score_predictions(*arguments)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_float32_and_float16_softmax_are_accepted():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(8), size=50)
    for dtype in (np.float32, np.float16):
        score_predictions(probabilities.argmax(1), rng.integers(0, 8, 50), NAMES, probabilities.astype(dtype))


SCRIPT = """
import json, sys
import evaluate
import hf_fer.evaluation as e

metric = evaluate.load(e.metric_path("fer_metrics"))
names = ["neutral", "happiness", "surprise"]
prob = [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.4, 0.5, 0.1], [0.0, 0.1, 0.9]]
out = {"whole": metric.compute(predictions=[0, 1, 1, 2], references=[0, 1, 0, 2],
                               label_names=names, probabilities=prob)}
errors = []
for bad in (dict(predictions=[], references=[]), dict(predictions=[0, 1], references=[0]),
            dict(predictions=[0, 7], references=[0, 1], label_names=names),
            dict(predictions=[0.5], references=[0]),
            dict(predictions=[0], references=[0], label_names=names, probabilities=[[1.0, 1.0, 1.0]])):
    try:
        metric.compute(**bad)
    except ValueError as error:
        errors.append(str(error))
out["errors"] = errors
for p, r in (([0, 1], [0, 1]), ([1, 2], [0, 2])):
    metric.add_batch(predictions=p, references=r)
out["batches"] = metric.compute(label_names=names, probabilities=prob)
print("RESULT" + json.dumps(out))
"""


def test_evaluate_load_works_offline(tmp_path: Path):
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
        "HF_HUB_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout.split("RESULT")[1])
    prob = [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.4, 0.5, 0.1], [0.0, 0.1, 0.9]]
    expected = oracle([0, 1, 1, 2], [0, 1, 0, 2], ["neutral", "happiness", "surprise"], prob)
    assert_same(out["whole"], expected)
    assert_same(out["batches"], expected)  # and no failed call left rows behind
    assert len(out["errors"]) == 5
    assert "predictions[1] is 7" in out["errors"][2]


def test_metric_folder_is_a_metric_space():
    folder = Path(evaluation.metric_path("fer_metrics"))
    assert (folder / "fer_metrics.py").is_file()
    head = (folder / "README.md").read_text(encoding="utf-8").split("---")[1]
    for line in ("sdk: static", "- evaluate", "- metric", "license: apache-2.0"):
        assert line in head
    with pytest.raises(FerError, match="no metric 'nope' in hf_fer; known: fer_metrics"):
        evaluation.metric_path("nope")


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, hf_fer.evaluation as e; e.score_predictions; e.metric_path('fer_metrics'); "
        "e.plot_curves; "
        "print([m for m in ('evaluate', 'sklearn', 'matplotlib', 'datasets', 'torch', 'transformers') if m "
        "in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_lazy_names_all_resolve():
    for name in evaluation.__all__:
        assert callable(getattr(evaluation, name))
    assert set(evaluation.__all__) <= set(dir(evaluation))
    with pytest.raises(AttributeError, match="nope"):
        _ = evaluation.nope
