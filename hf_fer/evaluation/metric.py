"""The metric `fer_metrics` with a model's and a data set's classes in it, for `evaluate.evaluator`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from hf_fer.evaluation.matching import class_names, match_classes


def metric_for(model: Any, data: Any, label_map: Mapping[str, str | None] | None = None, column: str = "label") -> Any:
    """`fer_metrics`, whose `compute` knows the classes: results have names, and classes that only the model has count
    as errors and not as classes of their own, as in `evaluate_model`.

    The evaluator hands a metric nothing but predictions and references; use it with `label_mapping` of the same.

    Args:
        model, data, label_map, column: see `label_mapping`.

    Returns:
        A loaded `evaluate` module.

    Raises:
        FerError: see `label_mapping`.
    """
    import evaluate

    from hf_fer.evaluation import metric_path

    match = match_classes(*class_names(model, data, column), label_map)
    metric = evaluate.load(metric_path("fer_metrics"))
    metric.compute = functools.partial(metric.compute, label_names=match.names, answer_only=list(match.extra))
    return metric
