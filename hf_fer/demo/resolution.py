"""The tab Resolution: one face with fewer and fewer pixels, and how sure each method stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..errors import FerError
from ..evaluation.markdown import TIMES
from . import charts, markup
from .examples import photo_with_examples
from .guard import for_api, sentence
from .inputs import PhotoInput, read_photo
from .limits import Limits
from .models import ModelPool
from .photo import needed, no_face

if TYPE_CHECKING:
    from PIL import Image

FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
LARGEST = 16.0
LINES = 4  # expressions drawn
EMPTY = "Add a picture, then move the slider: its largest face loses pixels; the curve shows how the answer changes."
BY_EXPRESSION, BY_METHOD = "expressions of the chosen model", "methods"

_SIDE = 256  # px of a face that is kept between two moves of the slider: more than any of the networks looks at


@dataclass(frozen=True)
class FaceCrops:
    """The largest face of a picture as each method wants it cropped; lives in one visitor's session, and shortly."""

    crops: dict[str, Image.Image]


def resolution_tab(pool: ModelPool, limits: Limits, model: gr.Dropdown) -> PhotoInput:
    """Builds the tab's content; returns its input."""

    def find(photo: str | bytes | None, name: str, factor: float, lines: str) -> tuple[Any, ...]:
        if photo is None:
            return None, markup.hint(EMPTY), "", gr.Plot(visible=False)
        try:
            face = largest_face(pool, photo, name, limits)
        except Exception as error:
            return None, markup.alert(sentence(error)), "", gr.Plot(visible=False)
        return face, *show(face, name, factor, lines)

    def show(face: FaceCrops | None, name: str, factor: float, lines: str) -> tuple[Any, ...]:
        if face is None:
            return markup.hint(EMPTY), "", gr.Plot(visible=False)
        try:
            return _shown(pool, face, name, factor, lines)
        except Exception as error:
            return markup.alert(sentence(error)), "", gr.Plot(visible=False)

    @for_api
    def curve(photo: str | bytes | None, name: str, factor: float) -> dict[str, Any]:
        face = largest_face(pool, needed(photo), name, limits)
        reference, factors = pool.image_size(name), factors_with(factor)
        answers = {
            method: [answer["probabilities"] for answer in _answers(pool, method, crop, factors, reference)]
            for method, crop in face.crops.items()
        }
        return {"reference_side": reference, "factors": factors, "probabilities": answers}

    gr.Markdown(
        "Faces in real pictures are small. Here the largest face is scaled down and up again, as in the "
        "multi-resolution protocol, and answered at every size.",
        elem_classes="hf-lead",
    )
    with gr.Row():
        with gr.Column(scale=5):
            photo = photo_with_examples("hf-resolution-photo")
            factor = gr.Slider(
                1,
                LARGEST,
                value=4,
                step=0.5,
                label=f"Resolution lowered by {TIMES}",
                info=f"{TIMES}1 is the size the model looks at; {TIMES}4 has a quarter of its pixels on each side.",
                elem_id="hf-factor",
            )
        with gr.Column(scale=6):
            figure = gr.HTML(markup.hint(EMPTY), elem_id="hf-small")
            listed = gr.HTML("", elem_id="hf-small-bars")
    lines = gr.Radio(
        [("Methods", BY_METHOD), ("Expressions", BY_EXPRESSION)],
        value=BY_METHOD if len(pool.names) > 1 else BY_EXPRESSION,
        label="One line for each of the",
        visible=len(pool.names) > 1,
    )
    plot = charts.empty_chart("Probability against resolution", elem_id="hf-curve")
    face = gr.State(time_to_live=limits.kept_seconds)

    shared = {"concurrency_id": "model", "concurrency_limit": limits.at_once}
    gr.on(
        [photo.change, model.change],
        find,
        [photo, model, factor, lines],
        [face, figure, listed, plot],
        api_visibility="private",
        show_progress="minimal",
        trigger_mode="always_last",
        **shared,
    )
    gr.on(
        [factor.change, lines.change],
        show,
        [face, model, factor, lines],
        [figure, listed, plot],
        api_visibility="private",
        show_progress="hidden",
        trigger_mode="always_last",
        **shared,
    )
    gr.Button(visible=False).click(
        curve,
        [photo, model, factor],
        gr.JSON(visible=False, label="curve"),
        api_name="resolution",
        api_description="What each method answers for the largest face at every resolution: factors, probabilities.",
        **shared,
    )
    return photo


