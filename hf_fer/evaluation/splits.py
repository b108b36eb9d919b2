"""The images and labels that a protocol scores on."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from hf_fer.errors import FerError


def load_split(
    dataset: Any, dataset_name: str | None, root: str | os.PathLike[str] | None, split: str, options: Mapping[str, Any]
) -> tuple[Any, str, dict[str, Any]]:
    """The `datasets.Dataset` to score on, its name for the record, and the data set's other splits by name.

    Args:
        dataset: a name for `load_fer_dataset`, a `DatasetDict`, or a `Dataset`, which then is the split.
        dataset_name: name for the record; default: the given or the data set's own.
        root, options: of a named data set.
        split: which one.

    Raises:
        FerError: it cannot be loaded, or has no such split.
    """
    if isinstance(dataset, str | os.PathLike):
        from hf_fer.data import load_fer_dataset

        name = dataset_name or os.fspath(dataset)
        dataset = load_fer_dataset(os.fspath(dataset), root=root, **options)
    else:
        info = getattr(dataset, "info", None)
        name = dataset_name or getattr(info, "dataset_name", None) or "custom"
    if not isinstance(dataset, Mapping):
        return dataset, name, {}
    if split not in dataset:
        raise FerError(f"{name} has no split {split!r}; it has {', '.join(dataset)}.")
    return dataset[split], name, {key: value for key, value in dataset.items() if key != split}


def read_labels(data: Any, name: str, split: str) -> tuple[np.ndarray, list[str]]:
    """`(N,)` int64 class ids of a split with columns `image` and `label` (`ClassLabel`), and the class names.

    Raises:
        FerError: a column is missing, the labels have no names, or one is unset.
    """
    features = data.features
    for column in ("image", "label"):
        if column not in features:
            raise FerError(
                f"{name} ({split}) has no column {column!r}, it has {', '.join(features)}; rename the "
                f"columns to image and label."
            )
    classes = getattr(features["label"], "names", None)
    if not classes:
        raise FerError(
            f"The label column of {name} ({split}) has no class names; cast it with `cast_column('label', "
            f"ClassLabel(names=[...]))`."
        )
    values = list(data["label"])
    for row, value in enumerate(values):
        if value is None or not 0 <= value < len(classes):
            raise FerError(
                f"Row {row} of {name} ({split}) has the label {value}, outside 0..{len(classes) - 1}; filter "
                f"unlabelled rows out first."
            )
    return np.asarray(values, dtype=np.int64), list(classes)


def effective_options(dataset: str | os.PathLike[str] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The given options over the loader's defaults: a record names the voting rule even where nobody did."""
    from hf_fer.data import DATASETS

    merged = dict(options)
    if dataset in DATASETS:
        module = import_module(f"hf_fer.data.{dataset}")
        parameters = inspect.signature(getattr(module, f"load_{dataset}")).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty and p.name != "root"}
        merged = {**defaults, **merged}
    # Where the cache lies, which token opened the door, how it was read and checked say nothing about the result.
    silent = ("cache_dir", "token", "check_counts", "streaming")
    return {key: value for key, value in merged.items() if key not in silent}
