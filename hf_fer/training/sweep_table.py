"""The figures of a sweep: sweep.json, and the same as a table in sweep.md."""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path
from typing import Any

from .sweep_plan import Run, text_of

_METRICS = {"accuracy": "accuracy", "mean_class_accuracy": "mean class"}


def write_summary(folder: Path, runs: list[Run], command: str) -> None:
    """Writes sweep.json and sweep.md, each of them whole or not at all."""
    entries = []
    for run in runs:
        entry = {
            "overrides": run.overrides,
            "seed": run.seed,
            "folder": run.folder.relative_to(folder).as_posix(),
            "status": run.status,
        }
        if run.error:
            entry["error"] = run.error
        if run.report:
            entry["selected_by"] = run.report["selected_by"]
            entry.update({which: _figures(run.report[which]) for which in ("selected", "last")})
        entries.append(entry)
    points = [
        {
            "overrides": point[0].overrides,
            "seeds": [run.seed for run in point if run.report],
            **{which: _spread(point, which) for which in ("selected", "last")},
        }
        for point in _points(runs)
    ]
    summary = {"command": command, "runs": entries, "points": points}
    for name, text in (
        ("sweep.json", json.dumps(summary, indent=2, default=str) + "\n"),
        ("sweep.md", markdown(runs, command)),
    ):
        unfinished = folder / f".writing-{name}"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(folder / name)


def markdown(runs: list[Run], command: str) -> str:
    """The command, a table of the chosen epochs, one of the last, and what failed."""
    blocks = [f"`{command}`"]
    if any(run.report for run in runs):
        data = "; ".join(sorted({_data(run) for run in runs if run.report}))
        chosen = "; ".join(sorted({run.report["selected_by"] for run in runs if run.report}))
        blocks += [
            f"Test figures in % ({data}): mean ± sample standard deviation over n seeds, each run with the epoch that "
            f"validation chose ({chosen}). Differences within the spread are no evidence.",
            _table(runs, "selected"),
            "The same after the last epoch:",
            _table(runs, "last"),
        ]
    missing = [f"- {run}: {run.status}{f': {run.error}' if run.error else ''}" for run in runs if not run.report]
    if missing:
        blocks.append("Not in the figures:\n\n" + "\n".join(missing))
    return "\n\n".join(blocks) + "\n"


def _points(runs: list[Run]) -> list[list[Run]]:
    """The runs of each grid point, the points in the order of the grid."""
    points: dict[Path, list[Run]] = {}
    for run in runs:
        points.setdefault(run.folder.parent, []).append(run)
    return list(points.values())


def _spread(point: list[Run], which: str) -> dict[str, dict[str, dict[str, float | None]]]:
    """factor -> metric -> mean and sample standard deviation (None of one) over the finished runs of a point."""
    records = [run.report[which]["resolutions"] for run in point if run.report]
    return {
        factor: {
            metric: {
                "mean": statistics.fmean(values),
                "std": statistics.stdev(values) if len(values) > 1 else None,
            }
            for metric in _METRICS
            if (values := [record[factor][metric] for record in records])
        }
        for factor in (records[0] if records else ())
    }


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    resolutions = {
        factor: {metric: figures[metric] for metric in _METRICS} for factor, figures in record["resolutions"].items()
    }
    return {"epoch": record["epoch"], "split": record["split"], "n": record["n"], "resolutions": resolutions}


def _data(run: Run) -> str:
    record, dataset = run.report["selected"], run.recipe.dataset
    rule = record["label_rule"]
    name = Path(dataset).name if Path(dataset).is_dir() else dataset
    weights = ", ".join(run.report["started_from"].values()) or "scratch"
    counted = f"{f'rule {rule}, ' if rule else ''}{record['n']} images"
    return f"split {record['split']} of {name}, {counted}, trained from {weights}"


def _table(runs: list[Run], which: str) -> str:
    points = _points(runs)
    spreads = [_spread(point, which) for point in points]
    factors = sorted({factor for spread in spreads for factor in spread}, key=float)
    columns = list(itertools.product(factors, _METRICS))
    keys = list(points[0][0].overrides)
    rows = [[*(keys or ["recipe"]), "n", *(f"{_METRICS[metric]} x{factor}" for factor, metric in columns)]]
    for point, spread in zip(points, spreads, strict=True):
        n = sum(run.report is not None for run in point)
        cells = [text_of(value).replace("|", "\\|") for value in point[0].overrides.values()] or ["as it is"]
        cells.append(str(n) if n == len(point) else f"{n} of {len(point)}")
        cells += [_cell(**spread[factor][metric]) if factor in spread else "-" for factor, metric in columns]
        rows.append(cells)
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)


def _cell(mean: float, std: float | None) -> str:
    return f"{100 * mean:.2f} ± " + ("-" if std is None else f"{100 * std:.2f}")
