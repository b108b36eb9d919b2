"""A classifier's classes against a data set's: matched by name, never by id."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_fer.checkpoints.loading import resolve_model
from hf_fer.errors import FerError
from hf_fer.labels import LabelMapping, find_expression, map_labels


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

    @property
    def note(self) -> str:
        """How the classes were matched, for people."""
        near = [
            f"the data set's {name!r} read as {meaning}"
            for name, meaning in zip(self.names, self.mapping.target, strict=False)
            if "".join(filter(str.isalpha, name.casefold())) != meaning
        ]
        return "; ".join([self.mapping.describe(), *near])

    def table(self, probabilities: np.ndarray) -> np.ndarray:
        """(N, K) probabilities in the classifier's order, as (N, len(names)) float64.

        Raises:
            FerError: another number of probabilities than of class names.
        """
        if probabilities.shape[1] != len(self.columns):
            raise FerError(
                f"The model answers {probabilities.shape[1]} probabilities for its {len(self.columns)} class names; "
                "set id2label in its config.json right."
            )
        table = np.zeros((len(probabilities), len(self.names)))
        table[:, self.columns] = probabilities
        return table


def match_classes(
    classes: Sequence[str],
    dataset_classes: Sequence[str],
    label_map: Mapping[str, str | None] | None = None,
    what: str = "The model's id2label",
) -> ClassMatch:
    """Match by canonical name (`hf_fer.labels.map_labels`).

    Args:
        classes: the classifier's class names, in the order of its ids.
        dataset_classes: the data set's.
        label_map: what names of the classifier mean that the vocabulary does not know; None: no expression.
        what: where `classes` come from, for messages.

    Raises:
        FerError: a name that means no expression (all of them are listed), one expression twice, or nothing in common.
    """
    strange = [name for name in dataset_classes if find_expression(name) is None]
    if strange:
        raise FerError(
            f"The data set's class {', '.join(repr(name[:80]) for name in strange[:10])} is no expression; filter its "
            "images out, or rename it in the `ClassLabel`."
        )
    try:
        mapping = map_labels(classes, dataset_classes, aliases=label_map)
    except FerError as error:
        raise FerError(f"{what} and the data set's classes cannot be matched: {error}") from error
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
            f"{what} ({', '.join(map(str, classes[:20]))}) shares no name with the data set's classes "
            f"({', '.join(dataset_classes)}); say what its labels mean with label_map= (--label-map)."
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
        FerError: see `match_classes`; no configuration at that path, or labels without names.
    """
    model, data = class_names(model, data, column)
    columns = match_classes(model, data, label_map).columns
    return {label: int(column) for label, column in zip(model, columns, strict=True)}


def class_names(model: Any, data: Any, column: str = "label") -> tuple[Sequence[str], Sequence[str]]:
    """The class names of a model and of a data set, in the order of their ids.

    Args:
        model, data, column: see `label_mapping`.

    Raises:
        FerError: no configuration at that path, or labels without names.
    """
    if isinstance(model, str | os.PathLike):
        from transformers import AutoConfig

        try:
            model = _names(AutoConfig.from_pretrained(resolve_model(model)[0]))
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise FerError(f"{model} has no configuration to read ({reason}); name a checkpoint.") from error
    elif not isinstance(model, Sequence):
        model = model_classes(getattr(model, "model", model))
    if not isinstance(data, Sequence) or hasattr(data, "features"):
        data = getattr(data.features.get(column), "names", None)
        if data is None:
            raise FerError(f"The data set has no column {column!r} with class names; cast it to a `ClassLabel`.")
    return model, data


def _names(config: Any) -> list[str]:
    id2label = {int(k): str(v) for k, v in config.id2label.items()}
    return [id2label[k] for k in sorted(id2label)]
