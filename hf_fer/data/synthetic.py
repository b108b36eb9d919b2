"""`synthetic`: a dataset of drawn faces. No download and no permission: for tests, tutorials, first runs, the demo.

Image `i` of a split depends on `(seed, split, i)` and the number of classes alone, so a larger split begins
with the images of a smaller one, and `degrade=False` gives the same pictures before they lost resolution.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FerError
from ..labels import EXPRESSIONS
from .drawn_faces import check_integer, draw_face, draw_identity

if TYPE_CHECKING:
    from datasets import DatasetDict

SPLIT_IDS = {"train": 0, "validation": 1, "test": 2}
GROUPS_PER_SPLIT = 10_000_000  # room between the group numbers of two splits
# A stand-in for photos of many sizes: share of the full side that is left, and how often.
RESOLUTION_SHARES = (1.0, 0.75, 0.5, 0.375, 0.25)
RESOLUTION_ODDS = (0.4, 0.2, 0.2, 0.12, 0.08)
VOTERS = 10
# What a face is taken for when it is not recognised, by FERPlus' voters and confusion matrices alike.
MISTAKEN_FOR: dict[str, tuple[str, ...]] = {
    "neutral": ("sadness", "contempt", "happiness"),
    "happiness": ("neutral", "surprise"),
    "surprise": ("fear", "happiness"),
    "sadness": ("neutral", "fear"),
    "anger": ("disgust", "neutral", "sadness"),
    "disgust": ("anger", "sadness"),
    "fear": ("surprise", "sadness"),
    "contempt": ("neutral", "happiness", "disgust"),
}


def _draw_votes(expression: str, intensity: float, names: list[str], rng: np.random.Generator) -> list[int]:
    """Ten votes in FERPlus' columns (the eight expressions, unknown, NF): int (10,), sum 10.

    The fainter the expression, the more voters miss it; at least six see it, so that FERPlus' majority rule
    (drop single votes, then more than half of the rest) returns `expression`.
    """
    votes = [0] * (len(EXPRESSIONS) + 2)
    missed = min(int(rng.binomial(VOTERS, 0.08 + 0.5 * (1 - intensity))), 4)
    votes[EXPRESSIONS.index(expression)] = VOTERS - missed
    others = [name for name in MISTAKEN_FOR[expression] if name in names]
    for _ in range(missed):
        unknown = rng.uniform() < 0.1
        pick = others[int(len(others) * rng.uniform() ** 1.5)]  # the first is the most likely
        votes[len(EXPRESSIONS) if unknown else EXPRESSIONS.index(pick)] += 1
    return votes


def _class_sizes(total: int, classes: int, imbalance_factor: float) -> list[int]:
    """Images of each class: balanced, or c * factor^(-r/(K-1)) for rank r, rounded down, at least 1 where c is."""
    balanced = [(total - k + classes - 1) // classes for k in range(classes)]
    decay = [imbalance_factor ** (-k / (classes - 1)) for k in range(classes)]
    # 1e-9: c / factor is often a whole number, but not always in floating point.
    return [max(min(n, 1), int(n * d + 1e-9)) for n, d in zip(balanced, decay, strict=True)]


def _make_split(
    split: str, total: int, size: int, seed: int, names: list[str], imbalance_factor: float, degrade: bool
) -> dict[str, list]:
    """The columns of one split, as plain lists."""
    classes, split_id = len(names), SPLIT_IDS[split]
    sizes = _class_sizes(total, classes, imbalance_factor)
    columns: dict[str, list] = {name: [] for name in ("image", "label", "group", "resolution", "votes")}
    for i in range(total):
        # Every person shows every expression once, so a face never gives its label away.
        person, label = divmod(i, classes)
        if person >= sizes[label]:
            continue  # an imbalanced split is the balanced one with images left out
        # numpy pads keys with zeros: the trailing 1 keeps people apart from pictures.
        who = draw_identity(np.random.default_rng([seed, split_id, person, 1]))
        rng = np.random.default_rng([seed, split_id, i])
        intensity = rng.uniform(0.7, 1.0)
        share = rng.choice(RESOLUTION_SHARES, p=RESOLUTION_ODDS)
        votes = _draw_votes(names[label], intensity, names, rng)
        resolution = max(4, round(share * size)) if degrade else size
        image = draw_face(names[label], rng, size, identity=who, intensity=intensity, resolution=resolution)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        columns["image"].append({"bytes": buffer.getvalue(), "path": None})
        columns["label"].append(label)
        columns["group"].append(split_id * GROUPS_PER_SPLIT + person)
        columns["resolution"].append(resolution)
        columns["votes"].append(votes)
    return columns


def load_synthetic(
    train: int = 2000,
    validation: int = 400,
    test: int = 400,
    size: int = 64,
    seed: int = 0,
    classes: int = 8,
    imbalance_factor: float = 1.0,
    degrade: bool = True,
    with_votes: bool = True,
) -> DatasetDict:
    """Draw the dataset: three splits of different people.

    Args:
        train, validation, test: images in a split (for `train`, before the imbalance), 1 to 1,000,000.
        size: side of the pictures in pixels, 16 to 1024.
        seed: 0 to 2**32 - 1.
        classes: 8, or 7 without contempt.
        imbalance_factor: at least 1. Class r of the training split keeps c * factor^(-r/(K-1)) of its c
            images: the last class is `factor` times rarer than the first. The other splits stay balanced.
        degrade: lower the resolution of six pictures in ten to 3/4, 1/2, 3/8 or 1/4 of `size`.
        with_votes: add the votes column.

    Returns:
        Columns `image` (PNG, RGB), `label` (ClassLabel), `group` (int64, the person; no person is in two
        splits), `resolution` (int32, effective side in pixels), `votes` (10 x int32, FERPlus' columns: the
        eight expressions, unknown, NF; their majority is the label). Labels come in turn: shuffle to train.

    Raises:
        FerError: an option out of its range.
    """
    totals = {"train": train, "validation": validation, "test": test}
    for name, total in totals.items():
        check_integer(name, total, 1, 1_000_000)
    check_integer("size", size, 16, 1024)
    check_integer("seed", seed, 0, 2**32 - 1)
    if classes not in (7, 8):
        raise FerError(f"classes={classes!r} is not allowed: give 8, or 7 to leave contempt out.")
    if not isinstance(imbalance_factor, (int, float)) or not 1 <= imbalance_factor < float("inf"):
        raise FerError(f"imbalance_factor={imbalance_factor!r} is not allowed: give a finite number >= 1.")

    import datasets

    names = list(EXPRESSIONS[:classes])
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=names),
        "group": datasets.Value("int64"),
        "resolution": datasets.Value("int32"),
        "votes": datasets.List(datasets.Value("int32"), length=len(EXPRESSIONS) + 2),
    }
    if not with_votes:
        del features["votes"]
    splits = {}
    for split, total in totals.items():
        factor = imbalance_factor if split == "train" else 1.0
        columns = _make_split(split, total, size, seed, names, factor, degrade)
        splits[split] = datasets.Dataset.from_dict(
            {name: columns[name] for name in features},
            features=datasets.Features(features),
            split=datasets.NamedSplit(split),
        )
    return datasets.DatasetDict(splits)
