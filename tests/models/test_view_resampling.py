"""Down and up again inside a model: against Pillow, against float64 matrices, gradients, precision, spectra."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hf_fer.data.resampling import bicubic_matrix
from hf_fer.models.resampling import downsample_upsample


def with_pillow(images: Tensor, sides: list[int]) -> Tensor:
    """(B, C, S, S), each channel by two calls of Pillow on floats: no rounding to 8 bits."""
    size = images.shape[-1]
    results = []
    for image, side in zip(images.numpy(), sides, strict=True):
        channels = [Image.fromarray(channel) for channel in image]
        assert {channel.mode for channel in channels} == {"F"}
        small = [channel.resize((side, side), Image.Resampling.BICUBIC) for channel in channels]
        large = [channel.resize((size, size), Image.Resampling.BICUBIC) for channel in small]
        results.append(np.stack([np.asarray(channel) for channel in large]))
    return torch.from_numpy(np.stack(results))


def with_matrices(images: Tensor, sides: list[int]) -> Tensor:
    """(B, C, S, S) float64, by the products that degrade the images of the training set."""
    size = images.shape[-1]
    results = []
    for image, side in zip(images.double().numpy(), sides, strict=True):
        matrix = bicubic_matrix(side, size) @ bicubic_matrix(size, side)
        results.append(matrix @ image @ matrix.T)
    return torch.from_numpy(np.stack(results))


def noise(batch: int, channels: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def smooth(batch: int, channels: int, size: int) -> Tensor:
    place = torch.linspace(0, math.pi, size)
    waves = [torch.sin((1 + 0.3 * k) * place[:, None] + 0.5 * place[None, :] + k) for k in range(batch * channels)]
    return torch.stack(waves).view(batch, channels, size, size)


def constant(batch: int, channels: int, size: int) -> Tensor:
    return torch.linspace(-2.5, 2.5, batch * channels).view(batch, channels, 1, 1).repeat(1, 1, size, size)


# Values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [noise, smooth, constant])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 31, 48])
def test_every_side_is_as_pillow_makes_it(size: int, draw: Callable[[int, int, int], Tensor]) -> None:
    images, sides = draw(size, 2, size), list(range(1, size + 1))
    actual = downsample_upsample(images, torch.tensor(sides))
    assert actual.shape == images.shape and actual.dtype == torch.float32
    torch.testing.assert_close(actual, with_pillow(images, sides), rtol=0, atol=1e-4)
    torch.testing.assert_close(actual.double(), with_matrices(images, sides), rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [112, 113, 224])
def test_the_sides_of_real_inputs_are_as_pillow_makes_them(size: int) -> None:
    sides = [1, 2, 7, 28, 29, 56, 100, 111, size]
    images = noise(len(sides), 1, size)
    actual = downsample_upsample(images, torch.tensor(sides))
    torch.testing.assert_close(actual, with_pillow(images, sides), rtol=0, atol=1e-4)


def test_an_axis_at_a_time() -> None:
    """Rows and columns are not mixed up: what varies along one axis alone still does afterwards."""
    row = noise(1, 1, 24)[:, :, :1]
    along = downsample_upsample(row.expand(1, 1, 24, 24), torch.tensor([5]))
    assert (along - along[:, :, :1]).abs().max() < 1e-5
    assert along[0, 0, 0].std() > 0.05
    across = downsample_upsample(row.mT.expand(1, 1, 24, 24), torch.tensor([5]))
    torch.testing.assert_close(across, along.mT, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 5, 48, 224])
def test_the_whole_side_leaves_an_image_as_it_is(size: int) -> None:
    images = 3 * noise(2, 3, size)
    torch.testing.assert_close(downsample_upsample(images, torch.tensor([size, size])), images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [-3.0, 0.0, 0.5, 250.0])
def test_constants_stay(value: float) -> None:
    sides = torch.arange(1, 33)
    images = torch.full((32, 1, 32, 32), value)
    torch.testing.assert_close(downsample_upsample(images, sides), images, rtol=3e-6, atol=0)


def test_a_single_pixel_is_a_weighted_mean() -> None:
    images = noise(3, 2, 20)
    small = downsample_upsample(images, torch.ones(3, dtype=torch.int64))
    torch.testing.assert_close(small, small[..., :1, :1].expand_as(small), rtol=0, atol=1e-6)
    weights = torch.from_numpy(bicubic_matrix(20, 1)[0]).float()
    expected = torch.einsum("bchw,h,w->bc", images, weights, weights)
    torch.testing.assert_close(small[..., 0, 0], expected, rtol=0, atol=1e-6)


def test_overshoot_is_kept() -> None:
    """The images are normalised: no value is known to be the brightest, so none is clipped."""
    images = torch.zeros(1, 1, 32, 32)
    images[..., 16:] = 1.0
    edge = downsample_upsample(images, torch.tensor([16]))
    assert edge.max() > 1.01 and edge.min() < -0.01


def test_mirroring_before_and_after_are_one() -> None:
    images, sides = noise(31, 1, 31), torch.arange(1, 32)
    for dims in ((-1,), (-2,), (-2, -1)):
        torch.testing.assert_close(
            downsample_upsample(images.flip(dims), sides), downsample_upsample(images, sides).flip(dims)
        )


# Batches ---------------------------------------------------------------------------------------------------


def test_each_image_has_a_side_of_its_own() -> None:
    images, sides = noise(7, 3, 40), torch.tensor([40, 1, 13, 20, 39, 5, 13])
    together = downsample_upsample(images, sides)
    for k in range(7):
        alone = downsample_upsample(images[k : k + 1], sides[k : k + 1])
        torch.testing.assert_close(together[k : k + 1], alone, rtol=0, atol=1e-6)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    torch.testing.assert_close(downsample_upsample(images[order], sides[order]), together[order], rtol=0, atol=1e-6)


def test_channels_are_independent_and_any_number() -> None:
    images, sides = noise(2, 5, 16), torch.tensor([3, 9])
    together = downsample_upsample(images, sides)
    for c in range(5):
        alone = downsample_upsample(images[:, c : c + 1], sides)
        torch.testing.assert_close(together[:, c : c + 1], alone, rtol=0, atol=1e-6)


def test_an_empty_batch_stays_empty() -> None:
    empty = torch.empty(0, 3, 16, 16)
    assert downsample_upsample(empty, torch.empty(0, dtype=torch.int64)).shape == (0, 3, 16, 16)


def test_inputs_are_left_alone() -> None:
    images, sides = noise(2, 1, 16), torch.tensor([4, 16])
    before = images.clone(), sides.clone()
    downsample_upsample(images, sides)
    assert torch.equal(images, before[0]) and torch.equal(sides, before[1])


def test_memory_layout_does_not_matter() -> None:
    images, sides = noise(3, 3, 24), torch.tensor([7, 24, 12])
    expected = downsample_upsample(images, sides)
    for other in (images.contiguous(memory_format=torch.channels_last), images.mT.contiguous().mT):
        torch.testing.assert_close(downsample_upsample(other, sides), expected, rtol=0, atol=1e-6)


# Gradients -------------------------------------------------------------------------------------------------


def test_it_is_linear() -> None:
    sides = torch.tensor([1, 6, 11, 21])
    a, b = noise(4, 2, 21, seed=1), noise(4, 2, 21, seed=2)
    mixed = downsample_upsample(2.5 * a - 0.5 * b, sides)
    expected = 2.5 * downsample_upsample(a, sides) - 0.5 * downsample_upsample(b, sides)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-5)


def test_its_gradient_is_the_adjoint() -> None:
    sides = [1, 4, 9, 13, 20, 21]
    images, cotangent = noise(6, 2, 21, seed=1).requires_grad_(), noise(6, 2, 21, seed=2)
    output = downsample_upsample(images, torch.tensor(sides))
    (gradient,) = torch.autograd.grad((output * cotangent).sum(), images)
    expected = []
    for values, side in zip(cotangent.double().numpy(), sides, strict=True):
        matrix = bicubic_matrix(side, 21) @ bicubic_matrix(21, side)
        expected.append(matrix.T @ values @ matrix)
    torch.testing.assert_close(gradient.double(), torch.from_numpy(np.stack(expected)), rtol=0, atol=2e-5)


# Precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.008), (torch.float64, 2e-5)], ids=str
)
def test_other_precisions_keep_their_dtype(dtype: torch.dtype, tolerance: float) -> None:
    images, sides = smooth(6, 2, 48).to(dtype), torch.tensor([1, 6, 12, 25, 47, 48])
    actual = downsample_upsample(images, sides)
    assert actual.dtype == dtype
    exact = downsample_upsample(images.float(), sides)
    torch.testing.assert_close(actual.float(), exact, rtol=0, atol=tolerance)
    torch.testing.assert_close(actual[-1], images[-1], rtol=0, atol=1e-6)  # the whole side


def test_autocast_changes_nothing() -> None:
    """Augmentation is no part of the network: rounded matrices would brighten and darken it in bands."""
    images, sides = torch.cat([smooth(4, 2, 48), constant(4, 2, 48)]), torch.tensor([6, 13, 29, 48] * 2)
    expected = downsample_upsample(images, sides)
    with torch.autocast("cpu", torch.bfloat16):
        actual = downsample_upsample(images, sides)
        half = downsample_upsample(images.bfloat16(), sides)
    assert actual.dtype == torch.float32 and half.dtype == torch.bfloat16
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(half.float(), expected, rtol=0, atol=0.03)
    torch.testing.assert_close(half[4:].float(), constant(4, 2, 48).bfloat16().float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_constants_stay(dtype: torch.dtype) -> None:
    images = torch.full((64, 1, 64, 64), 2.0, dtype=dtype)
    assert torch.equal(downsample_upsample(images, torch.arange(1, 65)), images)


# Spectrum --------------------------------------------------------------------------------------------------


def wave(size: int, cycles: float) -> Tensor:
    phase = 2 * math.pi * cycles * (torch.arange(size) + 0.5) / size
    return torch.cos(phase + 0.3).expand(1, 1, size, size)


@pytest.mark.parametrize("side", [8, 16, 24, 32])
def test_waves_beyond_the_new_nyquist_limit_are_gone(side: int) -> None:
    """Neither there any more, nor folded back as others: that is what antialiasing is for."""
    size, limit = 96, side / 2
    inside = slice(size // 8, -size // 8)  # borders see half a filter

    def share_left(cycles: float) -> float:
        images = wave(size, cycles)
        return (downsample_upsample(images, torch.tensor([side]))[..., inside].std() / images[..., inside].std()).item()

    assert all(share_left(cycles) < 0.05 for cycles in (2 * limit, 2.5 * limit, 0.9 * size / 2))
    assert share_left(0.25 * limit) > 0.85


@pytest.mark.parametrize("side", [12, 24, 48])
def test_noise_keeps_no_energy_beyond_the_new_nyquist_limit(side: int) -> None:
    size = 96
    images = noise(8, 1, size)
    cycles = torch.fft.fftfreq(size, 1 / size).abs()
    beyond = torch.maximum(cycles[:, None], cycles[None, :]) > 0.75 * side

    def energies(values: Tensor) -> tuple[float, float]:
        spectrum = torch.fft.fft2(values).abs().square().mean(dim=(0, 1))
        return spectrum[beyond].sum().item(), spectrum[~beyond].sum().item()

    before, _ = energies(images)
    after, rest = energies(downsample_upsample(images, torch.full((8,), side)))
    assert after < 0.01 * before
    assert after < 0.1 * rest


def test_the_smaller_the_side_the_less_is_left() -> None:
    images = noise(1, 3, 64).repeat(7, 1, 1, 1)
    left = downsample_upsample(images, torch.tensor([64, 48, 32, 16, 8, 4, 2])).var(dim=(1, 2, 3))
    assert (left.diff() < 0).all()
