"""A classifier's classes against a data set's: matched by name, never by id."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_fer.errors import FerError
from hf_fer.labels import LabelMapping, map_labels


@dataclass(frozen=True)
class ClassMatch:
    """Where a classifier's answers go in the scored table.

    Attributes:
        columns: (K,) int64, for each class of the classifier its column: that of the data set's class, or a new one
            after those.
        names: the columns' names: the data set's classes in its order, then those that only the classifier has.
        dataset_classes: how many of `names` are the data set's.
        mapping: how they were matched.
    """

    columns: np.ndarray
    names: list[str]
    dataset_classes: int
    mapping: LabelMapping

    @property
    def extra(self) -> range:
        """Columns of classes that the data set lacks: answering one is an error."""
        return range(self.dataset_classes, len(self.names))

    @property
    def missing(self) -> list[int]:
        """The data set's classes that the classifier lacks."""
        return [k for k in range(self.dataset_classes) if k not in set(self.columns.tolist())]

    def table(self, probabilities: np.ndarray) -> np.ndarray:
        """(N, K) probabilities in the classifier's order, as (N, len(names)) float64."""
        table = np.zeros((len(probabilities), len(self.names)))
        table[:, self.columns] = probabilities
        return table


def match_classes(
    classes: Sequence[str], dataset_classes: Sequence[str], label_map: Mapping[str, str | None] | None = None
) -> ClassMatch:
    """Match by canonical name (`hf_fer.labels.map_labels`).

    Args:
        classes: the classifier's class names, in the order of its ids.
        dataset_classes: the data set's.
        label_map: what names of the classifier mean that the vocabulary does not know; None: no expression.

    Raises:
        FerError: a name that means no expression (all of them are listed), one expression twice, or nothing in common.
    """
    try:
        mapping = map_labels(classes, dataset_classes, aliases=label_map)
    except FerError as error:
        raise FerError(f"The model's id2label and the data set's classes cannot be matched: {error}") from error
    names = list(dataset_classes)
    columns = np.empty(len(classes), dtype=np.int64)
    for k, (label, target) in enumerate(zip(classes, mapping.index, strict=True)):
        if target is None:
            columns[k] = len(names)
            # A label that is said to mean nothing may still be spelt like a class of the data set.
            names.append(f"{label} (the model's)" if label in names else str(label))
        else:
            columns[k] = target
    match = ClassMatch(columns, names, len(dataset_classes), mapping)
    if len(match.missing) == len(dataset_classes):
        raise FerError(
            f"The model's classes ({', '.join(map(str, classes))}) share no name with the data set's "
            f"({', '.join(dataset_classes)}); set id2label in the model's config.json."
        )
    return match


def model_classes(model: Any) -> list[str]:
    """The class names of a transformers classifier, in the order of its ids."""
    return _names(model.config)


def label_mapping(
    model: Any, data: Any, label_map: Mapping[str, str | None] | None = None, column: str = "label"
) -> dict[str, int]:
    """`label_mapping` for `evaluate.evaluator("image-classification")`: the model's labels as the data set's ids.

    Args:
        model: a checkpoint folder or Hub id, a transformers classifier, a pipeline around one, or its class names in
            the order of the ids.
        data: a `datasets.Dataset` whose `column` is a `ClassLabel`, or its class names.
        label_map: see `match_classes`.
        column: name of the label column.

    Returns:
        `{label: id}`; classes that the data set lacks get ids after its own.

    Raises:
        FerError: see `match_classes`.
    """
    if isinstance(model, str | os.PathLike):
        from transformers import AutoConfig

        model = _names(AutoConfig.from_pretrained(model))
    elif not isinstance(model, Sequence):
        model = model_classes(getattr(model, "model", model))
    if not isinstance(data, Sequence) or hasattr(data, "features"):
        data = data.features[column].names
    columns = match_classes(model, data, label_map).columns
    return {label: int(column) for label, column in zip(model, columns, strict=True)}


def _names(config: Any) -> list[str]:
    id2label = {int(k): str(v) for k, v in config.id2label.items()}
    return [id2label[k] for k in sorted(id2label)]
