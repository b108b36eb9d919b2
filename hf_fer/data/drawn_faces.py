"""Draws faces whose geometry, and nothing else, carries the expression.

The signs follow the facial action units (brow raiser and lowerer, lid raiser, cheek raiser, nose wrinkler, lip
corner puller and depressor, ...). Everything else that differs between two pictures is a nuisance drawn
independently of the expression: identity, pose, light, background, glasses, noise, blur, resolution.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ..errors import FerError

__all__ = ["Identity", "draw_face", "draw_identity", "lower_resolution"]

Colour = tuple[int, int, int]


# --- what an expression does to a face ------------------------------------------------------------


class Geometry(NamedTuple):
    """The state of a face's muscles. Lengths are in units of half a face's height; 0 (or 1) is relaxed."""

    brow_inner: float = 0.0  # rise of the brows' inner ends
    brow_outer: float = 0.0  # rise of their outer ends
    brow_pinch: float = 0.0  # how far the inner ends move towards each other
    brow_uneven: float = 0.0  # extra rise of the brow on the smirking side
    lid: float = 1.0  # openness of the upper lid
    squint: float = 0.0  # rise of the lower lid, 0..1
    mouth_width: float = 1.0
    mouth_curve: float = 0.0  # how far the corners lie above the middle
    mouth_open: float = 0.0  # gap between the lips
    lip_raise: float = 0.0  # rise of the upper lip's middle
    smirk: float = 0.0  # rise of one corner only
    teeth: float = 0.0  # share of the gap filled with teeth, 0..1
    nose_wrinkle: float = 0.0  # 0..1
    cheek: float = 0.0  # fold from the nose to the mouth's corner, 0..1
    frown_line: float = 0.0  # vertical lines between the brows, 0..1
    forehead_line: float = 0.0  # horizontal lines above them, 0..1


# Two ways of showing each expression; a picture lies somewhere between them.
GEOMETRIES: dict[str, tuple[Geometry, Geometry]] = {
    "neutral": (Geometry(), Geometry(mouth_width=0.94)),
    "happiness": (
        Geometry(mouth_width=1.25, mouth_curve=0.21, cheek=0.8, squint=0.45, lid=0.85),
        Geometry(mouth_width=1.35, mouth_curve=0.25, mouth_open=0.2, teeth=0.8, cheek=1, squint=0.7, lid=0.8),
    ),
    "surprise": (
        Geometry(0.13, 0.12, lid=1.5, mouth_width=0.62, mouth_open=0.24, forehead_line=0.6),
        Geometry(0.18, 0.16, lid=1.75, mouth_width=0.66, mouth_open=0.40, forehead_line=1),
    ),
    "sadness": (
        Geometry(0.14, -0.09, 0.04, lid=0.68, mouth_curve=-0.17, mouth_width=0.9),
        Geometry(0.19, -0.12, 0.05, lid=0.5, squint=0.2, mouth_curve=-0.22, mouth_width=0.88, frown_line=0.3),
    ),
    "anger": (
        Geometry(-0.16, 0.07, 0.10, lid=0.85, squint=0.4, mouth_width=0.78, mouth_curve=-0.10, frown_line=1),
        Geometry(-0.18, 0.09, 0.11, squint=0.4, mouth_curve=-0.11, mouth_open=0.18, teeth=1, frown_line=1),
    ),
    "disgust": (
        Geometry(-0.06, -0.05, 0.03, lid=0.6, squint=0.6, mouth_curve=-0.13, lip_raise=0.08, mouth_width=0.95,
                 nose_wrinkle=0.9, cheek=0.8),
        Geometry(-0.07, -0.05, 0.04, lid=0.5, squint=0.75, mouth_curve=-0.17, lip_raise=0.13, mouth_open=0.07,
                 nose_wrinkle=1, cheek=1),
    ),
    "fear": (
        Geometry(0.18, 0.03, 0.07, lid=1.5, mouth_width=1.2, mouth_curve=-0.10, mouth_open=0.10, teeth=0.6,
                 forehead_line=0.4),
        Geometry(0.21, 0.02, 0.09, lid=1.7, mouth_width=1.3, mouth_curve=-0.13, mouth_open=0.19, teeth=0.9,
                 forehead_line=0.7),
    ),
    "contempt": (
        Geometry(smirk=0.26, lid=0.8, squint=0.1, mouth_width=1.1, brow_uneven=0.06),
        Geometry(smirk=0.32, lid=0.62, squint=0.3, mouth_width=1.15, brow_uneven=0.13),
    ),
}  # fmt: skip

# Scatter of each muscle from one picture to the next, as a share of the range it moves through above.
SCATTER = 0.04
RANGES = np.ptp(np.array([pair for pairs in GEOMETRIES.values() for pair in pairs]), axis=0)


def sample_geometry(expression: str, intensity: float, rng: np.random.Generator) -> Geometry:
    """A face showing `expression` with `intensity` in [0, 1] (0: relaxed), plus muscle scatter."""
    first, second = (np.array(g) for g in GEOMETRIES[expression])
    shown = first + rng.uniform() * (second - first)
    rest = np.array(Geometry())
    values = rest + intensity * (shown - rest)
    # Scatter only the muscles that everybody moves a little all the time. A wrinkle, a gap or a smirk
    # that is not part of the expression would be another expression.
    idle = (np.abs(shown - rest) < 1e-9) & (rest == 0)
    idle[:2] = False
    idle[Geometry._fields.index("mouth_curve")] = False
    noise = rng.standard_normal(len(values)) * SCATTER * RANGES
    return Geometry(*np.where(idle, values, values + noise).tolist())


# --- who the face belongs to ----------------------------------------------------------------------


class Identity(NamedTuple):
    """What stays the same between two pictures of one person. Lengths as in `Geometry`."""

    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    shirt: Colour
    width: float  # of the face, relative to its height
    jaw: float  # how much the face narrows downwards
    eye_distance: float  # half of it
    eye_height: float
    eye_size: float
    brow_height: float  # above the eyes
    brow_thickness: float
    brow_tilt: float
    nose_length: float
    nose_width: float
    mouth_height: float
    mouth_width: float  # half of it
    lip_thickness: float
    resting_curve: float  # of the mouth
    hair_style: int  # 0 bald, 1 short, 2 fringe, 3 long, 4 parted
    beard: float  # 0 (none) to 1
    glasses: bool


# From light to dark; a person's skin lies between two neighbours.
SKINS = np.array([(250, 222, 200), (236, 193, 160), (214, 162, 122), (176, 122, 84), (128, 84, 58), (84, 56, 42)])
# Darkest first and the grey of age; fair and red hair comes with light skin only.
HAIRS = np.array([(28, 22, 22), (62, 40, 28), (150, 148, 148), (112, 72, 40), (196, 156, 88), (150, 62, 30)])
IRISES = np.array([(70, 44, 24), (110, 74, 34), (74, 110, 60), (62, 104, 150), (90, 100, 112)])


def _between(colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A colour between two neighbours of a (N, 3) palette."""
    at = rng.uniform(0, len(colours) - 1)
    low = int(at)
    return colours[low] + (at - low) * (colours[min(low + 1, len(colours) - 1)] - colours[low])


