"""Lowering the resolution of images: the training transforms of two papers, and the test protocol's.

`RandomDownsample` (HSAC), `RandomResolution` (multi-resolution training) and `FixedDownsample` (the test protocols)
are picklable callables on a batch of a `datasets.Dataset`, image by image with Pillow:

    train = train.with_transform(RandomDownsample(seed=1))
    test = test.map(FixedDownsample(4), batched=True)

This path is the reference. `hf_fer.data.resampling.BatchDegrader` does the same to a whole batch on any device, with
the sides that a transform's `draw` returns. Everything is bicubic with antialiasing, down and up again, so an image
keeps its size and loses what is finer than its new pixels.

**Randomness.** A transform draws from a stream of its own, started from `seed` at its first call; in a worker of a
`DataLoader`, from `seed` and the worker's seed, so workers and epochs differ and `torch.manual_seed` repeats them.
Copies start afresh: processes of `map(num_proc=...)` would all draw the same. Pass `with_indices=True` there: an
image's draw then depends on `seed` and its index alone. `generator=` takes the draws from a generator of yours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.utils.data import get_worker_info

from ..errors import FerError
from .images import to_rgb

# Bicubic needs continuous channels; other modes (bilevel, palette, CMYK, 16 bits, ...) are converted first.
_CONTINUOUS_MODES = ("L", "LA", "La", "RGB", "RGBA", "RGBa", "I", "F")
_MOST_PIXELS = 2**27  # of an enlarged image, 0.5 GB: a sliver brought to a reference side could fill any memory


# --- one image ------------------------------------------------------------------------------------


def degrade_image(image: Image.Image, factor: float, *, reference_side: int | None = None) -> Image.Image:
    """Shrink an image by `factor` and enlarge it back, both bicubic (PIL, antialiased).

    Without `reference_side` the factor counts from the image's own size: `x2` of a 48-pixel FERPlus face is a
    24-pixel face. HSAC's protocol (WACV 2024) counts from the network's input, "224 / s whatever the size of the
    original": pass `reference_side=224` for it. On a data set stored at 48 pixels the two differ: `x2` of the
    paper is 112 pixels, more than the picture ever had.

    Args:
        image: any PIL image of size `(W, H)`. Modes L, LA, RGB, RGBA, I and F are kept; all others, and images in
            which a colour stands for "transparent", come back as RGB, see `to_rgb`.
        factor: a finite number >= 1; each side becomes `max(1, round(side / factor))` pixels.
        reference_side: length in pixels that the shorter side is taken to have at factor 1 (aspect ratio
            kept); the result then has that size. `None`: the image's own size.

    Returns:
        An image of the original size (or of the reference size). Where no side changes it is the image itself,
        untouched.

    Raises:
        FerError: a factor below 1 or not finite, a reference side below 1, an image without pixels, of a mode
            that cannot be converted, or too long and thin for the reference side.
    """
    factor = _check_factor(factor)
    width, height = _check_size(image)
    if reference_side is not None:
        _check_reference_side(reference_side)
        scale = reference_side / min(width, height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        if width * height > max(_MOST_PIXELS, image.width * image.height):
            raise FerError(
                f"An image of {image.width}x{image.height} px would grow to {width}x{height} with "
                f"reference_side={reference_side}; crop it to the face first."
            )
    return _down_and_up(image, (max(1, round(width / factor)), max(1, round(height / factor))), (width, height))


def degrade_to_side(image: Image.Image, side: int) -> Image.Image:
    """Shrink an image to a shorter side of `side` pixels, the aspect ratio kept, and enlarge it back, both bicubic.

    Args:
        image: any PIL image; modes as in `degrade_image`.
        side: at least 1 px.

    Returns:
        An image of the original size; where its shorter side is no longer than `side`, the image itself.

    Raises:
        FerError: a side below 1, an image without pixels or of a mode that cannot be converted.
    """
    if not isinstance(side, Integral) or side < 1:
        raise FerError(f"side={side!r} is not a size in pixels; give a whole number of at least 1.")
    width, height = _check_size(image)
    shorter = min(width, height)
    if shorter <= side:
        return image
    small = [side if length == shorter else max(1, round(length * side / shorter)) for length in (width, height)]
    return _down_and_up(image, (small[0], small[1]), (width, height))


def _down_and_up(image: Image.Image, small: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    if small == size == image.size:
        return image
    # A colour that stands for "transparent" is no continuous value either.
    if image.mode not in _CONTINUOUS_MODES or "transparency" in image.info:
        image = to_rgb(image)
    return image.resize(small, Image.Resampling.BICUBIC).resize(size, Image.Resampling.BICUBIC)


def _check_factor(factor: float) -> float:
    try:
        value = float(factor) if isinstance(factor, Real) else math.nan
    except OverflowError:  # a whole number beyond float's range
        value = math.inf
    if not math.isfinite(value) or value < 1:
        raise FerError(
            f"The resolution factor {factor!r} is not a finite number of at least 1; use for example 1, 2, 4 or 8."
        )
    return value


def _check_reference_side(side: int) -> None:
    if not isinstance(side, Integral) or side < 1:
        raise FerError(f"reference_side={side!r} is not a size in pixels; use for example 224, or None.")


def _check_size(image: Image.Image) -> tuple[int, int]:
    if 0 in image.size:
        raise FerError(f"An image of {image.width}x{image.height} px has nothing to lower the resolution of; drop it.")
    return image.size


# --- batches of a dataset ---------------------------------------------------------------------------


class _Degradation:
    """What the transforms share: a call on a batch, and the streams of random numbers."""

    column: str
    seed: int = 0

    def __call__(
        self, batch: Mapping[str, Any], indices: Sequence[int] | None = None, *, generator: Generator | None = None
    ) -> dict[str, Any]:
        """
        Args:
            batch: columns of a dataset; `column` holds PIL images.
            indices: the images' places in the dataset, as `map(..., batched=True, with_indices=True)` gives them:
                each image is then drawn for by itself, from `seed` and its index.
            generator: a CPU generator to draw from; it takes precedence over `indices`.

        Returns:
            The batch with degraded images of the same sizes; what stays as it is is the same object.

        Raises:
            FerError: no such column, or something in it that is no image.
        """
        images = self._images(batch)
        if indices is None or generator is not None:
            degraded = self._degrade(images, self._stream() if generator is None else generator)
        else:
            degraded = [
                self._degrade([image], _seeded(self.seed, index, 2))[0]
                for image, index in zip(images, indices, strict=True)
            ]
        return {**batch, self.column: degraded}

    def draw(self, sides: Tensor, generator: Generator) -> Tensor:
        """The resolutions for a batch, as the call on images draws them from the same generator.

        Args:
            sides: (B,) int64, the images' shorter sides in px.
            generator: a CPU generator.

        Returns:
            (B,) int64 in 1…sides, the shorter sides in px to shrink to; an image's own side leaves it alone.
        """
        raise NotImplementedError

    def _degrade(self, images: list[Image.Image], generator: Generator) -> list[Image.Image]:
        raise NotImplementedError

    def _images(self, batch: Mapping[str, Any]) -> list[Image.Image]:
        if self.column not in batch:
            raise FerError(
                f"{type(self).__name__}: the batch has no column {self.column!r} but {', '.join(batch)}; "
                "name yours by column=."
            )
        images = batch[self.column]
        if isinstance(images, Image.Image):
            raise FerError(f"{type(self).__name__} takes batches, not one image; use map(..., batched=True).")
        for place, image in enumerate(images):
            if not isinstance(image, Image.Image):
                raise FerError(
                    f"{type(self).__name__}: entry {place} of column {self.column!r} is {type(image).__name__}, "
                    "not a PIL image; decode the column (datasets.Image) and drop rows without an image."
                )
        return list(images)

    def _stream(self) -> Generator:
        """This copy's stream in this worker; another worker, or the next epoch's, starts one of its own."""
        worker = get_worker_info()
        key = None if worker is None else worker.seed
        known, generator = self.__dict__.get("_started", (None, None))
        if generator is None or known != key:
            generator = _seeded(self.seed) if key is None else _seeded(self.seed, key, 1)
            object.__setattr__(self, "_started", (key, generator))  # past `frozen`: no field
        return generator

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_started"}

    def _check_seed(self) -> None:
        if not isinstance(self.seed, Integral) or self.seed < 0:
            raise FerError(f"{type(self).__name__}: seed={self.seed!r} is no seed; give a whole number of at least 0.")


def _seeded(*key: int) -> Generator:
    # The last of several numbers is never 0: numpy pads keys with zeros.
    state = np.random.SeedSequence([int(part) for part in key]).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0]))


@dataclass(frozen=True)
class RandomDownsample(_Degradation):
    """Each image down by a factor of its own from U(min_factor, max_factor) and up again (HSAC, WACV 2024, Sec. 4.1).

    The factor is continuous, "non-integer" in the paper, whose images are 224 px: it counts from the size an
    image has here, so resize first where the data are smaller.

    Args:
        min_factor, max_factor: range of the factor, 1 to 8 in the paper; at 1 an image stays as it is.
        seed: see the module's text.
        column: of the batch.

    Raises:
        FerError: not 1 <= min_factor <= max_factor, not finite, or a negative seed.
    """

    min_factor: float = 1.0
    max_factor: float = 8.0
    seed: int = 0
    column: str = "image"

    def __post_init__(self) -> None:
        low, high = _check_factor(self.min_factor), _check_factor(self.max_factor)
        if low > high:
            raise FerError(f"RandomDownsample: min_factor={low:g} is above max_factor={high:g}; swap them.")
        self._check_seed()

    def draw_factors(self, count: int, generator: Generator) -> Tensor:
        """(count,) float64, uniform in [min_factor, max_factor)."""
        low, high = float(self.min_factor), float(self.max_factor)
        return low + torch.rand(count, generator=generator, dtype=torch.float64) * (high - low)

    def draw(self, sides: Tensor, generator: Generator) -> Tensor:
        return (sides / self.draw_factors(len(sides), generator)).round().long().clamp(min=1)

    def _degrade(self, images: list[Image.Image], generator: Generator) -> list[Image.Image]:
        factors = self.draw_factors(len(images), generator).tolist()
        return [degrade_image(image, factor) for image, factor in zip(images, factors, strict=True)]


@dataclass(frozen=True)
class RandomResolution(_Degradation):
    """Double random extraction (Massoli et al., SEBD 2021): first whether to degrade, then to which shorter side.

    The aspect ratio is kept, and an image whose shorter side is no longer than the one drawn is left alone. The
    paper brings shorter sides to 256 px before.

    Args:
        probability: of degrading an image. The paper is silent: 0.5; the released code always degrades.
        min_side, max_side: range of the shorter side in px.
        mode: "power_of_two": 2^⌊U(log2 min_side, log2 max_side)⌋, the released code; with 8 and 256 one of 8, 16,
            32, 64, 128 (256 has no share). "uniform": any whole number of the range, both ends included.
        seed: see the module's text.
        column: of the batch.

    Raises:
        FerError: a value out of its range; sides that are no powers of two in that mode.
    """

    probability: float = 0.5
    min_side: int = 8
    max_side: int = 256
    mode: str = "power_of_two"
    seed: int = 0
    column: str = "image"

    def __post_init__(self) -> None:
        if not isinstance(self.probability, Real) or not 0 <= self.probability <= 1:
            raise FerError(f"RandomResolution: probability={self.probability!r} is not in [0, 1].")
        if self.mode not in ("power_of_two", "uniform"):
            raise FerError(f"RandomResolution: mode={self.mode!r} does not exist; give 'power_of_two' or 'uniform'.")
        whole = isinstance(self.min_side, Integral) and isinstance(self.max_side, Integral)
        if not whole or not 1 <= self.min_side <= self.max_side:
            raise FerError(
                f"RandomResolution: min_side={self.min_side!r}, max_side={self.max_side!r} are no range of sides; "
                "give whole numbers, 1 <= min_side <= max_side."
            )
        if self.mode == "power_of_two" and any(side & (side - 1) for side in (self.min_side, self.max_side)):
            raise FerError(
                f"RandomResolution: min_side={self.min_side}, max_side={self.max_side} are not both powers of two; "
                "give such sides, or mode='uniform'."
            )
        self._check_seed()

    def draw(self, sides: Tensor, generator: Generator) -> Tensor:
        chance, draw = torch.rand(2, len(sides), generator=generator, dtype=torch.float64)
        if self.mode == "power_of_two":
            low, high = math.log2(self.min_side), math.log2(self.max_side)
            drawn = 1 << (low + draw * (high - low)).long()
        else:
            drawn = (self.min_side + draw * (self.max_side + 1 - self.min_side)).long()
        return torch.minimum(drawn, sides).where(chance < self.probability, sides)

    def _degrade(self, images: list[Image.Image], generator: Generator) -> list[Image.Image]:
        sides = torch.tensor([min(image.size) for image in images], dtype=torch.long)
        targets = self.draw(sides, generator).tolist()
        return [degrade_to_side(image, side) for image, side in zip(images, targets, strict=True)]


@dataclass(frozen=True)
class FixedDownsample(_Degradation):
    """Every image down by the same factor and up again: the test protocols' `degrade_image`, nothing random.

    Args:
        factor, reference_side: see `degrade_image`.
        column: of the batch.

    Raises:
        FerError: see `degrade_image`.
    """

    factor: float
    reference_side: int | None = None
    column: str = "image"

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        if self.reference_side is not None:
            _check_reference_side(self.reference_side)

    def draw(self, sides: Tensor, generator: Generator | None = None) -> Tensor:
        """(B,) int64 in 1…sides, `sides` over the factor; the reference side is the caller's to take for `sides`."""
        return (sides / float(self.factor)).round().long().clamp(min=1)

    def _degrade(self, images: list[Image.Image], generator: Generator) -> list[Image.Image]:
        return [degrade_image(image, self.factor, reference_side=self.reference_side) for image in images]
