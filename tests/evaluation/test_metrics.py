"""The metric against a float64 loop oracle, scikit-learn, hand-computed cases, and `evaluate.load`
offline."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hf_fer.evaluation as evaluation
from hf_fer.errors import FerError
from hf_fer.evaluation.fer_metrics import common
from hf_fer.evaluation.fer_metrics.scores import (
    bootstrap_ci95,
    brier_score,
    challenge_score,
    expected_calibration_error,
    negative_log_likelihood,
    score_predictions,
    top2_accuracy,
)

MODULES = ("fer_metrics", "resolution_robustness", "fairness_gap")
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
        result["brier"] = (
            sum(
                sum((p - (k == r)) ** 2 for k, p in enumerate(row))
                for row, r in zip(probabilities, references, strict=True)
            )
            / n
        )
        best_two = [sorted(range(size), key=lambda k, row=row: (-row[k], k))[:2] for row in probabilities]
        result["top2_accuracy"] = sum(r in two for two, r in zip(best_two, references, strict=True)) / n
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
    top2 = metrics.top_k_accuracy_score(references, probabilities, k=2, labels=range(8))
    assert got["top2_accuracy"] == pytest.approx(top2, abs=1e-12)
    one_hot = np.eye(8)[references]
    assert got["brier"] == pytest.approx(8 * metrics.mean_squared_error(one_hot, probabilities), abs=1e-12)
    json.dumps(got, allow_nan=False)


@pytest.mark.parametrize("seed", range(3))
def test_ties_fall_to_the_lower_id(seed):
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(4, np.full(5, 0.2), size=60)  # quarters: most rows have ties
    probabilities, references = counts / 4, rng.integers(0, 5, 60)
    predictions = probabilities.argmax(axis=1)
    got = score_predictions(predictions, references, NAMES[:5], probabilities)
    assert_same(got, oracle(predictions, references, NAMES[:5], probabilities))


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
    with pytest.raises(ValueError, match=r"answer_only\[0\] is 3, outside 0..2"):
        score_predictions([0], [0], ["a", "b", "extra"], answer_only=[3])


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


def test_brier_by_hand():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    # (0.5-1)^2 + 0.3^2 + 0.2^2 = 0.38; certain and right 0; certain and wrong 2.
    assert brier_score(probabilities, np.array([0, 1, 1])) == pytest.approx((0.38 + 0 + 2) / 3)
    assert brier_score(np.full((4, 8), 1 / 8), np.arange(4)) == pytest.approx(7 / 8)
    assert probabilities[0, 0] == 0.5  # the input is left alone


def test_top2_by_hand():
    probabilities = np.array([[0.5, 0.3, 0.2]] * 3)
    assert top2_accuracy(probabilities, np.array([0, 1, 2])) == pytest.approx(2 / 3)
    tied = np.array([[0.4, 0.3, 0.3]] * 2)
    assert top2_accuracy(tied, np.array([1, 2])) == 0.5
    assert top2_accuracy(np.full((3, 3), 1 / 3), np.array([0, 1, 2])) == pytest.approx(2 / 3)
    assert top2_accuracy(np.array([[0.9, 0.1]]), np.array([1])) == top2_accuracy(np.ones((1, 1)), np.array([0])) == 1.0


def challenge_sample():
    rng = np.random.default_rng(1)
    references = rng.choice(4, size=400, p=[0.5, 0.3, 0.17, 0.03])
    return references, np.where(rng.random(400) < 0.7, references, rng.integers(0, 5, 400))


@pytest.mark.parametrize("answer_only", [(), (4,)], ids=["plain", "answer_only"])
def test_bootstrap_is_seeded_and_agrees_with_resampling_the_samples(answer_only):
    references, predictions = challenge_sample()  # nobody is of class 4, and some are called it
    matrix = score_predictions(predictions, references)["confusion_matrix"]
    interval = bootstrap_ci95(matrix, answer_only=answer_only)
    assert interval == bootstrap_ci95(matrix, answer_only=answer_only)
    assert interval["resamples"] == 1000
    rng = np.random.default_rng(2)
    figures = []
    for draw in rng.integers(0, 400, size=(1500, 400)):
        r, p = references[draw], predictions[draw]
        counted = {*r.tolist()} | {*p.tolist()} - set(answer_only)
        f1 = np.mean([2 * ((r == k) & (p == k)).sum() / ((r == k).sum() + (p == k).sum()) for k in counted])
        accuracy = (r == p).mean()
        figures.append([accuracy, np.mean([(p[r == k] == k).mean() for k in {*r}]), f1, challenge_score(accuracy, f1)])
    bounds = np.percentile(figures, [2.5, 97.5], axis=0)
    for column, key in enumerate(("accuracy", "mean_class_accuracy", "f1_macro", "challenge_score")):
        assert interval[key] == pytest.approx(bounds[:, column], abs=0.015), key
    # The two readings differ by more than that: the class that nobody is of has F1 0.
    other = bootstrap_ci95(matrix, answer_only=() if answer_only else (4,))
    assert abs(other["f1_macro"][0] - interval["f1_macro"][0]) > 0.05


def test_bootstrap_figures_equal_scikit_learn_in_every_draw(monkeypatch):
    from sklearn import metrics

    draws = np.random.default_rng(5).multinomial(9, np.full(9, 1 / 9), size=40)
    monkeypatch.setattr(
        "hf_fer.evaluation.fer_metrics.scores.bootstrap_counts", lambda *_: iter([draws[:7], draws[7:]])
    )
    seen = []
    monkeypatch.setattr("hf_fer.evaluation.fer_metrics.scores.percentile_interval", lambda v: seen.append(v) or [0, 1])
    bootstrap_ci95(np.ones((3, 3)))
    for row, draw in enumerate(draws):
        true, predicted = np.repeat([divmod(k, 3) for k in range(9)], draw, axis=0).T
        classes = np.unique(true)
        f1 = metrics.f1_score(true, predicted, average="macro", zero_division=0)
        expected = [
            metrics.accuracy_score(true, predicted),
            metrics.recall_score(true, predicted, labels=classes, average="macro", zero_division=0),
            f1,
            0.33 * metrics.accuracy_score(true, predicted) + 0.67 * f1,
        ]
        assert [values[row] for values in seen] == pytest.approx(expected, abs=1e-12)


def test_bootstrap_of_a_seed_is_what_it_always_was():
    """Published intervals stay reproducible; these are the figures of the first release."""
    matrix = np.array([[50, 3, 2], [4, 20, 1], [0, 3, 2]])
    first = bootstrap_ci95(matrix)
    assert first["accuracy"] == pytest.approx([0.7647058823529411, 0.9176470588235294], abs=1e-12)
    assert first["mean_class_accuracy"] == pytest.approx([0.5417716575370258, 0.8990086206896551], abs=1e-12)
    second = bootstrap_ci95(matrix, resamples=200, seed=7)
    assert second["accuracy"] == pytest.approx([0.7644117647058823, 0.9061764705882354], abs=1e-12)
    assert second["mean_class_accuracy"] == pytest.approx([0.5440943362193362, 0.8721383647798743], abs=1e-12)


def test_bootstrap_in_pieces_draws_the_same(monkeypatch):
    matrix = np.array([[50, 3, 2], [4, 20, 1], [0, 3, 2]])
    whole = bootstrap_ci95(matrix)
    monkeypatch.setattr(common, "CELLS_AT_ONCE", 700)
    pieces = list(common.bootstrap_counts(matrix.reshape(-1), 1000, np.random.default_rng(0)))
    assert max(len(piece) for piece in pieces) == 77
    assert sum(len(piece) for piece in pieces) == 1000
    assert bootstrap_ci95(matrix) == whole


def test_bootstrap_edges_and_errors():
    perfect = bootstrap_ci95(np.diag([5, 3, 0]))
    for key in ("accuracy", "mean_class_accuracy", "f1_macro", "challenge_score"):
        assert perfect[key] == pytest.approx([1.0, 1.0])
    assert bootstrap_ci95(np.array([[0, 4], [0, 0]]))["f1_macro"] == [0.0, 0.0]
    for matrix, options, message in (
        (np.zeros((2, 2)), {}, "square confusion matrix"),
        (np.ones((2, 3)), {}, "square confusion matrix"),
        ([[2, -1], [0, 1]], {}, "of counts"),
        ([[1.5, 0], [0, 1]], {}, "of counts"),
        ([[1]], {"resamples": 0}, "at least one"),
        ([[1]], {"resamples": 10**9}, "bootstrap=1000000000 is not a number of resamples"),
        ([[1]], {"seed": -1}, "seed=-1"),
        ([[1]], {"answer_only": [1]}, r"answer_only\[0\] is 1"),
    ):
        with pytest.raises(ValueError, match=message):
            bootstrap_ci95(matrix, **options)


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
        (([[0, 1], [0]], [1, 1]), "flat list of class ids"),
        (([0, "x" * 10**6], [0, 1]), r"predictions\[1\] is 'x{39}\.\.\., which is not a class id"),
        (([0, 1], [0, 10**400]), r"references\[1\] is 10{38,40}\.\.\., which is not a class id"),
        (([0.0, 1e300], [0, 1]), r"predictions\[1\] is 1e\+300"),
        (([0, 10**9], [0, 1]), r"predictions\[1\] is 1000000000, .* more than 1000 classes"),
        (([0, 1], [0, 1], "ab"), "label_names is the text 'ab'"),
        (([0, 1], [0, 1], ["a", "a"]), "'a' more than once"),
        (([0, 1], [0, 1], ["a", "b", "c"], GOOD), "2 columns for 3 label_names"),
        (([0, 1], [0, 1], ["a", "b"], GOOD[:1]), "1 rows of probabilities for 2 references .row 1 "),
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


def fer_metric(folder):
    from hf_fer.evaluation.fer_metrics.fer_metrics import FerMetrics

    return FerMetrics(cache_dir=str(folder))


def test_intervals_come_on_request_and_after_batches(tmp_path):
    references, predictions = challenge_sample()
    names = NAMES[:5]
    metric = fer_metric(tmp_path)
    plain = metric.compute(predictions=predictions, references=references, label_names=names)
    assert "ci95" not in plain
    for start in range(0, 500, 100):  # the last batch is empty
        metric.add_batch(predictions=predictions[start : start + 100], references=references[start : start + 100])
    metric.add(prediction=0, reference=0)
    got = metric.compute(label_names=names, bootstrap=50, seed=3)
    assert got["n"] == 401
    assert got["ci95"] == bootstrap_ci95(got["confusion_matrix"], 50, 3)
    assert got["ci95"]["accuracy"][0] < got["accuracy"] < got["ci95"]["accuracy"][1]


def test_rejected_input_leaves_nothing_behind_in_the_metric(tmp_path):
    metric = fer_metric(tmp_path)
    good = {"predictions": [0, 1, 1], "references": [0, 1, 0]}
    for bad, message in (
        ({}, "nothing to score"),
        ({"predictions": [], "references": []}, "nothing to score"),
        ({"predictions": [0]}, "1 predictions for 0 references"),
        ({"references": [0]}, "0 predictions for 1 references"),
        ({"predictions": [1.7], "references": [1]}, r"predictions\[0\] is 1.7"),
        ({**good, "label_names": ["a"]}, r"predictions\[1\] is 1, outside 0..0"),
        ({**good, "bootstrap": True}, "bootstrap=True"),
        ({**good, "bootstrap": 0.5}, "bootstrap=0.5"),
        ({**good, "seed": None}, "seed=None"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            metric.compute(**bad)
        assert "\n" not in str(caught.value)
    for add in (
        lambda: metric.add_batch(predictions=[0, 1.7], references=[0, 1]),
        lambda: metric.add(prediction=1.7, reference=1),
        lambda: metric.add_batch(predictions=[0, 1], references=[0, -1]),
        lambda: metric.add_batch(predictions=[0], references=[0, 1]),
    ):
        with pytest.raises(ValueError, match=r"is 1\.7|is -1|for 2 references"):
            add()
    metric.add_batch(predictions=[0], references=[0])
    with pytest.raises(ValueError, match="'a' more than once"):  # a wrong option costs no batch
        metric.compute(label_names=["a", "a"])
    assert metric.compute(label_names=["a", "b"])["n"] == 1
    assert metric.compute(**good)["n"] == 3


SCRIPT = """
import doctest, json, re, sys
from pathlib import Path
sys.modules["transformers"] = None  # evaluate imports it, and torch, if there: slow, and not needed
import evaluate
del sys.modules["transformers"]
import hf_fer.evaluation as e

