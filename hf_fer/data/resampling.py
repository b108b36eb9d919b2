"""Resolution degradation of whole batches, on any device: bicubic down and up, with a side per sample.

A separable resampling is one small matrix per image axis, so a batch is four matrix products. The matrices
are Pillow's antialiased bicubic filter (Keys 1981, a = −0.5), and like Pillow each pass (first along the
rows, then along the columns) ends in 8 bits, so the result follows the per-image path to within rounding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def bicubic_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Pillow's bicubic resampling along one axis, as (size_out, size_in) float64 with rows summing to 1."""
    scale = size_in / size_out
    width = max(scale, 1.0)  # down-sampling stretches the filter: that is the antialiasing
    centre = (np.arange(size_out) + 0.5) * scale
    x = np.abs((np.arange(size_in) + 0.5 - centre[:, None]) / width)
    inner = (1.5 * x - 2.5) * x * x + 1.0
    outer = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    weights = np.where(x < 1, inner, np.where(x < 2, outer, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


class BatchDegrader:
    """Down-samples each image of a batch to a side of its own and draws it back.

    Args:
        size: side of the square images in px. The matrices take 8·size³ bytes (1 MB at 48, 90 MB at 224).
        device: where the batches are.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        down = np.zeros((size + 1, size, size), np.float32)
        up = np.zeros((size + 1, size, size), np.float32)
        for side in range(1, size + 1):
            down[side, :side] = bicubic_matrix(size, side)
            up[side, :, :side] = bicubic_matrix(side, size)
        self.size = size
        self.down = torch.from_numpy(down).to(device)
        self.up = torch.from_numpy(up).to(device)

    def __call__(self, images: Tensor, sides: Tensor) -> Tensor:
        """
        Args:
            images: (B, C, size, size) float, values 0–255.
            sides: (B,) int64, each in 1…size; `size` leaves an image as it is.

        Returns:
            (B, C, size, size), whole values 0–255.
        """
        sides = sides.to(self.down.device)
        for matrices in (self.down[sides], self.up[sides]):
            matrices = matrices[:, None]
            images = (images @ matrices.mT).round().clamp(0, 255)
            images = (matrices @ images).round().clamp(0, 255)
        return images
