"""The picture of an explanation: one face at several resolutions, side by side, and where each class' evidence lies.

Drawn with matplotlib's objects, without `pyplot`: no global state, no display, safe in threads.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..checkpoints.checks import first_sentence, printable
from ..errors import FerError
from ..evaluation.whole_files import shown, write_whole
from .explain import METHODS, Explanation, ResolutionExplanation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's, which the colour-blind can tell apart, as in the package's other plots.
_BARS = {"primary": "#E69F00", "corrected": "#56B4E9", "final": "#1F2937"}
_BLUE, _INK, _GREY = "#0072B2", "#1F2937", "#6B7280"
_CMAP = "inferno"  # perceptually even, and rising in lightness: readable without colours too
_ROLLOUTS = ("rollout", "gradient_rollout")
_MOST_BARS = 10
_DPI = 150


def plot_explanation(
    explained: ResolutionExplanation,
    path: str | os.PathLike[str] | None = None,
    *,
    top: int = 3,
    title: str | None = None,
) -> Figure:
    """Rows: the face with its answer, the most probable classes' maps over it, all probabilities. Columns: resolutions.

    Colours compare along a row and not between rows: each class is scaled by its own largest value at any of the
    resolutions, and evidence against it (negative values of "cam") shows as none. The picture says so.

    Args:
        explained: from `explain_resolutions`.
        path: image file to write (`.png`, `.svg`, `.pdf`), whole or not at all, over what is there; None: none.
        top: rows of maps: the classes that are most probable at any of the resolutions, the most probable at the
            first one on top.
        title: title; default: the model's name.

    Returns:
        The matplotlib figure.

    Raises:
        FerError: `top` is below 1, a file type that matplotlib does not know, or a file that cannot be written.
    """
    kind = None if path is None else _file_type(Path(path))
    if top < 1:
        raise FerError(f"top={top} leaves no map to draw; give at least 1")
    explanation, count = explained.explanation, len(explained.factors)
    probabilities = explanation.probabilities.numpy()
    rows = choose_classes(probabilities, explanation.classes, top)
    bars = _bar_classes(probabilities, rows)
    bar_height = 0.55 + (0.30 if "primary" in explanation.extra else 0.19) * len(bars)
    width = 1.75 * count + 1.6
    notes = [line for note in _notes(explanation.method) for line in textwrap.wrap(note, round(15.5 * (width - 0.85)))]
    heights = [1.75] * (1 + len(rows)) + [bar_height, 0.34 + 0.15 * len(notes)]
    figure = _figure(width, sum(heights) + 1.2)
    grid = figure.add_gridspec(len(heights), count, height_ratios=heights)

    for column, image in enumerate(explained.images):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(image, interpolation="nearest")
        best = int(probabilities[column].argmax())
        axes.set_title(_column_title(explained, column), fontsize=10, color=_INK)
        answer = f"{_text(explanation.labels[best], 16)} {_percent(probabilities[column, best])}"
        axes.set_xlabel(answer, fontsize=10.5, fontweight="bold", color=_INK, labelpad=4)
        _bare(axes)
        if column == 0:
            axes.set_ylabel("what the\nmodel sees", fontsize=9.5, color=_GREY, labelpad=8)
    for row, k in enumerate(rows, start=1):
        heats = class_heats(explanation, k)
        for column, image in enumerate(explained.images):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(overlay(image, heats[column]), interpolation="nearest")
            axes.set_xlabel(_percent(probabilities[column, k]), fontsize=9.5, color=_INK, labelpad=3)
            _bare(axes)
            if column == 0:
                axes.set_ylabel(_text(explanation.labels[k], 14), fontsize=10.5, color=_INK, labelpad=8)
    first = None
    for column in range(count):
        axes = figure.add_subplot(grid[-2, column], sharey=first)
        _draw_bars(axes, explained, column, bars, is_first=first is None)
        first = first or axes
        if column + 1 == count and "primary" in explanation.extra:
            handles = axes.get_legend_handles_labels()
            axes.legend(*handles, frameon=False, fontsize=8, loc="lower right", handlelength=1.2, borderpad=0)
    _draw_scale(figure.add_subplot(grid[-1, :]), notes, width - 0.85)
    name = title or f"{_model_name(explained.model_name)}: where the evidence lies"
    figure.suptitle(_text(name, round(9.5 * width)), fontsize=12, x=0.012, ha="left", color=_INK)
    if path is not None:
        try:
            write_whole(
                Path(path), lambda file: figure.savefig(file, format=kind, dpi=_DPI, facecolor="white"), overwrite=True
            )
        except RuntimeError as error:  # a type that needs other programs
            raise FerError(f"{shown(path)} cannot be written ({first_sentence(error)}).") from error
    return figure


def _file_type(path: Path) -> str:
    """By the suffix; to a name without one matplotlib would add its own, and overwrite what nobody has named."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    kind = path.suffix[1:].lower()
    if kind not in known:
        raise FerError(f"{shown(path)} cannot be written, its name must end in one of .{', .'.join(sorted(known))}.")
    return kind


