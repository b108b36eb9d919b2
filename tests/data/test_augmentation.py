from __future__ import annotations

import pytest
import torch

from hf_fer.data.augmentation import Augmentation, BatchAugmenter


def batch(count: int = 64, size: int = 24) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, size, size), generator=torch.Generator().manual_seed(5)).float()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


EVERYTHING = Augmentation(
    rotation=15, scale=0.2, translation=0.1, brightness=0.3, contrast=0.3, erasing=0.5, degrade=0.5,
    saturation=0.4, hue=0.1, random_grayscale=0.2,
)  # fmt: skip


def colours(count: int = 64, size: int = 24) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(6)).float()


def test_nothing_asked_for_changes_nothing() -> None:
    images = batch()
    assert torch.equal(BatchAugmenter(Augmentation(flip=0), 24)(images, generator()), images)


def test_flip_mirrors_the_share_of_images_it_says() -> None:
    images = batch(2000)
    out = BatchAugmenter(Augmentation(flip=0.3), 24)(images, generator())
    mirrored = (out == images.flip(-1)).flatten(1).all(dim=1)
    kept = (out == images).flatten(1).all(dim=1)
    assert bool((mirrored | kept).all())
    assert mirrored.float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_one_generator_state_is_one_batch() -> None:
    augment, images = BatchAugmenter(EVERYTHING, 24), batch()
    assert torch.equal(augment(images, generator(1)), augment(images, generator(1)))
    assert not torch.equal(augment(images, generator(1)), augment(images, generator(2)))


def test_values_stay_in_range_and_shape() -> None:
    images = batch()
    out = BatchAugmenter(EVERYTHING, 24)(images, generator(3))
    assert out.shape == images.shape
    assert bool(out.isfinite().all())
    assert out.min() >= 0 and out.max() <= 255


def test_an_affine_without_motion_is_the_identity_and_a_mirrored_one_the_flip() -> None:
    images = batch()
    # A rotation far below a pixel goes through the resampling path without moving anything.
    still = BatchAugmenter(Augmentation(flip=0, rotation=1e-6), 24)(images, generator())
    torch.testing.assert_close(still, images, atol=0.05, rtol=0)
    mirrored = BatchAugmenter(Augmentation(flip=1, rotation=1e-6), 24)(images, generator())
    torch.testing.assert_close(mirrored, images.flip(-1), atol=0.05, rtol=0)


def test_erasing_leaves_one_rectangle_of_one_grey() -> None:
    images = torch.full((500, 1, 24, 24), -1.0)  # a value no fill has
    out = BatchAugmenter(Augmentation(flip=0, erasing=0.4), 24)(images, generator())
    holes = out[:, 0] != -1
    touched = holes.flatten(1).any(dim=1)
    assert touched.float().mean().item() == pytest.approx(0.4, abs=0.07)
    for image, hole in zip(out[touched, 0], holes[touched], strict=True):
        rows, columns = hole.any(dim=1), hole.any(dim=0)
        assert torch.equal(hole, rows[:, None] & columns[None, :])
        assert image[hole].unique().numel() == 1
        assert 0 < hole.float().mean() < 0.35


@pytest.mark.parametrize("law, median", [("log_uniform", 2.45), ("uniform", 3.5)])
def test_degradation_follows_its_law(law: str, median: float) -> None:
    augment = BatchAugmenter(Augmentation(flip=0, degrade=1.0, degrade_max=6.0, degrade_law=law), 48)
    seen: list[torch.Tensor] = []

    def record(images: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
        seen.append(sides)
        return images

    augment.degrader = record  # type: ignore[assignment]
    augment(torch.zeros(4000, 1, 48, 48), generator())
    factors = 48 / seen[0].float()
    assert factors.min() >= 1 and factors.max() <= 6
    assert factors.median().item() == pytest.approx(median, rel=0.06)


def test_the_factor_counts_from_the_side_an_image_came_with() -> None:
    augment = BatchAugmenter(Augmentation(flip=0, degrade=1.0, degrade_max=4.0), 48)
    seen: list[torch.Tensor] = []
    augment.degrader = lambda images, sides: seen.append(sides) or images  # type: ignore[assignment]
    augment(torch.zeros(500, 1, 48, 48), generator(), torch.full((500,), 24))
    assert seen[0].min() == 6 and seen[0].max() <= 24


@pytest.mark.parametrize("world", [2, 4])
def test_processes_together_do_what_one_alone_does(world: int) -> None:
    images, sides = colours(), torch.full((64,), 20)
    augment = BatchAugmenter(EVERYTHING, 20)
    whole = augment(images, generator(1), sides)
    parts = [
        augment(part, generator(1), side, rank, world)
        for rank, (part, side) in enumerate(zip(images.chunk(world), sides.chunk(world), strict=True))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)


def test_crops_are_pieces_of_the_image_and_reach_every_place() -> None:
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    images = torch.stack([rows, columns])[None].repeat(600, 1, 1, 1)
    out = BatchAugmenter(Augmentation(flip=0), 6)(images, generator())
    top, left = out[:, 0, 0, 0], out[:, 1, 0, 0]
    expected = torch.stack([rows, columns])[None, :, :6, :6] + torch.stack([top, left], dim=1)[:, :, None, None]
    assert torch.equal(out, expected)
    assert {*zip(top.tolist(), left.tolist(), strict=True)} == {(i, j) for i in range(3) for j in range(3)}


def test_the_degradation_of_a_crop_counts_the_part_of_the_side_that_is_left() -> None:
    augment = BatchAugmenter(Augmentation(flip=0, degrade=1.0, degrade_max=1.0), 24)
    seen: list[torch.Tensor] = []
    augment.degrader = lambda images, sides: seen.append(sides) or images  # type: ignore[assignment]
    augment(torch.zeros(3, 1, 32, 32), generator(), torch.full((3,), 16))
    assert seen[0].tolist() == [12, 12, 12]


def luminance(images: torch.Tensor) -> torch.Tensor:
    return (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1)


@pytest.mark.parametrize("change", [{"saturation": 0.5}, {"hue": 0.5}, {"random_grayscale": 1.0}])
def test_saturation_and_hue_leave_the_luminance(change: dict[str, float]) -> None:
    images = 100 + 0.2 * colours()  # far from 0 and 255, where clipping would move it
    out = BatchAugmenter(Augmentation(flip=0, **change), 24)(images, generator())
    torch.testing.assert_close(luminance(out), luminance(images), rtol=0, atol=1e-2)
    assert (out - images).abs().amax(dim=(1, 2, 3)).gt(1).float().mean() > 0.9


def test_random_grayscale_hits_the_share_it_says() -> None:
    out = BatchAugmenter(Augmentation(flip=0, random_grayscale=0.2), 8)(colours(2000, 8), generator())
    grey = (out.amax(dim=1) - out.amin(dim=1)).amax(dim=(1, 2)) < 1e-3
    assert grey.float().mean().item() == pytest.approx(0.2, abs=0.04)


def test_half_a_turn_of_the_hue_is_the_complement_and_saturation_scales_the_distance_to_grey() -> None:
    from hf_fer.data.augmentation import _chroma_matrices

    red = torch.tensor([200.0, 100.0, 100.0])
    grey = red @ torch.tensor([0.299, 0.587, 0.114])
    half, twice = _chroma_matrices(torch.tensor([1.0, 2.0]), torch.tensor([torch.pi, 0.0])) @ red
    torch.testing.assert_close(half, 2 * grey - red, rtol=0, atol=1e-3)
    torch.testing.assert_close(twice, 2 * red - grey, rtol=0, atol=1e-3)
