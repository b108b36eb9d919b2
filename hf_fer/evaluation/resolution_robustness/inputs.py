"""Checks of what `resolution_robustness` is given, and which rows show the same image.

Every wrong input is a `ValueError` of one sentence that names the first offending row or factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .common import check_bootstrap, check_length, check_pairs, check_samples, shorten

MAX_FACTORS = 100


def check_inputs(
    predictions: Any, references: Any, factors: Any, image_ids: Any = None, bootstrap: int = 0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Validate the inputs of `score_resolutions` and return them as arrays.

    Returns:
        `predictions (N,)` int64, `references (N,)` int64, and what `split_by_factor` returns.

    Raises:
        ValueError: see `score_resolutions`.
    """
    check_bootstrap(bootstrap, seed)
    predicted, true, factor = check_rows(predictions, references, factors)
    values, rows = split_by_factor(true, factor, image_ids)
    if bootstrap and image_ids is None:
        _check_same_order(true, rows, values)
    return predicted, true, values, rows


def check_rows(predictions: Any, references: Any, factors: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The columns as `(N,)` arrays: int64 ids, int64 ids, float64 factors; `N` may be 0.

    Raises:
        ValueError: ids that are no whole numbers from 0, factors that are no finite numbers >= 1, lengths that differ.
    """
    predicted, true = check_pairs(predictions, references)
    factor = _as_factors(factors)
    check_length(len(factor), len(true), "factors", "one factor")
    return predicted, true, factor


def factor_key(factor: float) -> str:
    """A factor as the key of the results: `"1"`, `"2"`, `"1.5"`."""
    return f"{factor:g}"


def split_by_factor(true: np.ndarray, factor: np.ndarray, image_ids: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows of each factor, and makes sure that every factor has the same images.

    Args:
        true: `(N,)` class ids.
        factor: `(N,)` float64.
        image_ids: `N` texts or whole numbers, or None.

    Returns:
        The `F` different factors in ascending order, and `(F, M)` row numbers. With `image_ids`, a column holds the
        rows of one image; without, each factor's rows stay in the order they were given.

    Raises:
        ValueError: nothing to score; too many or indistinguishable factors; a factor whose rows, true classes or
            images are not those of the smallest factor.
    """
    check_samples(true)
    values, counts = np.unique(factor, return_counts=True)
    keys = [factor_key(value) for value in values]
    if len(values) > MAX_FACTORS:
        raise ValueError(
            f"factors holds {len(values)} different values, more than {MAX_FACTORS}; pass one of a few factors for "
            "each row, such as 1, 2, 4, 8."
        )
    for before, after, key in zip(values, values[1:], keys[1:], strict=False):
        if factor_key(before) == key:
            raise ValueError(f"The factors {before!s} and {after!s} would both be called {key}; round them.")
    for key, count in zip(keys, counts, strict=True):
        if count != counts[0]:
            raise ValueError(
                f"Factor {key} has {count} rows where factor {keys[0]} has {counts[0]}; score the same images at every "
                "factor."
            )
    rows = np.stack([np.flatnonzero(factor == value) for value in values])
    if image_ids is not None:
        return values, _pair(rows, keys, true, image_ids)
    for key, own in zip(keys, rows, strict=True):
        _check_same_classes(true[own], true[rows[0]], key, keys[0])
    return values, rows


def _as_factors(values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
        numbers = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("factors is not a flat list of numbers; pass a resolution factor for each row.") from None
    if array.ndim != 1 or array.dtype.kind in "USb":  # "2" would parse, but text is no factor
        raise ValueError(
            f"factors is not a flat list of numbers (shape {array.shape}, {array.dtype}); pass a resolution factor for "
            "each row."
        )
    bad = ~(np.isfinite(numbers) & (numbers >= 1))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"factors[{row}] is {shorten(array[row])}, which is not a resolution factor; pass numbers from 1, such as "
            "4 for a quarter of the side."
        )
    return numbers


def _check_same_classes(own: np.ndarray, first: np.ndarray, key: str, first_key: str) -> None:
    classes = np.union1d(own, first)
    counts = [np.bincount(np.searchsorted(classes, ids), minlength=len(classes)) for ids in (own, first)]
    differs = counts[0] != counts[1]
    if differs.any():
        at = int(differs.argmax())
        raise ValueError(
            f"Factor {key} has {counts[0][at]} images of class {classes[at]} where factor {first_key} has "
            f"{counts[1][at]}; score the same images at every factor."
        )


def _check_same_order(true: np.ndarray, rows: np.ndarray, values: np.ndarray) -> None:
    """Raises `ValueError` unless the true classes of every factor's rows come in the same order."""
    for value, own in zip(values, rows, strict=True):
        differs = true[own] != true[rows[0]]
        if differs.any():
            at = int(differs.argmax())
            raise ValueError(
                f"references[{own[at]}] is {true[own[at]]}, image {at} of factor {factor_key(value)}, but image {at} "
                f"of factor {factor_key(values[0])} is of class {true[rows[0, at]]}: the images are not in the same "
                "order, so pass image_ids to pair them for the bootstrap."
            )


def _pair(rows: np.ndarray, keys: Sequence[str], true: np.ndarray, image_ids: Any) -> np.ndarray:
    ids = _as_image_ids(image_ids, len(true))
    columns: dict[Any, int] = {}
    paired = np.full(rows.shape, -1, dtype=np.int64)
    for f, key in enumerate(keys):
        for row in rows[f].tolist():
            name = ids[row]
            column = columns.setdefault(name, len(columns)) if f == 0 else columns.get(name, -1)
            if column < 0:
                raise ValueError(
                    f"image_ids[{row}] is {shorten(name)}, an image of factor {key} that factor {keys[0]} lacks; score "
                    "the same images at every factor."
                )
            if paired[f, column] >= 0:
                raise ValueError(
                    f"image_ids[{row}] is {shorten(name)} for the second time at factor {key}; give each image one row "
                    "for each factor."
                )
            paired[f, column] = row
            if true[row] != true[paired[0, column]]:
                raise ValueError(
                    f"references[{row}] is {true[row]} for image {shorten(name)} at factor {key}, but "
                    f"{true[paired[0, column]]} at factor {keys[0]}; give an image one class."
                )
    return paired


def _as_image_ids(values: Any, references: int) -> list[Any]:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise ValueError("image_ids is not a list; pass the name or number of the image for each row.")
    ids = values.tolist() if isinstance(values, np.ndarray) else list(values)
    check_length(len(ids), references, "image_ids", "one image id")
    for row, name in enumerate(ids):
        if isinstance(name, bool) or not isinstance(name, (str, int, np.integer)):
            raise ValueError(
                f"image_ids[{row}] is {shorten(name)}, which is neither text nor a whole number; pass a name for each "
                "image."
            )
    return ids
