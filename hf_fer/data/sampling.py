"""Drawing balanced epochs. Every order depends on seed and epoch alone; processes share it out without overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from ..errors import FerError
from .imbalance import stable_permutation


def group_balanced_rows(
    labels: Sequence[int],
    groups: Sequence[object],
    per_group: int = 512,
    per_class: int = 500,
    seed: int = 0,
    epoch: int = 0,
) -> np.ndarray:
    """One epoch of GReFEL's data refinement (Section 4.1): up to 512 images a group, then 500 a class from those.

    Args:
        labels: (N,) class ids, at least 0.
        groups: (N,) video, subject or character of each image.
        per_group: largest number of images drawn from a group.
        per_class: images of each class that has any. A class with fewer gives each of its images as often as the
            others, to one more or less; no other image comes twice.
        seed, epoch: of the draw.

    Returns:
        (classes present × per_class,) int64 row ids in random order.

    Raises:
        FerError: lengths that differ, no rows, unlabelled rows, or numbers below 1.
    """
    labels = np.asarray(labels)
    _, group_ids = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if labels.ndim != 1 or len(labels) != len(group_ids) or len(labels) == 0:
        raise FerError(f"Every image needs a label and a group; there are {len(labels)} and {len(group_ids)}.")
    if labels.min() < 0:
        raise FerError("Some rows have no label; drop them before sampling.")
    if per_group < 1 or per_class < 1:
        raise FerError(f"per_group and per_class must be at least 1, not {per_group} and {per_class}.")
    pool = _first_of_each(stable_permutation(len(labels), seed, 3 * epoch), group_ids, per_group)
    drawn = []
    for label in np.unique(labels):
        rows = pool[labels[pool] == label]
        if len(rows) == 0:  # all its images lost their place in groups of others
            rows = np.flatnonzero(labels == label)
            rows = rows[stable_permutation(len(rows), seed, 3 * epoch + 1)]
        drawn.append(np.resize(rows, per_class))  # repeats them, in turn, where there are too few
    rows = np.concatenate(drawn)
    return rows[stable_permutation(len(rows), seed, 3 * epoch + 2)]


def class_balanced_rows(
    labels: Sequence[int], per_class: int | None = None, seed: int = 0, epoch: int = 0
) -> np.ndarray:
    """One epoch with equally many images of every class; as `group_balanced_rows` with one group.

    Args:
        labels: (N,) class ids, at least 0.
        per_class: images of each class; None: the mean over the classes, so that an epoch keeps its length.
        seed, epoch: of the draw.
    """
    if per_class is None:
        per_class = max(1, round(len(labels) / max(1, len(np.unique(labels)))))
    return group_balanced_rows(labels, np.zeros(len(labels), int), len(labels) or 1, per_class, seed, epoch)


class GroupBalancedSampler(Sampler[int]):
    """`group_balanced_rows` as a sampler of a `DataLoader`, for one of several processes.

    Every process gets its own part, all of one length (rows that do not share out evenly are left to the next
    epoch). Call `set_epoch` before each epoch, or all are alike.

    Args:
        labels, groups, per_group, per_class, seed: see `group_balanced_rows`; `groups=None` balances classes alone.
        rank, world_size: which process of how many.

    Raises:
        FerError: see `group_balanced_rows`; or a rank that is none.
    """

    def __init__(
        self,
        labels: Sequence[int],
        groups: Sequence[object] | None = None,
        per_group: int = 512,
        per_class: int = 500,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise FerError(f"rank must lie in 0..{world_size - 1}, not {rank}.")
        self.labels = np.asarray(labels)
        self.groups = np.zeros(len(self.labels), int) if groups is None else np.asarray(groups, dtype=str)
        self.per_group = per_group if groups is not None else max(1, len(self.labels))
        self.per_class, self.seed, self.rank, self.world_size, self.epoch = per_class, seed, rank, world_size, 0
        self._length = len(self._rows()) // world_size

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration draws."""
        self.epoch = epoch

    def _rows(self) -> np.ndarray:
        return group_balanced_rows(self.labels, self.groups, self.per_group, self.per_class, self.seed, self.epoch)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        yield from self._rows()[self.rank :: self.world_size][: self._length].tolist()


def _first_of_each(order: np.ndarray, group_ids: np.ndarray, limit: int) -> np.ndarray:
    """The rows of `order` that are among the first `limit` of their group there."""
    groups = group_ids[order]
    by_group = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[by_group], np.arange(groups.max() + 1))
    place = np.empty(len(order), int)
    place[by_group] = np.arange(len(order)) - starts[groups[by_group]]
    return order[place < limit]
