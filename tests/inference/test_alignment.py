"""Cutting faces out: the geometry against plain loops, pixels kept, edges, and what configurations may say."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from hf_fer import FerError
from hf_fer.inference.alignment import TEMPLATES, FaceTemplate, crop_face, face_template, fit_similarity
from hf_fer.inference.detection import Face, WholeImage
from hf_fer.models.configuration_base import FACE_TEMPLATES
from hf_fer.models.configuration_mek import MEKConfig

FERPLUS, ARCFACE = TEMPLATES["ferplus"], TEMPLATES["arcface"]


def fitted_by_loops(source: list, target: list) -> tuple[float, float, float, float]:
    """a, b, x, y of the least-squares similarity (u, v) -> (a u - b v + x, b u + a v + y), by its normal equations."""
    n = len(source)
    mean = [sum(p[k] for p in points) / n for points in (source, target) for k in (0, 1)]
    dot = cross = square = 0.0
    for (u, v), (s, t) in zip(source, target, strict=True):
        u, v, s, t = u - mean[0], v - mean[1], s - mean[2], t - mean[3]
        dot, cross, square = dot + u * s + v * t, cross + u * t - v * s, square + u * u + v * v
    a, b = dot / square, cross / square
    return a, b, mean[2] - a * mean[0] + b * mean[1], mean[3] - b * mean[0] - a * mean[1]


def marked_face(angle: float, side: float, centre: tuple[float, float], template: FaceTemplate) -> tuple:
    """A picture with five coloured discs where the template's points are after a similarity, and the face there."""
    size = 300
    cos, sin = math.cos(angle) * side, math.sin(angle) * side
    points = [
        (centre[0] + cos * (x - 0.5) - sin * (y - 0.5), centre[1] + sin * (x - 0.5) + cos * (y - 0.5))
        for x, y in template.points
    ]
    rows, columns = np.mgrid[:size, :size]
    pixels = np.full((size, size, 3), 128, np.uint8)
    for (x, y), colour in zip(points, COLOURS, strict=True):
        pixels[(columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= 9] = colour
    x0, y0, x1, y1 = template.box
    corners = [(centre[0] + side * (x - 0.5), centre[1] + side * (y - 0.5)) for x, y in ((x0, y0), (x1, y1))]
    box = (*(max(v, 0.0) for v in corners[0]), *(min(v, float(size)) for v in corners[1]))
    return Image.fromarray(pixels), Face(box, 0.9, tuple(points))


COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))


def where_marks_are(crop: Image.Image) -> np.ndarray:
    """(5, 2): the mean place of each disc in 0..1 of the crop."""
    pixels = np.asarray(crop).astype(int)
    found = []
    for colour in COLOURS:
        rows, columns = np.nonzero(np.abs(pixels - np.array(colour)).sum(2) < 120)
        found.append(((columns.mean() + 0.5) / crop.width, (rows.mean() + 0.5) / crop.height))
    return np.array(found)


@pytest.mark.parametrize("seed", range(5))
def test_similarity_is_the_least_squares_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source, target = rng.random((5, 2)), rng.random((5, 2)) * 100
    if seed == 4:
        target = source * [-50, 50]  # a mirror image: no reflection may be answered
    matrix, shift = fit_similarity(source, target)
    a, b, x, y = fitted_by_loops(source.tolist(), target.tolist())
    assert np.allclose(matrix, [[a, -b], [b, a]], atol=1e-9)
    assert np.allclose(shift, [x, y], atol=1e-9)
    assert np.linalg.det(matrix) >= 0


def test_similarity_of_one_point_is_no_error() -> None:
    matrix, shift = fit_similarity(np.full((5, 2), 0.5), np.arange(10.0).reshape(5, 2))
    assert np.array_equal(matrix, np.zeros((2, 2)))
    assert np.allclose(shift, [4, 5])


@pytest.mark.parametrize("angle", [0, 5, -40, 60])
def test_aligned_template_brings_the_landmarks_to_its_points(angle: float) -> None:
    picture, face = marked_face(math.radians(angle), 120, (150, 140), ARCFACE)
    crop = crop_face(picture, face, ARCFACE)
    assert crop.size == (120, 120)
    assert np.abs(where_marks_are(crop) - np.array(ARCFACE.points)).max() < 1.5 / 120


@pytest.mark.parametrize(("angle", "turned"), [(10, False), (-15, False), (35, True), (-50, True)])
def test_ferplus_faces_are_turned_only_if_they_lean_far(angle: float, turned: bool) -> None:
    picture, face = marked_face(math.radians(angle), 120, (150, 140), FERPLUS)
    eyes = where_marks_are(crop_face(picture, face))[:2]
    shown = math.degrees(math.atan2(*(eyes[1] - eyes[0])[::-1]))
    assert shown == pytest.approx(0 if turned else angle, abs=2)


