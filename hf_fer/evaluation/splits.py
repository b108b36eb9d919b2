"""The images and labels that a protocol scores on."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from hf_fer.errors import FerError

#: Options of a loader that say nothing about a result: where the cache lies, which token opened the door, in which of
#: its forms the download was read, and how it was checked.
SILENT_OPTIONS = frozenset({"cache_dir", "token", "check_counts", "streaming", "form"})


def load_split(
    dataset: Any,
    dataset_name: str | None,
    root: str | os.PathLike[str] | None,
    split: str | None,
    options: Mapping[str, Any],
) -> tuple[Any, str, str, dict[str, Any]]:
    """The `datasets.Dataset` to score on, its name and its split's for the record, and the other splits by name.

    Args:
        dataset: a name for `load_fer_dataset`, a `DatasetDict`, or a `Dataset`, which then is the split.
        dataset_name: name for the record; default: the given or the data set's own.
        root, options: of a named data set.
        split: which one. None: "test", of a `Dataset` the split that it says it is.

    Raises:
        FerError: it cannot be loaded, is no such thing, or has no such split.
    """
    if isinstance(dataset, str | os.PathLike):
        from hf_fer.data import load_fer_dataset

        # Of a folder the last part: where it lies is nobody's business, and another machine has it elsewhere.
        name = dataset_name or (Path(dataset).resolve().name if Path(dataset).is_dir() else os.fspath(dataset))
        dataset = load_fer_dataset(os.fspath(dataset), root=root, **options)
    else:
        info = getattr(dataset, "info", None)
        name = dataset_name or getattr(info, "dataset_name", None) or "custom"
    if isinstance(dataset, Mapping):
        split = split or "test"
        if split not in dataset:
            raise FerError(f"{name} has no split {split!r}; it has {', '.join(dataset)}.")
        data, others = dataset[split], {key: value for key, value in dataset.items() if key != split}
    else:
        data, others = dataset, {}
        split = split or str(getattr(dataset, "split", None) or "test")
    if not (hasattr(data, "select") and hasattr(data, "features") and hasattr(data, "__len__")):
        raise FerError(
            f"A {type(data).__name__} cannot be scored on; pass a name, a datasets.Dataset or a DatasetDict, not "
            "streamed."
        )
    return data, name, split, others


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


def effective_options(dataset: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The given options over the loader's defaults: a record names the voting rule even where nobody did."""
    from hf_fer.data import DATASETS

    merged = dict(options)
    if isinstance(dataset, str) and dataset in DATASETS:
        module = import_module(f"hf_fer.data.{dataset}")
        parameters = inspect.signature(getattr(module, f"load_{dataset}")).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty and p.name != "root"}
        merged = {**defaults, **merged}
    return {key: value for key, value in merged.items() if key not in SILENT_OPTIONS}
