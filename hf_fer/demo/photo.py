"""The tab Photo: a picture or the webcam in, boxes and probabilities of every face out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..evaluation.markdown import TIMES
from . import markup
from .examples import photo_examples
from .guard import for_api, sentence
from .inputs import PLACEHOLDER, PhotoInput, read_photo
from .limits import Limits
from .models import ModelPool

if TYPE_CHECKING:
    from PIL import Image

EMPTY = "Add a picture, or choose an example. Every face in it is listed here with its probabilities."
LIVE_SECONDS = 30
LIVE_EMPTY = (
    "Give access to the camera, then press Record: the expression of the largest face is shown live, for "
    f"{LIVE_SECONDS} seconds at a time. Nothing is recorded; frames are answered and forgotten."
)


def photo_tab(pool: ModelPool, limits: Limits, model: gr.Dropdown) -> PhotoInput:
    """Builds the tab's content; returns the input, which the other tabs take over."""

    def answer(photo: str | bytes | None, name: str) -> tuple[Any, str]:
        if photo is None:
            return gr.Image(value=None, visible=False), markup.hint(EMPTY)
        try:
            image = read_photo(photo, limits.pixels)
            faces = pool.pipeline(name)(image)
        except Exception as error:
            return gr.Image(value=None, visible=False), markup.alert(sentence(error))
        if not faces:
            return gr.Image(value=None, visible=False), markup.alert(no_face(image))
        return _drawn(image, faces), _listed(image, faces, limits.faces)

    def live(frame: str | bytes | None, name: str) -> str:
        if frame is None:
            return markup.hint(LIVE_EMPTY)
        try:
            image = read_photo(frame, limits.pixels)
            return _live(image, pool.pipeline(name)(image))
        except Exception as error:
            return markup.alert(sentence(error))

    @for_api
    def faces_of(photo: str | bytes | None, name: str) -> list[dict[str, Any]]:
        return pool.pipeline(name)(read_photo(needed(photo), limits.pixels))

    @for_api
    def annotated(photo: str | bytes | None, name: str) -> Image.Image:
        from ..inference.annotate import draw_faces

        image = read_photo(needed(photo), limits.pixels)
        return draw_faces(image, pool.pipeline(name)(image))

    with gr.Tabs():
        with gr.Tab("Picture"), gr.Row():
            with gr.Column(scale=5):
                photo = PhotoInput(
                    label="Your picture",
                    sources=["upload", "webcam", "clipboard"],
                    webcam_options=gr.WebcamOptions(mirror=False),
                    placeholder=f"{PLACEHOLDER}\nJPEG, PNG, WebP and others, up to {limits.file_mb} MB",
                    alt_text="The picture you gave",
                    height=360,
                    buttons=["fullscreen"],
                    elem_id="hf-photo",
                )
                photo_examples(photo)
            with gr.Column(scale=6):
                drawn = gr.Image(
                    label="Faces found",
                    visible=False,
                    interactive=False,
                    format="jpeg",
                    height=360,
                    buttons=["download", "fullscreen"],
                    elem_id="hf-drawn",
                )
                listed = gr.HTML(markup.hint(EMPTY), elem_id="hf-faces")
        with gr.Tab("Live webcam"), gr.Row():
            with gr.Column(scale=5):
                camera = PhotoInput(
                    label="Camera",
                    sources=["webcam"],
                    streaming=True,
                    webcam_options=gr.WebcamOptions(mirror=False),
                    height=360,
                    buttons=[],
                    elem_id="hf-camera",
                )
            with gr.Column(scale=6):
                seen = gr.HTML(markup.hint(LIVE_EMPTY), elem_id="hf-live", elem_classes="hf-live")

    shared = {"concurrency_id": "model", "concurrency_limit": limits.at_once}
    gr.on(
        [photo.change, model.change],
        answer,
        [photo, model],
        [drawn, listed],
        api_visibility="private",
        show_progress="minimal",
        trigger_mode="always_last",
        **shared,
    )
    camera.stream(
        live,
        [camera, model],
        seen,
        api_visibility="private",
        show_progress="hidden",
        stream_every=0.3,
        time_limit=LIVE_SECONDS,
        concurrency_limit=limits.at_once,
    )
    camera.clear(lambda: markup.hint(LIVE_EMPTY), None, seen, api_visibility="private", queue=False)

    # The endpoints for programs: the same answers as data.
    gr.Button(visible=False).click(
        faces_of,
        [photo, model],
        gr.JSON(visible=False, label="faces"),
        api_name="photo",
        api_description="The faces of a picture, largest first: box, label, score, probabilities, reliability.",
        **shared,
    )
    gr.Button(visible=False).click(
        annotated,
        [photo, model],
        gr.Image(visible=False, label="picture", format="jpeg"),
        api_name="annotate",
        api_description="The picture with a box, the label and its probability for every face.",
        **shared,
    )
    return photo


def needed(value: Any) -> Any:
    """`value`, or the sentence a client gets that sent nothing."""
    if value is None:
        raise gr.Error("No file was sent; upload one and name it.", print_exception=False)
    return value


def no_face(image: Image.Image) -> str:
    return (
        f"No face was found in this picture of {image.width} {TIMES} {image.height} px. Try one in which the face is "
        "larger, better lit, or turned towards the camera."
    )


def _drawn(image: Image.Image, faces: Sequence[dict[str, Any]]) -> gr.Image:
    from ..inference.annotate import draw_faces

    words = ", ".join(f"{face['label']} {markup.percent(face['score'])}" for face in faces[:5])
    alt = f"The picture with a box around {_count(len(faces))}: {words}{' and others' if len(faces) > 5 else ''}"
    # Numbered as the cards below are, where there is more than one.
    numbered = [{**face, "track": number} for number, face in enumerate(faces, start=1)] if len(faces) > 1 else faces
    return gr.Image(value=draw_faces(image, numbered), visible=True, alt_text=alt)


def _listed(image: Image.Image, faces: Sequence[dict[str, Any]], most: int) -> str:
    bars = 8 if len(faces) <= 2 else 3
    shown = [
        markup.face_card(face, number, _thumbnail(image, face), bars)
        for number, face in enumerate(faces[:most], start=1)
    ]
    return markup.status(f"{_count(len(faces))} found.") + markup.cards(shown, len(faces) - len(shown))


def _live(image: Image.Image, faces: Sequence[dict[str, Any]]) -> str:
    from ..inference.annotate import draw_faces

    if not faces:
        return markup.picture(image, "The camera's picture, without a face") + markup.hint("No face in sight.")
    drawn = markup.picture(draw_faces(image, faces), f"The camera's picture with a box around {_count(len(faces))}")
    return drawn + markup.cards([markup.face_card(faces[0], 1)])


def _thumbnail(image: Image.Image, face: dict[str, Any], side: int = 144) -> Image.Image:
    """The face and a little around it, small."""
    from PIL import Image

    box = face["box"]
    width, height = box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]
    half = 0.6 * max(width, height)
    x, y = (box["xmin"] + box["xmax"]) / 2, (box["ymin"] + box["ymax"]) / 2
    edges = (max(0, x - half), max(0, y - half), min(image.width, x + half), min(image.height, y + half))
    crop = image.crop(tuple(round(edge) for edge in edges))  # type: ignore[arg-type]
    crop.thumbnail((side, side), Image.Resampling.LANCZOS)
    return crop


def _count(faces: int) -> str:
    return "1 face" if faces == 1 else f"{faces} faces"
