"""The leaderboard: result records in, boards of rows that may be compared out, as a dict that is ready for JSON. Pure.

Figures are ranked together only where everything that they depend on but the model is the same: the data (its classes
and how many images of each included), the protocol with its conditions, the resolutions, and which answers counted.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import FerError
from .markdown import TIMES, one_line, shorten
from .splits import SILENT_OPTIONS

VERSION = 1
#: What `leaderboard.json` and its pages say of themselves.
MARK = "hf-fer leaderboard"
#: Figures to rank by, and whether the higher value is the better one.
HIGHER_IS_BETTER: dict[str, bool] = {
    "accuracy": True,
    "mean_class_accuracy": True,
    "f1_macro": True,
    "challenge_score": True,
    "top2_accuracy": True,
    "average_low_resolution": True,
    "nll": False,
    "ece": False,
    "brier": False,
}
#: What each protocol is about; the order is that of the boards of one split.
RANKED_BY: dict[str, str] = {
    "standard": "accuracy",
    "multi_resolution": "average_low_resolution",
    "imbalance": "mean_class_accuracy",
    "label_noise": "accuracy",
    "cross_dataset": "accuracy",
}
MACHINE = ("device", "processor", "threads", "dtype")

_FIGURES = tuple(key for key in HIGHER_IS_BETTER if key != "average_low_resolution")
_INTERVALS = ("accuracy", "mean_class_accuracy", "f1_macro", "challenge_score")
_SAME = 1e-9  # figures closer than this are the same: sums in another order differ in the last bits


def build_leaderboard(records: Sequence[tuple[str, Mapping[str, Any]]], rank_by: str | None = None) -> dict[str, Any]:
    """Boards of comparable rows, ranked.

    Args:
        records: (file name to show, record as `hf_fer.evaluation.records.read_record` returns it).
        rank_by: a key of `HIGHER_IS_BETTER` for every board, instead of `RANKED_BY` by protocol. A `multi_resolution`
            board without a factor above 1 is ranked by accuracy.

    Returns:
        A JSON-ready dict: `leaderboard_version`, `written_by`, `rank_by`, `records` (their number) and `boards`. A
        board has `slug` (stable: it depends on what is compared alone), `heading` (words), `compared` (what all its
        rows have in common), `ranked_by`, `higher_is_better`, `intervals` (words), `machines` (of latencies, the most
        frequent first), `rows` and `superseded`. Figures of a row are those at the lowest factor; `by_factor` has
        accuracy and mean class accuracy of all. Ties share a rank (1, 1, 3) and stand by name.

        Of several records of one model, revision and source in a board the newest is ranked. Those with the same
        figures are its `repeats`; others stand under `superseded`, with their own figures.

    Raises:
        FerError: no records, an unknown `rank_by`, records without that figure, or a date that is none.
    """
    if not records:
        raise FerError("There are no records to build a leaderboard of; write some with `hf-fer evaluate`.")
    if rank_by is not None and rank_by not in HIGHER_IS_BETTER:
        raise FerError(
            f"A leaderboard cannot be ranked by {one_line(repr(rank_by))}; choose one of {', '.join(HIGHER_IS_BETTER)}."
        )
    groups: dict[str, list[dict[str, Any]]] = {}
    for file, record in records:
        groups.setdefault(_canonical_json(_compared(record)), []).append(_row(file, record))
    slugs = _slugs(groups)
    boards = [_board(slugs[key], json.loads(key), rows, rank_by) for key, rows in groups.items()]
    _check_ranked(boards, rank_by)
    order = {protocol: position for position, protocol in enumerate(RANKED_BY)}

    def place(board: Mapping[str, Any]) -> tuple[Any, ...]:
        compared = board["compared"]
        own = _canonical_json(compared)
        return compared["dataset"], compared["split"], order.get(compared["protocol"], len(order)), own

    return {
        "leaderboard_version": VERSION,
        "written_by": MARK,
        "rank_by": rank_by,
        "records": len(records),
        "boards": [_ranked(board) for board in sorted(boards, key=place)],
    }


def row_name(row: Mapping[str, Any]) -> str:
    """How a row is called where its revision and source have no column of their own."""
    revision = f" @{row['revision'][:12]}" if row["revision"] else ""
    return f"{row['model']}{revision}{'' if row['source'] == 'model' else ' (' + row['source'] + ')'}"


def machine_words(latency: Mapping[str, Any]) -> str:
    """Where a latency was measured."""
    threads = latency["threads"]
    counted = None if threads is None else f"{threads} thread{'' if threads == 1 else 's'}"
    return ", ".join(str(part) for part in (latency["device"], latency["processor"], counted, latency["dtype"]) if part)


def latency_on(row: Mapping[str, Any], machine: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The row's latency on that machine, if it was measured there."""
    return next((entry for entry in row["latencies"] if all(entry[key] == machine[key] for key in MACHINE)), None)


