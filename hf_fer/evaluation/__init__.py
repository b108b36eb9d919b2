"""Scoring: the `evaluate` metric, the test protocols, result records and plots; all loaded on first use."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_fer.errors import FerError

_EXPORTS = {
    "PROTOCOLS": "protocols",
    "bootstrap_ci95": "fer_metrics.scores",
    "brier_score": "fer_metrics.scores",
    "build_leaderboard": "leaderboard",
    "challenge_score": "fer_metrics.scores",
    "check_record": "records",
    "cross_dataset": "protocols",
    "degrade_image": ".data.resolution",
    "evaluate_model": "protocols",
    "expected_calibration_error": "fer_metrics.scores",
    "fill_tables": "tables",
    "image_ids": "predictions_file",
    "imbalance": "protocols",
    "label_mapping": "matching",
    "label_noise": "protocols",
    "match_classes": "matching",
    "measure_latency": "latency",
    "metric_for": "metric",
    "multi_resolution": "protocols",
    "negative_log_likelihood": "fer_metrics.scores",
    "open_system": "systems",
    "plot_confusion_matrix": "plots",
    "plot_curves": "plots",
    "plot_resolution_curve": "plots",
    "predict_probabilities": "systems",
    "read_predictions": "predictions_file",
    "read_record": "records",
    "score_groups": "fairness_gap.scores",
    "score_predictions": "fer_metrics.scores",
    "score_resolutions": "resolution_robustness.scores",
    "standard": "protocols",
    "top2_accuracy": "fer_metrics.scores",
    "write_leaderboard": "leaderboard_folder",
    "write_predictions": "predictions_file",
    "write_record": "records",
}

__all__ = [
    "PROTOCOLS",
    "bootstrap_ci95",
    "brier_score",
    "build_leaderboard",
    "challenge_score",
    "check_record",
    "cross_dataset",
    "degrade_image",
    "evaluate_model",
    "expected_calibration_error",
    "fill_tables",
    "image_ids",
    "imbalance",
    "label_mapping",
    "label_noise",
    "match_classes",
    "measure_latency",
    "metric_for",
    "metric_path",
    "multi_resolution",
    "negative_log_likelihood",
    "open_system",
    "plot_confusion_matrix",
    "plot_curves",
    "plot_resolution_curve",
    "predict_probabilities",
    "read_predictions",
    "read_record",
    "score_groups",
    "score_predictions",
    "score_resolutions",
    "standard",
    "top2_accuracy",
    "write_leaderboard",
    "write_predictions",
    "write_record",
]

if TYPE_CHECKING:
    from hf_fer.data.resolution import degrade_image
    from hf_fer.evaluation.fairness_gap.scores import score_groups
    from hf_fer.evaluation.fer_metrics.scores import (
        bootstrap_ci95,
        brier_score,
        challenge_score,
        expected_calibration_error,
        negative_log_likelihood,
        score_predictions,
        top2_accuracy,
    )
    from hf_fer.evaluation.latency import measure_latency
    from hf_fer.evaluation.leaderboard import build_leaderboard
    from hf_fer.evaluation.leaderboard_folder import write_leaderboard
    from hf_fer.evaluation.matching import label_mapping, match_classes
    from hf_fer.evaluation.metric import metric_for
    from hf_fer.evaluation.plots import plot_confusion_matrix, plot_curves, plot_resolution_curve
    from hf_fer.evaluation.predictions_file import image_ids, read_predictions, write_predictions
    from hf_fer.evaluation.protocols import (
        PROTOCOLS,
        cross_dataset,
        evaluate_model,
        imbalance,
        label_noise,
        multi_resolution,
        standard,
    )
    from hf_fer.evaluation.records import check_record, read_record, write_record
    from hf_fer.evaluation.resolution_robustness.scores import score_resolutions
    from hf_fer.evaluation.systems import open_system, predict_probabilities
    from hf_fer.evaluation.tables import fill_tables


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
