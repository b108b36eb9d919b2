"""The resolution transforms, image by image and in batches: values, laws of the draws, streams, any image at all."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Generator, Tensor

import hf_fer.data.resampling as resampling
from hf_fer import FerError
from hf_fer.data.images import to_rgb
from hf_fer.data.resampling import BatchDegrader
from hf_fer.data.resolution import (
    FixedDownsample,
    RandomDownsample,
    RandomResolution,
    degrade_image,
    degrade_to_side,
)

METHODS = ("bands", "dense")
TRANSFORMS = [
    RandomDownsample(seed=5),
    RandomResolution(probability=0.7, seed=5),
    RandomResolution(probability=0.7, min_side=3, max_side=40, mode="uniform", seed=5),
    FixedDownsample(3.5),
]
ids = [f"{type(t).__name__}-{getattr(t, 'mode', '')}".rstrip("-") for t in TRANSFORMS]
each_transform = pytest.mark.parametrize("transform", TRANSFORMS, ids=ids)
properties = settings(deadline=None, derandomize=True, max_examples=60, database=None)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Random pixels in any mode Pillow has; palettes with a transparent entry where the mode is "P+"."""
    rng = np.random.default_rng(seed)
    if mode == "F":
        return Image.fromarray(rng.uniform(-300, 300, (height, width)).astype(np.float32))
    if mode == "I":
        return Image.fromarray(rng.integers(-70000, 70000, (height, width), dtype=np.int32))
    if mode.startswith("I;16"):
        values = rng.integers(0, 65536, (height, width), dtype=np.uint16)
        return Image.frombytes(mode, (width, height), values.tobytes())
    rgb = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if mode == "P+":
        palette = rgb.quantize(16, method=Image.Quantize.FASTOCTREE)
        palette.info["transparency"] = 3
        return palette
    if mode in ("LA", "RGBA", "La", "RGBa"):
        alpha = Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8))
        rgba = Image.merge("RGBA", [*rgb.split(), alpha])
        return rgba if mode == "RGBA" else rgba.convert({"La": "LA"}.get(mode, mode)).convert(mode)
    return rgb.convert(mode)


def photos(count: int, side: int, seed: int = 0) -> list[Image.Image]:
    """Square cuts of two photographs (those that come with scikit-learn), brought to `side`."""
    from sklearn.datasets import load_sample_image

    rng = np.random.default_rng(seed)
    pictures = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    cuts = []
    for i in range(count):
        picture = pictures[i % 2]
        cut = int(rng.integers(side, 420))
        left, top = int(rng.integers(picture.width - cut)), int(rng.integers(picture.height - cut))
        cuts.append(picture.crop((left, top, left + cut, top + cut)).resize((side, side), Image.Resampling.LANCZOS))
    return cuts


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def as_batch(images: list[Image.Image]) -> Tensor:
    """(B, C, H, W) uint8."""
    arrays = [pixels(image) for image in images]
    return torch.from_numpy(np.stack([a[None] if a.ndim == 2 else a.transpose(2, 0, 1) for a in arrays]))


def call(transform: Any, images: list[Image.Image], **options: Any) -> list[Image.Image]:
    return transform({"image": images}, **options)["image"]


# --- values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "I;16", "F", "LA"])
def test_factor_one_is_the_identity(mode: str) -> None:
    images = [noise(17, 11, mode), noise(1, 1, mode)]
    for transform in (RandomDownsample(1, 1), FixedDownsample(1)):
        assert all(a is b for a, b in zip(call(transform, images), images, strict=True))
    sides = torch.tensor([11, 1])
    assert RandomDownsample(1, 1).draw(sides, generator()).tolist() == [11, 1]
    for method in METHODS:
        batch = as_batch([noise(24, 24, seed=k) for k in range(3)])
        target = RandomDownsample(1, 1).draw(torch.full((3,), 24), generator())
        assert torch.equal(BatchDegrader(24, method=method)(batch, target), batch)


