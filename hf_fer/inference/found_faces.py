"""The faces of a picture, by whatever detector: checked, clipped, in order, and described for an answer."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import TYPE_CHECKING, Any

from ..checkpoints.checks import first_sentence
from ..errors import FerError

if TYPE_CHECKING:
    from PIL import Image

    from .detection import Face, FaceDetector


def as_detector(detector: Any) -> FaceDetector:
    """A detector by its name or path (see `load_detector`), or one that is there already.

    Raises:
        FerError: it is none of these, or cannot be loaded.
    """
    if callable(getattr(detector, "detect", None)):
        return detector
    if not isinstance(detector, str | os.PathLike):
        raise FerError(
            f"A {type(detector).__name__} is no face detector; pass 'yunet', 'none', the path of an .onnx file, or an "
            "object with a method detect(image)."
        )
    from .detection import load_detector

    return load_detector(detector)


def find_faces(detector: FaceDetector, image: Image.Image, name: str) -> list[Face]:
    """The faces of a picture, clipped to it, largest first, whoever wrote the detector.

    Raises:
        FerError: the detector failed; the sentence begins with `name`.
    """
    kind = getattr(detector, "name", type(detector).__name__)
    try:
        found = [_clipped(face, image.size) for face in detector.detect(image)]
    except FerError as error:
        raise FerError(f"{name}: {error}") from error
    except Exception as error:  # of OpenCV, or of somebody's own detector
        raise FerError(f"{name}: the face detector {kind} failed on it ({first_sentence(error)})") from error
    return sorted((face for face in found if shorter_side(face) > 0), key=lambda face: -_area(face))


def _clipped(face: Face, size: tuple[int, int]) -> Face:
    x0, y0, x1, y1 = map(float, face.box)
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError(f"it found the box {face.box}")
    described(face)  # raises where a score or a landmark is no number
    (width, height), box = size, (x0, y0, x1, y1)
    clipped = (min(max(x0, 0.0), width), min(max(y0, 0.0), height), min(max(x1, 0.0), width), min(max(y1, 0.0), height))
    return face if clipped == box else dataclasses.replace(face, box=clipped)


def _area(face: Face) -> float:
    return (face.box[2] - face.box[0]) * (face.box[3] - face.box[1])


def described(face: Face) -> dict[str, Any]:
    """Box, score and landmarks as the pipeline answers them: plain numbers, the box as transformers' detectors do."""
    return {
        "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), map(round, face.box), strict=True)),
        "detection_score": float(face.score),
        "landmarks": None if face.landmarks is None else [[float(x), float(y)] for x, y in face.landmarks],
    }


def shorter_side(face: Face) -> float:
    """Of a face's box, in px."""
    return min(face.box[2] - face.box[0], face.box[3] - face.box[1])
