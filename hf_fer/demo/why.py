"""The tab Why: where in the face the evidence for each expression lies, side by side across resolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from ..evaluation.markdown import TIMES
from . import markup
from .examples import photo_with_examples
from .guard import for_api, sentence
from .inputs import PhotoInput, read_photo
from .limits import Limits
from .models import ModelPool
from .photo import needed, no_face

if TYPE_CHECKING:
    from ..inference.explain import ResolutionExplanation

FACTORS = (1.0, 2.0, 4.0, 8.0)
ROWS = 3
EMPTY = "Add a picture to see which parts of the largest face speak for which expression."


def why_tab(pool: ModelPool, limits: Limits, model: gr.Dropdown) -> PhotoInput:
    """Builds the tab's content; returns its input."""

    def explained(photo: str | bytes, name: str) -> ResolutionExplanation:
        from ..errors import FerError
        from ..inference.explain import explain_resolutions

        image = read_photo(photo, limits.pixels)
        faces = pool.detect(image)
        if not faces:
            raise FerError(no_face(image))
        pipeline = pool.pipeline(name)
        return explain_resolutions(
            pipeline.model, pipeline.image_processor, pool.crop(name, image, faces[0]), factors=FACTORS
        )

    def answer(photo: str | bytes | None, name: str) -> str:
        if photo is None:
            return markup.hint(EMPTY)
        try:
            return _grid(explained(photo, name))
        except Exception as error:
            return markup.alert(sentence(error))

    @for_api
    def data(photo: str | bytes | None, name: str) -> dict[str, Any]:
        return _as_data(explained(needed(photo), name))

    gr.Markdown(
        "Bright places speak for the expression of their row, each row on its own scale. A map tells what the network "
        "used, not whether it was right to.",
        elem_classes="hf-lead",
    )
    with gr.Row():
        with gr.Column(scale=4):
            photo = photo_with_examples("hf-why-photo")
        with gr.Column(scale=8):
            maps = gr.HTML(markup.hint(EMPTY), elem_id="hf-maps")

    shared = {"concurrency_id": "model", "concurrency_limit": limits.at_once}
    gr.on(
        [photo.change, model.change],
        answer,
        [photo, model],
        maps,
        api_visibility="private",
        show_progress="minimal",
        trigger_mode="always_last",
        **shared,
    )
    gr.Button(visible=False).click(
        data,
        [photo, model],
        gr.JSON(visible=False, label="maps"),
        api_name="explain",
        api_description="The evidence maps of the largest face for each class at four resolutions, as numbers.",
        **shared,
    )
    return photo


def _grid(found: ResolutionExplanation) -> str:
    """Rows: what the model sees, then the most probable classes. Columns: resolutions."""
    from ..inference.explain import METHODS
    from ..inference.explain_plot import choose_classes, class_heats, overlay

    explanation = found.explanation
    probabilities = explanation.probabilities.numpy()
    sides = [max(1, round(found.reference_side / factor)) for factor in found.factors]
    head = "".join(
        f'<th scope="col">{TIMES}{factor:g} · {side} px</th>' for factor, side in zip(found.factors, sides, strict=True)
    )
    seen = "".join(
        f"<td>{_enlarged(image, f'The face as the model sees it at {side} pixels')}"
        f"<span>{markup.text(explanation.labels[row.argmax()], 20)} {markup.percent(row.max())}</span></td>"
        for image, side, row in zip(found.images, sides, probabilities, strict=True)
    )
    rows = [_band("What the model sees", seen, len(sides))]
    for k in choose_classes(probabilities, explanation.classes, ROWS):
        label = explanation.labels[k]
        heats = class_heats(explanation, k)
        cells = "".join(
            f"<td>{markup.picture(overlay(image, heat), f'Evidence for {label} at {side} pixels')}"
            f"<span>{markup.percent(row[k])}</span></td>"
            for image, heat, side, row in zip(found.images, heats, sides, probabilities, strict=True)
        )
        rows.append(_band(label, cells, len(sides)))
    method = METHODS[explanation.method]
    return (
        '<div class="hf-scroll" role="region" tabindex="0" aria-label="Evidence maps">'
        f'<table class="hf-grid"><thead><tr>{head}</tr></thead>{"".join(rows)}</table></div>'
        f'<p class="hf-facts">Maps by {markup.text(method)}.</p>{_corrected(found)}'
    )


def _band(label: str, cells: str, count: int) -> str:
    """A row of the grid with its heading above it: a phone has no room for one beside it."""
    heading = f'<tr><th scope="rowgroup" colspan="{count}">{markup.text(label, 30)}</th></tr>'
    return f"<tbody>{heading}<tr>{cells}</tr></tbody>"


def _enlarged(image: Any, alt: str) -> str:
    from PIL import Image

    scale = max(1, round(240 / min(image.size)))
    large = image.resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST)
    return markup.picture(large, alt)


def _corrected(found: ResolutionExplanation) -> str:
    """GReFEL's answer before and after its geometry-aware correction; nothing for the others."""
    extra, labels = found.explanation.extra, found.explanation.labels
    if "primary" not in extra:
        return ""
    shown = []
    last = extra.get("final", extra["primary"])[0].tolist()
    order = sorted(range(len(last)), key=lambda k: -last[k])  # one order for all, so that they compare line by line
    for name, words in (("primary", "Primary"), ("corrected", "Corrected"), ("final", "Final")):
        if name not in extra:
            continue
        row = extra[name][0].tolist()
        confidence = extra.get(f"{name}_confidence")
        fact = "" if confidence is None else f"confidence {markup.percent(float(confidence[0]))}"
        shown.append(
            f'<article class="hf-card"><div><h2>{words} distribution</h2><p class="hf-facts">{fact}</p>'
            f"{markup.bars({labels[k]: row[k] for k in order}, f'{words} distribution')}</div></article>"
        )
    return f"<h2>Primary and corrected answer</h2>{markup.cards(shown)}"


def _as_data(found: ResolutionExplanation) -> dict[str, Any]:
    """JSON-ready, four decimals."""
    explanation = found.explanation

    def numbers(tensor: Any) -> Any:
        return [round(v, 4) for v in tensor.tolist()] if tensor.dim() == 1 else [numbers(part) for part in tensor]

    return {
        "method": explanation.method,
        "reference_side": found.reference_side,
        "factors": list(found.factors),
        "labels": [explanation.labels[k] for k in explanation.classes],
        "probabilities": numbers(explanation.probabilities),
        "maps": numbers(explanation.maps),
        "extra": {name: numbers(value) for name, value in explanation.extra.items()},
    }
