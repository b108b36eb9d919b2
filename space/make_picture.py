"""Makes the README's picture, docs/overview.png: what the package does, at a glance.

Free material only: the portrait of the astronaut Eileen Collins by NASA, which is in the public domain (scikit-image
brings it: `skimage.data.astronaut`), and the figures of the embedded model's own record. Every number and every map is
computed here.

python space/make_picture.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hf_fer.inference.alignment import crop_face, face_template
from hf_fer.inference.annotate import draw_faces
from hf_fer.inference.detection import Face, load_detector
from hf_fer.inference.explain import explain_resolutions
from hf_fer.inference.explain_plot import class_heats, overlay
from hf_fer.inference.pipeline import load_pipeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hf_fer.inference.explain import ResolutionExplanation

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT, DPI = 1600, 616, 100  # px
FACTORS = (1, 2, 4, 8)
BLUE, ORANGE, INK, GREY = "#0072B2", "#D55E00", "#1F2937", "#6B7280"

# As YuNet (face_detection_yunet_2026may.onnx) finds it: the picture can be made without any detector.
FOUND = Face(
    box=(177.46, 65.17, 267.91, 180.21),
    score=0.94,
    landmarks=((201.40, 106.00), (245.43, 106.53), (222.99, 129.08), (205.39, 147.38), (241.97, 147.01)),
)


class KnownFace:
    """A detector that has looked already."""

    name = "known"

    def detect(self, image: Image.Image) -> list[Face]:
        return [FOUND]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "overview.png")
    parser.add_argument("--detector", help='"yunet" or its .onnx file, to find the face anew; default: as found before')
    options = parser.parse_args()
    record = json.loads((ROOT / "leaderboard" / "records" / "default.json").read_text(encoding="utf-8"))
    figure = draw(KnownFace() if options.detector is None else load_detector(options.detector), record)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save(figure, options.output)
    with Image.open(options.output) as image:
        print(f"{options.output}: {image.width} x {image.height} px, {options.output.stat().st_size / 1000:.0f} kB")
    return 0


def draw(detector: Any, record: dict[str, Any]) -> Figure:
    """The whole picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from skimage.data import astronaut

    portrait = Image.fromarray(astronaut())
    pipeline = load_pipeline("default", detector=detector, device="cpu")
    faces = pipeline(portrait)
    crop = crop_face(portrait, detector.detect(portrait)[0], face_template(pipeline.model.config))

    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    draw_photo(figure, portrait, faces)
    draw_resolutions(figure, explain_resolutions(pipeline.model, pipeline.image_processor, crop, FACTORS))
    draw_accuracy(figure, record)
    write(
        figure,
        24,
        594,
        "Photo: NASA, public domain. Model: the one inside the package. "
        "A label names the expression that a face appears to show, not what its owner feels.",
        fontsize=10,
        color=GREY,
    )
    return figure


def draw_photo(figure: Figure, portrait: Image.Image, faces: list[dict[str, Any]]) -> None:
    """The photo with its boxes, and the most probable expressions of the first face."""
    heading(figure, 24, "Faces in photos")
    write(figure, 24, 78, "found by YuNet, labelled offline", fontsize=12, color=GREY)
    zoom = 3  # lines and letters grow with the picture, and are drawn finer than they are shown
    large = portrait.resize((zoom * portrait.width, zoom * portrait.height), Image.Resampling.BICUBIC)
    boxes = [{**face, "box": {side: zoom * value for side, value in face["box"].items()}} for face in faces]
    shown = draw_faces(large, [{**face, "landmarks": None} for face in boxes])
    shown = shown.crop(tuple(zoom * side for side in (75, 0, 415, 340)))
    shown = shown.resize((360, 360), Image.Resampling.LANCZOS)
    # A palette of its own: half the size of the whole file, and no difference that an eye would see.
    shown = shown.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=3).convert("RGB")
    bare(axes_at(figure, 24, 92, 360, 360)).imshow(shown)

    probabilities = faces[0]["probabilities"]
    names = list(probabilities)[:3]
    axes = bare(axes_at(figure, 120, 464, 264, 96))
    axes.barh(range(3), [probabilities[name] for name in names], 0.62, color=BLUE)
    for row, name in enumerate(names):
        long = probabilities[name] > 0.5
        x, side, colour = (probabilities[name] - 0.03, "right", "white") if long else (0.03, "left", INK)
        weight = "bold" if long else "normal"
        text = percent(probabilities[name])
        axes.text(x, row, text, ha=side, va="center", fontsize=11.5, color=colour, fontweight=weight)
    axes.set_yticks(range(3), names, fontsize=11.5, color=INK)
    axes.set_ylim(2.6, -0.6)
    axes.set_xlim(0, 1)