def test_at_one_factor_the_random_transform_is_the_fixed_one_and_the_protocol() -> None:
    from hf_fer.evaluation import degrade_image as of_the_protocol

    assert of_the_protocol is degrade_image
    images = [noise(50, 31), noise(31, 50, "L")]
    for factor in (1.7, 4, 8):
        random, fixed = call(RandomDownsample(factor, factor), images), call(FixedDownsample(factor), images)
        for image, a, b in zip(images, random, fixed, strict=True):
            small = image.resize([max(1, round(s / factor)) for s in image.size], Image.Resampling.BICUBIC)
            expected = pixels(small.resize(image.size, Image.Resampling.BICUBIC))
            assert np.array_equal(pixels(a), expected)
            assert np.array_equal(pixels(b), expected)
    (enlarged,) = call(FixedDownsample(8, reference_side=224), images[:1])
    assert np.array_equal(pixels(enlarged), pixels(degrade_image(images[0], 8, reference_side=224)))
    assert enlarged.size == (361, 224)


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (40, 40), (400, 31)])
def test_the_drawn_side_is_the_shorter_one_and_the_aspect_ratio_stays(size: tuple[int, int]) -> None:
    image = noise(*size)
    for side in (1, 8, 30):
        small = [side if length == min(size) else max(1, round(length * side / min(size))) for length in size]
        expected = image.resize(small, Image.Resampling.BICUBIC).resize(size, Image.Resampling.BICUBIC)
        assert np.array_equal(pixels(degrade_to_side(image, side)), pixels(expected))


@pytest.mark.parametrize("mode", ["power_of_two", "uniform"])
def test_an_image_already_smaller_is_left_alone(mode: str) -> None:
    transform = RandomResolution(probability=1, min_side=32, max_side=256, mode=mode)
    images = [noise(200, 20), noise(31, 31), noise(32, 90, "P"), noise(1, 1)]
    for seed in range(5):
        assert all(a is b for a, b in zip(call(transform, images, generator=generator(seed)), images, strict=True))
    assert transform.draw(torch.tensor([20, 31, 32, 1]), generator()).tolist() == [20, 31, 32, 1]
    assert degrade_to_side(images[0], 20) is images[0]
    assert degrade_to_side(images[0], 19) is not images[0]


def high_energy(images: Tensor, limit: float) -> float:
    """Of (B, C, S, S): what lies above `limit`, in cycles a pixel, along either axis."""
    values = images.double()
    spectrum = torch.fft.fft2(values - values.mean(dim=(2, 3), keepdim=True)).abs().square()
    frequency = torch.fft.fftfreq(images.shape[-1]).abs()
    return float(spectrum[:, :, torch.maximum(frequency[:, None], frequency) > limit].sum())


@pytest.mark.parametrize("factor", [2, 3.3, 4, 8])
def test_energy_above_the_new_nyquist_limit_is_gone(factor: float) -> None:
    size = 96
    images = [noise(size, size, seed=k) for k in range(4)]
    side = round(size / factor)
    before = as_batch(images)
    afterwards = {
        "image by image": as_batch(call(RandomDownsample(factor, factor), images)),
        "to a side": as_batch([degrade_to_side(image, side) for image in images]),
        **{m: BatchDegrader(size, method=m)(before, torch.full((4,), side)) for m in METHODS},
    }
    for name, after in afterwards.items():
        beyond = 1.2 * 0.5 * side / size  # the filter's slope
        assert high_energy(after, beyond) < 0.04 * high_energy(before, beyond), name
        assert high_energy(after, 2 * 0.5 * side / size) < 0.01 * high_energy(before, beyond), name
        assert high_energy(after, 0) > 0.1 * high_energy(before, 0) / factor**2, name  # and the rest is not


# --- batches against images -------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size, count", [(48, 20), (224, 6)])
@pytest.mark.parametrize("colours", ["RGB", "L"])
def test_the_batched_version_equals_the_reference(method: str, size: int, count: int, colours: str) -> None:
    """Photographs, drawn for by the same law: one grey level at most, and that in few places."""
    images = [photo.convert(colours) for photo in photos(count, size)]
    transform = RandomDownsample(seed=3)
    reference = as_batch(call(transform, images, generator=generator(7))).int()
    sides = transform.draw(torch.full((count,), size), generator(7))
    assert len(set(sides.tolist())) > 3
    ours = BatchDegrader(size, method=method)(as_batch(images).float(), sides)
    assert ours.dtype == torch.float32 and torch.equal(ours, ours.round())
    difference = (ours.int() - reference).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 2e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 2, 5, 63, 64, 65, 100])
