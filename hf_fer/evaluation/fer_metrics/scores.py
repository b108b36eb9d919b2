"""The figures of merit of facial expression recognition, as pure functions of numpy arrays.

This file stands alone (numpy, and scikit-learn where a function runs): `evaluate` copies it next to
`fer_metrics.py`, so nothing of the package may be imported here.

Every wrong input is a `ValueError` of one sentence that names the first offending row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

CHALLENGE_ACCURACY_WEIGHT = 0.33  # first ABAW (Affective Behaviour Analysis in-the-Wild) challenge
CHALLENGE_F1_WEIGHT = 0.67
ECE_BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks"
ROW_SUM_TOLERANCE = 1e-3  # wide enough for a float16 softmax, narrow enough to reject logits


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
        - with `probabilities`: `nll` (mean negative log-likelihood of the true class, natural logarithm,
          probabilities clipped at 2.2e-16) and `ece` (see `expected_calibration_error`).

    Raises:
        ValueError: empty input, lengths that differ, ids that are not integers in `0..K-1`, repeated names,
            and probabilities that are not finite, not in `[0, 1]` or do not sum to 1.
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
    averaged[list(answer_only)] = False
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


def bootstrap_ci95(confusion_matrix: np.ndarray, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """95 % percentile bootstrap intervals of the accuracy and of the mean class accuracy.

    Drawing `N` samples with replacement and counting them into a confusion matrix is one multinomial draw
    over the matrix's cells: the same distribution as resampling the samples, with memory that does not depend
    on `N`.

    Args:
        confusion_matrix: `(K, K)` non-negative integers, rows are the truth, sum > 0.
        resamples: number of bootstrap draws.
        seed: seed of numpy's default generator.

    Returns:
        `{"accuracy": [low, high], "mean_class_accuracy": [low, high], "method": ..., "resamples": ...,
        "seed": ...}`. In a draw that misses a rare class, the mean runs over the classes drawn.

    Raises:
        ValueError: a matrix that is not square or has no sample.
    """
    counts = np.asarray(confusion_matrix, dtype=np.int64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.sum() < 1:
        raise ValueError(
            f"A confidence interval needs a square confusion matrix with samples in it, got shape {counts.shape}."
        )
    total = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(total, counts.reshape(-1) / total, size=resamples)
    draws = draws.reshape(resamples, *counts.shape)
    hits = np.diagonal(draws, axis1=1, axis2=2).astype(np.float64)  # (R, K)
    support = draws.sum(axis=2)
    recall = np.divide(hits, support, out=np.zeros_like(hits), where=support > 0)
    accuracy = hits.sum(axis=1) / total
    mean_class = recall.sum(axis=1) / (support > 0).sum(axis=1)
    low_high = (2.5, 97.5)
    return {
        "accuracy": [float(v) for v in np.percentile(accuracy, low_high)],
        "mean_class_accuracy": [float(v) for v in np.percentile(mean_class, low_high)],
        "method": "percentile bootstrap",
        "resamples": resamples,
        "seed": seed,
    }


def check_inputs(
    predictions: Any, references: Any, label_names: Sequence[str] | None = None, probabilities: Any = None
) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray | None]:
    """Validate the inputs of `score_predictions` and return them as arrays.

    Returns:
        `predictions (N,)` int64, `references (N,)` int64, the `K` class names, `probabilities (N, K)` float64
        or `None`.

    Raises:
        ValueError: see `score_predictions`.
    """
    predicted = _as_ids(predictions, "predictions")
    true = _as_ids(references, "references")
    if len(predicted) != len(true):
        row = min(len(predicted), len(true))
        raise ValueError(
            f"There are {len(predicted)} predictions for {len(true)} references (row {row} is the first "
            "without a partner); pass one prediction for each reference."
        )
    if len(true) == 0:
        raise ValueError("There is nothing to score: predictions and references are empty; pass at least one sample.")
    prob = None if probabilities is None else _as_probabilities(probabilities, len(true))
    if label_names is not None:
        names = [str(name) for name in label_names]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"label_names holds {repeated[0]!r} more than once; give each class its own name.")
    else:
        count = prob.shape[1] if prob is not None else int(max(predicted.max(), true.max(), 0)) + 1
        names = [str(k) for k in range(count)]
    if prob is not None and prob.shape[1] != len(names):
        raise ValueError(
            f"probabilities has {prob.shape[1]} columns for {len(names)} label_names; pass one column for each class."
        )
    _check_range(predicted, len(names), "predictions")
    _check_range(true, len(names), "references")
    return predicted, true, names, prob


def _as_ids(values: Any, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(
            f"{what} must be a flat list of class ids, got an array of shape {array.shape}; take the arg max "
            f"of each row "
            "first if these are probabilities."
        )
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        try:
            numbers = array.astype(np.float64)
        except (TypeError, ValueError):
            numbers = np.full(array.shape, np.nan)
        bad = ~np.isfinite(numbers) | (numbers != np.round(numbers))
        if array.dtype.kind in "US":  # "3" would parse, but text is no class id
            bad[:] = True
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"{what}[{row}] is {array[row]!r}, which is not a class id; pass whole numbers from 0 to K-1."
            )
        array = numbers
    return array.astype(np.int64)


def _check_range(ids: np.ndarray, count: int, what: str) -> None:
    bad = (ids < 0) | (ids >= count)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{what}[{row}] is {int(ids[row])}, outside 0..{count - 1}; drop unlabelled rows, or pass "
            f"label_names for all "
            "the classes."
        )


def _as_probabilities(values: Any, samples: int) -> np.ndarray:
    try:
        prob = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            "probabilities is not a table of numbers with rows of one length; pass an (N, K) array of floats."
        ) from None
    if prob.ndim != 2 or prob.shape[1] == 0:
        raise ValueError(f"probabilities has shape {prob.shape}; pass an (N, K) array with one row for each sample.")
    if len(prob) != samples:
        raise ValueError(
            f"probabilities has {len(prob)} rows for {samples} references (row {min(len(prob), samples)} is "
            f"the first without "
            "a partner); pass one row for each sample."
        )
    finite = np.isfinite(prob).all(axis=1)
    if not finite.all():
        row = int((~finite).argmax())
        raise ValueError(f"probabilities[{row}] holds NaN or infinity; pass the softmax of finite logits.")
    inside = ((prob >= -ROW_SUM_TOLERANCE) & (prob <= 1 + ROW_SUM_TOLERANCE)).all(axis=1)
    total = prob.sum(axis=1)
    bad = ~inside | (np.abs(total - 1) > ROW_SUM_TOLERANCE)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"probabilities[{row}] sums to {total[row]:.6g} with values from {prob[row].min():.6g} to "
            f"{prob[row].max():.6g}; "
            "pass a softmax over the classes, not logits."
        )
    return prob


def _sklearn_metrics() -> Any:
    try:
        from sklearn import metrics
    except ImportError as error:
        raise ImportError("Scoring needs scikit-learn; install it with `pip install scikit-learn`.") from error
    return metrics