def _colour(values: np.ndarray) -> Colour:
    r, g, b = np.clip(values, 0, 255).astype(int).tolist()
    return r, g, b


def _muted(rng: np.random.Generator) -> Colour:
    """A colour of clothes and walls: any hue and lightness, half way to grey."""
    return _colour(0.55 * rng.uniform(20, 240, 3) + 0.45 * rng.uniform(20, 240))


def draw_identity(rng: np.random.Generator) -> Identity:
    """A random person."""
    skin = _between(SKINS, rng) + rng.normal(0, 5, 3)
    hairs = HAIRS if skin.mean() > 150 else HAIRS[:3]
    u = rng.uniform
    return Identity(
        skin=_colour(skin),
        hair=_colour(hairs[rng.integers(len(hairs))] + rng.normal(0, 8, 3)),
        iris=_colour(IRISES[rng.integers(len(IRISES))] + rng.normal(0, 8, 3)),
        lips=_colour(skin * np.array([0.86, 0.58, 0.58]) + np.array([u(0, 30), 0, 8])),
        shirt=_muted(rng),
        width=u(0.70, 0.84),
        jaw=u(0.05, 0.30),
        eye_distance=u(0.29, 0.37),
        eye_height=u(-0.16, -0.08),
        eye_size=u(0.88, 1.15),
        brow_height=u(0.22, 0.29),
        brow_thickness=u(0.030, 0.065),
        brow_tilt=u(-0.015, 0.015),
        nose_length=u(0.28, 0.38),
        nose_width=u(0.09, 0.15),
        mouth_height=u(0.50, 0.58),
        mouth_width=u(0.23, 0.29),
        lip_thickness=u(0.030, 0.055),
        resting_curve=u(-0.015, 0.015),
        hair_style=int(rng.choice(5, p=[0.10, 0.27, 0.22, 0.22, 0.19])),
        beard=u(0.4, 1.0) if u() < 0.15 else 0.0,
        glasses=bool(u() < 0.22),
    )


