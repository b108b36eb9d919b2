"""Gradio's picture and video inputs, made safe for files from strangers.

Stock `gr.Image` opens the file before any code of ours runs, so a hostile one ends in a traceback; both inputs download
any address that an API client sends. Here the handler gets a path, and checks it itself.
"""

from __future__ import annotations

import base64
import binascii
from abc import ABCMeta
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.component_meta import ComponentMeta

from ..errors import FerError
from ..inference.images import decode_image, open_image
from .guard import without_path

if TYPE_CHECKING:
    from PIL import Image


PLACEHOLDER = "Drop a picture here, or click to choose one"


class _UploadsOnly:
    """What both inputs have in common: files that were uploaded here, and nothing that would have to be fetched."""

    is_template = True  # no page code of its own: to the browser it is the stock input

    def get_block_name(self) -> str:
        return "image" if isinstance(self, gr.Image) else "video"

    get_block_class = get_block_name

    async def async_move_resource_to_block_cache(self, url_or_file_path: Any) -> str | None:
        if isinstance(url_or_file_path, str) and url_or_file_path.lower().startswith(("http://", "https://")):
            raise gr.Error("Addresses are not fetched here; upload the file itself.", print_exception=False)
        return await super().async_move_resource_to_block_cache(url_or_file_path)  # type: ignore[misc]


class _Photo(_UploadsOnly):
    def preprocess(self, payload: Any) -> str | bytes | None:
        if payload is None:
            return None
        if payload.url and payload.url.startswith("data:"):
            try:
                return base64.b64decode(payload.url.partition(",")[2], validate=True)
            except (binascii.Error, ValueError):
                raise gr.Error("The picture of the camera is damaged.", print_exception=False) from None
        return payload.path


class _Video(_UploadsOnly):
    def preprocess(self, payload: Any) -> str | None:
        return payload.path if payload else None


def _component(name: str, methods: type, stock: type, doc: str) -> Any:
    """A subclass of a component, made without `ComponentMeta.__new__`, which would write a .pyi file beside this."""
    return ABCMeta.__new__(ComponentMeta, name, (methods, stock), {"__module__": __name__, "__doc__": doc})


PhotoInput: Any = _component(
    "PhotoInput",
    _Photo,
    gr.Image,
    "`gr.Image` whose value reaches the handler as a path, or as the bytes of a webcam's frame, undecoded.",
)
VideoInput: Any = _component(
    "VideoInput",
    _Video,
    gr.Video,
    "`gr.Video` whose value reaches the handler as a path, not looked at, not converted.",
)


def read_photo(photo: str | bytes, max_pixels: int) -> Image.Image:
    """The picture that `PhotoInput` handed over: RGB, upright.

    Raises:
        FerError: not a picture, damaged, or of more than `max_pixels`. The sentence names the file, not its folder.
    """
    if isinstance(photo, bytes):
        return decode_image(photo, "the camera's picture", max_pixels)
    try:
        image = open_image(photo, max_pixels)
        image.info.pop("exif", None)  # it stands upright now; whoever reads the orientation would turn it again
        return image
    except FerError as error:
        raise FerError(without_path(str(error), photo)) from error
