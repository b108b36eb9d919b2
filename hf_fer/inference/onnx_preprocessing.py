"""The preprocessing of a stock image processor as a few numbers, which an ONNX file carries and Pillow and NumPy do.

transformers resizes with torchvision or with Pillow, which now and then differ by one or two of 255 grey levels in a
pixel; `Preprocessing` resizes with Pillow, and so may differ from the processor by as much.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..data.images import to_rgb
from ..errors import FerError

if TYPE_CHECKING:
    from transformers.image_processing_utils import BaseImageProcessor

MAX_SIDE = 4096
"""Side in px of the images that a file may ask for, as for image processors (`checkpoints.checks`)."""

_MAX_RESIZED = 64_000_000  # px: scaling the short side of a thread-like picture must not take all memory
_SMALLEST = 1e-6  # of deviations: smaller ones would make infinities of ordinary pixels
_LARGEST = 1e6


@dataclass(frozen=True)
class Preprocessing:
    """RGB picture to network input: resize, centre crop, rescale, normalise, in this order.

    Attributes:
        resize: (height, width) in px, whatever the aspect ratio; or the length of the shorter side, aspect ratio kept;
            or None, not resized.
        resample: name of Pillow's filter in small letters, such as "bicubic".
        crop: (height, width) in px of the centre that is kept, or None.
        scale: what 8-bit values are multiplied with first, as a rule 1/255.
        mean, std: of the channels red, green, blue, after that.
    """

    resize: tuple[int, int] | int | None
    resample: str
    crop: tuple[int, int] | None
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        sides = [*(self.resize if isinstance(self.resize, tuple) else (self.resize or 1,)), *(self.crop or ())]
        if not all(1 <= side <= MAX_SIDE for side in sides):
            raise FerError(f"sides of images must be from 1 to {MAX_SIDE} px, got {sides}")
        if self.resample.upper() not in Image.Resampling.__members__:
            raise FerError(f"resample must be one of {', '.join(_filters())}, got {self.resample[:40]!r}")
        if not all(math.isfinite(n) and abs(n) <= _LARGEST for n in (self.scale, *self.mean, *self.std)):
            raise FerError("scale, mean and std must be finite numbers")
        if min(map(abs, self.std)) < _SMALLEST:
            raise FerError(f"std must not be 0, got {self.std}")
        if self.size is None:
            raise FerError("neither resize nor crop fixes the size of the network's input")

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of what comes out; None if that depended on the picture."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Pictures of any mode and size to (N, 3, height, width) float32.

        Raises:
            FerError: something that is no PIL image, or a picture too long and thin to be scaled.
        """
        batch = np.empty((len(images), 3, *self.size), np.float32)
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        for slot, image in zip(batch, images, strict=True):
            if not isinstance(image, Image.Image):
                raise FerError(f"a picture must be a PIL image, not a {type(image).__name__}; open it first")
            pixels = np.asarray(self._resize_and_crop(to_rgb(image)), np.float32)
            slot[:] = (pixels.transpose(2, 0, 1) * np.float32(self.scale) - mean) / std
        return batch

    def _resize_and_crop(self, image: Image.Image) -> Image.Image:
        if image.width < 1 or image.height < 1:
            raise FerError("a picture has no pixels")
        if self.resize is not None:
            size = self.resize
            if isinstance(size, int):
                short, long = sorted(image.size)
                sides = size, int(size * long / short)
                size = sides if image.height <= image.width else sides[::-1]  # (height, width)
            if size[0] * size[1] > _MAX_RESIZED:
                raise FerError(f"a picture of {image.width} x {image.height} px is too long and thin to be scaled")
            if size != (image.height, image.width):
                image = image.resize((size[1], size[0]), Image.Resampling[self.resample.upper()])
        if self.crop is not None:
            top, left = _margin(image.height, self.crop[0]), _margin(image.width, self.crop[1])
            # Beyond a small picture's border is black, which Pillow fills in.
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        return image

    def to_json(self) -> str:
        """As it stands in a file's metadata: the fields, and what is the same for all."""
        fixed = {"input": "pixel_values", "layout": "NCHW", "channels": "RGB", "dtype": "float32", "order": _ORDER}
        return json.dumps({**fixed, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """Reads `to_json` back.

        Raises:
            FerError: JSON that is not of this form.
        """
        try:
            found = json.loads(text)
            if found["layout"] != "NCHW" or found["channels"] != "RGB" or found["dtype"] != "float32":
                raise FerError("its input is not RGB, NCHW, float32")
            resize = found["resize"]
            return cls(
                _pair(resize) if isinstance(resize, list) else _integer(resize),
                str(found["resample"]),
                None if found["crop"] is None else _pair(found["crop"]),
                _number(found["scale"]),
                _three(found["mean"]),
                _three(found["std"]),
            )
        except FerError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise FerError(f"{type(error).__name__} in {text[:80]!r}") from error

    @classmethod
    def from_processor(cls, processor: BaseImageProcessor) -> Preprocessing:
        """The same steps as a stock image processor of transformers.

        Raises:
            FerError: it does something that these fields do not say.
        """
        name = type(processor).__name__
        given = processor.to_dict()
        if given.get("do_pad") or given.get("do_reduce_labels") or "data_config" in given:
            raise FerError(f"its image processor ({name}) does more than resize, crop, rescale and normalise")
        try:
            resize, crop = _sizes(given)
            return cls(
                resize,
                Image.Resampling(given.get("resample") or 0).name.lower(),
                crop,
                float(given["rescale_factor"]) if given.get("do_rescale") else 1.0,
                _three(given["image_mean"]) if given.get("do_normalize") else (0.0, 0.0, 0.0),
                _three(given["image_std"]) if given.get("do_normalize") else (1.0, 1.0, 1.0),
            )
        except (KeyError, TypeError, ValueError) as error:  # FerError is a ValueError
            raise FerError(f"its image processor ({name}) cannot be described by a few numbers ({error})") from error


_ORDER = "to 8-bit RGB, resize, centre crop, times scale, minus mean, divided by std"


def _margin(side: int, crop: int) -> int:
    """Pixels before the crop; negative, before the picture: an odd one goes behind it, as with torchvision."""
    return (side - crop) // 2 if side >= crop else -((crop - side) // 2)


def _filters() -> list[str]:
    return [name.lower() for name in Image.Resampling.__members__]


def _sizes(given: Mapping[str, Any]) -> tuple[tuple[int, int] | int | None, tuple[int, int] | None]:
    """What `resize` and `crop` are for a processor's fields."""
    crop = _height_width(given["crop_size"]) if given.get("do_center_crop") else None
    if not given.get("do_resize"):
        return None, crop
    size = {key: value for key, value in dict(given["size"]).items() if value is not None}
    if set(size) == {"height", "width"}:
        return _height_width(size), crop
    if set(size) != {"shortest_edge"}:
        raise FerError(f"size is of {', '.join(sorted(size)) or 'nothing'}")
    short = int(size["shortest_edge"])
    if given.get("crop_pct") is not None:  # ConvNeXt's processor, which stock ResNets have too
        return (int(short / given["crop_pct"]), (short, short)) if short < 384 else ((short, short), None)
    return short, crop


def _height_width(size: Any) -> tuple[int, int]:
    values = dict(size)
    return int(values["height"]), int(values["width"])


def _pair(values: Any) -> tuple[int, int]:
    height, width = values
    return _integer(height) or 0, _integer(width) or 0


def _integer(value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError(type(value).__name__)
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(type(value).__name__)
    return float(value)


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (_number(v) for v in values)
    return red, green, blue
