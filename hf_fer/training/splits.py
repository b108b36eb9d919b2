"""The three splits of a run: as the data set has them, or set aside from its training split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data import load_fer_dataset
from ..data.hold_out import hold_out
from ..data.imbalance import inject_label_noise, make_imbalanced
from ..errors import FerError
from .recipe import Recipe


@dataclass(frozen=True)
class Splits:
    """What a run trains, selects and reports on.

    Attributes:
        train, validation, test: `datasets.Dataset`s with columns `image` and `label`.
        names: the classes, in the order of their ids.
        labels: (N,) int64, of the training images, noise included.
        groups: (N,) of the training images, where the recipe samples by them and they are known.
        described: how many images each split has and how it came about, for the report.
    """

    train: Any
    validation: Any
    test: Any
    names: list[str]
    labels: Tensor
    groups: list[str] | None
    described: dict[str, Any]


def load_splits(recipe: Recipe, validation_images: int = 1) -> Splits:
    """Loads the recipe's data set and makes its splits.

    What is set aside is taken first, from clean and whole data; thinning out and label noise touch what is left to
    train on.

    Args:
        recipe: its keys about data.
        validation_images: the least that validation can do with.

    Raises:
        FerError: data that cannot be loaded, or a split that is missing or too small.
    """
    splits = load_fer_dataset(recipe.dataset, recipe.data_root, **recipe.dataset_options)
    wanted = {"train": recipe.train_split, "validation": recipe.validation_split, "test": recipe.test_split}
    shares = {"validation": recipe.validation_share, "test": recipe.test_share}
    for part, name in wanted.items():
        if not shares.get(part) and name not in splits:
            way_out = "" if part == "train" else f", or set {part}_share"
            raise FerError(
                f"Dataset {recipe.dataset} has no split {name!r}; it has {', '.join(splits)}: choose one by "
                f"{part}_split{way_out}."
            )
    taken = [name for part, name in wanted.items() if not shares.get(part)]
    twice = next((name for name in taken if taken.count(name) > 1), None)
    if twice is not None:
        raise FerError(
            f"Split {twice!r} of {recipe.dataset} cannot be two of training, validation and test: what is reported "
            "must not choose the epoch; set validation_share (or test_share) to set a part of the training split aside."
        )
    parts = {part: splits[name] for part, name in wanted.items() if not shares.get(part)}
    described: dict[str, Any] = {}
    for number, part in enumerate(("test", "validation")):
        if not shares[part]:
            continue
        # Of the whole training split, so that the shares mean what they say whether or not both are taken.
        of_the_rest = shares[part] * len(splits[recipe.train_split]) / len(parts["train"])
        if of_the_rest >= 1:
            raise FerError("validation_share and test_share leave nothing to train on; their sum must be below 1.")
        parts["train"], parts[part] = hold_out(
            parts["train"], of_the_rest, by=recipe.hold_out_by, seed=2 * recipe.data_seed + number
        )
        described[f"{part}_set_aside"] = {"share": shares[part], "by": recipe.hold_out_by, "seed": recipe.data_seed}
    if recipe.imbalance_factor > 1:
        parts["train"] = make_imbalanced(parts["train"], recipe.imbalance_factor, seed=recipe.data_seed)
        described["imbalance_factor"] = recipe.imbalance_factor
    if recipe.label_noise:
        parts["train"] = inject_label_noise(parts["train"], recipe.label_noise, seed=recipe.data_seed)
        described["label_noise"] = recipe.label_noise
    for part, least in (("train", 1), ("validation", validation_images), ("test", 1)):
        if len(parts[part]) < least:
            raise FerError(
                f"The {part} split of {recipe.dataset} has {len(parts[part])} images; it needs {least} (one a process)."
            )
    train = parts["train"]
    groups = None
    if recipe.sampling == "group_balanced" and "group" in train.column_names:
        groups = [str(group) for group in train["group"][:]]
    described.update({f"{part}_images": len(parts[part]) for part in ("train", "validation", "test")})
    return Splits(
        train,
        parts["validation"],
        parts["test"],
        train.features["label"].names,
        torch.tensor(train["label"][:]),
        groups,
        described,
    )