def choose_classes(probabilities: np.ndarray, classes: tuple[int, ...], top: int) -> list[int]:
    """At most `top` of `classes`: those with the highest probability in any row of (F, K), by that of the first row."""
    peak = probabilities.max(axis=0)
    chosen = sorted(classes, key=lambda k: -peak[k])[:top]
    return sorted(chosen, key=lambda k: -probabilities[0, k])


def class_heats(explanation: Explanation, k: int) -> np.ndarray:
    """(F, h, w) in [0, 1]: the maps of class `k`, one of `explanation.classes`, on the scale that its method has."""
    maps = explanation.maps[:, explanation.classes.index(k)].numpy()
    return normalized_maps(maps, from_zero=explanation.method not in _ROLLOUTS)


def normalized_maps(maps: np.ndarray, from_zero: bool = True) -> np.ndarray:
    """(F, h, w) maps of one class to [0, 1], 1 for the largest value of all F.

    0 is no evidence or evidence against; without `from_zero` the smallest value of all F: a rollout has no zero.
    """
    positive = np.maximum(maps.astype(np.float64), 0) - (0 if from_zero else max(0.0, float(maps.min(initial=np.inf))))
    largest = positive.max(initial=0)
    return positive / largest if largest > 0 else positive


def overlay(image: Image.Image, heat: np.ndarray, side: int = 240) -> Image.Image:
    """A map over a face: the face in grey where there is no evidence, the colour map where there is most.

    Args:
        image: what the network saw.
        heat: (h, w) in [0, 1], in the image's frame; interpolated bilinearly.
        side: px of the result's shorter side, if the image's is not longer.

    Returns:
        An RGB image.
    """
    from matplotlib import colormaps

    scale = max(1.0, side / min(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    # The pixels of a small face stay pixels.
    face = np.asarray(image.convert("L").resize(size, Image.Resampling.NEAREST), dtype=np.float64)[..., None] / 255
    smooth = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return Image.fromarray((255 * _blend(face, np.asarray(smooth), colormaps[_CMAP])).round().astype(np.uint8))


def _blend(grey: np.ndarray, heat: np.ndarray, cmap: object) -> np.ndarray:
    """Colour and cover both grow with the heat; (…, 1) and (…) in [0, 1] to (…, 3)."""
    heat = np.clip(heat, 0, 1)
    cover = 0.78 * np.minimum(1, 1.6 * heat)[..., None]
    colour = cmap(0.12 + 0.83 * heat)[..., :3]  # type: ignore[operator]
    return (1 - cover) * grey * np.ones(3) + cover * colour


def _draw_bars(
    axes: Axes, explained: ResolutionExplanation, column: int, classes: list[int], *, is_first: bool
) -> None:
    """The answer in full; GReFEL's before and after its correction."""
    explanation = explained.explanation
    kinds = [name for name in _BARS if name in explanation.extra]
    place = np.arange(len(classes))
    if "primary" in kinds:
        height = 0.8 / len(kinds)
        for i, name in enumerate(kinds):
            values = explanation.extra[name][column].numpy()[classes]
            axes.barh(place - 0.4 + (i + 0.5) * height, values, height, color=_BARS[name], label=name)
        lines = [f"{name} {explanation.extra[f'{name}_confidence'][column]:.2f}" for name in kinds]
        axes.set_xlabel("%\nconfidence:\n" + "\n".join(lines), fontsize=8, color=_GREY)
    else:
        axes.barh(place, explanation.probabilities[column].numpy()[classes], 0.72, color=_BLUE)
        axes.set_xlabel("%", fontsize=8, color=_GREY, labelpad=1)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "50", "100"], fontsize=8, color=_GREY)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#E5E7EB", linewidth=0.8)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color("#9CA3AF")
    axes.tick_params(length=0)
    if is_first:
        axes.set_yticks(place, [_text(explanation.labels[k], 14) for k in classes], fontsize=9, color=_INK)
        axes.set_ylim(len(classes) - 0.45, -0.55)
    else:
        axes.tick_params(labelleft=False)


