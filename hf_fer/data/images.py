"""PIL images of any mode as 8-bit RGB, without losing the picture on the way."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..errors import FerError


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a PIL image of any mode to a new 8-bit "RGB" one of the same size.

    Greys of more than 8 bits are scaled by the range of their type, see `_to_eight_bits`; transparency
    is composited over white. EXIF orientation is not looked at.

    Raises:
        FerError: a mode that Pillow cannot convert to RGB (CIE Lab).
    """
    if image.mode.startswith(("I", "F")):  # "I", "I;16", "I;16B", "I;16L", "I;16N", "F"
        image = Image.fromarray(_to_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise FerError(f"its colour mode {image.mode} cannot be converted to RGB") from error


def _to_eight_bits(grey: np.ndarray) -> np.ndarray:
    """Scale (H, W) integers or floats to uint8.

    The range is the smallest of [0, 1] (floats only), [0, 255], [0, 65535] and [0, maximum] that holds
    the values: an 8-bit picture stored in 16 bits stays as it is, a 16-bit one is divided by 257.
    Negative values and NaN become 0.
    """
    is_float = np.issubdtype(grey.dtype, np.floating)
    grey = grey.astype(np.float32)  # a copy; exact for integers up to 2**24
    np.nan_to_num(grey, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    top = float(grey.max())
    limits = (1.0, 255.0, 65535.0) if is_float else (255.0, 65535.0)
    limit = next((limit for limit in limits if top <= limit), top)
    grey *= 255.0 / limit
    return np.clip(np.rint(grey, out=grey), 0, 255).astype(np.uint8)
