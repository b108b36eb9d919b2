"""The batched degradation against Pillow, which is the reference."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from hf_fer.data.resampling import BatchDegrader, _cut_into_strips, bicubic_matrix


def smooth_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Natural-looking pictures: blurred noise with edges, (count, size, size) uint8."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        picture = Image.fromarray((rng.random((size, size)) * 255).astype(np.uint8))
        array = np.asarray(picture.filter(ImageFilter.GaussianBlur(2))).astype(float)
        array = (array - array.min()) / (array.max() - array.min()) * 255
        array[size // 3 :, size // 2 :] *= 0.3
        images.append(array.astype(np.uint8))
    return np.stack(images)


@pytest.mark.parametrize("size_in, size_out", [(48, 24), (48, 7), (24, 48), (5, 48), (48, 48), (1, 9), (9, 1)])
def test_matrix_rows_are_a_partition_of_unity(size_in: int, size_out: int) -> None:
    matrix = bicubic_matrix(size_in, size_out)
    assert matrix.shape == (size_out, size_in)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize("size_in, size_out", [(224, 224), (224, 28), (28, 224), (8, 100), (100, 8), (72, 4), (4, 72)])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_strips_put_together_are_the_matrix(size_in: int, size_out: int, count: int) -> None:
    matrix = torch.from_numpy(bicubic_matrix(size_in, size_out)).float()
    step, strips = _cut_into_strips(matrix, count)
    assert len(strips) in (1, count)
    whole = torch.zeros(*strips.shape[:2], size_in)
    for number, strip in enumerate(strips):
        whole[number, :, number * step : number * step + strip.shape[1]] = strip
    torch.testing.assert_close(whole.flatten(0, 1), matrix, rtol=0, atol=0)
    if min(size_in, size_out) >= 28:
        assert len(strips) == count
        assert strips.shape[2] <= 2 * size_in / count  # what strips are for


@pytest.mark.parametrize("side", [47, 36, 24, 16, 12, 6, 3, 1])
def test_equals_pillow_to_one_grey_level(side: int) -> None:
    images = smooth_images(6, 48)
    out = BatchDegrader(48)(torch.from_numpy(images)[:, None].float(), torch.full((6,), side))[:, 0].numpy()
    for image, ours in zip(images, out, strict=True):
        small = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
        reference = np.asarray(small.resize((48, 48), Image.Resampling.BICUBIC)).astype(float)
        assert np.abs(ours - reference).max() <= 1.0


def test_each_sample_has_its_own_side_and_full_size_is_the_identity() -> None:
    images = torch.from_numpy(smooth_images(3, 32))[:, None].float().repeat(1, 3, 1, 1)
    degrader = BatchDegrader(32)
    mixed = degrader(images, torch.tensor([32, 16, 4]))
    torch.testing.assert_close(mixed[0], images[0])
    for row, side in ((1, 16), (2, 4)):
        torch.testing.assert_close(mixed[row], degrader(images[row : row + 1], torch.tensor([side]))[0])
        assert not torch.equal(mixed[row], images[row])


def test_energy_above_the_new_nyquist_limit_is_gone() -> None:
    rng = np.random.default_rng(1)
    noise = torch.from_numpy(rng.random((4, 1, 48, 48)) * 128 + 64).float()
    out = BatchDegrader(48)(noise, torch.full((4,), 12))

    def high_energy(images: torch.Tensor) -> float:
        spectrum = torch.fft.fft2(images - images.mean(dim=(2, 3), keepdim=True)).abs().square()
        frequency = torch.fft.fftfreq(48).abs()
        high = torch.maximum(frequency[:, None], frequency[None, :]) > 0.25  # twice the new limit, 12/48/2
        return float(spectrum[:, :, high].sum())

    assert high_energy(out) < 1e-2 * high_energy(noise)


@pytest.mark.parametrize("size", [20, 70])
def test_any_layout_of_a_batch_and_a_copy_give_the_same(size: int) -> None:
    images = torch.from_numpy(smooth_images(4, 2 * size))[:, None].float().repeat(1, 3, 1, 1)[:, :, ::2, ::2]
    sides = torch.tensor([9, 9, 4, size])
    degrader = BatchDegrader(size)
    expected = degrader(images.contiguous(), sides)
    assert torch.equal(degrader(images, sides), expected)
    assert torch.equal(degrader(images.mT, sides), degrader(images.mT.contiguous(), sides))
    for other in (pickle.loads(pickle.dumps(degrader)), copy.deepcopy(degrader)):  # after use, with what it keeps
        assert torch.equal(other(images, sides), expected)


def test_one_side_for_more_images_than_are_resampled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(smooth_images(5, 32))[:, None].repeat(1, 3, 1, 1)
    sides = torch.tensor([8, 32, 8, 8, 8])
    expected = BatchDegrader(32)(images, sides)
    for values in (1, 2 * 3 * 32 * 32):
        monkeypatch.setattr("hf_fer.data.resampling._AT_ONCE", values)
        difference = BatchDegrader(32)(images, sides).int() - expected.int()
        assert difference.abs().max() <= 1  # products of other shapes add up in another order


def test_a_model_can_be_trained_on_what_comes_out() -> None:
    images = torch.from_numpy(smooth_images(2, 16))[:, None].float()
    weight = torch.ones(1, requires_grad=True)
    degraded = BatchDegrader(16)(images, torch.tensor([4, 16]))
    (degraded * weight).sum().backward()
    torch.testing.assert_close(weight.grad, degraded.sum()[None])