def test_every_side_equals_the_reference(method: str, size: int) -> None:
    """On noise, where the most values lie on the edge between two; around the size from which strips are cut."""
    sides = sorted({*range(1, min(size, 8) + 1), size // 3 + 1, size // 2 + 1, max(1, size - 1), size})
    images = [noise(size, size, "L", seed=k) for k in range(len(sides))]
    reference = as_batch([degrade_to_side(image, s) for image, s in zip(images, sides, strict=True)]).int()
    difference = (BatchDegrader(size, method=method)(as_batch(images), torch.tensor(sides)).int() - reference).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 5e-3


@each_transform
def test_both_paths_draw_alike(transform: Any) -> None:
    images = [noise(48, 48, seed=k) for k in range(8)]
    transform = copy.copy(transform)
    sides = transform.draw(torch.full((8,), 48), generator(2)).tolist()
    assert any(side < 48 for side in sides)
    for image, side, degraded in zip(images, sides, call(transform, images, generator=generator(2)), strict=True):
        assert np.array_equal(pixels(degrade_to_side(image, side)), pixels(degraded))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [20, 70])
def test_batches_of_any_kind(method: str, size: int) -> None:
    degrader = BatchDegrader(size, method=method)
    images = as_batch([noise(size, size, seed=k) for k in range(5)])
    sides = torch.tensor([7, size, 3, 7, size - 1])
    expected = degrader(images, sides)
    assert expected.dtype == torch.uint8 and expected.shape == images.shape
    alone = torch.cat([degrader(images[k : k + 1], sides[k : k + 1]) for k in range(5)])
    assert (expected.int() - alone.int()).abs().max() <= 1  # products of other shapes add up in another order
    floats, before = images.float().requires_grad_(), images.clone()
    with torch.autocast("cpu", torch.bfloat16):
        result = degrader(floats, sides)
    assert result.dtype == torch.float32 and not result.requires_grad
    assert torch.equal(result, expected.float())
    assert torch.equal(floats.detach(), before.float())
    assert torch.equal(degrader(images.contiguous(memory_format=torch.channels_last), sides), expected)
    assert torch.equal(degrader(images.to(torch.bfloat16), sides).to(torch.uint8), expected)
    with torch.inference_mode():
        assert torch.equal(degrader(images.clone(), sides), expected)
    assert degrader(images[:0], sides[:0]).shape == (0, 3, size, size)
    assert torch.equal(degrader(images[:, :1].repeat(1, 5, 1, 1), sides)[:, 4:], degrader(images[:, :1], sides))
    shifted = images.float().clamp(1, 254) + 0.3  # an augmented image has no whole values
    kept = degrader(shifted, torch.full((5,), size))
    assert torch.equal(kept, shifted.round())


def test_the_dense_way_waits_for_nothing() -> None:
    """Tensors without values: whatever looked at one would raise, as "bands", which does, shows."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    with FakeTensorMode():
        images, sides = torch.empty(4, 3, 24, 24), torch.ones(4, dtype=torch.long)
        assert BatchDegrader(24, method="dense")(images, sides).shape == images.shape
        with pytest.raises(DataDependentOutputException):
            BatchDegrader(24, method="bands")(images, sides)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_it_equals_the_reference_without_waiting() -> None:
    images = photos(12, 224)
    sides = RandomDownsample().draw(torch.full((12,), 224), generator())
    degrader, batch = BatchDegrader(224, "cuda"), as_batch(images).cuda().float()
    degrader(batch, sides)
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = degrader(batch, sides)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    reference = as_batch([degrade_to_side(i, s) for i, s in zip(images, sides.tolist(), strict=True)])
    assert (result.cpu().int() - reference.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [20, 70])
def test_threads_are_given_back_and_change_nothing(size: int) -> None:
    degrader = BatchDegrader(size)
    images = as_batch([noise(size, size, seed=k) for k in range(6)])
    sides = torch.tensor([3, 5, 7, 9, 11, size])
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(degrader(images, sides))
            assert torch.get_num_threads() == threads
            with pytest.raises(RuntimeError, match="broken"), pytest.MonkeyPatch.context() as patch:
                patch.setattr(resampling, "_resample_first", broken)
                degrader(images, sides)
            assert torch.get_num_threads() == threads
        assert all(torch.equal(result, results[0]) for result in results)
    finally:
        torch.set_num_threads(before)


def broken(*arguments: Any) -> Tensor:
    raise RuntimeError("broken")


def test_the_device_chooses_the_method() -> None:
    assert BatchDegrader(8).method == "bands"
    assert BatchDegrader(8, "cuda").method == "dense"  # nothing is put there before the first batch
    assert BatchDegrader(8, "cuda", "bands").method == "bands"


@pytest.mark.parametrize("method", METHODS)
def test_wrong_batches(method: str) -> None:
    degrader = BatchDegrader(12, method=method)
    for shape in ((2, 1, 12, 13), (2, 1, 24, 24), (1, 12, 12)):
        with pytest.raises(FerError, match="takes images of 12x12 px"):
            degrader(torch.zeros(shape), torch.ones(shape[0], dtype=torch.long))
    with pytest.raises(FerError, match="'banded' does not exist; give 'bands', 'dense'"):
        BatchDegrader(12, method="banded")
    with pytest.raises(FerError, match="size=0 is no side"):
        BatchDegrader(0, method=method)
    if method == "bands":
        for side in (0, 13, -1):
            with pytest.raises(FerError, match=rf"side {side} of image 1 is not in 1…12"):
                degrader(torch.zeros(2, 1, 12, 12), torch.tensor([12, side]))


# --- laws of the draws ------------------------------------------------------------------------------


def test_downsampling_factors_are_uniform_and_continuous() -> None:
    factors = RandomDownsample().draw_factors(20_000, generator()).sort().values
    expected = 1 + 7 * (torch.arange(20_000) + 0.5) / 20_000
    assert (factors - expected).abs().max() < 7 * 1.63 / math.sqrt(20_000)  # Kolmogorov–Smirnov at 1 %
    assert len(factors.unique()) == 20_000
    assert factors[0] >= 1 and factors[-1] < 8
    half = RandomDownsample(2, 2.5).draw_factors(1000, generator())
    assert half.min() >= 2 and half.max() < 2.5
    sides = torch.tensor([224, 48, 5, 1]).repeat(500)
    drawn = RandomDownsample().draw(sides, generator(4))
    assert torch.equal(drawn, (sides / RandomDownsample().draw_factors(2000, generator(4))).round().long().clamp(min=1))
    assert (drawn >= 1).all() and (drawn <= sides).all()
    assert drawn[0::4].min() == 28 and drawn[3::4].eq(1).all()


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_power_of_two_sides_are_equally_frequent(probability: float) -> None:
    transform, count = RandomResolution(probability=probability), 20_000
    found = Counter(transform.draw(torch.full((count,), 300), generator()).tolist())
    assert found.keys() <= {8, 16, 32, 64, 128, 300}
    for side in (8, 16, 32, 64, 128):
        assert found[side] == pytest.approx(count * probability / 5, abs=4 * math.sqrt(count * 0.16))
    assert found[300] == pytest.approx(count * (1 - probability), abs=2 * math.sqrt(count))


def test_uniform_sides_are_equally_frequent_with_both_ends() -> None:
    transform, count = RandomResolution(probability=1, min_side=8, max_side=39, mode="uniform"), 32_000
    found = torch.bincount(transform.draw(torch.full((count,), 256), generator()), minlength=41)
    assert found[:8].sum() == 0 and found[40:].sum() == 0
    statistic = ((found[8:40] - 1000).double().square() / 1000).sum()  # χ² with 31 degrees of freedom
    assert 11 < statistic < 61
    whole = RandomResolution(probability=1, mode="uniform").draw(torch.full((count,), 256), generator())
    assert whole.min() == 8 and whole.max() == 256
    assert RandomResolution(1, 16, 16).draw(torch.full((9,), 64), generator()).tolist() == [16] * 9


def test_whether_and_where_to_are_drawn_apart() -> None:
    """The second extraction knows nothing of the first."""
    sides = RandomResolution(probability=0.3, min_side=8, max_side=16, mode="uniform").draw(
        torch.full((30_000,), 100), generator()
    )
    degraded = sides[sides < 100].float()
    assert len(degraded) == pytest.approx(9000, abs=320)
    assert degraded.mean().item() == pytest.approx(12, abs=0.1)
    assert degraded.var().item() == pytest.approx((9**2 - 1) / 12, rel=0.05)


# --- streams ----------------------------------------------------------------------------------------


def fingerprint(images: list[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


SAME = [noise(40, 40)] * 6  # what differs afterwards was drawn differently


@each_transform
def test_seeds_copies_and_generators(transform: Any) -> None:
    fresh = pickle.loads(pickle.dumps(transform))
    random = not isinstance(transform, FixedDownsample)
    first, second = (fingerprint(call(fresh, SAME)) for _ in range(2))
    assert (len(set(first)) > 1) == random
    assert (first != second) == random
    for other in (pickle.loads(pickle.dumps(fresh)), copy.copy(fresh), copy.deepcopy(fresh)):
        assert other == fresh and hash(other) == hash(fresh)
        assert fingerprint(call(other, SAME)) == first  # a copy starts afresh
    if random:
        from dataclasses import replace

        assert fingerprint(call(replace(fresh, seed=6), SAME)) != first
    given = [fingerprint(call(fresh, SAME, generator=generator(1))) for _ in range(2)]
    assert given[0] == given[1]
    with pytest.raises(AttributeError):
        fresh.column = "picture"


@each_transform
def test_with_indices_an_image_depends_on_its_index_alone(transform: Any) -> None:
    whole = fingerprint(call(transform, SAME, indices=range(6)))
    call(transform, SAME)  # the stream's state does not matter
    parts = [*call(transform, SAME[:1], indices=[0]), *call(transform, SAME[1:], indices=[1, 2, 3, 4, 5])]
    assert fingerprint(parts) == whole
    assert fingerprint(call(transform, SAME[:2], indices=[4, 1])) == [whole[4], whole[1]]
    assert fingerprint(call(transform, SAME, indices=range(6), generator=generator(3))) == fingerprint(
        call(transform, SAME, generator=generator(3))
    )
    if not isinstance(transform, FixedDownsample):
        assert len(set(whole)) > 1


class Rows(torch.utils.data.Dataset):
    """Twelve times the same image through a transform, as bytes."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> bytes:
        return call(self.transform, SAME[:1])[0].tobytes()


def test_workers_and_epochs_differ_and_a_torch_seed_repeats_them() -> None:
    transform = RandomDownsample()
    call(transform, SAME)  # workers inherit a stream under way, and must not go on with it

    def epochs(seed: int) -> list[list[bytes]]:
        torch.manual_seed(seed)
        loader = torch.utils.data.DataLoader(Rows(transform), batch_size=6, num_workers=2, collate_fn=list)
        return [[image for batch in loader for image in batch] for _ in range(2)]

    first, second = epochs(1)
    assert first[:6] != first[6:]  # the first batch is one worker's, the second the other's
    assert set(first[:6]).isdisjoint(first[6:]) or len(set(first)) > 6
    assert first != second
    assert epochs(1) == [first, second]
    assert epochs(2) != [first, second]


# --- as a transform of a dataset --------------------------------------------------------------------


def make_dataset(count: int = 6) -> Any:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = []
    for k in range(count):
        buffer = io.BytesIO()
        noise(24, 18, seed=k).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    return datasets.Dataset.from_dict({"image": rows, "label": list(range(count))}, features=features)


@each_transform
def test_on_a_dataset(transform: Any) -> None:
    from datasets.fingerprint import Hasher

    data = make_dataset()
    name = Hasher.hash(transform)
    lazily = data.with_transform(pickle.loads(pickle.dumps(transform)))
    batch = lazily[[3, 1]]
    assert batch["label"] == [3, 1]
    assert [image.size for image in batch["image"]] == [(24, 18)] * 2
    assert lazily[0]["image"].size == (24, 18)
    expected = fingerprint(call(transform, data["image"][:], indices=range(6)))
    for batch_size in (6, 4):
        mapped = data.map(transform, batched=True, with_indices=True, batch_size=batch_size)
        assert fingerprint(mapped["image"][:]) == expected
        assert mapped["label"][:] == list(range(6))
    streamed = data.to_iterable_dataset().map(transform, batched=True, with_indices=True, batch_size=4)
    assert fingerprint([row["image"] for row in streamed]) == expected
    assert Hasher.hash(transform) == name  # a use does not undo `datasets`' cache


def test_wrong_columns() -> None:
    transform = FixedDownsample(2)
    with pytest.raises(FerError, match="no column 'image' but picture, label; name yours by column="):
        transform({"picture": SAME, "label": [1]})
    assert FixedDownsample(2, column="picture")({"picture": SAME, "label": 1})["label"] == 1
    with pytest.raises(FerError, match=r"takes batches, not one image; use map\(\.\.\., batched=True\)"):
        transform({"image": SAME[0]})
    for entry, kind in ((None, "NoneType"), (np.zeros((4, 4)), "ndarray"), ({"bytes": b""}, "dict")):
        with pytest.raises(FerError, match=f"entry 1 of column 'image' is {kind}, not a PIL image"):
            transform({"image": [SAME[0], entry]})
    assert transform({"image": []}) == {"image": []}
    assert RandomResolution()({"image": []}) == {"image": []}


# --- wrong options ----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0, 0.999, -2, math.nan, math.inf, -math.inf, "2", None, 10**400, 1j])
def test_wrong_factors(factor: Any) -> None:
    for build in (
        lambda: FixedDownsample(factor),
        lambda: RandomDownsample(factor),
        lambda: RandomDownsample(1, factor),
        lambda: degrade_image(SAME[0], factor),
    ):
        with pytest.raises(FerError, match="not a finite number of at least 1"):
            build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomDownsample(4, 2), "min_factor=4 is above max_factor=2"),
        (lambda: RandomDownsample(seed=-1), "seed=-1"),
        (lambda: RandomResolution(seed=0.5), "seed=0.5"),  # type: ignore[arg-type]
        (lambda: RandomResolution(probability=1.1), r"probability=1.1 is not in \[0, 1\]"),
        (lambda: RandomResolution(probability=math.nan), "probability=nan"),
        (lambda: RandomResolution(mode="log"), "'log' does not exist; give 'power_of_two' or 'uniform'"),
        (lambda: RandomResolution(min_side=0), "min_side=0, max_side=256 are no range"),
        (lambda: RandomResolution(min_side=64, max_side=32), "are no range of sides"),
        (lambda: RandomResolution(min_side=8.0), "are no range of sides"),  # type: ignore[arg-type]
        (lambda: RandomResolution(min_side=10), "not both powers of two"),
        (lambda: RandomResolution(max_side=224), "give such sides, or mode='uniform'"),
        (lambda: FixedDownsample(2, reference_side=0), "reference_side=0 is not a size"),
        (lambda: degrade_image(SAME[0], 2, reference_side=0.5), "reference_side=0.5"),  # type: ignore[arg-type]
        (lambda: degrade_image(noise(4000, 1), 2, reference_side=224), "would grow to 896000x224"),
        (lambda: degrade_to_side(SAME[0], 0), "side=0 is not a size"),
        (lambda: degrade_to_side(SAME[0], 2.5), "side=2.5 is not a size"),  # type: ignore[arg-type]
        (lambda: degrade_image(Image.new("RGB", (0, 4)), 2), "0x4 px has nothing"),
        (lambda: degrade_to_side(Image.new("RGB", (4, 0)), 2), "4x0 px has nothing"),
    ],
)
def test_wrong_options(build: Any, message: str) -> None:
    with pytest.raises(FerError, match=message):
        build()


