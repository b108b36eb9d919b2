"""MobileFaceNet (Chen et al. 2018) up to its last map: the landmark stream of POSTER++ and GReFEL."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class ConvBlock(nn.Module):
    """Convolution, batch norm and, unless linear, PReLU."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.bn(self.conv(x)))


class DepthWise(nn.Module):
    """Inverted bottleneck with a linear projection; with `residual`, its input is added."""

    def __init__(self, in_channels: int, channels: int, expanded: int, stride: int = 2, residual: bool = False):
        super().__init__()
        self.residual = residual
        self.conv = ConvBlock(in_channels, expanded, 1)
        self.conv_dw = ConvBlock(expanded, expanded, 3, stride, groups=expanded)
        self.project = ConvBlock(expanded, channels, 1, act=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.conv_dw(self.conv(x)))
        return x + out if self.residual else out


class Residual(nn.Module):
    """`depth` inverted bottlenecks of one width."""

    def __init__(self, channels: int, expanded: int, depth: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(DepthWise(channels, channels, expanded, 1, True) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class MobileFaceNet(nn.Module):
    """Maps of 1/4, 1/8 and 1/16 of the image's side. Parameter names are those of `mobilefacenet_model_best.pth.tar`.

    Args:
        in_chans: channels of the images.
        dims: channels of the first two maps, and half the channels of the last.

    Attributes:
        num_features: channels of the last map.
    """

    def __init__(self, in_chans: int = 3, dims: Sequence[int] = (64, 128, 256)) -> None:
        super().__init__()
        low, middle, self.num_features = dims[0], dims[1], 2 * dims[2]
        self.conv1 = ConvBlock(in_chans, low, 3, 2)
        self.conv2_dw = ConvBlock(low, low, 3, groups=low)
        self.conv_23 = DepthWise(low, low, 2 * low)
        self.conv_3 = Residual(low, 2 * low, 4)
        self.conv_34 = DepthWise(low, middle, 4 * low)
        self.conv_4 = Residual(middle, 2 * middle, 6)
        self.conv_45 = DepthWise(middle, middle, 4 * middle)
        self.conv_5 = Residual(middle, 2 * middle, 2)
        self.conv_6_sep = ConvBlock(middle, self.num_features, 1)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """(B, in_chans, H, W) images, as a rule 112×112, to three maps of sides H/4, H/8 and H/16."""
        first = self.conv_3(self.conv_23(self.conv2_dw(self.conv1(pixel_values))))
        second = self.conv_4(self.conv_34(first))
        return [first, second, self.conv_6_sep(self.conv_5(self.conv_45(second)))]
