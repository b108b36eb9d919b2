"""Drawn faces: every box and label can be seen, on any picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_fer import EXPRESSIONS, FerError
from hf_fer.inference.annotate import EXPRESSION_COLORS, _drawable, draw_faces, expression_color


def face(x0=40, y0=60, x1=140, y1=160, label="happiness", score=0.93, **more) -> dict:
    return {"box": {"xmin": x0, "ymin": y0, "xmax": x1, "ymax": y1}, "label": label, "score": score, **more}


def rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def luminance(color: np.ndarray) -> np.ndarray:
    """WCAG's relative luminance of (..., 3) values 0..255."""
    c = np.asarray(color, dtype=np.float64) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def contrast(one, other) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_every_expression_has_a_color_of_its_own():
    assert set(EXPRESSION_COLORS) == {*EXPRESSIONS, "other"}
    assert len(set(EXPRESSION_COLORS.values())) == len(EXPRESSION_COLORS)
    assert expression_color("Happy") == EXPRESSION_COLORS["happiness"]
    assert expression_color("LABEL_3") == expression_color("LABEL_3") in EXPRESSION_COLORS.values()
    # Machado et al. 2009, deuteranopia and protanopia at full severity, on linear RGB: still apart.
    matrices = {
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
    }
    linear = {name: np.power(np.array(rgb(color)) / 255, 2.2) for name, color in EXPRESSION_COLORS.items()}
    for matrix in matrices.values():
        seen = {n: np.power(np.clip(np.array(matrix) @ c, 0, 1), 1 / 2.2) for n, c in linear.items()}
        distances = [np.abs(seen[a] - seen[b]).max() for a in seen for b in seen if a < b]
        assert min(distances) > 0.12


@pytest.mark.parametrize("background", ["white", "black", "#F0E442", "#808080"])
def test_box_and_label_stand_out_from_any_background(background):
    image = Image.new("RGB", (320, 240), background)
    before = image.copy()
    drawn = draw_faces(image, [face()])
    assert image.tobytes() == before.tobytes() and drawn.size == image.size and drawn.mode == "RGB"
    pixels, ground = np.asarray(drawn), np.asarray(image)[0, 0]
    # Across each side of the box some line has WCAG's 3:1 for graphics against the background.
    for line in (pixels[110, 36:46], pixels[110, 134:144], pixels[154:164, 90], pixels[56:66, 135]):
        assert max(contrast(p, ground) for p in line) >= 3
    assert (pixels[60:161, 40:141] == rgb(EXPRESSION_COLORS["happiness"])).all(-1).any()
    assert (pixels[90:130, 70:110] == ground).all(), "the face itself is left free"
    label = pixels[:58]  # above the box
    field = (label == rgb(EXPRESSION_COLORS["happiness"])).all(-1)
    assert field.sum() > 300
    assert ((label == 0).all(-1)).sum() > 50, "dark letters on the light field"


def test_letters_have_contrast_on_every_color():
    for name, color in EXPRESSION_COLORS.items():
        pixels = np.asarray(draw_faces(Image.new("RGB", (300, 200), "white"), [face(label=name)]))[:58]
        letters = max(contrast((0, 0, 0), rgb(color)), contrast((255, 255, 255), rgb(color)))
        assert letters >= 4.5, name  # WCAG AA
        ink = (0, 0, 0) if contrast((0, 0, 0), rgb(color)) == letters else (255, 255, 255)
        field = np.argwhere((pixels == rgb(color)).all(-1))
        (top, left), (bottom, right) = field.min(0), field.max(0)
        assert (pixels[top : bottom + 1, left : right + 1] == ink).all(-1).sum() > 15, name


@pytest.mark.parametrize("size", [(1, 1), (5, 400), (400, 5), (24, 24), (48, 48), (100, 60), (640, 480), (6000, 400)])
def test_any_size_of_picture(size):
    drawn = draw_faces(Image.new("L", size, 128), [face(0, 0, *size), face(-50, -50, 9999, 9999)])
    assert drawn.size == size
    assert np.asarray(drawn).std() > 0 or size == (1, 1)