def draw_resolutions(figure: Figure, explained: ResolutionExplanation) -> None:
    """Two rows: the face, and its answer's evidence over it. Columns: resolutions."""
    heading(figure, 448, "The same face, smaller and smaller, and where the evidence lies")
    explanation = explained.explanation
    answer = int(explanation.probabilities[0].argmax())
    label = explanation.labels[answer]
    heats = class_heats(explanation, answer)
    for column, (factor, image) in enumerate(zip(explained.factors, explained.images, strict=True)):
        x = 448 + 190 * column
        side = max(1, round(explained.reference_side / factor))
        write(figure, x + 90, 78, f"×{factor:g}, {side} px", fontsize=12, color=GREY, ha="center")  # noqa: RUF001
        bare(axes_at(figure, x, 92, 180, 180)).imshow(image, interpolation="nearest")
        row = explanation.probabilities[column]
        best = int(row.argmax())
        text = f"{explanation.labels[best]} {percent(float(row[best]))}"
        write(figure, x + 90, 293, text, fontsize=12.5, color=INK, ha="center", fontweight="bold")
        bare(axes_at(figure, x, 312, 180, 180)).imshow(overlay(image, heats[column]), interpolation="nearest")
    for y, text in ((182, "what the model sees"), (402, f"evidence for {label}")):
        write(figure, 436, y, text, fontsize=11, color=GREY, ha="center", va="center", rotation=90)
    strip = bare(axes_at(figure, 492, 514, 160, 12))
    ramp = overlay(Image.new("L", (320, 24), 153), np.linspace(0, 1, 320)[None], side=24)
    strip.imshow(ramp, aspect="auto")
    write(figure, 448, 520, "none", fontsize=10.5, color=GREY)
    text = "most of all four; class activation maps, which add up to the logit"
    write(figure, 662, 520, text, fontsize=10.5, color=GREY)


def draw_accuracy(figure: Figure, record: dict[str, Any]) -> None:
    """Accuracy of the embedded model against the size of the face, with 95 % intervals."""
    heading(figure, 1256, "What a small face costs")
    write(figure, 1256, 78, f"FERPlus {record['split']} split, {record['n']:,} faces", fontsize=12, color=GREY)
    entries = sorted((float(factor), metrics) for factor, metrics in record["resolutions"].items())
    sides = np.array([48 / factor for factor, _ in entries])  # FERPlus is stored at 48 px
    axes = axes_at(figure, 1306, 104, 276, 388)
    for key, name, colour, marker, shift in (
        ("accuracy", "accuracy", BLUE, "o", (7, 10)),
        ("mean_class_accuracy", "mean class accuracy", ORANGE, "s", (-8, -20)),
    ):
        values = np.array([metrics[key] for _, metrics in entries])
        low, high = np.array([metrics["ci95"][key] for _, metrics in entries]).T
        axes.fill_between(sides, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(sides, values, color=colour, marker=marker, linewidth=2.2, markersize=7, label=name)
        for side, value in zip(sides, values, strict=True):
            place = {"xytext": shift, "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"{100 * value:.1f}", (side, value), fontsize=11, color=colour, **place)
    axes.set_xscale("log", base=2)
    axes.minorticks_off()
    axes.set_xticks(sides, [f"{side:g} px" for side in sides], fontsize=11.5, color=INK)
    axes.invert_xaxis()
    axes.margins(x=0.12)
    axes.set_ylim(0, 1)
    axes.set_yticks(np.linspace(0, 1, 6), [f"{tick} %" for tick in range(0, 101, 20)], fontsize=11, color=GREY)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#E5E7EB")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#9CA3AF")
    axes.tick_params(length=0)
    axes.legend(frameon=False, fontsize=11.5, loc="lower left", borderpad=0)


def axes_at(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes by their px in the picture, from its top left."""
    return figure.add_axes((x / WIDTH, 1 - (y + height) / HEIGHT, width / WIDTH, height / HEIGHT))


def write(figure: Figure, x: float, y: float, text: str, va: str = "center", **style: Any) -> None:
    figure.text(x / WIDTH, 1 - y / HEIGHT, text, va=va, **style)


def heading(figure: Figure, x: float, text: str) -> None:
    write(figure, x, 38, text, fontsize=15, fontweight="bold", color=INK)


def percent(probability: float) -> str:
    text = f"{100 * probability:.0f} %"
    return {"0 %": "<1 %", "100 %": ">99 %"}.get(text, text)


def bare(axes: Axes) -> Axes:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes


def save(figure: Figure, path: Path) -> None:
    """As a PNG without metadata: the same picture is the same file."""
    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
    image.save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
