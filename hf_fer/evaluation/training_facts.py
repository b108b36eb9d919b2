"""What the run folder beside a checkpoint says about its training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_MOST_BYTES = 8 << 20
_MOST_CHARACTERS = 200


def read_training_facts(folder: Path | None) -> dict[str, Any] | None:
    """The facts of a run's `report.json` that a protocol or a reader of a record asks for.

    Args:
        folder: a checkpoint's folder, or None.

    Returns:
        `report` (file name), `dataset`, `imbalance_factor`, `label_noise` (None: none), `selected_by`, `epoch`, `seed`;
        None where there is no folder, no report, or one that no training run of ours wrote.
    """
    file = folder / "report.json" if folder else None
    try:
        if file is None or not file.is_file() or file.stat().st_size > _MOST_BYTES:
            return None
        report = json.loads(file.read_text(encoding="utf-8"))
        selected, data = report["selected"], report.get("data") or {}
        return {
            "report": file.name,
            "dataset": _text(selected["dataset"]),
            "imbalance_factor": _number(data.get("imbalance_factor"), above=1, below=1e12),
            "label_noise": _number(data.get("label_noise"), above=0, below=1),
            "selected_by": _text(report.get("selected_by")),
            "epoch": _whole(selected.get("epoch")),
            "seed": _whole(selected.get("seed")),
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # a foreign checkpoint may have a report.json of its own kind


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS or not value.isprintable():
        raise TypeError
    return value


def _number(value: Any, above: float, below: float) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < below:
        raise TypeError
    return value


def _whole(value: Any) -> int | None:
    if value is not None and (type(value) is not int or not 0 <= value < 2**53):
        raise TypeError
    return value