def label_height(side: int) -> int:
    drawn = np.asarray(draw_faces(Image.new("RGB", (side, side), "white"), [face(0, side // 2, side // 2, side - 1)]))
    rows = (drawn[: side // 2 - side // 200 - 1] == rgb(EXPRESSION_COLORS["happiness"])).all(-1).any(1)
    return int(rows.sum())


def test_letters_grow_with_the_picture():
    small, medium, large = map(label_height, (300, 900, 2000))
    assert 8 <= small < medium < large
    assert 2000 / 60 < large < 2000 / 20


def test_fifty_faces_that_touch_have_fifty_labels():
    faces = [
        face(x, y, x + 98, y + 98, label=EXPRESSIONS[(x + y) // 100 % 8])
        for y in range(0, 500, 100)
        for x in range(0, 1000, 100)
    ]
    drawn = np.asarray(draw_faces(Image.new("RGB", (1000, 500), "white"), faces))
    for f in faces:
        b = f["box"]
        inside = drawn[b["ymin"] : b["ymax"], b["xmin"] : b["xmax"]]
        assert (inside == rgb(EXPRESSION_COLORS[f["label"]])).all(-1).sum() > 400, b


def test_labels_avoid_each_other():
    one = face(100, 100, 200, 200, label="anger")
    alone = np.asarray(draw_faces(Image.new("RGB", (400, 300), "white"), [one]))
    both = np.asarray(draw_faces(Image.new("RGB", (400, 300), "white"), [one, face(102, 101, 198, 199, label="fear")]))
    field = (alone[:95] == rgb(EXPRESSION_COLORS["anger"])).all(-1)
    assert field.sum() > 100
    assert (both[:95][field] == rgb(EXPRESSION_COLORS["anger"])).all(), "the second label covers the first"
    assert (both[205:] == rgb(EXPRESSION_COLORS["fear"])).all(-1).sum() > 100, "the second label stands below"


@pytest.mark.parametrize("label", ["", "Überraschung", "快乐", "a\nb\x1b[2J\u202e", "\ud800", "x" * 5000, 7])
def test_any_label_is_drawn(label):
    drawn = draw_faces(Image.new("RGB", (320, 240), "white"), [face(label=label)])
    assert (np.asarray(drawn)[:60] != 255).any()


def test_accents_are_left_out_and_unknown_letters_are_marked():
    assert _drawable("Überraschung", any_letter=False) == "Uberraschung"
    assert _drawable("快乐 joy", any_letter=False) == "?? joy"
    assert _drawable("快乐", any_letter=True) == "快乐"
    assert _drawable("a\nb\x1b[2J", any_letter=False) == "a b [2J"
    assert len(_drawable("x" * 5000, any_letter=False)) <= 24


def test_a_track_number_and_landmarks_are_drawn():
    blank = Image.new("RGB", (320, 240), "white")
    plain = np.asarray(draw_faces(blank, [face()]))
    assert (np.asarray(draw_faces(blank, [face(track=12)]))[:58] != plain[:58]).any()
    points = [[70, 90], [110, 90], [90, 110], [75, 130], [105, 130]]
    dotted = np.asarray(draw_faces(blank, [face(landmarks=points)], landmarks=True))
    for x, y in points:
        assert (dotted[y - 4 : y + 5, x - 4 : x + 5] != plain[y - 4 : y + 5, x - 4 : x + 5]).any()
    assert (np.asarray(draw_faces(blank, [face(landmarks=points)])) == plain).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "F"])
def test_any_mode(mode):
    assert draw_faces(Image.new(mode, (64, 64)), [face(5, 5, 60, 60)]).mode == "RGB"


@pytest.mark.parametrize("box", [{}, {"xmin": 1}, None, {"xmin": float("nan"), "ymin": 0, "xmax": 1, "ymax": 1}])
def test_a_box_that_is_none_is_one_sentence(box):
    with pytest.raises(FerError, match="box"):
        draw_faces(Image.new("RGB", (9, 9)), [{"box": box}])


def test_a_font_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "f.ttf").write_text("no")
    with pytest.raises(FerError, match="font"):
        draw_faces(Image.new("RGB", (300, 300)), [face()], font=tmp_path / "f.ttf")