def test_upright_crop_keeps_pixels_and_resolution() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 240, 3)).astype(np.uint8)
    x0, y0, x1, y1 = FERPLUS.box
    face = Face((100 + 40 * x0, 80 + 40 * y0, 100 + 40 * x1, 80 + 40 * y1), 0.9)
    crop = crop_face(Image.fromarray(pixels), face)
    assert crop.size == (38, 38)  # 5 % narrower than the training images
    assert np.array_equal(np.asarray(crop), pixels[81:119, 101:139])


def test_crop_beyond_the_picture_repeats_its_edge() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 50, 3)).astype(np.uint8)
    shifted = Face((0.0, 8.0, 30.0, 48.0), 0.9)  # the crop has a margin on the left
    crop = np.asarray(crop_face(Image.fromarray(pixels), shifted))
    assert crop.shape[0] == crop.shape[1]
    missing = int((crop == crop[:, :1]).all((0, 2)).sum()) - 1
    assert missing >= 1
    first = np.flatnonzero((pixels[:, 0] == crop[0, 0]).all(1))[0]
    inside = crop[: 50 - first]
    assert np.array_equal(inside[:, 0], pixels[first:, 0][: len(inside)])
    assert np.array_equal(inside[:, missing:], pixels[first : first + len(inside), : crop.shape[1] - missing])


def test_landmarks_that_contradict_the_box_are_not_followed() -> None:
    picture = Image.new("RGB", (100, 100))
    box = (30.0, 20.0, 70.0, 72.0)
    upright = crop_face(picture, Face(box, 0.9))
    for points in (
        [(50, 50)] * 5,
        [(0, 0), (1e9, 0), (5e8, 5e8), (0, 1e9), (1e9, 1e9)],
        [(float("nan"), 0)] * 5,
        [(1, 2)],
        [(1e5 + 60 * x, 1e5 + 60 * y) for x, y in ARCFACE.points],
        [(60 * x - 500, 60 * y) for x, y in ARCFACE.points],
    ):
        assert crop_face(picture, Face(box, 0.9, tuple(points)), ARCFACE).size == pytest.approx(upright.size, rel=0.2)


def test_whole_image_comes_back_as_it_is() -> None:
    picture = Image.new("RGB", (31, 57), "red")
    (face,) = WholeImage().detect(picture)
    assert crop_face(picture, face) is picture
    assert crop_face(picture.convert("L"), face).mode == "RGB"


@pytest.mark.parametrize("box", [(0, 0, 101, 50), (-1, 0, 50, 50), (20, 20, 20, 30), (float("nan"), 0, 9, 9)])
def test_box_outside_the_picture_is_one_sentence(box: tuple) -> None:
    with pytest.raises(FerError, match="not inside the picture"):
        crop_face(Image.new("RGB", (100, 100)), Face(box, 0.9))


def test_one_pixel_face() -> None:
    assert crop_face(Image.new("RGB", (1, 1)), Face((0.2, 0.2, 0.4, 0.4), 0.9)).size == (1, 1)


# --- what configurations may say --------------------------------------------------------------------

POINTS = [[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]


def test_configuration_and_templates_know_the_same_names() -> None:
    assert tuple(TEMPLATES) == FACE_TEMPLATES


@pytest.mark.parametrize("value", [None, "ferplus", "arcface", POINTS])
def test_configuration_keeps_its_template_through_json(value: object) -> None:
    config = MEKConfig.from_dict(json.loads(MEKConfig(face_template=value).to_json_string()))
    assert config.face_template == value
    template = face_template(config)
    assert template.aligned == (value not in (None, "ferplus"))
    if value is POINTS:
        assert np.allclose(template.points, POINTS)
        centre = (np.array(template.box[:2]) + template.box[2:]) / 2
        assert (np.abs(centre - np.mean(POINTS, 0)) < 0.1).all()


@pytest.mark.parametrize(
    "value",
    [
        "rafdb",
        5,
        True,
        {},
        POINTS[:4],
        [*POINTS[:4], [0.5, 1.5]],
        [*POINTS[:4], [0.5, "x"]],
        [*POINTS[:4], [0.5]],
        [[0.5, 0.5]] * 5,
        [*POINTS[:4], [0.5, float("nan")]],
    ],
)
def test_bad_template_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="face_template must be"):
        MEKConfig(face_template=value)
    with pytest.raises(FerError, match="face_template must be"):
        face_template(SimpleNamespace(face_template=value))


def test_template_that_would_make_crops_of_any_size_is_refused() -> None:
    """A face in a thousandth of the crop: of a face of 500 px that would be a crop of 500,000 px, 750 GB."""
    for points in ([(0.5 + x / 1000, 0.5 + y / 1000) for x, y in POINTS], [(1 - x, y) for x, y in POINTS]):
        with pytest.raises(FerError, match="small part of the crop"):
            face_template(SimpleNamespace(face_template=points))


def test_other_peoples_configurations_are_like_ferplus() -> None:
    assert face_template(SimpleNamespace()) is FERPLUS
