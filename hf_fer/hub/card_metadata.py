"""The metadata of a card: what the Hub sorts, filters and ranks repositories by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluation.markdown import figure, one_line
from .run_files import RunFiles

DATASET_TITLES = {"ferplus": "FERPlus", "synthetic": "synthetic (drawn faces)"}

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}", re.ASCII)
_HUB_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)


def card_metadata(title: str, run: RunFiles) -> Any:
    """`ModelCardData`; of a run with two results for each resolution factor.

    `co2_eq_emissions` is never among it: nothing here measures energy.
    """
    from huggingface_hub import ModelCardData

    shared = {
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "tags": ["hf-fer", "facial-expression-recognition", one_line(run.config["model_type"])],
    }
    if run.report is None or run.recipe is None:
        return ModelCardData(license="unknown", **shared)
    dataset = dataset_name(run.recipe)[1]
    started_from = (run.report.get("started_from") or {}).values()
    repositories = dict.fromkeys(str(source).partition("@")[0] for source in started_from)
    return ModelCardData(
        model_name=title.split("/")[-1],
        eval_results=_results(run.recipe, run.report["selected"]),
        license=license_of(run.recipe),
        base_model=[name for name in repositories if _HUB_ID.fullmatch(name)] or None,
        datasets=[dataset] if dataset else None,
        metrics=["accuracy", "recall", "f1"],
        **shared,
    )


def license_of(recipe: Mapping[str, Any] | None) -> str:
    """What whoever trained the weights has said of their licence, as the Hub writes it; else "unknown"."""
    given = (recipe or {}).get("license")
    return given if isinstance(given, str) and _LICENSE.fullmatch(given) else "unknown"


def dataset_name(recipe: Mapping[str, Any]) -> tuple[str, str | None]:
    """(name to show, Hub id or None). A folder is shown by its last part: its path is nobody's business."""
    from ..data import DATASETS

    name = one_line(recipe["dataset"])
    if name in DATASETS:
        return name, None
    if _HUB_ID.fullmatch(name) and not Path(name).exists():
        return name, name
    return last_part(name), None


def last_part(path: str) -> str:
    """The last part of a path of any system."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or "DIR"


def _results(recipe: Mapping[str, Any], record: Mapping[str, Any]) -> list[Any]:
    from huggingface_hub import EvalResult

    name, hub_id = dataset_name(recipe)
    options = {key: record["options"].get(key) for key in ("label_rule", "classes")}
    arguments = {key: _scalar(value) for key, value in options.items() if value is not None}
    results = []
    for factor, metrics in record["resolutions"].items():
        for metric in ("accuracy", "mean_class_accuracy"):
            label = metric.replace("_", " ").capitalize()
            results.append(
                EvalResult(
                    task_type="image-classification",
                    task_name="Facial expression recognition",
                    dataset_type=hub_id or re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII),
                    dataset_name=DATASET_TITLES.get(name, name),
                    dataset_split=one_line(record["split"]),
                    dataset_args=arguments or None,
                    metric_type=metric,
                    metric_name=label if factor == "1" else f"{label} at 1/{float(factor):g} of the resolution",
                    metric_value=figure(metrics, metric),
                    metric_args={"resolution_factor": float(factor)},
                )
            )
    return results


def _scalar(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) else one_line(value)