def test_numbers_of_any_type_will_do() -> None:
    from fractions import Fraction

    image = noise(30, 20)
    expected = pixels(degrade_image(image, 2.5))
    for factor in (np.float64(2.5), np.float32(2.5), Fraction(5, 2)):
        assert np.array_equal(pixels(degrade_image(image, factor)), expected)  # type: ignore[arg-type]
        assert np.array_equal(pixels(call(RandomDownsample(factor, factor), [image])[0]), expected)  # type: ignore[arg-type]
    assert np.array_equal(pixels(degrade_to_side(image, np.int64(8))), expected)  # type: ignore[arg-type]


# --- any image at all -------------------------------------------------------------------------------

KEPT = {"L": "L", "LA": "LA", "La": "La", "RGB": "RGB", "RGBA": "RGBA", "RGBa": "RGBa", "I": "I", "F": "F"}
MODES = [*KEPT, "1", "P", "P+", "PA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "I;16", "I;16B", "I;16L", "I;16N"]
LENGTHS = st.one_of(st.integers(1, 9), st.integers(1, 120), st.integers(1, 4000))
# Any width and any height, but rarely both, to keep the tests fast: the explicit examples are larger.
SIZES = st.tuples(LENGTHS, LENGTHS).map(lambda size: (size[0], max(1, min(size[1], 500_000 // size[0]))))
FACTORS = st.one_of(st.floats(1, 16), st.floats(1, 1e300), st.integers(1, 5000), st.just(1.0))


def picture(width: int, height: int, mode: str) -> Image.Image:
    if mode == "PA":
        return Image.new("P", (width, height), 5).convert("PA")
    if mode == "LAB":
        return Image.new("LAB", (width, height), (100, 20, 200))
    return noise(width, height, mode)


def check_result(image: Image.Image, result: Image.Image, mode: str) -> None:
    assert result.size == image.size
    assert result is image or result.mode == KEPT.get(mode, "RGB")
    values = np.asarray(result)
    assert values.shape[:2] == (image.height, image.width)
    assert np.isfinite(values.astype(np.float64)).all()


@properties
@example((4000, 4000), "RGB", 7.3)
@example((4000, 4000), "1", 4000)
@example((4000, 1), "RGBA", 2)
@example((1, 4000), "I;16", 8)
@example((1, 1), "P+", 1e300)
@given(SIZES, st.sampled_from(MODES), FACTORS)
def test_any_image_by_any_factor(size: tuple[int, int], mode: str, factor: float) -> None:
    image = picture(*size, mode)
    check_result(image, degrade_image(image, factor), mode)
    (random,) = call(RandomDownsample(1, factor), [image], generator=generator(size[0]))
    check_result(image, random, mode)


@properties
@example((4000, 3000), "RGB", 0, 1)
@given(SIZES, st.sampled_from(MODES), st.integers(0, 2**32), LENGTHS)
def test_any_image_to_any_side(size: tuple[int, int], mode: str, seed: int, side: int) -> None:
    image = picture(*size, mode)
    result = degrade_to_side(image, side)
    check_result(image, result, mode)
    assert (result is image) == (min(image.size) <= side)
    for transform in (RandomResolution(1), RandomResolution(1, 1, side, "uniform")):
        (random,) = call(transform, [image], generator=generator(seed))
        check_result(image, random, mode)


@properties
@given(SIZES, st.sampled_from(["RGB", "L", "P"]), st.floats(1, 20), st.integers(1, 64))
def test_any_image_at_a_reference_side(size: tuple[int, int], mode: str, factor: float, side: int) -> None:
    image = picture(*size, mode)
    scale = side / min(image.size)
    result = degrade_image(image, factor, reference_side=side)
    assert result.size == tuple(max(1, round(length * scale)) for length in image.size)
    assert min(result.size) == side


@properties
@given(st.one_of(st.floats(), st.integers(), st.fractions()))
def test_any_number_is_a_factor_or_an_error(factor: Any) -> None:
    image = noise(12, 9)
    try:
        result = degrade_image(image, factor)
    except FerError:
        assert not 1 <= factor < 1.8e308
    else:
        assert factor >= 1 and result.size == image.size


@properties
@given(st.integers(1, 80), st.integers(1, 4), st.lists(st.floats(0, 1), max_size=5), st.sampled_from(METHODS))
def test_any_batch(size: int, channels: int, shares: list[float], method: str) -> None:
    sides = torch.tensor([1 + int(share * (size - 1)) for share in shares], dtype=torch.long)
    shape = (len(shares), channels, size, size)
    images = torch.randint(0, 256, shape, generator=generator(size), dtype=torch.uint8)
    result = BatchDegrader(size, method=method)(images, sides)
    assert result.shape == images.shape and result.dtype == torch.uint8
    for image, degraded, side in zip(images, result, sides.tolist(), strict=True):
        if side == size:
            assert torch.equal(image, degraded)
        for channel, ours in zip(image, degraded, strict=True):
            reference = pixels(degrade_to_side(Image.fromarray(channel.numpy()), side)).astype(int)
            assert np.abs(ours.numpy().astype(int) - reference).max() <= 2  # noise: one in millions is two off


@pytest.mark.parametrize("mode", ["P+", "P", "1", "CMYK", "I;16"])
def test_other_modes_are_degraded_as_the_picture_they_show(mode: str) -> None:
    image = noise(30, 22, mode)
    assert np.array_equal(pixels(degrade_image(image, 3)), pixels(degrade_image(to_rgb(image), 3)))
    assert np.array_equal(pixels(degrade_to_side(image, 5)), pixels(degrade_to_side(to_rgb(image), 5)))


def test_a_transparent_colour_is_not_mixed_into_the_picture() -> None:
    image = Image.new("RGB", (16, 16), (255, 0, 0))
    image.paste((10, 20, 30), (4, 4, 12, 12))
    image.info["transparency"] = (255, 0, 0)
    result = degrade_image(image, 2)
    assert result.mode == "RGB"
    assert pixels(result)[0, 0].tolist() == [255, 255, 255]  # white shows through, not red
    assert "transparency" not in result.info
