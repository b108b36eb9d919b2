"""From a face in a picture to the crop that a model was trained on.

A crop keeps the resolution that the face has in the picture: models against low resolution must see how little there
is, and scaling to the network's input is the image processor's work.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import FerError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from .detection import Box, Face

__all__ = ["DEFAULT_TEMPLATE", "TEMPLATES", "FaceTemplate", "crop_face", "face_template", "fit_similarity"]

Points = tuple[tuple[float, float], ...]

DEFAULT_TEMPLATE = "ferplus"

# Degrees of tilt up to which a face is cut out upright where the training images were not aligned (see crop_face).
_TILT = 20.0
# Such crops are so much narrower than the training images: on montages of validation faces that brought more of the
# bare crops' answers and more right ones, for a box that is a little off then brings in less of the surroundings,
# which the model has never seen. 0.9 did no better.
_NARROWER = 0.95
# A crop by landmarks is taken if its side is so many times that by the box, and its centre at most a side away; else
# the landmarks are off.
_AGREEMENT = (0.5, 2.0)
# Crop sides that a template's face must have. A crop grows with the inverse, and a hostile configuration that put the
# face into a thousandth of it would take all memory.
_SMALLEST_FACE = 0.4


@dataclass(frozen=True)
class FaceTemplate:
    """Where the face is in the crops that a model was trained on.

    Attributes:
        points: (x, y) of both eyes, the tip of the nose and both corners of the mouth in 0..1 of the crop's side; of
            the pairs, the one further left first.
        box: x0, y0, x1, y1 of the face's box as YuNet draws it, in crop sides; it may reach out of the crop.
        aligned: whether the training images were turned and scaled until their landmarks met `points`.
    """

    points: Points
    box: Box
    aligned: bool


def crop_face(image: Image.Image, face: Face, template: FaceTemplate | None = None) -> Image.Image:
    """Cut a face out as the training images were.

    Where those were aligned, so is the crop: turned, scaled and shifted by the similarity that fits the landmarks to
    the template's points best (Umeyama 1991). FERPlus' were not: heads lean by 7 degrees (root mean square), and on
    montages of its validation faces the upright square around the detector's box brought answers nearest to those for
    the bare crops, nearer than the similarity with or without its rotation. It keeps the pixels as they are, and does
    not shrink with the foreshortened landmarks of a head that looks aside. On faces that were turned by 20 degrees and
    more the similarity was better, so those are turned upright.

    Args:
        image: the picture that the face was found in, upright.
        face: its box and, where known, landmarks.
        template: by default that of FERPlus.

    Returns:
        A square RGB picture at the picture's own resolution; what lies outside the picture repeats its edge. The
        picture itself, in RGB, if the face is the whole of it without landmarks (detector "none").

    Raises:
        FerError: a box that is not inside the picture.
    """
    import numpy as np

    template = template or TEMPLATES[DEFAULT_TEMPLATE]
    narrower = 1.0 if template.aligned else _NARROWER
    image = image if image.mode == "RGB" else image.convert("RGB")
    x0, y0, x1, y1 = face.box
    if face.landmarks is None and (x0, y0, x1, y1) == (0, 0, *image.size):
        return image
    if not (0 <= x0 < x1 <= image.width and 0 <= y0 < y1 <= image.height):
        raise FerError(f"the box of a face {face.box} is not inside the picture ({image.width} x {image.height})")

    left, top, right, bottom = template.box
    side = math.sqrt((x1 - x0) * (y1 - y0) / ((right - left) * (bottom - top)))
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    centre = middle + side * (0.5 - np.array([(left + right) / 2, (top + bottom) / 2]))
    landmarks = None if face.landmarks is None else np.array(face.landmarks, dtype=np.float64)
    if landmarks is not None and landmarks.shape == (5, 2) and np.isfinite(landmarks).all():
        matrix, shift = fit_similarity(np.array(template.points), landmarks)
        scale = math.hypot(matrix[0, 0], matrix[1, 0])
        angle = math.atan2(matrix[1, 0], matrix[0, 0])
        turned = template.aligned or abs(angle) > math.radians(_TILT)
        aim = matrix @ np.array([0.5, 0.5]) + shift
        near = math.dist(aim, centre) <= side
        if turned and near and _AGREEMENT[0] <= scale / side <= _AGREEMENT[1]:
            return _cut(image, aim, scale * narrower, angle)
    return _cut(image, centre, side * narrower, 0.0)


def face_template(config: Any) -> FaceTemplate:
    """What the crops of a checkpoint look like.

    Args:
        config: its configuration. Its `face_template`, if it has one, is a name of `TEMPLATES`, or five points (x, y)
            in 0..1, to which the training images' landmarks were aligned; otherwise the crops are like FERPlus'.

    Raises:
        FerError: a `face_template` that is neither, or puts the face into a small part of the crop.
    """
    given = getattr(config, "face_template", None)
    if given is None:
        return TEMPLATES[DEFAULT_TEMPLATE]
    if isinstance(given, str) and given in TEMPLATES:
        return TEMPLATES[given]
    if _are_points(given):
        template = _aligned(tuple((float(x), float(y)) for x, y in given))
        if not template.box[2] - template.box[0] >= _SMALLEST_FACE:
            raise FerError(
                "the configuration's face_template puts the face into a small part of the crop, or is mirrored; give"
                " the five points, the one further left first, as they lie in the training images"
            )
        return template
    shown = repr(given)[:100]
    raise FerError(
        f"the configuration's face_template must be one of {', '.join(map(repr, TEMPLATES))} or five points in 0..1,"
        f" got {shown}"
    )


def fit_similarity(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rotation, scale and shift, without reflection, that bring points nearest to others in least squares.

    Umeyama (1991), "Least-squares estimation of transformation parameters between two point patterns", IEEE TPAMI 13,
    equations 40 to 42.

    Args:
        source, target: (N, 2) float.

    Returns:
        A (2,2), scale times rotation, and b (2,) such that A @ source[i] + b is nearest to target[i]. Of source points
        that are all one, A is 0.
    """
    import numpy as np

    from_mean, to_mean = source.mean(0), target.mean(0)
    source, target = source - from_mean, target - to_mean
    u, d, vt = np.linalg.svd(target.T @ source / len(source))
    signs = np.array([1.0, 1.0 if np.linalg.det(u) * np.linalg.det(vt) >= 0 else -1.0])
    variance = (source**2).sum(1).mean()
    scale = float((d * signs).sum() / variance) if variance > 0 else 0.0
    matrix = scale * (u * signs) @ vt
    return matrix, to_mean - matrix @ from_mean


