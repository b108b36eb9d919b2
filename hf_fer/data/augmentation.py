"""Training augmentation of whole batches, on any device, from one explicit random generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .resampling import BatchDegrader


@dataclass
class Augmentation:
    """What may happen to a training image; the zero of each field leaves the image alone.

    Args:
        flip: probability of mirroring.
        rotation: largest angle in degrees, drawn uniformly on both sides.
        scale: largest relative zoom, in and out.
        translation: largest shift, as a share of the side.
        brightness: largest change of the gain.
        contrast: largest change of the contrast about the image's mean.
        erasing: probability of erasing a rectangle of 2–25 % of the image (random erasing, Zhong et al. 2020).
        degrade: probability of a resolution degradation (down and up, bicubic).
        degrade_max: largest down-sampling factor, at least 1, counted from the side the image came with.
        degrade_law: the factor's distribution, "log_uniform", or "uniform" as in HSAC.
    """

    flip: float = 0.5
    rotation: float = 0.0
    scale: float = 0.0
    translation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    erasing: float = 0.0
    degrade: float = 0.0
    degrade_max: float = 6.0
    degrade_law: str = "log_uniform"


class BatchAugmenter:
    """Applies an `Augmentation`.

    Args:
        augmentation: what to do.
        size: side of the square images in px.
        device: where the batches are.
    """

    def __init__(self, augmentation: Augmentation, size: int, device: torch.device | str = "cpu") -> None:
        self.augmentation, self.size, self.device = augmentation, size, torch.device(device)
        self.degrader = BatchDegrader(size, device) if augmentation.degrade > 0 else None

    def __call__(self, images: Tensor, generator: Generator, sides: Tensor | None = None) -> Tensor:
        """
        Args:
            images: (B, C, size, size) float, values 0–255.
            generator: a CPU generator; the same state gives the same batch.
            sides: (B,) int64, the sides in px the images had before they were brought to `size`; None: `size`.

        Returns:
            (B, C, size, size) float, values 0–255.
        """
        a, batch = self.augmentation, images.shape[0]

        def uniform(low: float, high: float) -> Tensor:
            return torch.rand(batch, generator=generator) * (high - low) + low

        # Every draw is made on the CPU and whatever the switches say, so that one generator state means one
        # batch on every device.
        mirrored = uniform(0, 1) < a.flip
        angle = uniform(-1, 1) * math.radians(a.rotation)
        zoom = torch.exp(uniform(-1, 1) * math.log1p(a.scale))
        shift = torch.stack([uniform(-1, 1), uniform(-1, 1)], dim=1) * (2 * a.translation)
        gain = 1 + uniform(-1, 1) * a.brightness
        contrast = 1 + uniform(-1, 1) * a.contrast
        erased = uniform(0, 1) < a.erasing
        area, aspect = uniform(0.02, 0.25), torch.exp(uniform(-1, 1) * math.log(3.0))
        place_y, place_x, fill = uniform(0, 1), uniform(0, 1), uniform(0, 255)
        degraded, factor = uniform(0, 1) < a.degrade, uniform(0, 1)

        if a.rotation or a.scale or a.translation:
            images = self._affine(images, mirrored, angle, zoom, shift)
        elif a.flip:
            images = torch.where(self._per_sample(mirrored), images.flip(-1), images)
        if a.brightness or a.contrast:
            mean = images.mean(dim=(1, 2, 3), keepdim=True)
            images = (images - mean) * self._per_sample(contrast) + mean
            images = (images * self._per_sample(gain)).clamp(0, 255)
        if self.degrader is not None:
            if a.degrade_law == "log_uniform":
                factor = torch.exp(factor * math.log(a.degrade_max))
            else:
                factor = 1 + factor * (a.degrade_max - 1)
            side = ((self.size if sides is None else sides) / factor).round().long().clamp(1, self.size)
            images = self.degrader(images, torch.where(degraded, side, self.size))
        if a.erasing:
            height = (area * aspect).sqrt().clamp(max=1) * self.size
            width = (area / aspect).sqrt().clamp(max=1) * self.size
            rows = self._inside(place_y * (self.size - height), height)[:, None, :, None]
            columns = self._inside(place_x * (self.size - width), width)[:, None, None, :]
            hole = rows & columns & self._per_sample(erased)
            images = torch.where(hole, self._per_sample(fill), images)
        return images

    def _per_sample(self, values: Tensor) -> Tensor:
        return values[:, None, None, None].to(self.device, non_blocking=True)

    def _inside(self, start: Tensor, length: Tensor) -> Tensor:
        """(B, size) bool: which of the pixel centres lie in [start, start + length)."""
        centres = torch.arange(self.size) + 0.5
        inside = (centres >= start[:, None]) & (centres < (start + length)[:, None])
        return inside.to(self.device, non_blocking=True)

    def _affine(self, images: Tensor, mirrored: Tensor, angle: Tensor, zoom: Tensor, shift: Tensor) -> Tensor:
        sine, cosine = torch.sin(angle) / zoom, torch.cos(angle) / zoom
        side = torch.where(mirrored, -1.0, 1.0)
        theta = torch.stack(
            [
                torch.stack([cosine * side, -sine * side, shift[:, 0]], dim=1),
                torch.stack([sine, cosine, shift[:, 1]], dim=1),
            ],
            dim=1,
        ).to(self.device, non_blocking=True)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        # Bicubic, because bilinear interpolation would blur every training image and no test image.
        moved = F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
        return moved.clamp(0, 255)
