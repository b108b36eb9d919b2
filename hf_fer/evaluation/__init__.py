"""Scoring: the `evaluate` metric, the test protocols, result records and plots; all loaded on first use."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_fer.errors import FerError

_EXPORTS = {
    "bootstrap_ci95": "fer_metrics.scores",
    "challenge_score": "fer_metrics.scores",
    "degrade_image": ".data.resolution",
    "evaluate_model": "protocols",
    "expected_calibration_error": "fer_metrics.scores",
    "negative_log_likelihood": "fer_metrics.scores",
    "plot_confusion_matrix": "plots",
    "plot_curves": "plots",
    "plot_resolution_curve": "plots",
    "predict_probabilities": "protocols",
    "read_record": "records",
    "score_predictions": "fer_metrics.scores",
    "write_record": "records",
}

__all__ = [
    "bootstrap_ci95",
    "challenge_score",
    "degrade_image",
    "evaluate_model",
    "expected_calibration_error",
    "metric_path",
    "negative_log_likelihood",
    "plot_confusion_matrix",
    "plot_curves",
    "plot_resolution_curve",
    "predict_probabilities",
    "read_record",
    "score_predictions",
    "write_record",
]

if TYPE_CHECKING:
    from hf_fer.data.resolution import degrade_image
    from hf_fer.evaluation.fer_metrics.scores import (
        bootstrap_ci95,
        challenge_score,
        expected_calibration_error,
        negative_log_likelihood,
        score_predictions,
    )
    from hf_fer.evaluation.plots import plot_confusion_matrix, plot_curves, plot_resolution_curve
    from hf_fer.evaluation.protocols import evaluate_model, predict_probabilities
    from hf_fer.evaluation.records import read_record, write_record


def metric_path(name: str) -> str:
    """Folder of an `evaluate` module of ours, for `evaluate.load(metric_path("fer_metrics"))`; works offline.

    Raises:
        FerError: no module has that name; the message lists those there are.
    """
    here = Path(__file__).parent
    known = sorted(file.parent.name for file in here.glob("*/*.py") if file.stem == file.parent.name)
    if name not in known:
        raise FerError(f"There is no metric {name!r} in hf_fer; known: {', '.join(known)}.")
    return str(here / name)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