# --- drawing --------------------------------------------------------------------------------------

T = np.linspace(-1, 1, 13)  # the parameter of every open curve
ARC = 1 - T**2
TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
TURN_XY = np.stack([np.cos(TURN), np.sin(TURN)], axis=1)  # (24, 2)
OUTLINE = np.linspace(0, 2 * np.pi, 40, endpoint=False)


def _shade(colour: Colour, factor: float) -> Colour:
    """`colour` made darker (factor < 1) or lighter (factor > 1)."""
    if factor <= 1:
        return _colour(np.array(colour) * factor)
    return _colour(np.array(colour) + (255 - np.array(colour)) * (factor - 1))


class _Pen:
    """Draws in face coordinates: (0, 0) is the middle of the face, y points down, the chin is near y = 1."""

    def __init__(self, image: Image.Image, centre: tuple[float, float], scale: float, angle: float) -> None:
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        self.draw = ImageDraw.Draw(image)
        self.matrix = np.array([[cos, sin], [-sin, cos]])
        self.centre = np.array(centre)
        self.scale = scale

    def polygon(self, points: np.ndarray, colour: Colour) -> None:
        """Fill the outline `points` (N, 2)."""
        self.draw.polygon((points @ self.matrix + self.centre).ravel().tolist(), fill=colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self.polygon(TURN_XY * (rx, ry) + (x, y), colour)

    def line(self, points: np.ndarray, width: float, colour: Colour) -> None:
        """A line of even width through `points` (N, 2)."""
        flat = (points @ self.matrix + self.centre).ravel().tolist()
        self.draw.line(flat, fill=colour, width=max(1, round(width * self.scale)), joint="curve")


def _curve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([x, y], axis=1)


def _band(x: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """The outline (2N, 2) of the area between two curves over the same `x` (N,)."""
    return np.concatenate([_curve(x, upper), _curve(x, lower)[::-1]])


def _draw_head(pen: _Pen, who: Identity, chin: float) -> None:
    """Neck, shirt, hair and the empty face; `chin` is how far the jaw drops."""
    w = who.width
    if who.hair_style == 3:
        pen.ellipse(0, -0.2, w + 0.15, 0.97, who.hair)
        fall = np.array([[-w - 0.15, -0.2], [w + 0.15, -0.2], [w + 0.1, 1.25], [-w - 0.1, 1.25]])
        pen.polygon(fall, who.hair)
    elif who.hair_style:
        pen.ellipse(0, -0.22, w + 0.09, 0.93, who.hair)
    pen.polygon(np.array([[-0.36, 0.6], [0.36, 0.6], [0.40, 1.6], [-0.40, 1.6]]), _shade(who.skin, 0.80))
    pen.polygon(np.array([[-1.6, 1.9], [-1.0, 1.28], [-0.36, 1.12], [0, 1.24], [0.36, 1.12], [1.0, 1.28],
                          [1.6, 1.9]]), who.shirt)  # fmt: skip
    for side in (-1, 1):
        pen.ellipse(side * (w + 0.01), 0.02, 0.10, 0.17, _shade(who.skin, 0.88))
    cos, sin = np.cos(OUTLINE), np.sin(OUTLINE)
    below = np.maximum(sin, 0)
    x = w * np.sign(cos) * np.abs(cos) ** 0.85 * (1 - who.jaw * below**2)
    face = _curve(x, sin * (0.98 + chin * below))
    pen.polygon(face, who.skin)
    if who.beard:
        lower = face[: len(face) // 2 + 1]  # from ear to ear over the chin
        xs = lower[::-1, 0]
        edge = who.mouth_height - 0.13 - 0.45 * np.abs(xs / w) ** 5
        blend = 0.2 + 0.4 * who.beard
        colour = _colour(np.array(who.skin) * (1 - blend) + np.array(who.hair) * blend)
        pen.polygon(np.concatenate([lower, _curve(xs, edge)]), colour)


def _draw_hair(pen: _Pen, who: Identity) -> None:
    """The hair in front of the forehead."""
    if who.hair_style == 0:
        return
    w = who.width + 0.06
    angle = np.linspace(np.pi * 1.03, np.pi * 1.97, 17)
    top = _curve(w * np.cos(angle), -0.12 + 0.99 * np.sin(angle))
    x = top[::-1, 0]
    u = x / w
    edges = {
        1: -0.72 + 0.42 * np.abs(u) ** 4,
        2: -0.60 + 0.05 * np.cos(9 * u) + 0.32 * np.abs(u) ** 6,
        3: -0.80 + 0.62 * np.abs(u) ** 2.5,
        4: -0.66 - 0.20 * np.exp(-((u - 0.45) ** 2) / 0.03) + 0.36 * np.abs(u) ** 4,
    }
    pen.polygon(np.concatenate([top, _curve(x, edges[who.hair_style])]), who.hair)


def _draw_eye(pen: _Pen, who: Identity, g: Geometry, x: float, y: float, gaze: tuple[float, float]) -> None:
    size = who.eye_size
    half = 0.165 * size
    up = 0.092 * size * max(g.lid, 0.12)
    down = 0.066 * size * (1 - 0.75 * min(max(g.squint, 0), 1)) * min(1.15, 0.6 + 0.4 * g.lid)
    xs = x + half * T
    upper, lower = y - up * ARC, y + down * ARC
    pen.polygon(_band(xs, upper - 0.05, lower + 0.03), _shade(who.skin, 0.90))
    pen.polygon(_band(xs, upper, lower), (244, 242, 238))
    for radius, colour in ((0.084, who.iris), (0.044, (16, 14, 14))):
        disc = TURN_XY * (radius * size) + (x + gaze[0], y - 0.01 + gaze[1])
        arc = np.clip(1 - ((disc[:, 0] - x) / half) ** 2, 0, 1)
        disc[:, 1] = np.clip(disc[:, 1], y - up * arc, y + down * arc)  # the lids cover the iris
        pen.polygon(disc, colour)
    if up > 0.05:
        pen.ellipse(x + gaze[0] + 0.025, y - 0.035 + gaze[1], 0.014, 0.014, (255, 255, 255))
    pen.line(_curve(xs, upper), 0.026, _shade(who.skin, 0.30))
    pen.line(_curve(xs, lower), 0.012, _shade(who.skin, 0.60))


def _draw_brow(pen: _Pen, who: Identity, g: Geometry, x: float, y: float, side: int, extra: float) -> None:
    """The brow over the eye at (x, y); `side` is -1 (left) or 1 (right)."""
    s = (T + 1) / 2  # 0 at the inner end
    xs = x + side * (-0.17 + 0.36 * s - g.brow_pinch * (1 - s))
    rise = (g.brow_inner - who.brow_tilt) * (1 - s) ** 1.2 + (g.brow_outer + who.brow_tilt) * s + extra
    middle = y - who.brow_height - rise - 0.035 * ARC
    thick = who.brow_thickness * (0.35 + 0.65 * (1 - s) ** 0.6)
    hair = who.hair if who.hair_style else _shade(who.skin, 0.35)
    # Fair hair on fair skin would leave no brow to read.
    pen.polygon(_band(xs, middle - thick, middle + thick), _shade(hair, 0.7 if sum(hair) > 300 else 1.0))


def _draw_nose(pen: _Pen, who: Identity, g: Geometry, x: float, y: float) -> None:
    """The nose, its wrinkles and the folds beside it; (x, y) is the point between the eyes."""
    wrinkle = max(g.nose_wrinkle, 0)
    tip = y + who.nose_length - 0.05 * wrinkle
    wide = who.nose_width * (1 + 0.25 * wrinkle)
    dark = _shade(who.skin, 0.74)
    half = np.array([-0.03, 0.03, 0.9 * wide, -0.9 * wide])
    pen.polygon(_curve(x + half, np.array([y + 0.05, y + 0.05, tip, tip])), _shade(who.skin, 0.94))
    pen.line(_curve(x + wide * T, tip - 0.045 + 0.075 * np.abs(ARC) ** 0.7), 0.026, dark)
    for side in (-1, 1):
        pen.ellipse(x + side * wide * 0.45, tip + 0.005, 0.03, 0.018, _shade(who.skin, 0.45))
    if wrinkle > 0.25:
        crease = _shade(who.skin, 1 - 0.42 * min(wrinkle, 1))
        for k in range(3):
            half = 0.075 + 0.03 * k
            pen.line(_curve(x + half * T, y + 0.02 + 0.065 * k - 0.03 * ARC), 0.024, crease)
    if g.cheek > 0.2:
        fold = _shade(who.skin, 1 - 0.32 * min(g.cheek, 1))
        for side in (-1, 1):
            start = np.array([x + side * (wide + 0.03), tip - 0.03])
            corner = who.mouth_width * g.mouth_width + 0.10
            end = np.array([x + side * corner, who.mouth_height - g.mouth_curve / 2])
            s = (T[:, None] + 1) / 2
            pen.line(start + s * (end - start) + np.stack([side * 0.05 * ARC, 0 * ARC], axis=1), 0.026, fold)


def _draw_mouth(pen: _Pen, who: Identity, g: Geometry, x: float, smirk_side: int) -> None:
    half = who.mouth_width * max(g.mouth_width, 0.3)
    curve = g.mouth_curve + who.resting_curve
    xs = x + half * T
    # One corner rises by `smirk`; the rise falls off towards the other side.
    lopsided = max(g.smirk, 0) * np.maximum(0, (T * smirk_side + 0.25) / 1.25) ** 1.6
    middle = who.mouth_height - curve * (T**2 - 0.45) - lopsided
    gap = max(g.mouth_open, 0) * ARC**0.6
    raised = max(g.lip_raise, 0) * np.exp(-((T / 0.55) ** 2))
    upper, lower = middle - 0.35 * gap - raised, middle + 0.65 * gap - 0.35 * raised
    # Wide mouths and pressed lips are thin ones.
    thinner = (1.15 - 0.25 * max(g.mouth_width - 0.8, 0)) * (1 - 0.35 * min(g.frown_line, 1))
    thick = who.lip_thickness * thinner
    bow = ARC**0.5 * thick
    pen.polygon(_band(xs, upper - bow, lower + 1.3 * bow), who.lips)
    pen.line(_curve(xs, upper), 0.026, _shade(who.lips, 0.45))
    if (lower - upper).max() > 0.05:
        pen.polygon(_band(xs, upper, lower), (58, 18, 22))
        if g.teeth > 0.15:
            edge = upper + (lower - upper) * min(0.85, 0.25 + 0.6 * g.teeth)
            pen.polygon(_band(xs[1:-1], upper[1:-1], edge[1:-1]), (240, 236, 226))
        elif g.mouth_open > 0.12:
            pen.polygon(_band(xs[3:-3], (lower - 0.35 * (lower - upper))[3:-3], lower[3:-3]), (176, 78, 84))
    if g.smirk > 0.06:
        corner = np.array([x + smirk_side * (half + 0.03), middle[-1 if smirk_side > 0 else 0]])
        dimple = _curve(corner[0] + smirk_side * 0.03 * ARC, corner[1] + 0.07 * T)
        pen.line(dimple, 0.026, _shade(who.skin, 0.66))


def _draw_forehead(pen: _Pen, who: Identity, g: Geometry, x: float, y: float) -> None:
    """The lines of a frown between the brows and of raised brows above them."""
    if g.frown_line > 0.25:
        colour = _shade(who.skin, 1 - 0.42 * min(g.frown_line, 1))
        for side in (-1, 1):
            pen.line(np.array([[x + side * 0.045, y - 0.24], [x + side * 0.035, y - 0.08]]), 0.026, colour)
    if g.forehead_line > 0.25 and who.hair_style != 2:  # a fringe hides them
        colour = _shade(who.skin, 1 - 0.25 * min(g.forehead_line, 1))
        for k in range(2):
            level = y - who.brow_height - 0.27 - 0.09 * k
            pen.line(_curve(x + 0.28 * T, level - 0.02 * ARC), 0.022, colour)


def _draw_glasses(pen: _Pen, who: Identity, x: float, y: float) -> None:
    frame = _shade(who.shirt, 0.4)
    ring = np.concatenate([TURN_XY, TURN_XY[:2]]) * (0.225, 0.185)  # two points more: closed
    for side in (-1, 1):
        middle = np.array([x + side * who.eye_distance, y + 0.02])
        pen.line(ring + middle, 0.03, frame)
        pen.line(np.array([[middle[0] + side * 0.22, y], [side * who.width, y - 0.05]]), 0.03, frame)
    inner = who.eye_distance - 0.225
    pen.line(np.array([[x - inner, y], [x + inner, y]]), 0.03, frame)


def _light_and_noise(image: Image.Image, rng: np.random.Generator, clean: bool) -> Image.Image:
    """A lighting gradient from a random side, a colour cast, and (unless `clean`) blur and sensor noise."""
    size = image.width
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    gain, cast = rng.uniform(0.8, 1.12), rng.normal(0, 0.02, 3)
    blur, noise = rng.uniform(0, 0.6), rng.uniform(0, 7)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    ramp = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
    light = gain * (1 + strength * ramp)[..., None] * (1 + cast)
    if not clean:
        image = image.filter(ImageFilter.GaussianBlur(blur * size / 64))
    pixels = np.asarray(image, dtype=np.float32) * light.astype(np.float32)
    if not clean:
        pixels += noise * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def lower_resolution(image: Image.Image, resolution: int) -> Image.Image:
    """`image` drawn down to `resolution` pixels a side and back up to its own size (bicubic)."""
    if resolution >= image.width:
        return image
    small = image.resize((resolution, resolution), Image.Resampling.BICUBIC)
    return small.resize(image.size, Image.Resampling.BICUBIC)


def draw_face(
    expression: str,
    rng: np.random.Generator,
    size: int = 64,
    *,
    identity: Identity | None = None,
    intensity: float | None = None,
    resolution: int | None = None,
    clean: bool = False,
) -> Image.Image:
    """Draw one face.

    Args:
        expression: one of the eight names of `label_names("synthetic")`.
        rng: all chance comes from here; the same state gives the same picture.
        size: side of the square picture in pixels, 16 to 1024.
        identity: whose face; a random person by default.
        intensity: strength of the expression in [0, 1]; by default uniform in [0.7, 1].
        resolution: effective side in pixels; the picture is drawn down to it and back. Default: `size`.
        clean: leave out blur and noise (for pictures meant for people).

    Returns:
        An RGB image of (size, size).

    Raises:
        FerError: unknown expression or a value out of its range.
    """
    if expression not in GEOMETRIES:
        raise FerError(f"expression={expression!r} cannot be drawn: choose one of {', '.join(GEOMETRIES)}.")
    check_integer("size", size, 16, 1024)
    if intensity is not None and not 0 <= intensity <= 1:
        raise FerError(f"intensity={intensity!r} is out of range: give a number from 0 to 1.")
    if resolution is not None:
        check_integer("resolution", resolution, 4, size)

    who = draw_identity(rng) if identity is None else identity
    g = sample_geometry(expression, rng.uniform(0.7, 1.0) if intensity is None else intensity, rng)
    side = 1 if rng.uniform() < 0.5 else -1  # a flipped smirk is a smirk
    yaw, pitch = rng.uniform(-0.10, 0.10), rng.uniform(-0.04, 0.04)
    gaze = (rng.uniform(-0.035, 0.035), rng.uniform(-0.012, 0.012))

    oversampling = 3 if size <= 128 else 2  # drawn larger, then averaged: smooth edges
    pixels = size * oversampling
    image = Image.new("RGB", (pixels, pixels), _muted(rng))
    _draw_background(image, rng)
    shift = rng.uniform(-0.045, 0.045, 2)
    pen = _Pen(
        image,
        centre=((0.5 + shift[0]) * pixels, (0.5 + shift[1]) * pixels),
        scale=rng.uniform(0.41, 0.47) * pixels,
        angle=np.deg2rad(np.clip(rng.normal(0, 6), -15, 15)),
    )
    eyes_y = who.eye_height + pitch
    _draw_head(pen, who, chin=0.25 * max(g.mouth_open, 0))
    _draw_forehead(pen, who, g, yaw, eyes_y)
    for eye in (-1, 1):
        x = yaw + eye * who.eye_distance * (1 + 0.6 * eye * -yaw)  # the far eye is foreshortened
        _draw_eye(pen, who, g, x, eyes_y, gaze)
        _draw_brow(pen, who, g, x, eyes_y, eye, max(g.brow_uneven, 0) if eye == side else 0.0)
    _draw_nose(pen, who, g, 1.15 * yaw, eyes_y)
    _draw_mouth(pen, who, g, yaw, side)
    _draw_hair(pen, who)
    if who.glasses:
        _draw_glasses(pen, who, yaw, eyes_y)

    image = _light_and_noise(image.reduce(oversampling), rng, clean)
    return lower_resolution(image, size if resolution is None else resolution)


def _draw_background(image: Image.Image, rng: np.random.Generator) -> None:
    """Up to four plain shapes behind the head."""
    draw, n = ImageDraw.Draw(image), image.width
    for _ in range(rng.integers(0, 5)):
        x, y = rng.uniform(-0.3, 1.0, 2) * n
        w, h = rng.uniform(0.1, 0.8, 2) * n
        shape = draw.ellipse if rng.uniform() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=_muted(rng))


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Raises FerError unless `value` is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise FerError(f"{name}={value!r} is not allowed: give a whole number from {low} to {high}.")