def largest_face(pool: ModelPool, photo: str | bytes, name: str, limits: Limits) -> FaceCrops:
    """The largest face of a picture, cropped for `name` and as many others as the pool keeps loaded.

    Raises:
        FerError: the picture cannot be read, or holds no face.
    """
    from PIL import Image

    image = read_photo(photo, limits.pixels)
    faces = pool.detect(image)
    if not faces:
        raise FerError(no_face(image))
    crops = {}
    for method in methods(pool, name):
        crops[method] = pool.crop(method, image, faces[0]).convert("RGB")
        crops[method].thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return FaceCrops(crops)


def methods(pool: ModelPool, name: str) -> list[str]:
    """The chosen model, then others, as many as stay loaded at once."""
    return [name, *(other for other in pool.names if other != name)][: pool.keep]


def factors_with(factor: float) -> list[float]:
    """Where the curve is computed: everywhere, and at the slider."""
    if not 1 <= factor <= LARGEST:  # NaN too; an API client can send anything
        raise FerError(f"The resolution factor {factor!r} is not from 1 to {LARGEST:g}; use for example 4")
    return sorted({*FACTORS, float(factor)})


def _answers(
    pool: ModelPool, name: str, crop: Image.Image, factors: Sequence[float], reference: int
) -> list[dict[str, Any]]:
    from ..data.resolution import degrade_image

    small = [degrade_image(crop, factor, reference_side=reference) for factor in factors]
    return pool.pipeline(name).predict_crops(small)


def _shown(pool: ModelPool, face: FaceCrops, name: str, factor: float, lines: str) -> tuple[Any, ...]:
    reference, factors = pool.image_size(name), factors_with(factor)
    if name not in face.crops:
        raise FerError("The face was cropped for another model; give the picture again")
    answers = _answers(pool, name, face.crops[name], factors, reference)
    here = answers[factors.index(float(factor))]
    side = max(1, round(reference / factor))
    title = f"{TIMES}{factor:g}: the face at {side} {TIMES} {side} px"
    heading = (
        f'<article class="hf-card"><div><h2>{markup.text(here["label"], 40)} '
        f"<b>{markup.percent(here['score'])}</b></h2>"
        f'<p class="hf-facts">at {side} {TIMES} {side} px</p>'
        f"{markup.bars(here['probabilities'], f'Probabilities at {side} pixels')}</div></article>"
    )
    pixels = _pixels(face.crops[name], side)
    figure = (
        f'<figure class="hf-figure">{markup.picture(pixels, f"The face at {side} by {side} pixels")}'
        f"<figcaption>{markup.text(title)}</figcaption></figure>"
    )
    if lines == BY_METHOD:
        plot = _by_method(pool, face, name, answers, factors, reference, float(factor))
    else:
        plot = _by_expression(answers, factors, reference, float(factor))
    return figure, heading, plot


def _by_expression(answers: Sequence[dict[str, Any]], factors: Sequence[float], reference: int, mark: float) -> gr.Plot:
    """The expressions that come first at some resolution, or nearly so."""
    peak = {label: max(a["probabilities"][label] for a in answers) for label in answers[0]["probabilities"]}
    chosen = sorted(peak, key=lambda label: -peak[label])[:LINES]
    lines = [(label, factors, [a["probabilities"][label] for a in answers]) for label in chosen]
    words = f"Probabilities of {', '.join(chosen)} as the face loses pixels; listed above for {TIMES}{mark:g}"
    return charts.chart(lines, charts.expression_lines(chosen), _axes(reference), words, mark)


def _by_method(
    pool: ModelPool,
    face: FaceCrops,
    name: str,
    answers: Sequence[dict[str, Any]],
    factors: Sequence[float],
    reference: int,
    mark: float,
) -> gr.Plot:
    """How sure each method is of what it says, whatever that is."""
    shown = {value: words for words, value in pool.choices}
    lines: list[charts.Line] = []
    for method, crop in face.crops.items():
        own = answers if method == name else _answers(pool, method, crop, factors, reference)
        lines.append((shown[method], factors, [a["score"] for a in own]))
    words = "How sure each method is of its answer as the face loses pixels"
    return charts.chart(lines, charts.method_lines([line[0] for line in lines]), _axes(reference), words, mark)


def _axes(reference: int) -> charts.Axes:
    over = f"{charts.OVER_FACTORS} ({TIMES}1 is {reference} px)"
    return charts.Axes("Probability against resolution", over, factors=LARGEST)


def _pixels(crop: Image.Image, side: int) -> Image.Image:
    """The face with so many pixels that one can count them: the browser enlarges them as squares."""
    from PIL import Image

    return crop.resize((side, side), Image.Resampling.BICUBIC)
