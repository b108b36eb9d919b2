"""The faces of a video as a table or as JSON, written while the video is read."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import FerError
from ..evaluation.whole_files import shown, write_whole
from ..labels import EXPRESSIONS, find_expression

if TYPE_CHECKING:
    from .video import FrameFaces

COLUMNS = (
    "frame", "seconds", "track", "label", "score", "reliability", "raw_label", "raw_score",
    "detection_score", "xmin", "ymin", "xmax", "ymax",
)  # fmt: skip
"""Columns of the table before `p_<label>` of every label. `score` and `p_` are smoothed over time, `raw_` is not."""


def write_timeline(frames: Iterable[FrameFaces], path: str | os.PathLike[str], *, overwrite: bool = False) -> int:
    """Write the faces of a video to a file, frame after frame; nothing is kept in memory.

    Args:
        frames: as from `analyze_video`.
        path: .csv: a row for every face of every frame (see `COLUMNS`; frames without a face have none); .json: an
            array with an object {"frame", "seconds", "faces"} for every sampled frame; .jsonl: such an object a line.
            Numbers have six decimals.
        overwrite: replace a file of that name.

    Returns:
        The number of frames written. The file appears when the last one is; after an error there is none.

    Raises:
        FerError: another ending, the file exists or cannot be written, or a face with other labels than the first.
    """
    where = Path(path)
    write = {".csv": _write_csv, ".json": _write_json, ".jsonl": _write_lines}.get(where.suffix.lower())
    if write is None:
        raise FerError(f"{shown(where)}: the ending says how to write a timeline; use .csv, .json or .jsonl")
    count = 0

    def counted() -> Iterator[FrameFaces]:
        nonlocal count
        for frame in frames:
            yield frame
            count += 1

    def fill(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
        try:
            write(counted(), text)
            text.flush()
        finally:
            text.detach()

    write_whole(where, fill, overwrite)
    return count


def timeline_rows(frame: FrameFaces) -> list[dict[str, Any]]:
    """A frame's rows of the table, one for each face: `COLUMNS`, then `p_<label>`s, most probable first; None where
    something is not known."""
    rows = []
    for face in frame.faces:
        raw = face.get("raw_probabilities") or {}
        row = {
            "frame": frame.frame,
            "seconds": frame.seconds,
            "track": face.get("track"),
            "label": face["label"],
            "score": face["score"],
            "reliability": face.get("reliability"),
            "raw_label": face.get("raw_label"),
            "raw_score": raw.get(face.get("raw_label")),
            "detection_score": face.get("detection_score"),
            **face["box"],
        }
        row |= {f"p_{label}": p for label, p in face["probabilities"].items()}
        rows.append(_rounded(row))
    return rows


def _write_csv(frames: Iterable[FrameFaces], out: io.TextIOWrapper) -> None:
    table = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    begun = False
    for frame in frames:
        for row in timeline_rows(frame):
            if not begun:
                labels = sorted((key[2:] for key in row if key.startswith("p_")), key=_usual_place)
                table.fieldnames = [*COLUMNS, *(f"p_{label}" for label in labels)]
                table.writeheader()
                begun = True
            try:
                table.writerow(row)
            except ValueError as error:  # a label that has no column
                raise FerError(
                    f"frame {frame.frame} has labels that the first face had not; do not limit the pipeline by top_k"
                ) from error
    if not begun:
        table.writeheader()


def _write_json(frames: Iterable[FrameFaces], out: io.TextIOWrapper) -> None:
    separator = "[\n"
    for frame in frames:
        out.write(separator + _object(frame))
        separator = ",\n"
    out.write("[]\n" if separator == "[\n" else "\n]\n")


def _write_lines(frames: Iterable[FrameFaces], out: io.TextIOWrapper) -> None:
    for frame in frames:
        out.write(_object(frame) + "\n")


def _object(frame: FrameFaces) -> str:
    return json.dumps(_rounded({"frame": frame.frame, "seconds": frame.seconds, "faces": frame.faces}))


def _rounded(value: Any) -> Any:
    """Floats with six decimals, in whatever is nested."""
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return round(value, 6) if isinstance(value, float) else value


def _usual_place(label: str) -> tuple[int, str]:
    """The order of columns: as in the vocabulary, then by name."""
    name = find_expression(label)
    return (EXPRESSIONS.index(name) if name in EXPRESSIONS else len(EXPRESSIONS)), label