# --- what may be compared -----------------------------------------------------------------------


def _compared(record: Mapping[str, Any]) -> dict[str, Any]:
    labels = record["labels"]
    conditions = {key: value for key, value in record["conditions"].items() if key != "stated_by"}
    if "trained_on" in conditions:
        conditions["trained_on"] = sorted(set(conditions["trained_on"]))
    first = record["resolutions"][_factors(record)[0]]
    return {
        "dataset": record["dataset"],
        "split": record["split"],
        "protocol": record["protocol"],
        "conditions": conditions,
        "label_rule": record["label_rule"],
        "options": {key: value for key, value in record["options"].items() if key not in SILENT_OPTIONS},
        "reference_side": record["reference_side"],
        "factors": [float(factor) for factor in _factors(record)],
        "n": record["n"],
        # Not asked of a record to tell data apart, and yet it does: other counts are other images.
        "images": {name: first["per_class"][name]["support"] for name in labels["dataset"]},
        "classes": labels["dataset"],
        "restricted_to_dataset_classes": labels["restricted_to_dataset_classes"],
        "left_out": labels["left_out"],
    }


def _factors(record: Mapping[str, Any]) -> list[str]:
    return sorted(record["resolutions"], key=float)


def _canonical_json(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """100.0 and 100 are one number; JSON would write them differently."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _slugs(keys: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """A name for each board that no other board changes, unless two digests begin alike."""
    digests = {key: hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest() for key in keys}
    length = 6
    while len({digest[:length] for digest in digests.values()}) < len(digests):
        length += 1
    slugs = {}
    for key, digest in digests.items():
        compared = json.loads(key)
        words = f"{compared['dataset'][:40]} {compared['split'][:20]} {compared['protocol']}".lower()
        slugs[key] = f"{re.sub('[^a-z0-9]+', '-', words).strip('-')}-{digest[:length]}"
    return slugs


def _heading(compared: Mapping[str, Any]) -> str:
    """Everything that the rows have in common but the images of each class."""
    conditions, rule = compared["conditions"], compared["label_rule"]
    protocol = {
        "standard": lambda: "standard protocol",
        "multi_resolution": lambda: "multi-resolution protocol",
        "imbalance": lambda: (
            f"imbalance protocol (trained with an imbalance factor of {conditions['imbalance_factor']:.12g})"
        ),
        "label_noise": lambda: (
            f"label noise protocol ({100 * conditions['label_noise']:.12g} % of the training labels wrong)"
        ),
        "cross_dataset": lambda: f"cross-dataset protocol (trained on {', '.join(conditions['trained_on'])})",
    }[compared["protocol"]]()
    factors = ", ".join(f"{TIMES}{factor:g}" for factor in compared["factors"])
    usual = {"label_rule": rule, "classes": len(compared["classes"])}
    options = [
        shorten(f"{key} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}", 100)
        for key, value in sorted(compared["options"].items())
        if value is not None and usual.get(key) != value
    ]
    parts = [
        f"{compared['dataset']}, {compared['split']} split",
        protocol,
        *([f"resolution {factors}"] if compared["factors"] != [1] else []),
        *([f"of faces brought to {compared['reference_side']} px"] if compared["reference_side"] else []),
        f"{compared['n']:,} image{'' if compared['n'] == 1 else 's'}",
        f"{len(compared['classes'])} classes",
        *([f"label rule {rule}"] if rule else []),
        *options,
        *(["answers kept to the classes of the data set"] if compared["restricted_to_dataset_classes"] else []),
        *(f"without {count:,} of {name}" for name, count in sorted(compared["left_out"].items())),
    ]
    return shorten(", ".join(parts), 1000)


# --- rows ---------------------------------------------------------------------------------------


def _row(file: str, record: Mapping[str, Any]) -> dict[str, Any]:
    factors = _factors(record)
    first, latency, training = record["resolutions"][factors[0]], record.get("latency"), record.get("training") or {}
    return {
        "rank": None,
        "model": record["model"],
        "revision": record["revision"],
        "source": record["source"],
        "parameters": record["parameters"],
        "figures": {
            **{key: first.get(key) for key in _FIGURES},
            "average_low_resolution": record["average_low_resolution"],
        },
        "ci95": _intervals(first),
        "by_factor": {
            f"{float(factor):g}": {
                "accuracy": scores["accuracy"],
                "mean_class_accuracy": scores["mean_class_accuracy"],
                "ci95": _intervals(scores, ("accuracy", "mean_class_accuracy")),
            }
            for factor in factors
            for scores in [record["resolutions"][factor]]
        },
        "recall": {name: first["per_class"][name]["recall"] for name in record["labels"]["dataset"]},
        "missing_classes": record["labels"]["missing_in_model"],
        "latencies": [] if latency is None else [{**latency, "file": file}],
        "training": {
            "selected_by": training.get("selected_by"),
            "seed": training.get("seed"),
            "stated_by": record["conditions"].get("stated_by"),
        },
        "interval": f"{first['ci95']['method']}, {first['ci95']['resamples']:,} resamples",
        "confusion_matrices": [record["resolutions"][factor]["confusion_matrix"] for factor in factors],
        "versions": {key: record["versions"].get(key) for key in ("torch", "transformers")},
        "date": record["date"],
        "file": file,
        "repeats": [],
    }


def _intervals(scores: Mapping[str, Any], keys: Sequence[str] = _INTERVALS) -> dict[str, Any]:
    return {key: scores["ci95"][key] for key in keys if key in scores["ci95"]}


def _board(slug: str, compared: dict[str, Any], rows: list[dict[str, Any]], rank_by: str | None) -> dict[str, Any]:
    by_protocol = RANKED_BY[compared["protocol"]]
    if by_protocol == "average_low_resolution" and not any(factor > 1 for factor in compared["factors"]):
        by_protocol = "accuracy"
    ranked_by = rank_by or by_protocol
    same: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=_when, reverse=True):
        same.setdefault((row["model"], row["revision"], row["source"]), []).append(row)
    shown, superseded = [], []
    for newest, *older in same.values():
        shown.append(newest)
        for row in older:
            if _same_figures(_own_figures(row), _own_figures(newest)):
                newest["repeats"].append({"file": row["file"], "date": row["date"]})
                newest["latencies"] += [entry for entry in row["latencies"] if latency_on(newest, entry) is None]
            else:
                superseded.append({**row, "superseded_by": newest["file"]})
    return {
        "slug": slug,
        "heading": _heading(compared),
        "compared": compared,
        "ranked_by": ranked_by,
        "higher_is_better": HIGHER_IS_BETTER[ranked_by],
        "intervals": sorted({row["interval"] for row in rows}),
        "machines": _machines(shown),
        "rows": shown,
        "superseded": superseded,
    }


def _when(row: Mapping[str, Any]) -> tuple[datetime.datetime, str]:
    try:
        # Python 3.10 does not know the Z.
        moment = datetime.datetime.fromisoformat(re.sub(r"[Zz]\Z", "+00:00", row["date"]))
        if moment.tzinfo is None:
            raise ValueError("without a time zone")
    except (TypeError, ValueError):
        raise FerError(
            f"The date of {row['file']} is {one_line(repr(row['date']))}, not an ISO 8601 date with a zone; evaluate "
            "the model again."
        ) from None
    return moment, row["file"]


def _own_figures(row: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("parameters", "figures", "ci95", "by_factor", "recall", "missing_classes", "training", "confusion_matrices")
    return {key: row[key] for key in keys}


def _same_figures(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same_figures(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same_figures(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=0.0, abs_tol=_SAME)
    return one == other


def _machines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for entry in row["latencies"]:
            machine = {key: entry[key] for key in MACHINE}
            known = found.setdefault(_canonical_json(machine), {**machine, "words": machine_words(machine), "rows": 0})
            known["rows"] += 1
    return [found[key] for key in sorted(found, key=lambda key: (-found[key]["rows"], key))]


# --- ranks --------------------------------------------------------------------------------------


def _check_ranked(boards: Sequence[Mapping[str, Any]], rank_by: str | None) -> None:
    lacking = sorted(
        row["file"] for board in boards for row in board["rows"] if row["figures"][board["ranked_by"]] is None
    )
    if lacking:
        what = rank_by or "what its protocol is ranked by"
        raise FerError(
            f"{len(lacking)} record{' has' if len(lacking) == 1 else 's have'} no {what} to be ranked by "
            f"({', '.join(lacking)}); rank by another figure, or keep them in a folder of their own."
        )


def _ranked(board: dict[str, Any]) -> dict[str, Any]:
    """The board with its rows in order; what only served to tell rows apart is gone."""
    sign = -1.0 if board["higher_is_better"] else 1.0

    def by_name(row: Mapping[str, Any]) -> tuple[str, ...]:
        return row["model"], row["revision"] or "", row["source"], row["file"]

    def place(row: Mapping[str, Any]) -> float:
        return round(sign * row["figures"][board["ranked_by"]], 12)  # sums in another order tie all the same

    rows: list[dict[str, Any]] = []
    for position, row in enumerate(sorted(board["rows"], key=lambda row: (place(row), by_name(row))), start=1):
        tied = bool(rows) and place(rows[-1]) == place(row)
        rows.append({**_public(row), "rank": rows[-1]["rank"] if tied else position})
    superseded = sorted(board["superseded"], key=lambda row: (by_name(row)[:3], row["file"]))
    return {**board, "rows": rows, "superseded": [_public(row) for row in superseded]}


def _public(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("confusion_matrices", "interval")}
