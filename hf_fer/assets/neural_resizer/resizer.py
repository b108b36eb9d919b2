"""The Neural Resizer's front end: (B, 3, s, s) images up-sampled, straightened, and down-sized for a transformer.

Every learned part is a residual on top of interpolation whose last layer starts at zero. So the backbone's
pretrained weights first see a plain interpolated image, and the parts learn only what improves on that. The
poster says nothing on initialisation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .resampling import affine_sample, at_least_float32

_SLOPE = 0.2  # of the leaky ReLUs (Talebi & Milanfar)
_REACH = 0.5  # of a spatial transformer: how far its map may be from the identity
_LOCALIZATION_SIZE = 64  # px; an affine map is no matter of fine detail


def interpolate(images: Tensor, size: int, mode: str) -> Tensor:
    """Images (B, C, H, W) to (B, C, size, size) with Pillow's filters: antialiased, bicubic with a = −0.5.

    Args:
        mode: "bilinear" or "bicubic".

    Returns:
        In the dtype of `images`, computed in at least float32: torch has no such filters in half precision on a CPU.
    """
    if images.shape[-2:] == (size, size):
        return images
    wide = at_least_float32(images)
    return F.interpolate(wide, size=(size, size), mode=mode, align_corners=False, antialias=True).to(images.dtype)


class Interpolation(nn.Module):
    """`interpolate` as a module."""

    def __init__(self, size: int, mode: str) -> None:
        super().__init__()
        self.size, self.mode = size, mode

    def forward(self, images: Tensor) -> Tensor:
        return interpolate(images, self.size, self.mode)

    def extra_repr(self) -> str:
        return f"size={self.size}, mode={self.mode!r}"


class SuperResolution(nn.Module):
    """Images (B, 3, s, s) to (B, 3, size, size): bicubic interpolation plus a residual. Starts as the former.

    EDSR's residual blocks (Lim et al. 2017; no batch norm) and one sub-pixel convolution (Shi et al. 2016) by the
    next whole factor, from which the residual is brought to `size`. Every convolution runs at the small size:
    at 48 px that costs 1/8² of what it would at 384.

    Args:
        image_size: side `s` in px of the images, at most `size`.
        size: side in px of the result.
        channels, blocks: width and number of the residual blocks.
    """

    def __init__(self, image_size: int, size: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.size = size
        self.factor = math.ceil(size / image_size)
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.body = Residual(
            *(
                Residual(
                    nn.Conv2d(channels, channels, 3, padding=1),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(channels, channels, 3, padding=1),
                )
                for _ in range(blocks)
            )
        )
        self.head = ZeroConv2d(channels, 3 * self.factor**2, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        residual = F.pixel_shuffle(self.head(self.body(self.stem(images))), self.factor)
        return interpolate(images, self.size, "bicubic") + interpolate(residual, self.size, "bilinear")


class SpatialTransformer(nn.Module):
    """Images (B, 3, S, S) moved, turned, scaled and sheared to where they are easier to classify. Starts as identity.

    Jaderberg et al. 2015. The poster does not give the localisation network; ours looks at 64 px of the image and
    gives the difference of `θ` from the identity, which half precision rounds less than `θ` itself. Each of its
    entries stays within ±0.5, so the image is never mirrored and its middle never leaves sight. Without that bound
    a training can drive the crop out of the image, where all is repeated border and no gradient leads back; without
    the layer norm its hidden units can die, and every image gets the same `θ`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.localization = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(32 * (_LOCALIZATION_SIZE // 8) ** 2, 32),
            nn.LayerNorm(32),
            nn.ReLU(inplace=True),
            ZeroLinear(32, 6),
        )

    def theta(self, images: Tensor) -> Tensor:
        """The affine maps (B, 2, 3) of `affine_sample`, in at least float32."""
        change = at_least_float32(self.localization(interpolate(images, _LOCALIZATION_SIZE, "bilinear")))
        change = _REACH * torch.tanh(change / _REACH)
        return torch.eye(2, 3, dtype=change.dtype, device=change.device) + change.unflatten(1, (2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return affine_sample(images, self.theta(images))


class LearnedResizer(nn.Module):
    """Images (B, 3, S, S) to (B, 3, size, size): antialiased bilinear interpolation plus a residual.

    "Learning to Resize Images for Computer Vision Tasks" (Talebi & Milanfar, ICCV 2021), Figure 3. Starts as the
    interpolation. The features are interpolated without antialiasing, as there: the convolutions before it can
    learn what filter they need.

    Args:
        size: side in px of the result.
        channels: `n`.
        blocks: `r`, residual blocks.
    """

    def __init__(self, size: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.size = size
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 7, padding=3),
            nn.LeakyReLU(_SLOPE, inplace=True),
            nn.Conv2d(channels, channels, 1),
            nn.LeakyReLU(_SLOPE, inplace=True),
            nn.BatchNorm2d(channels),
        )
        # No bias before a batch norm, which would take it off again.
        self.body = Residual(
            *(
                Residual(
                    nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.LeakyReLU(_SLOPE, inplace=True),
                    nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                    nn.BatchNorm2d(channels),
                )
                for _ in range(blocks)
            ),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.head = ZeroConv2d(channels, 3, 7, padding=3)

    def forward(self, images: Tensor) -> Tensor:
        features = F.interpolate(self.stem(images), size=(self.size, self.size), mode="bilinear", align_corners=False)
        return interpolate(images, self.size, "bilinear") + self.head(self.body(features))


class Residual(nn.Sequential):
    """Its input plus what its layers make of it."""

    def forward(self, features: Tensor) -> Tensor:
        return features + super().forward(features)


class ZeroConv2d(nn.Conv2d):
    """A convolution that starts as zero, also where a checkpoint lacks it."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class ZeroLinear(nn.Linear):
    """A linear layer that starts as zero, also where a checkpoint lacks it."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
