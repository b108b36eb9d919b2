"""Accuracy over resolution, as pure functions of numpy arrays.

The files of this folder stand alone (numpy): `evaluate` copies those that `resolution_robustness.py` names next to it,
so nothing else of the package may be imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .common import bootstrap_counts, percentile_interval, ratio
from .inputs import check_inputs, factor_key


def score_resolutions(
    predictions: Sequence[int] | np.ndarray,
    references: Sequence[int] | np.ndarray,
    factors: Sequence[float] | np.ndarray,
    image_ids: Sequence[str] | Sequence[int] | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Score the answers to the same images at several resolutions: one row for each image and factor, in any order.

    Args:
        predictions: `(N,)` integers from 0.
        references: `(N,)` integers from 0.
        factors: `(N,)` numbers >= 1; at factor 4, the image's sides were a quarter as long.
        image_ids: `(N,)` texts or integers that say which rows show the same image. With them the images are checked
            by name; the bootstrap pairs by them. Without them the bootstrap pairs the first row of a factor with the
            first of every other, and so on.
        bootstrap: number of resamples for 95 % intervals, 0 (none) to 100,000. Images are resampled, each with its
            answers at all the factors: the answers to one image depend on each other.
        seed: seed of numpy's default generator.

    Returns:
        A JSON-serialisable dict:

        - `n`: images (rows of one factor).
        - `factors`: the different factors, ascending.
        - `accuracy`, `mean_class_accuracy`: `{"1": ..., "2": ...}`, a figure for each factor; the mean class accuracy
          is the mean recall over the classes present in `references`.
        - `average_low_resolution`: mean accuracy over the factors > 1, None without any. With 1, 2, 4, 8 this is the
          "Avg" of the papers (Lee et al., WACV 2024).
        - `area_under_curve`: trapezoid of the accuracy over log2(factor), divided by the range of log2(factor), so in
          0..1; None with one factor.
        - with `bootstrap`: `ci95`, `[low, high]` in the place of each of the four figures, with `paired_by`
          ("image_ids" or "order"), `method`, `resamples` and `seed`. In a draw that misses a rare class, the mean runs
          over the classes drawn.

    Raises:
        ValueError: empty input, lengths that differ, ids that are no integers from 0, factors below 1 or not finite,
            more than 100 factors; a factor that lacks images of another one, by number, by number in each class and by
            `image_ids`; and, for the bootstrap without `image_ids`, true classes that come in another order at
            another factor.
    """
    predicted, true, values, rows = check_inputs(predictions, references, factors, image_ids, bootstrap, seed)
    keys = [factor_key(value) for value in values]
    correct = (predicted == true)[rows]  # (F, M)
    accuracy = correct.mean(axis=1)
    low, area = low_resolution_weights(values), area_weights(values)
    result: dict[str, Any] = {
        "n": rows.shape[1],
        "factors": values.tolist(),
        "accuracy": dict(zip(keys, accuracy.tolist(), strict=True)),
        "mean_class_accuracy": {
            key: _mean_recall(true[own], right) for key, own, right in zip(keys, rows, correct, strict=True)
        },
        "average_low_resolution": None if low is None else float(accuracy @ low),
        "area_under_curve": None if area is None else float(accuracy @ area),
    }
    if bootstrap:
        drawn, drawn_mean = _resample(true[rows[0]], correct, bootstrap, np.random.default_rng(seed))
        result["ci95"] = {
            "accuracy": {key: percentile_interval(column) for key, column in zip(keys, drawn.T, strict=True)},
            "mean_class_accuracy": {
                key: percentile_interval(column) for key, column in zip(keys, drawn_mean.T, strict=True)
            },
            "average_low_resolution": None if low is None else percentile_interval(drawn @ low),
            "area_under_curve": None if area is None else percentile_interval(drawn @ area),
            "paired_by": "order" if image_ids is None else "image_ids",
            "method": "percentile bootstrap over images",
            "resamples": int(bootstrap),
            "seed": int(seed),
        }
    return result


def low_resolution_weights(factors: np.ndarray) -> np.ndarray | None:
    """`(F,)` weights whose dot product with the accuracies is their mean over the factors > 1; None without any."""
    low = factors > 1
    return low / low.sum() if low.any() else None


def area_weights(factors: np.ndarray) -> np.ndarray | None:
    """`(F,)` weights whose dot product with the accuracies is the normalised area under them over log2(factor).

    Trapezoidal rule, divided by the range: each factor weighs half of each interval it borders on. None with one
    factor.

    Args:
        factors: `(F,)` ascending, different, >= 1.
    """
    if len(factors) < 2:
        return None
    steps = np.diff(np.log2(factors))
    return (np.append(steps, 0.0) + np.append(0.0, steps)) / (2 * steps.sum())


def _mean_recall(true: np.ndarray, correct: np.ndarray) -> float:
    _, classes = np.unique(true, return_inverse=True)
    return float((np.bincount(classes, weights=correct) / np.bincount(classes)).mean())


def _resample(
    true: np.ndarray, correct: np.ndarray, resamples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and mean class accuracy of every factor in draws of images, each `(R, F)`.

    Images of one class with the same pattern of right answers are of one kind, and a draw is counts of kinds.

    Args:
        true: `(M,)` class of each image.
        correct: `(F, M)` whether its answer at each factor was right.
    """
    kinds, counts = np.unique(np.vstack([true, correct]).T, axis=0, return_counts=True)  # (C, 1 + F), sorted by class
    starts = np.flatnonzero(np.append(True, np.diff(kinds[:, 0]) != 0))
    accuracy, mean_class = [], []
    for draws in bootstrap_counts(counts, resamples, generator):
        support = np.add.reduceat(draws, starts, axis=1)  # (R, K)
        present = (support > 0).sum(axis=1)
        hits = [np.add.reduceat(draws * right, starts, axis=1) for right in kinds[:, 1:].T]
        accuracy.append(np.stack([own.sum(axis=1) / len(true) for own in hits], axis=1))
        mean_class.append(np.stack([ratio(own, support).sum(axis=1) / present for own in hits], axis=1))
    return np.concatenate(accuracy), np.concatenate(mean_class)
