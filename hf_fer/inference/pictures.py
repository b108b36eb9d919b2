"""One RGB picture, the right way up, from whatever somebody passes as a picture."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image

from ..checkpoints.checks import first_sentence
from ..data.images import to_rgb
from ..errors import FerError
from .download import TIMEOUT, download, is_address, shown_address
from .images import MAX_PIXELS, decode_image, open_image, refuse_size, upright_rgb

if TYPE_CHECKING:
    import numpy as np

Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"
"""A path, an http(s) address, the content of a file, a PIL image, or uint8 values (H, W), (H, W, 1), (H, W, 3) in the
order RGB, or (H, W, 4) with transparency."""


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_picture(value: Any) -> bool:
    """Whether a value is of a type that `read_picture` takes, and not a collection of such."""
    import numpy as np

    return isinstance(value, str | os.PathLike | bytes | bytearray | Image.Image | np.ndarray)


def read_picture(
    source: Picture, name: str = "the picture", *, max_pixels: int = MAX_PIXELS, timeout: float = TIMEOUT
) -> Image.Image:
    """Decode a picture to RGB, upright according to its EXIF orientation.

    Args:
        source: see `Picture`. Of a PIL image the orientation is honoured too, as transformers' pipelines do.
        name: what messages call it, where it has no path or address.
        max_pixels: larger ones are refused before anything is decoded.
        timeout: seconds for reading an address.

    Returns:
        A PIL image, mode "RGB"; first frame of an animation, transparency composited over white.

    Raises:
        FerError: it cannot be read, is damaged, too large or no picture.
    """
    import numpy as np

    if isinstance(source, bytes | bytearray):
        return decode_image(bytes(source), name, max_pixels)
    if isinstance(source, Image.Image):
        return _of_pil(source, name, max_pixels)
    if isinstance(source, np.ndarray):
        return _of_array(source, name, max_pixels)
    if not isinstance(source, str | os.PathLike):
        kind = f"{type(source).__module__}.{type(source).__name__}".removeprefix("builtins.")
        raise FerError(
            f"{name}: a {kind} is no picture; pass a path, an http(s) address, bytes, a PIL image or a uint8 array"
        )
    path = os.fspath(source)
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not (is_address(path) or (_SCHEME.match(path) and not os.path.lexists(path))):
        return open_image(path, max_pixels)
    return decode_image(download(path, timeout=timeout), shown_address(path), max_pixels)


def _of_pil(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    refuse_size(*image.size, name, max_pixels)
    try:
        image.load()
        return upright_rgb(image)
    except FerError as error:
        raise FerError(f"{name}: {error}") from error
    except Exception as error:  # decoders raise whatever a damaged file makes them raise
        raise FerError(f"{name}: damaged or cut short, cannot be decoded ({first_sentence(error)})") from error


def _of_array(array: np.ndarray, name: str, max_pixels: int) -> Image.Image:
    import numpy as np

    if array.dtype != np.uint8:
        raise FerError(f"{name}: an array of {array.dtype} has no agreed range; convert it to uint8, 0 to 255")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        hint = "pass a batch as a list of arrays" if array.ndim == 4 else "use (H, W), (H, W, 3) or (H, W, 4)"
        raise FerError(f"{name}: an array of shape {array.shape} is no picture; {hint}")
    refuse_size(array.shape[1], array.shape[0], name, max_pixels)
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))
