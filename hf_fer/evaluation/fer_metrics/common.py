"""What the metric modules share: checks of ids and options, and the bootstrap.

Every metric's folder stands alone as a Space, so each holds a copy of this file; a test keeps the copies the same.
Every wrong input is a `ValueError` of one sentence that names the first offending row.
"""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np

MAX_RESAMPLES = 100_000
CELLS_AT_ONCE = 4_000_000  # counts that the bootstrap holds in memory at a time: 32 MB


def as_ids(values: Any, what: str) -> np.ndarray:
    """Class ids as a flat int64 array; nothing is rounded, parsed or truncated.

    Raises:
        ValueError: not a flat list, or an element that is not a whole number; the message names its row.
    """
    try:
        array = np.asarray(values)
    except ValueError:  # rows of several lengths
        raise ValueError(f"{what} is not a flat list of class ids; pass one whole number for each image.") from None
    if array.ndim != 1:
        raise ValueError(
            f"{what} must be a flat list of class ids, got an array of shape {array.shape}; take the arg max of each "
            "row first if these are probabilities."
        )
    if array.dtype.kind in "US":
        array = np.asarray(values, dtype=object)  # numpy makes text of the numbers beside a text
    if array.size and array.dtype.kind not in "iu":
        numbers = array.astype(np.float64) if array.dtype.kind in "fb" else np.array([_as_number(v) for v in array])
        # Beyond 2**53 a float64 no longer tells neighbouring ids apart.
        bad = ~np.isfinite(numbers) | (numbers != np.round(numbers)) | (np.abs(numbers) > 2**53)
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"{what}[{row}] is {shorten(array[row])}, which is not a class id; pass whole numbers from 0 to K-1."
            )
        array = numbers
    return array.astype(np.int64)


def check_pairs(predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
    """`predictions` and `references` as two `(N,)` int64 arrays of ids from 0; `N` may be 0.

    Raises:
        ValueError: see `as_ids`; lengths that differ; a negative id.
    """
    predicted = as_ids(predictions, "predictions")
    true = as_ids(references, "references")
    check_length(len(predicted), len(true), "predictions", "one prediction")
    for ids, what in ((predicted, "predictions"), (true, "references")):
        if (ids < 0).any():
            row = int((ids < 0).argmax())
            raise ValueError(f"{what}[{row}] is {int(ids[row])}, below 0; drop rows without a label.")
    return predicted, true


def check_length(length: int, references: int, what: str, each: str) -> None:
    """Raises `ValueError` unless there are as many `what` as references; `each` is what to pass for a reference."""
    if length != references:
        raise ValueError(
            f"There are {length} {what} for {references} references (row {min(length, references)} is the first "
            f"without a partner); pass {each} for each reference."
        )


def check_samples(references: np.ndarray) -> None:
    """Raises `ValueError` where there is nothing to score."""
    if len(references) == 0:
        raise ValueError("There is nothing to score: predictions and references are empty; pass at least one sample.")


def check_bootstrap(bootstrap: Any, seed: Any) -> None:
    """Raises `ValueError` unless these are a number of resamples (0 for no intervals) and a seed."""
    if isinstance(bootstrap, bool) or not isinstance(bootstrap, Integral) or not 0 <= bootstrap <= MAX_RESAMPLES:
        raise ValueError(
            f"bootstrap={shorten(bootstrap)} is not a number of resamples from 0 (no intervals) to {MAX_RESAMPLES}; "
            "use for example 1000."
        )
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise ValueError(f"seed={shorten(seed)} is not a seed; use a whole number from 0.")


def bootstrap_counts(counts: np.ndarray, resamples: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Bootstrap draws of a table of counts, a few at a time so that memory stays bounded.

    Drawing `N` samples with replacement and counting them by kind is one multinomial draw over the kinds: the same
    distribution as resampling the samples, at a cost that does not depend on `N`.

    Args:
        counts: `(C,)` samples of each kind, sum `N` > 0.
        resamples: number of draws.
        generator: draws the same numbers however they are divided into pieces.

    Yields:
        `(R', C)` int64 counts, each row summing to `N`; `resamples` rows in all.
    """
    total = int(counts.sum())
    rows = max(1, CELLS_AT_ONCE // counts.size)
    for start in range(0, resamples, rows):
        yield generator.multinomial(total, counts / total, size=min(rows, resamples - start))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element by element, float64; 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(denominator.shape), where=denominator > 0)


def percentile_interval(values: np.ndarray) -> list[float]:
    """`[low, high]` of the middle 95 % of `values (R,)`."""
    return [float(bound) for bound in np.percentile(values, (2.5, 97.5))]


def shorten(value: Any, limit: int = 40) -> str:
    """`repr` for messages: control characters escaped, cut after `limit` characters."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (str, bytes)):
        value = value[: limit + 1]  # before repr, which would copy all of it
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _as_number(value: Any) -> float:
    if isinstance(value, (str, bytes)):  # "3" would parse, but text is no class id
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
