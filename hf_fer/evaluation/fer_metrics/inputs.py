"""Checks of what `fer_metrics` is given: ids, class names and probabilities.

Every wrong input is a `ValueError` of one sentence that names the first offending row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .common import as_ids, check_length, check_pairs, check_samples, shorten

MAX_UNNAMED_CLASSES = 1000  # one stray id must not ask for a confusion matrix of that size
ROW_SUM_TOLERANCE = 1e-3  # wide enough for a float16 softmax, narrow enough to reject logits
_ROUNDING = 1e-9  # 0.1 + 0.2 + 0.3 + 0.401 misses 1.001 by the last bits, on this side or that


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
    predicted, true = check_pairs(predictions, references)
    check_samples(true)
    prob = None if probabilities is None else _as_probabilities(probabilities, len(true))
    if label_names is not None:
        names = check_names(label_names)
    else:
        names = [str(k) for k in range(_count_classes(predicted, true) if prob is None else prob.shape[1])]
    if prob is not None and prob.shape[1] != len(names):
        raise ValueError(
            f"probabilities has {prob.shape[1]} columns for {len(names)} label_names; pass one column for each class."
        )
    _check_range(predicted, len(names), "predictions")
    _check_range(true, len(names), "references")
    return predicted, true, names, prob


def check_names(label_names: Sequence[str]) -> list[str]:
    """The class names as a list of text.

    Raises:
        ValueError: a single text, or a name that comes twice.
    """
    if isinstance(label_names, str):
        raise ValueError(f"label_names is the text {shorten(label_names)}; pass a list with a name for each class.")
    names = [str(name) for name in label_names]
    if len(set(names)) < len(names):
        repeated = next(name for k, name in enumerate(names) if name in names[:k])
        raise ValueError(f"label_names holds {shorten(repeated)} more than once; give each class its own name.")
    return names


def check_answer_only(ids: Sequence[int], count: int) -> list[int]:
    """The ids of `answer_only` as a list.

    Raises:
        ValueError: not whole numbers in `0..count-1`.
    """
    array = as_ids(ids, "answer_only")
    _check_range(array, count, "answer_only")
    return [int(k) for k in array]


def _count_classes(predicted: np.ndarray, true: np.ndarray) -> int:
    for ids, what in ((predicted, "predictions"), (true, "references")):
        row = int(ids.argmax())
        if ids[row] >= MAX_UNNAMED_CLASSES:
            raise ValueError(
                f"{what}[{row}] is {int(ids[row])}, which would make more than {MAX_UNNAMED_CLASSES} classes; pass "
                "label_names if there are so many."
            )
    return int(max(predicted.max(), true.max())) + 1


def _check_range(ids: np.ndarray, count: int, what: str) -> None:
    bad = (ids < 0) | (ids >= count)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{what}[{row}] is {int(ids[row])}, outside 0..{count - 1}; drop unlabelled rows, or pass label_names for "
            "all the classes."
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
    check_length(len(prob), samples, "rows of probabilities", "one row")
    finite = np.isfinite(prob).all(axis=1)
    if not finite.all():
        row = int((~finite).argmax())
        raise ValueError(f"probabilities[{row}] holds NaN or infinity; pass the softmax of finite logits.")
    inside = ((prob >= -ROW_SUM_TOLERANCE) & (prob <= 1 + ROW_SUM_TOLERANCE)).all(axis=1)
    total = prob.sum(axis=1)
    bad = ~inside | (np.abs(total - 1) > ROW_SUM_TOLERANCE + _ROUNDING)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"probabilities[{row}] sums to {total[row]:.6g} with values from {prob[row].min():.6g} to "
            f"{prob[row].max():.6g}; pass a softmax over the classes, not logits."
        )
    return prob
