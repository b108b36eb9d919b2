"""Setting a part of the training split aside, for data that ship without a validation or a test split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import FerError
from .imbalance import stable_permutation

if TYPE_CHECKING:
    from datasets import Dataset


def hold_out(dataset: Dataset, share: float, *, by: str = "image", seed: int = 0) -> tuple[Dataset, Dataset]:
    """Divides a data set into a larger part to train on and a smaller one to select or report on.

    Args:
        dataset: with a column `label`; for whole groups a column `group` too.
        share: of the images to set aside, in (0, 1).
        by: "image" takes the share of every class, one image at least. "group" takes whole groups (videos, subjects,
            characters) in random order until the share is reached, so that nobody is on both sides.
        seed: of the choice; nothing else decides it.

    Returns:
        The rest and the part set aside, both in the order of `dataset`; neither is empty.

    Raises:
        FerError: a share outside (0, 1), no groups where they are asked for, or too little to divide.
    """
    if not 0 < share < 1:
        raise FerError(f"The share to hold out must lie between 0 and 1, not {share!r}; use for example 0.1.")
    if by not in ("image", "group"):
        raise FerError(f"Hold out by 'image' or by 'group', not by {by!r}.")
    held = _whole_groups(dataset, share, seed) if by == "group" else _of_every_class(dataset, share, seed)
    if not 0 < held.sum() < len(held):
        raise FerError(f"{len(held)} images are too few to hold out a share of {share:g}; take another share.")
    return dataset.select(np.flatnonzero(~held)), dataset.select(np.flatnonzero(held))


def _of_every_class(dataset: Dataset, share: float, seed: int) -> np.ndarray:
    labels = np.asarray(dataset.with_format(None)["label"][:])
    order = stable_permutation(len(labels), seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        held[rows[: max(1, round(share * len(rows)))]] = len(rows) > 1
    return held


def _whole_groups(dataset: Dataset, share: float, seed: int) -> np.ndarray:
    if "group" not in dataset.column_names:
        raise FerError(
            "The data set does not say which group (video, subject, character) an image is of; hold out by 'image'."
        )
    names, groups = np.unique(np.asarray(dataset.with_format(None)["group"][:], dtype=str), return_inverse=True)
    if len(names) < 2:
        raise FerError("All images are of one group, which cannot be on both sides; hold out by 'image'.")
    order = stable_permutation(len(names), seed)[:-1]  # one group stays in any case
    before = np.cumsum(np.bincount(groups)[order]) - np.bincount(groups)[order]
    return np.isin(groups, order[before < share * len(groups)])
