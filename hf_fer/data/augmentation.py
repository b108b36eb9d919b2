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
        saturation: largest change of the saturation; 1 reaches from grey to twice the colour.
        hue: largest turn of the hue, in [0, 0.5] of the colour circle. Saturation and hue scale and turn the plane of
            colour differences (YIQ) and leave the luminance; the hue of HSV, as torchvision turns it, would not.
        random_grayscale: probability of losing all colour.
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
    saturation: float = 0.0
    hue: float = 0.0
    random_grayscale: float = 0.0
    erasing: float = 0.0
    degrade: float = 0.0
    degrade_max: float = 6.0
    degrade_law: str = "log_uniform"


class BatchAugmenter:
    """Applies an `Augmentation`.

    Args:
        augmentation: what to do.
        size: side in px of the square images that come out; larger ones going in are cropped to it at random places.
        device: where the batches are.
    """

    def __init__(self, augmentation: Augmentation, size: int, device: torch.device | str = "cpu") -> None:
        self.augmentation, self.size, self.device = augmentation, size, torch.device(device)
        self.degrader = BatchDegrader(size, device) if augmentation.degrade > 0 else None

    def __call__(
        self,
        images: Tensor,
        generator: Generator,
        sides: Tensor | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Tensor:
        """
        Args:
            images: (B, C, S, S) float, values 0–255, S at least `size`.
            generator: a CPU generator; the same state gives the same batch.
            sides: (B,) int64, the sides in px the images had before they were brought to S; None: S.
            rank, world_size: these images are the rank-th B of a batch of world_size·B. Each image is drawn for by
                its place in that batch, so that the processes together do what one alone would.

        Returns:
            (B, C, size, size) float, values 0–255.
        """
        a, batch, loaded = self.augmentation, images.shape[0], images.shape[-1]

        def uniform(low: float, high: float) -> Tensor:
            drawn = torch.rand(batch * world_size, generator=generator)[rank * batch : (rank + 1) * batch]
            return drawn * (high - low) + low

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
        saturation = 1 + uniform(-1, 1) * a.saturation
        hue = uniform(-1, 1) * (2 * math.pi * a.hue)
        saturation = torch.where(uniform(0, 1) < a.random_grayscale, 0.0, saturation)
        top, left = uniform(0, 1), uniform(0, 1)

        if loaded != self.size:
            images = self._crop(images, top, left)
        if a.rotation or a.scale or a.translation:
            images = self._affine(images, mirrored, angle, zoom, shift)
        elif a.flip:
            images = torch.where(self._per_sample(mirrored), images.flip(-1), images)
        if a.brightness or a.contrast:
            mean = images.mean(dim=(1, 2, 3), keepdim=True)
            images = (images - mean) * self._per_sample(contrast) + mean
            images = (images * self._per_sample(gain)).clamp(0, 255)
        if (a.saturation or a.hue or a.random_grayscale) and images.shape[1] == 3:
            matrices = _chroma_matrices(saturation, hue).to(self.device, non_blocking=True)
            images = (matrices @ images.flatten(2)).view_as(images).clamp(0, 255)
        if self.degrader is not None:
            if a.degrade_law == "log_uniform":
                factor = torch.exp(factor * math.log(a.degrade_max))
            else:
                factor = 1 + factor * (a.degrade_max - 1)
            own = self.size if sides is None else sides * (self.size / loaded)  # of what the crop left
            side = (own / factor).round().long().clamp(1, self.size)
            images = self.degrader(images, torch.where(degraded, side, self.size))
        if a.erasing:
            height = (area * aspect).sqrt().clamp(max=1) * self.size
            width = (area / aspect).sqrt().clamp(max=1) * self.size
            rows = self._inside(place_y * (self.size - height), height)[:, None, :, None]
            columns = self._inside(place_x * (self.size - width), width)[:, None, None, :]
            hole = rows & columns & self._per_sample(erased)
            images = torch.where(hole, self._per_sample(fill), images)
        return images

    def _crop(self, images: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """(B, C, S, S) to (B, C, size, size), each at its own place: `top`, `left` in [0, 1) of the room there is."""
        room, inside = images.shape[-1] - self.size + 1, torch.arange(self.size)
        rows, columns = (
            ((place * room).long()[:, None] + inside).to(self.device, non_blocking=True) for place in (top, left)
        )
        index = torch.arange(len(images), device=self.device)[:, None, None]
        return images.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

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


def _chroma_matrices(saturation: Tensor, hue: Tensor) -> Tensor:
    """(B,) factors and angles in radians to (B, 3, 3) RGB matrices that scale and turn the colour alone."""
    to_yiq = torch.tensor(
        [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]],
        dtype=torch.float64,
    )
    scale = saturation.double()
    cosine, sine = scale * torch.cos(hue.double()), scale * torch.sin(hue.double())
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    turn = torch.stack(
        [
            torch.stack([one, zero, zero], dim=1),
            torch.stack([zero, cosine, -sine], dim=1),
            torch.stack([zero, sine, cosine], dim=1),
        ],
        dim=1,
    )
    return (torch.linalg.inv(to_yiq) @ turn @ to_yiq).float()
