"""What visitors can try: pictures and a clip that are free to pass on (space/README.md names their sources)."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from .inputs import PLACEHOLDER, PhotoInput

PHOTOS = {
    "astronaut.jpg": "Portrait",
    "astronaut_small.png": "Small and blurred",
    "drawn_faces.png": "Drawn faces",
}
CLIP = "astronaut_pixels.mp4"


def examples_folder() -> Path:
    return Path(__file__).resolve().parent / "examples"


def photo_examples(photo: gr.Image) -> None:
    """The pictures below an input; choosing one is like uploading it."""
    folder = examples_folder()
    gr.Examples(
        [[str(folder / name)] for name in PHOTOS],
        inputs=[photo],
        label="Examples",
        example_labels=list(PHOTOS.values()),
        api_visibility="private",
    )


def photo_with_examples(elem_id: str) -> PhotoInput:
    """The input of a tab that looks at one face, with the pictures below it."""
    photo = PhotoInput(
        label="Your picture",
        sources=["upload", "clipboard"],
        placeholder=PLACEHOLDER,
        alt_text="The picture you gave",
        height=260,
        buttons=[],
        elem_id=elem_id,
    )
    photo_examples(photo)
    return photo


def clip_example(video: gr.Video) -> None:
    """The clip below a video input."""
    gr.Examples(
        [[str(examples_folder() / CLIP)]],
        inputs=[video],
        label="Example",
        example_labels=["A portrait that loses its pixels"],
        api_visibility="private",
    )
