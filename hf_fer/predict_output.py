"""What `hf-fer predict` prints: a table, CSV or JSON, written as the answers come."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

COLUMNS = (
    *("path", "frame", "seconds", "face", "label", "score", "reliability", "error"),
    *("xmin", "ymin", "xmax", "ymax", "detection_score"),
)
"""Columns of the CSV before those of the classes, p_<class>."""


@dataclass
class Answer:
    """One picture, or one frame of a video, and the faces in it.

    Attributes:
        path: as given or found.
        faces: as `FacialExpressionPipeline` answers, in a video with `track`.
        error: one sentence, where there is no answer.
        width, height: of a picture in px, None for frames and failures.
        frame, seconds: of a video, None for pictures.
    """

    path: str
    faces: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    width: int | None = None
    height: int | None = None
    frame: int | None = None
    seconds: float | None = None


def write_json(answers: Iterable[Answer], out: TextIO, top: int | None) -> None:
    """One JSON array with an object for each picture or frame."""
    separator = "[\n"
    for answer in answers:
        entry: dict[str, Any] = {"path": answer.path}
        if answer.error is not None:
            entry["error"] = answer.error
        else:
            for name in ("width", "height", "frame"):
                if getattr(answer, name) is not None:
                    entry[name] = getattr(answer, name)
            if answer.seconds is not None:
                entry["seconds"] = round(answer.seconds, 3)
            entry["faces"] = [_rounded(face, top) for face in answer.faces]
        out.write(separator + json.dumps(entry))
        out.flush()  # a webcam's answers are read as they come
        separator = ",\n"
    out.write("[]\n" if separator == "[\n" else "\n]\n")


def write_csv(answers: Iterable[Answer], out: TextIO, top: int | None, classes: list[str]) -> None:
    """`COLUMNS` and p_<class> for each class, one row a face; outside the `top` classes stay empty.

    `face` counts from 1, in a video it is the track; a picture without a face has one row, with a 0 there.
    """
    writer = csv.DictWriter(out, [*COLUMNS, *(f"p_{name}" for name in classes)], restval="", lineterminator="\n")
    writer.writeheader()
    for answer in answers:
        shared = {"path": answer.path, "frame": answer.frame, "error": answer.error}
        if answer.seconds is not None:
            shared["seconds"] = round(answer.seconds, 3)
        if answer.error is not None or not answer.faces:
            writer.writerow({**shared, **({} if answer.error else {"face": 0})})
        for number, face in enumerate(answer.faces, 1):
            told = _rounded(face, top)
            writer.writerow(
                {
                    **shared,
                    "face": face.get("track", number),
                    **{name: told[name] for name in ("label", "score", "reliability", "detection_score")},
                    **face["box"],
                    **{f"p_{name}": p for name, p in told["probabilities"].items()},
                }
            )
        out.flush()  # as in JSON


def write_table(answers: Iterable[Answer], out: TextIO, top: int, width: int) -> None:
    """One line for each face; pictures that cannot be read are listed on stderr at the end."""
    header = f"{'image':<{width}}  {'face':>4}  {'px':>5}  {'expression':<12} {'score':>6}  most probable"
    for answer in answers:
        if answer.error is not None:
            continue
        if header:
            print(header, file=out)
            header = ""
        path = answer.path if answer.path.isprintable() else repr(answer.path)
        if answer.seconds is not None:
            path = f"{path} {answer.seconds:.2f}s"
        if not answer.faces:
            print(f"{path:<{width}}  no face found", file=out, flush=True)
        for number, face in enumerate(answer.faces, 1):
            box = face["box"]
            side = max(box["xmax"] - box["xmin"], box["ymax"] - box["ymin"])
            likely = ", ".join(f"{name} {p:.3f}" for name, p in list(face["probabilities"].items())[:top])
            line = f"{path:<{width}}  {face.get('track', number):>4}  {side:>5}  {face['label']:<12}"
            print(f"{line} {face['score']:>6.3f}  {likely}", file=out, flush=True)


def counted(answers: Iterable[Answer], failures: list[str], empty: list[str]) -> Iterator[Answer]:
    """The answers, while sentences about failures and paths of pictures without a face are collected."""
    for answer in answers:
        if answer.error is not None:
            failures.append(answer.error)
        elif not answer.faces and answer.seconds is None:
            empty.append(answer.path)
        yield answer


def _rounded(face: dict[str, Any], top: int | None) -> dict[str, Any]:
    """A face with figures for reading, and the `top` most probable classes (all for None)."""
    told = dict(face)
    for name in ("score", "reliability", "detection_score"):
        told[name] = None if face.get(name) is None else round(face[name], 6)
    for name in ("probabilities", "raw_probabilities"):
        if name in face:
            told[name] = {label: round(p, 6) for label, p in list(face[name].items())[:top]}
    if face.get("landmarks") is not None:
        told["landmarks"] = [[round(x, 1), round(y, 1)] for x, y in face["landmarks"]]
    return told
