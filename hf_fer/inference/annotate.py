"""Faces drawn onto the picture they were found in: boxes, labels and percentages.

The colours are those of Okabe and Ito ("Color Universal Design", 2008), which people with any of the common
colour-vision deficiencies can tell apart, and two greys, for "neutral" and "other"; the label stands beside the box in
words all the same.
"""

from __future__ import annotations

import functools
import math
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from ..data.images import to_rgb
from ..errors import FerError
from ..labels import find_expression

if TYPE_CHECKING:
    from os import PathLike

EXPRESSION_COLORS: dict[str, str] = {
    "neutral": "#BBBBBB",
    "happiness": "#F0E442",
    "surprise": "#E69F00",
    "sadness": "#0072B2",
    "anger": "#D55E00",
    "disgust": "#009E73",
    "fear": "#CC79A7",
    "contempt": "#56B4E9",
    "other": "#595959",
}
"""`#RRGGBB` of each expression of the vocabulary, and of "other"; the same in photos, videos and plots."""

_LONGEST_LABEL = 24  # characters
_CROWD = 8  # faces
_SMALLEST_FONT = 8  # px; below that nobody can read the default font

Rectangle = tuple[float, float, float, float]


def expression_color(label: str) -> str:
    """`#RRGGBB` for a label as a checkpoint spells it; one that is no expression has always the same of
    `EXPRESSION_COLORS`, which it shares with an expression."""
    name = find_expression(label)
    if name is None:
        names = list(EXPRESSION_COLORS)
        name = names[zlib.crc32(str(label).encode("utf-8", "replace")) % len(names)]
    return EXPRESSION_COLORS[name]


def draw_faces(
    image: Image.Image,
    faces: Sequence[Mapping[str, Any]],
    *,
    landmarks: bool = False,
    font: str | PathLike[str] | None = None,
) -> Image.Image:
    """Draw a box, the label and its probability in percent for every face.

    Lines and letters grow with the picture. A box has a dark and a light rim around its colour and a label has a
    filled field behind it, so both stand out from any background; labels avoid each other where there is room, and
    are shortened where the picture is narrow (in one of a few dozen px the box alone is drawn).

    Args:
        image: any mode and size; not changed.
        faces: as from `FacialExpressionPipeline`: "box" with "xmin", "ymin", "xmax", "ymax" in px; "label" and "score"
            (0..1) if known; "track", the number of `analyze_video`, stands before the label; "landmarks" is optional.
        landmarks: also dot the five points.
        font: a TrueType file for labels in other scripts. The font inside Pillow knows ASCII: without a file accents
            are left out there, and other letters are shown as "?".

    Returns:
        A new "RGB" picture of the same size.

    Raises:
        FerError: a box that is not four finite numbers, or a font file that cannot be read.
    """
    picture = to_rgb(image)
    if picture is image:
        picture = image.copy()
    boxes = [_box(face, picture.size) for face in faces]
    pen = ImageDraw.Draw(picture)
    for face, box in zip(faces, boxes, strict=True):
        _draw_box(pen, box, _color(face), _line_width(picture.size, box))
        if landmarks and face.get("landmarks"):
            _draw_landmarks(pen, face["landmarks"], _line_width(picture.size, box))
    taken: list[Rectangle] = []
    for face, box in zip(faces, boxes, strict=True):
        _draw_label(pen, picture.size, face, box, _letters(picture.size, box, len(faces)), taken, font)
    return picture