def _notes(method: str) -> list[str]:
    """What the colours mean, in sentences."""
    below = "the smallest value shows as none" if method in _ROLLOUTS else "evidence against the class shows as none"
    return [
        f"Maps: {METHODS[method]}.",
        f"Each class (row) is scaled by its own largest value at these resolutions; {below}.",
        "They show what this network used, not what anybody feels.",
    ]


def _draw_scale(axes: Axes, notes: list[str], width: float) -> None:
    """The colours over mid-grey, and the sentences below; `width` in inches."""
    from matplotlib import colormaps

    axes.set_axis_off()
    height = 0.34 / (0.34 + 0.15 * len(notes))
    left, right = 0.4 / width, min(2.6 / width, 0.55)
    strip = axes.inset_axes((left, 1 - 0.62 * height, right - left, 0.36 * height))
    ramp = np.linspace(0, 1, 256)[None]
    strip.imshow(_blend(np.full((1, 256, 1), 0.6), ramp, colormaps[_CMAP]), aspect="auto")
    _bare(strip)
    for x, text in ((0, "none"), (right + 0.08 / width, "most of the row")):
        axes.text(x, 1 - 0.46 * height, text, fontsize=8.5, color=_GREY, va="center")
    axes.text(0, 1 - height, "\n".join(notes), fontsize=8.5, color=_GREY, va="top", linespacing=1.35)


def _percent(probability: float) -> str:
    text = f"{100 * probability:.0f} %"
    return {"0 %": "<1 %", "100 %": ">99 %"}.get(text, text)  # no softmax gives either


def _model_name(name: str) -> str:
    """A Hub id as it is, of a folder its own name, and of the checkpoints inside the package "default" and so on."""
    from ..checkpoints.loading import embedded_name

    path = Path(name)
    try:
        if path.is_dir():
            return embedded_name(path) or path.resolve().name
    except (OSError, ValueError):  # a name that no file system would take
        pass
    return name


def _column_title(explained: ResolutionExplanation, column: int) -> str:
    factor = explained.factors[column]
    side = max(1, round(explained.reference_side / factor))
    size = f"{side} px" if side <= explained.source_side else f"{explained.source_side} px, enlarged"
    return f"×{factor:g}  ·  {size}"  # noqa: RUF001


def _bar_classes(probabilities: np.ndarray, rows: list[int]) -> list[int]:
    """All classes in the model's order, or those of the rows and the most probable ones where there are many."""
    count = probabilities.shape[1]
    if count <= _MOST_BARS:
        return list(range(count))
    peak = probabilities.max(axis=0)
    others = sorted((k for k in range(count) if k not in rows), key=lambda k: -peak[k])
    return sorted([*rows, *others][:_MOST_BARS])


def _text(name: str, longest: int) -> str:
    """A name from outside as matplotlib may print it: cut, no control characters, no formulas."""
    name = printable(name if len(name) <= longest else f"{name[: longest - 1]}…")
    return name.replace("$", r"\$")


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure
