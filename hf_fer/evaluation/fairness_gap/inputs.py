"""Checks of what `fairness_gap` is given.

Every wrong input is a `ValueError` of one sentence that names the first offending row or group.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np

from .common import check_bootstrap, check_length, check_pairs, check_samples, shorten

MAX_GROUPS = 1000  # more are ids of something, not an attribute


def check_inputs(
    predictions: Any, references: Any, groups: Any, min_support: Any = 1, bootstrap: Any = 0, seed: Any = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str], list[bool]]:
    """Validate the inputs of `score_groups` and return them as arrays.

    Returns:
        `predictions (N,)` int64, `references (N,)` int64, `codes (N,)` int64 into the `G` names of the groups, those
        names in sorted order, and for each whether it is large enough for the gap.

    Raises:
        ValueError: see `score_groups`.
    """
    check_min_support(min_support)
    check_bootstrap(bootstrap, seed)
    predicted, true, texts = check_rows(predictions, references, groups)
    check_samples(true)
    names = sorted(set(texts))
    if len(names) > MAX_GROUPS:
        raise ValueError(
            f"groups holds {len(names)} different texts, more than {MAX_GROUPS}; pass one attribute of the images, "
            "such as age bands."
        )
    index = {name: code for code, name in enumerate(names)}
    codes = np.array([index[text] for text in texts], dtype=np.int64)
    counts = np.bincount(codes, minlength=len(names))
    compared = [bool(count >= min_support) for count in counts]
    if sum(compared) < 2:
        largest = int(counts.argmax())
        raise ValueError(
            f"A gap needs two groups with at least min_support={min_support} images, but there are {sum(compared)} of "
            f"{len(names)} (the largest is {shorten(names[largest])} with {counts[largest]}); score more images, or "
            "lower min_support."
        )
    return predicted, true, codes, names, compared


def check_rows(predictions: Any, references: Any, groups: Any) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The columns: `(N,)` int64 ids, `(N,)` int64 ids, `N` texts; `N` may be 0.

    Raises:
        ValueError: ids that are no whole numbers from 0, groups that are no texts, lengths that differ.
    """
    predicted, true = check_pairs(predictions, references)
    texts = _as_texts(groups)
    check_length(len(texts), len(true), "groups", "one group")
    return predicted, true, texts


def check_min_support(min_support: Any) -> None:
    """Raises `ValueError` unless this is a number of images from 1."""
    if isinstance(min_support, bool) or not isinstance(min_support, Integral) or min_support < 1:
        raise ValueError(f"min_support={shorten(min_support)} is not a number of images from 1; use for example 30.")


def _as_texts(values: Any) -> list[str]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ValueError("groups is not a list; pass the name of the group for each row.")
    texts: list[str] = []
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(
                f"groups[{row}] is {shorten(value)}, which is not text; pass names such as 'female', and one of their "
                "own for images without the attribute."
            )
        if not value.strip():
            raise ValueError(f"groups[{row}] is empty; drop the row, or give images without the attribute a name.")
        texts.append(str(value))
    for value in dict.fromkeys(texts):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"groups[{texts.index(value)}] is {shorten(value)}, which is not valid Unicode; read the file with the "
                "right encoding."
            ) from None
    return texts
