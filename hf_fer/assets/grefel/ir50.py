"""IR-50 (ArcFace's improved residual network), its first three stages: the image stream of POSTER++ and GReFEL."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class IRUnit(nn.Module):
    """BN – 3×3 conv – PReLU – 3×3 conv (stride) – BN, and a shortcut without an activation after the sum."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        if in_channels == channels:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IR50(nn.Module):
    """Maps of 1/2, 1/4 and 1/8 of the image's side. Parameter names are those of `ir50.pth`.

    Args:
        in_chans: channels of the images.
        dims: channels of the three stages.
        depths: their units.

    Attributes:
        num_features: channels of the last map.
    """

    def __init__(self, in_chans: int = 3, dims: Sequence[int] = (64, 128, 256), depths: Sequence[int] = (3, 4, 14)):
        super().__init__()
        self.num_features = dims[2]
        self.input_layer = nn.Sequential(
            nn.Conv2d(in_chans, dims[0], 3, 1, 1, bias=False), nn.BatchNorm2d(dims[0]), nn.PReLU(dims[0])
        )
        self.body1 = _stage(dims[0], dims[0], depths[0])
        self.body2 = _stage(dims[0], dims[1], depths[1])
        self.body3 = _stage(dims[1], dims[2], depths[2])
        self.grad_checkpointing = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As in timm's networks: keep each stage's input alone, and compute the rest anew for the gradients."""
        self.grad_checkpointing = enable

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """(B, in_chans, H, W) images, as a rule 112×112, to three maps (B, dims[i], H/2^(i+1), W/2^(i+1))."""
        maps = [self.input_layer(pixel_values)]
        for stage in (self.body1, self.body2, self.body3):
            if self.grad_checkpointing and self.training:
                maps.append(checkpoint(stage, maps[-1], use_reentrant=False))
            else:
                maps.append(stage(maps[-1]))
        return maps[1:]


def _stage(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(IRUnit(in_channels, channels, 2), *(IRUnit(channels, channels, 1) for _ in range(depth - 1)))