def _box(face: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Corners in whole px inside the picture, x0 <= x1 and y0 <= y1."""
    try:
        corners = [float(face["box"][key]) for key in ("xmin", "ymin", "xmax", "ymax")]
    except (KeyError, TypeError, ValueError, OverflowError):
        corners = [math.nan]
    if not all(math.isfinite(corner) for corner in corners):
        raise FerError('a face to draw needs a "box" with finite numbers "xmin", "ymin", "xmax" and "ymax"')
    width, height = size
    x0, x1 = sorted(min(max(round(x), 0), width - 1) for x in corners[::2])
    y0, y1 = sorted(min(max(round(y), 0), height - 1) for y in corners[1::2])
    return x0, y0, x1, y1


def _color(face: Mapping[str, Any]) -> str:
    label = face.get("label")
    return EXPRESSION_COLORS["neutral"] if label is None else expression_color(str(label))


def _line_width(size: tuple[int, int], box: tuple[int, int, int, int]) -> int:
    """About 1/250 of the picture, at most 1/20 of the face: thick lines would hide a small one."""
    side = min(box[2] - box[0], box[3] - box[1])
    return max(1, min(round(max(size) / 250), side // 20 + 1))


def _letters(size: tuple[int, int], box: tuple[int, int, int, int], faces: int) -> int:
    """Size of the letters: 1/36 of the picture's longer side, 13 px or more. In a crowd no more than lets most labels
    be as wide as their box, or each would lie over its neighbours."""
    letters = max(13, round(max(size) / 36))
    return letters if faces <= _CROWD else max(10, min(letters, (box[2] - box[0]) // 7))


def _draw_box(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], color: str, width: int) -> None:
    x0, y0, x1, y1 = box
    rim = max(1, width // 3)
    pen.rectangle((x0 - rim, y0 - rim, x1 + rim, y1 + rim), outline="black", width=rim)
    pen.rectangle(box, outline=color, width=width)
    inner = (x0 + width, y0 + width, x1 - width, y1 - width)
    if inner[2] - inner[0] > 4 * rim and inner[3] - inner[1] > 4 * rim:
        pen.rectangle(inner, outline="white", width=rim)


def _draw_landmarks(pen: ImageDraw.ImageDraw, points: Sequence[Sequence[float]], width: int) -> None:
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y) and max(abs(x), abs(y)) < 1e6:
            pen.ellipse((x - width, y - width, x + width, y + width), fill="white", outline="black")


def _draw_label(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    face: Mapping[str, Any],
    box: tuple[int, int, int, int],
    letters: int,
    taken: list[Rectangle],
    font_file: str | PathLike[str] | None,
) -> None:
    spot = _spot(_texts(face, any_letter=font_file is not None), box, size, letters, taken, font_file)
    if spot is None:
        return
    text, font, (left, top), margin, (x, y, right, bottom) = spot
    taken.append((x, y, right, bottom))
    color = _color(face)
    pen.rectangle((x, y, right - 1, bottom - 1), fill=color, outline="black")
    pen.text((x + margin - left, y + margin - top), text, font=font, fill=_text_color(color))


def _texts(face: Mapping[str, Any], any_letter: bool) -> list[str]:
    """What a label may say, the longest first."""
    number = f"#{face['track']} " if face.get("track") is not None else ""
    score = face.get("score")
    percent = ""
    if isinstance(score, int | float) and math.isfinite(score):  # what is not certain is not called so
        percent = ">99%" if 0.995 <= score < 1 else f"{100 * score:.0f}%"
    label = _drawable(str(face["label"]), any_letter) if face.get("label") is not None else ""
    candidates = [f"{number}{label} {percent}", f"{label} {percent}", f"{label[:3]} {percent}", label[:3], number]
    return list(dict.fromkeys(text.strip() for text in candidates if text.strip()))


def _drawable(label: str, any_letter: bool) -> str:
    """One short line of letters that the font has."""
    text = " ".join("".join(c if c.isprintable() else " " for c in label[:500]).split())
    if not any_letter:
        plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        text = "".join(c if c.isascii() else "?" for c in plain)
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 3].rstrip() + "..."


def _spot(
    texts: list[str],
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    letters: int,
    taken: list[Rectangle],
    font_file: str | PathLike[str] | None,
) -> tuple[str, ImageFont.FreeTypeFont, tuple[int, int], int, tuple[int, int, int, int]] | None:
    """The first text, size of letters and place that cover no other label: text, font, offset of its ink, margin and
    field. Where all do, the first that fits into the picture; None where not even the shortest fits.
    """
    first = None
    for text in texts:
        for points in dict.fromkeys((letters, max(_SMALLEST_FONT, letters * 2 // 3), _SMALLEST_FONT)):
            font = _font(font_file, points)
            left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
            margin = max(1, (bottom - top) // 5)
            width, height = right - left + 2 * margin, bottom - top + 2 * margin
            if width > size[0] or height * 2 > size[1]:
                continue
            (x, y), free = _place(box, (width, height), size, taken)
            spot = text, font, (left, top), margin, (x, y, x + width, y + height)
            if free:
                return spot
            first = first or spot
    return first


@functools.lru_cache(maxsize=64)
def _font(file: str | PathLike[str] | None, points: int) -> ImageFont.FreeTypeFont:
    if file is None:
        return ImageFont.load_default(points)
    try:
        return ImageFont.truetype(file, points)
    except OSError as error:
        raise FerError(f"{str(file)[:300]!r} cannot be read as a font ({error}); name a TrueType file") from error


def _place(
    box: tuple[int, int, int, int], label: tuple[int, int], size: tuple[int, int], taken: list[Rectangle]
) -> tuple[tuple[int, int], bool]:
    """Top left corner of a label, and whether it covers no other: above the box, below it, or inside."""
    (x0, y0, x1, y1), (width, height) = box, label
    places = [
        (min(max(x, 0), size[0] - width), y)
        for y in (y0 - height, y1 + 1, y0 + 1, y1 - height)
        for x in (x0, x1 - width + 1)
        if y >= 0 and y + height <= size[1]
    ] or [(min(max(x0, 0), size[0] - width), min(max(0, y0 - height), size[1] - height))]
    for place in places:
        if not any(_overlap(place, label, other) for other in taken):
            return place, True
    return places[0], False


def _overlap(corner: tuple[int, int], size: tuple[int, int], other: Rectangle) -> bool:
    (x, y), (width, height) = corner, size
    return x < other[2] and other[0] < x + width and y < other[3] and other[1] < y + height


def _text_color(background: str) -> str:
    """Black or white, whichever has the higher contrast (relative luminance of WCAG 2.2)."""
    channels = [int(background[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "white"
