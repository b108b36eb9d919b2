"""Resampling inside a model, differentiable and on any device: lower resolution, and affine maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def downsample_upsample(images: Tensor, sides: Tensor) -> Tensor:
    """Shrinks each image to a side of its own and draws it back, both bicubic with antialiasing.

    The filter is Pillow's (Keys 1981, a = −0.5; stretched when it shrinks). A separable resampling is one small
    matrix per axis, so a batch is two matrix products. Unlike Pillow it neither rounds nor clips: the images are
    normalised, and what 0 and 255 became is not known here.

    Args:
        images: (B, C, S, S) float.
        sides: (B,) int64 in 1…S; S leaves an image as it is (to rounding).

    Returns:
        (B, C, S, S) in the dtype of `images`.
    """
    size = images.shape[-1]
    whole = torch.full_like(sides, size)
    # In at least float32: the matrices' rows, rounded to half precision, would no longer sum to 1.
    with torch.autocast(images.device.type, enabled=False):
        wide = at_least_float32(images)
        matrix = _bicubic_matrices(sides, whole, size) @ _bicubic_matrices(whole, sides, size)
        matrix = matrix[:, None].to(wide)
        return (matrix @ wide @ matrix.mT).to(images.dtype)


def _bicubic_matrices(size_in: Tensor, size_out: Tensor, room: int) -> Tensor:
    """(B,) sides from and to, as (B, room, room) float32 matrices; zero beyond `size_out` rows, `size_in` columns."""
    row = torch.arange(room, device=size_in.device, dtype=torch.float32)[:, None]
    column = torch.arange(room, device=size_in.device, dtype=torch.float32)
    scale = (size_in / size_out)[:, None, None]
    x = ((column + 0.5 - (row + 0.5) * scale) / scale.clamp_min(1)).abs()
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))
    weights = weights * (column < size_in[:, None, None]) * (row < size_out[:, None, None])
    return weights / weights.sum(dim=2, keepdim=True).where(row < size_out[:, None, None], 1.0)


def affine_sample(images: Tensor, theta: Tensor) -> Tensor:
    """Resamples (B, C, H, W) bilinearly where `theta` (B, 2, 3) says, and repeats the border beyond the image.

    `theta` maps the place (x, y, 1) of an output pixel to the place it comes from, both from −1 to 1 between the
    outer edges of the image (Jaderberg et al. 2015, Eq. 1; `align_corners=False`).
    """
    # In at least float32, and by products that are no matrix product: autocast and TF32 would do one with some
    # 8 or 10 bits, the one in F.affine_grid too, and miss by half a pixel.
    wide = at_least_float32(images)
    theta = theta.to(wide)
    height, width = images.shape[-2:]
    x = (2 * torch.arange(width, device=wide.device, dtype=wide.dtype) + 1) / width - 1
    y = (2 * torch.arange(height, device=wide.device, dtype=wide.dtype) + 1) / height - 1
    by_x, by_y, shift = theta[:, None, None].unbind(dim=-1)  # (B, 1, 1, 2) each
    grid = by_x * x[:, None] + by_y * y[:, None, None] + shift  # (B, H, W, 2)
    return F.grid_sample(wide, grid, padding_mode="border", align_corners=False).to(images.dtype)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision widened; float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