load = evaluate.load
out = {}
for name in sys.argv[1:]:
    path = e.metric_path(name)
    evaluate.load = lambda source, path=path: load(path)  # the cards write "path/to/NAME"
    card = (Path(path) / "README.md").read_text(encoding="utf-8")
    variables = {}
    exec(re.search(r"```python\\n(.*?)```", card, re.DOTALL).group(1), variables)
    text = variables["metric"].inputs_description
    test = doctest.DocTestParser().get_doctest(text, {"evaluate": evaluate}, name, None, None)
    failed, tried = doctest.DocTestRunner().run(test)
    where = Path(sys.modules[type(variables["metric"]).__module__].__file__)
    out[name] = {"result": variables["result"], "failed": failed, "tried": tried, "file": str(where)}
foreign = [m for m in sys.modules if m.startswith("hf_fer") and m.split(".")[-1] in ("common", "inputs", "scores")]
foreign += [m for m in ("torch", "transformers") if m in sys.modules]
print("RESULT" + json.dumps({"modules": out, "foreign": foreign}))
"""


def test_evaluate_load_works_offline_and_the_cards_tell_the_truth(tmp_path: Path):
    """In a cache without anything in it, from copies that import nothing of hf_fer."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
        "HF_HUB_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *MODULES],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout.split("RESULT")[1])
    assert out["foreign"] == []
    for name in MODULES:
        one = out["modules"][name]
        assert one["failed"] == 0 and one["tried"] >= 3, done.stdout
        assert Path(one["file"]).is_relative_to(tmp_path)
    prob = [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.4, 0.5, 0.1], [0.0, 0.1, 0.9]]
    got = out["modules"]["fer_metrics"]["result"]
    interval = got.pop("ci95")
    assert_same(got, oracle([0, 1, 1, 2], [0, 1, 0, 2], ["neutral", "happiness", "surprise"], prob))
    assert interval == bootstrap_ci95(got["confusion_matrix"])
    resolution = out["modules"]["resolution_robustness"]["result"]
    assert resolution["accuracy"] == {"1": 1.0, "4": pytest.approx(2 / 3)}
    fairness = out["modules"]["fairness_gap"]["result"]
    assert fairness["left_out"] == ["unknown"] and fairness["accuracy_gap"] == 0.5