def _cut(image: Image.Image, centre: np.ndarray, side: float, angle: float) -> Image.Image:
    """A square of a picture, turned clockwise by an angle; beyond the picture its edge is repeated."""
    import numpy as np
    from PIL import Image

    size = max(1, round(side))
    reach = size if angle == 0 else math.ceil(side * (abs(math.cos(angle)) + abs(math.sin(angle)))) + 4
    x, y = round(float(centre[0]) - reach / 2), round(float(centre[1]) - reach / 2)
    # Upright crops lie on whole pixels: nothing is interpolated.
    columns = np.arange(x, x + reach).clip(0, image.width - 1)
    rows = np.arange(y, y + reach).clip(0, image.height - 1)
    left, top = int(columns[0]), int(rows[0])
    area = image.crop((left, top, int(columns[-1]) + 1, int(rows[-1]) + 1))
    if area.size != (reach, reach):
        area = Image.fromarray(np.asarray(area)[rows - top][:, columns - left])
    if angle == 0:
        return area
    step = side / size
    cos, sin = math.cos(angle) * step, math.sin(angle) * step
    shift_x = float(centre[0]) - x - (cos - sin) * size / 2
    shift_y = float(centre[1]) - y - (sin + cos) * size / 2
    matrix = (cos, -sin, shift_x, sin, cos, shift_y)
    return area.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


def _are_points(value: Any) -> bool:
    """Whether a value is five pairs of numbers in 0..1, not all one point."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 5:
        return False
    for point in value:
        if not isinstance(point, Sequence) or isinstance(point, str) or len(point) != 2:
            return False
        if not all(isinstance(v, numbers.Real) and not isinstance(v, bool) and 0 <= v <= 1 for v in point):
            return False
    return len({tuple(point) for point in value}) > 1


# Printed by `python benchmarks/face_template.py --root data/ferplus`.
_FERPLUS = FaceTemplate(
    points=((0.302, 0.362), (0.686, 0.373), (0.471, 0.569), (0.336, 0.757), (0.646, 0.762)),
    box=(0.088, -0.034, 0.905, 1.054),
    aligned=False,
)


def _aligned(points: Points) -> FaceTemplate:
    """A template of points alone: its box is to them as FERPlus' is to FERPlus' points."""
    import numpy as np

    matrix, shift = fit_similarity(np.array(_FERPLUS.points), np.array(points))
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    left, top, right, bottom = _FERPLUS.box
    x, y = (float(v) for v in matrix @ np.array([(left + right) / 2, (top + bottom) / 2]) + shift)
    width, height = scale * (right - left), scale * (bottom - top)
    return FaceTemplate(points, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), aligned=True)


TEMPLATES: dict[str, FaceTemplate] = {
    "ferplus": _FERPLUS,
    # insightface's `arcface_dst` of 112 px (python-package/insightface/utils/face_align.py), which ArcFace's and many
    # other face networks' training images are aligned to.
    "arcface": _aligned(
        tuple(
            (x / 112, y / 112)
            for x, y in (
                (38.2946, 51.6963),
                (73.5318, 51.5014),
                (56.0252, 71.7366),
                (41.5493, 92.3655),
                (70.7299, 92.2041),
            )
        )
    ),
}
