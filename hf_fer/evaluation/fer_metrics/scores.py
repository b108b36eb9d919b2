"""The figures of merit of facial expression recognition, as pure functions of numpy arrays.

The files of this folder stand alone (numpy, and scikit-learn where a function runs): `evaluate` copies those that
`fer_metrics.py` names next to it, so nothing else of the package may be imported here.

Every wrong input is a `ValueError` of one sentence that names the first offending row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .common import bootstrap_counts, check_bootstrap, percentile_interval, ratio
from .inputs import ROW_SUM_TOLERANCE as ROW_SUM_TOLERANCE  # for those who check probabilities themselves
from .inputs import check_answer_only, check_inputs

CHALLENGE_ACCURACY_WEIGHT = 0.33  # first ABAW (Affective Behaviour Analysis in-the-Wild) challenge
CHALLENGE_F1_WEIGHT = 0.67
ECE_BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks"


def score_predictions(
    predictions: Sequence[int] | np.ndarray,
    references: Sequence[int] | np.ndarray,
    label_names: Sequence[str] | None = None,
    probabilities: Sequence[Sequence[float]] | np.ndarray | None = None,
    answer_only: Sequence[int] = (),
) -> dict[str, Any]:
    """Score predicted class ids against the true ones.

    Args:
        predictions: `(N,)` integers in `0..K-1`.
        references: `(N,)` integers in `0..K-1`.
        label_names: the `K` class names, in the order of the ids; without them the classes are named by their
            ids and `K` is taken from `probabilities`, else from the largest id seen.
        probabilities: `(N, K)` floats in `[0, 1]`, each row summing to 1.
        answer_only: ids that can be answered but that the references cannot hold (a class the model knows and
            the data set lacks). Predicting one is an error like any other; the class itself does not enter
            `f1_macro`.

    Returns:
        A JSON-serialisable dict:

        - `n`: number of samples.
        - `accuracy`: share of correct answers.
        - `mean_class_accuracy`: mean recall over the classes present in `references`.
        - `f1_macro`: mean F1 over the classes present in `references` or in `predictions`, which is
          scikit-learn's `f1_score(average="macro")`, less the classes in `answer_only`.
        - `classes_absent`: names of the classes without a sample in `references`.
        - `per_class`: name -> `precision`, `recall`, `f1`, `support`; an undefined ratio is 0.
        - `confusion_matrix`: `K` lists of `K` integers, rows are the truth.
        - `challenge_score`: `0.33 * accuracy + 0.67 * f1_macro`.
        - with `probabilities`, and of these alone: `nll` (mean negative log-likelihood of the true class, natural
          logarithm, probabilities clipped at 2.2e-16), `ece` (see `expected_calibration_error`), `brier` (see
          `brier_score`) and `top2_accuracy` (see `top2_accuracy`).

    Raises:
        ValueError: empty input, lengths that differ, ids that are not integers in `0..K-1`, more than 1,000 classes
            without names for them, repeated names, and probabilities that are not finite, not in `[0, 1]` or do not
            sum to 1.
    """
    predicted, true, names, prob = check_inputs(predictions, references, label_names, probabilities)
    metrics = _sklearn_metrics()
    ids = np.arange(len(names))
    matrix = metrics.confusion_matrix(true, predicted, labels=ids)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        true, predicted, labels=ids, average=None, zero_division=0
    )
    present = support > 0
    averaged = present | (matrix.sum(axis=0) > 0)
    averaged[check_answer_only(answer_only, len(names))] = False
    averaged |= present  # a class with true samples always counts
    accuracy = float(metrics.accuracy_score(true, predicted))
    f1_macro = float(f1[averaged].mean())
    result: dict[str, Any] = {
        "n": len(true),
        "accuracy": accuracy,
        "mean_class_accuracy": float(recall[present].mean()),
        "f1_macro": f1_macro,
        "challenge_score": challenge_score(accuracy, f1_macro),
        "classes_absent": [name for name, there in zip(names, present, strict=True) if not there],
        "per_class": {
            name: {
                "precision": float(precision[k]),
                "recall": float(recall[k]),
                "f1": float(f1[k]),
                "support": int(support[k]),
            }
            for k, name in enumerate(names)
        },
        "confusion_matrix": [[int(count) for count in row] for row in matrix],
    }
    if prob is not None:
        result["nll"] = negative_log_likelihood(prob, true)
        result["ece"] = expected_calibration_error(prob, true)
        result["brier"] = brier_score(prob, true)
        result["top2_accuracy"] = top2_accuracy(prob, true)
    return result


def challenge_score(accuracy: float, f1_macro: float) -> float:
    """`0.33 * accuracy + 0.67 * f1_macro`, the expression score of the first ABAW challenge."""
    return CHALLENGE_ACCURACY_WEIGHT * accuracy + CHALLENGE_F1_WEIGHT * f1_macro


def negative_log_likelihood(probabilities: np.ndarray, references: np.ndarray) -> float:
    """Mean of `-log p[true class]` in nats.

    Args:
        probabilities: `(N, K)` floats, rows summing to 1.
        references: `(N,)` integers in `0..K-1`.

    Returns:
        A finite float in `[0, 36.05]`: like scikit-learn's `log_loss`, probabilities are clipped at the
        float64 epsilon (2.2e-16), so that one impossible answer does not make the mean infinite.
    """
    true_probability = np.asarray(probabilities, dtype=np.float64)[np.arange(len(references)), references]
    eps = np.finfo(np.float64).eps
    return float(-np.log(np.clip(true_probability, eps, 1.0)).mean())


def expected_calibration_error(probabilities: np.ndarray, references: np.ndarray, bins: int = ECE_BINS) -> float:
    """Expected calibration error over equal-width bins (Guo et al. 2017, Eq. 3).

    `sum_b (n_b / N) * |accuracy_b - confidence_b|`, where the confidence is the largest probability of a row,
    the answer is its arg max, and bin `b` is `(b / bins, (b + 1) / bins]`.

    Args:
        probabilities: `(N, K)` floats, rows summing to 1.
        references: `(N,)` integers in `0..K-1`.
        bins: number of bins.

    Returns:
        A float in `[0, 1]`; 0 is perfectly calibrated.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    confidence = probabilities.max(axis=1)
    correct = (probabilities.argmax(axis=1) == np.asarray(references)).astype(np.float64)
    edges = np.linspace(0.0, 1.0, bins + 1)
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    # |n_b * accuracy_b - n_b * confidence_b| / N: the bin sizes cancel, and empty bins add 0.
    gap = np.bincount(which, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def brier_score(probabilities: np.ndarray, references: np.ndarray) -> float:
    """Multi-class Brier score: mean over the samples of `sum_k (p_k - onehot_k)^2` (Brier 1950).

    Args:
        probabilities: `(N, K)` floats, rows summing to 1.
        references: `(N,)` integers in `0..K-1`.

    Returns:
        A float in `[0, 2]`; 0 is certain and right. Some libraries halve it for two classes; this is never halved.
    """
    error = np.array(probabilities, dtype=np.float64)  # a copy
    error[np.arange(len(error)), references] -= 1.0
    return float((error * error).sum(axis=1).mean())


def top2_accuracy(probabilities: np.ndarray, references: np.ndarray) -> float:
    """Share of samples whose true class is among the two most probable.

    Of equal probabilities the lower id comes first, as in arg max.

    Args:
        probabilities: `(N, K)` floats.
        references: `(N,)` integers in `0..K-1`.

    Returns:
        A float in `[0, 1]`; 1 for `K <= 2`.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    references = np.asarray(references)
    own = probabilities[np.arange(len(references)), references][:, None]
    lower_id = np.arange(probabilities.shape[1]) < references[:, None]
    ahead = (probabilities > own) | ((probabilities == own) & lower_id)
    return float((ahead.sum(axis=1) < 2).mean())


def bootstrap_ci95(
    confusion_matrix: np.ndarray, resamples: int = 1000, seed: int = 0, answer_only: Sequence[int] = ()
) -> dict[str, Any]:
    """95 % percentile bootstrap intervals of the figures that a confusion matrix determines.

    Drawing `N` samples with replacement and counting them into a confusion matrix is one multinomial draw
    over the matrix's cells: the same distribution as resampling the samples, with memory that does not depend
    on `N`.

    Args:
        confusion_matrix: `(K, K)` non-negative integers, rows are the truth, sum > 0.
        resamples: number of bootstrap draws, 1 to 100,000.
        seed: seed of numpy's default generator.
        answer_only: as for `score_predictions`.

    Returns:
        `{"accuracy": [low, high], "mean_class_accuracy": [low, high], "f1_macro": [low, high],
        "challenge_score": [low, high], "method": ..., "resamples": ..., "seed": ...}`. In a draw that misses a
        rare class, the means run over the classes drawn.

    Raises:
        ValueError: a matrix that is not square, has no sample or holds something else than counts, and a number of
            resamples or a seed that is none.
    """
    counts = np.asarray(confusion_matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.sum() >= 1:
        raise ValueError(
            f"A confidence interval needs a square confusion matrix with samples in it, got shape {counts.shape}."
        )
    if (counts < 0).any() or (counts != np.round(counts)).any():
        raise ValueError("A confidence interval needs a confusion matrix of counts, got negative or broken numbers.")
    check_bootstrap(resamples, seed)
    if resamples == 0:
        raise ValueError("A confidence interval needs at least one resample; use for example resamples=1000.")
    counts = counts.astype(np.int64)
    total, size = int(counts.sum()), len(counts)
    answer_ids = check_answer_only(answer_only, size)
    figures: dict[str, list[np.ndarray]] = {"accuracy": [], "mean_class_accuracy": [], "f1_macro": []}
    for flat in bootstrap_counts(counts.reshape(-1), resamples, np.random.default_rng(seed)):
        draws = flat.reshape(-1, size, size)
        hits = np.diagonal(draws, axis1=1, axis2=2).astype(np.float64)  # (R, K)
        support, answered = draws.sum(axis=2), draws.sum(axis=1)
        present = support > 0
        averaged = answered > 0
        averaged[:, answer_ids] = False
        averaged |= present
        figures["accuracy"].append(hits.sum(axis=1) / total)
        figures["mean_class_accuracy"].append(ratio(hits, support).sum(axis=1) / present.sum(axis=1))
        f1 = ratio(2 * hits, support + answered) * averaged  # 0 all the same where nothing was hit
        figures["f1_macro"].append(f1.sum(axis=1) / averaged.sum(axis=1))
    values = {key: np.concatenate(pieces) for key, pieces in figures.items()}
    values["challenge_score"] = challenge_score(values["accuracy"], values["f1_macro"])
    return {
        **{key: percentile_interval(draws) for key, draws in values.items()},
        "method": "percentile bootstrap",
        "resamples": int(resamples),
        "seed": int(seed),
    }


def _sklearn_metrics() -> Any:
    try:
        from sklearn import metrics
    except ImportError as error:
        raise ImportError("Scoring needs scikit-learn; install it with `pip install scikit-learn`.") from error
    return metrics