@pytest.mark.parametrize("name", MODULES)
def test_metric_folder_is_a_metric_space(name):
    folder = Path(evaluation.metric_path(name))
    head = (folder / "README.md").read_text(encoding="utf-8").split("---")[1]
    for line in ("sdk: static", "app_file: index.html", "- evaluate", "- metric", "license: apache-2.0"):
        assert line in head
    # The Hub refuses a longer one.
    assert len(re.search(r"short_description: (.*)", head).group(1)) <= 60
    assert f'evaluate.load("OWNER/{name}")' in (folder / "index.html").read_text(encoding="utf-8")
    main = (folder / f"{name}.py").read_text(encoding="utf-8")
    named = set(re.findall(r"^from \.(\w+) import \w+$", main, re.MULTILINE))
    assert named == {file.stem for file in folder.glob("*.py")} - {"__init__", name}  # evaluate copies these alone
    for file in folder.glob("*.py"):
        assert "hf_fer" not in re.sub(r"_path\(.*", "", file.read_text(encoding="utf-8")), file.name
    assert (folder / "common.py").read_bytes() == Path(common.__file__).read_bytes()


def test_unknown_metric_names_those_there_are():
    with pytest.raises(FerError, match="no metric 'nope' in hf_fer; known: fairness_gap, fer_metrics, resolution_rob"):
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
        assert callable(getattr(evaluation, name)) or name.isupper()
    assert set(evaluation.__all__) <= set(dir(evaluation))
    with pytest.raises(AttributeError, match="nope"):
        _ = evaluation.nope
