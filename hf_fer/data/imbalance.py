"""Making training sets harder on purpose: class imbalance and label noise, the same on every machine for a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FerError
from ..labels import canonical_expression

if TYPE_CHECKING:
    from datasets import Dataset

# Stream of the label noise: epochs of the same rows are drawn from the streams 0, 1, 2, …, and one that noise was drawn
# from too would consist of wrong labels.
_NOISE = 2**40

# Added before rounding down: 18 that came out as 17.999999999999996 is 18.
_ROUNDING = 1e-9


def imbalanced_counts(counts: Sequence[int], factor: float) -> list[int]:
    """Images per class of an exponentially imbalanced subset (MEK's imbalanced sets, our protocol).

    The classes are ordered by count, descending, rank `r = 0…K−1` (equal counts by id). Their targets are
    `n_r = c·factor^(−r/(K−1))` with the largest `c` for which no class needs more images than it has; rounded
    down, at least 1. So largest over smallest is `factor`, up to this rounding.

    Args:
        counts: images per class, in id order, each at least 1.
        factor: imbalance factor, finite and at least 1.

    Returns:
        Images per class, in id order.

    Raises:
        FerError: fewer than two classes, an empty one, or a factor below 1.
    """
    if len(counts) < 2 or min(counts) < 1:
        raise FerError(f"Imbalance needs at least two classes, none of them empty; the counts are {[*counts]}.")
    if not math.isfinite(factor) or factor < 1:
        raise FerError(f"The imbalance factor must be finite and at least 1, not {factor!r}; use for example 100.")
    last = len(counts) - 1
    ranked = sorted(range(len(counts)), key=lambda k: -counts[k])
    largest = min(counts[k] * factor ** (r / last) for r, k in enumerate(ranked))
    wanted = [0] * len(counts)
    for r, k in enumerate(ranked):
        wanted[k] = max(1, math.floor(largest * factor ** (-r / last) + _ROUNDING))
    return wanted


def make_imbalanced(
    dataset: Dataset,
    factor: float | None = None,
    *,
    counts: Mapping[str, int] | Sequence[int] | None = None,
    seed: int = 0,
) -> Dataset:
    """A seeded choice of a data set's images with so many of each class; the rows keep their order.

    For the training split only: a test split that is thinned out is another test.

    Args:
        dataset: with a `ClassLabel` column `label`.
        factor: imbalance factor, see `imbalanced_counts`.
        counts: exact images per class instead, by name or in id order.
        seed: of the choice.

    Raises:
        FerError: both or neither of `factor` and `counts`, unknown classes, more images than there are, or unlabelled
            rows.
    """
    names = dataset.features["label"].names
    labels = _labels(dataset)
    have = np.bincount(labels, minlength=len(names)).tolist()
    if (factor is None) == (counts is None):
        raise FerError("Give either factor= or counts=, not both and not neither.")
    wanted = imbalanced_counts(have, factor) if counts is None else _exact_counts(counts, names)
    for name, want, there in zip(names, wanted, have, strict=True):
        if want > there:
            raise FerError(f"Class {name!r} has {there} images, and counts= asks for {want}; no image is drawn twice.")
    order = stable_permutation(len(labels), seed)
    chosen = [order[labels[order] == k][:want] for k, want in enumerate(wanted)]
    return dataset.select(np.sort(np.concatenate(chosen)))


def inject_label_noise(dataset: Dataset, share: float, *, seed: int = 0) -> Dataset:
    """A data set with a seeded share of its labels moved to another class (GReFEL's Tables 5 and 7).

    Args:
        dataset: with a `ClassLabel` column `label`, every row labelled.
        share: of the rows, in [0, 1]; rounded to whole rows. Each goes to one of the other classes, all equally
            likely.
        seed: of the choice. A larger share with the same seed moves the same rows and more.

    Returns:
        The same rows and images, with `label` changed and the true one kept as `clean_label`.

    Raises:
        FerError: a share outside [0, 1], unlabelled rows, or noise there already.
    """
    if not 0 <= share <= 1:
        raise FerError(f"The share of wrong labels must lie in [0, 1], not {share!r}; use for example 0.1.")
    if "clean_label" in dataset.column_names:
        raise FerError("The data set has label noise already (column clean_label); start from the clean one.")
    feature = dataset.features["label"]
    labels = _labels(dataset)
    moved = stable_permutation(len(labels), seed, _NOISE)[: round(share * len(labels))]
    step = _raw(len(labels), seed, _NOISE + 1) % np.uint64(len(feature.names) - 1)  # one draw a row, whatever the share
    noisy = labels.copy()
    noisy[moved] = (labels[moved] + 1 + step[moved].astype(labels.dtype)) % len(feature.names)
    columns = dataset.column_names
    dataset = dataset.rename_column("label", "clean_label").add_column("label", noisy, feature=feature)
    return dataset.select_columns([*columns, "clean_label"])


def stable_permutation(count: int, seed: int, stream: int = 0) -> np.ndarray:
    """(count,) int64, a permutation that depends on the arguments alone.

    NumPy keeps the bits of its bit generators the same for ever, but not what `shuffle` makes of them.
    """
    return np.argsort(_raw(count, seed, stream), kind="stable")


def _labels(dataset: Dataset) -> np.ndarray:
    """(N,) int64."""
    labels = dataset.with_format(None)["label"][:]
    if any(label is None or label < 0 for label in labels):
        raise FerError("Some rows have no label; drop them first.")
    return np.array(labels, dtype=np.int64)


def _raw(count: int, seed: int, stream: int) -> np.ndarray:
    return np.random.PCG64(np.random.SeedSequence([seed, stream])).random_raw(count).reshape(count)


def _exact_counts(counts: Mapping[str, int] | Sequence[int], names: Sequence[str]) -> list[int]:
    if isinstance(counts, Mapping):
        by_name = {canonical_expression(name): count for name, count in counts.items()}
        if by_name.keys() != {*names} or len(by_name) != len(counts):
            raise FerError(f"counts= must give every class once: {', '.join(names)}; it gives {', '.join(counts)}.")
        counts = [by_name[name] for name in names]
    wanted = [*counts]
    if len(wanted) != len(names) or any(type(n) is not int or n < 0 for n in wanted):
        raise FerError(f"counts= must be {len(names)} whole numbers of at least 0, one a class, not {wanted!r}.")
    return wanted
