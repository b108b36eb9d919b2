from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hf_fer import FerError
from hf_fer.training.batches import EpochBatches, FaceImages, derive_seed

LABELS = torch.arange(103) % 5


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return list(EpochBatches(LABELS, 8, seed, epoch))

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)
    rows = [row for batch in order(0, 1) for row in batch]
    assert len(rows) == len(set(rows)) == 96


def test_starting_in_the_middle_continues_the_same_epoch() -> None:
    assert list(EpochBatches(LABELS, 8, 3, 2, first_step=5)) == list(EpochBatches(LABELS, 8, 3, 2))[5:]


def test_processes_share_an_epoch_without_overlap() -> None:
    whole = list(EpochBatches(LABELS, 8, 0, 0))
    parts = [list(EpochBatches(LABELS, 4, 0, 0, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_steps_fill_whole_updates() -> None:
    assert len(EpochBatches(LABELS, 8, 0, 0, multiple_of=5)) == 10  # 12 batches, two updates of five


def test_class_balanced_drawing_evens_out_rare_classes() -> None:
    labels = torch.cat([torch.zeros(950, dtype=torch.long), torch.ones(50, dtype=torch.long)])
    drawn = torch.tensor([row for batch in EpochBatches(labels, 100, 0, 0, sampling="class_balanced") for row in batch])
    assert labels[drawn].float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_too_few_images_is_an_error() -> None:
    with pytest.raises(FerError, match="lower batch_size"):
        EpochBatches(LABELS, 104, 0, 0)


def test_derived_seeds_are_fixed() -> None:
    # Written down: another value would mean that no earlier run can be repeated or resumed.
    assert (derive_seed("order", 0, 0), derive_seed("step", 1, 2, 3, 0)) == (6842717984295184508, 8954101038369815078)
    assert len({derive_seed("step", 0, e, s, r) for e in range(5) for s in range(5) for r in range(5)}) == 125
    assert 0 <= derive_seed("order", 0, 0) < 2**63


def make_split(images: list[bytes]):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["neutral", "anger"])})
    rows = {"image": [{"bytes": b, "path": None} for b in images], "label": [i % 2 for i in range(len(images))]}
    return datasets.Dataset.from_dict(rows, features=features)


def png(grey: int, size: int = 12) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (size, size), grey).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_in_memory_and_lazy_images_are_the_same(channels: int) -> None:
    split = make_split([png(g, 12 + g % 7) for g in range(0, 200, 20)])
    targets = torch.tensor(split["label"][:])
    cached = FaceImages(split, targets, 16, channels, in_memory=True)
    lazy = FaceImages(split, targets, 16, channels, in_memory=False)
    rows = [7, 0, 3]
    for name, value in cached.__getitems__(rows).items():
        assert torch.equal(value, lazy.__getitems__(rows)[name]), name
    assert cached.__getitems__(rows)["images"].shape == (3, channels, 16, 16)
    assert cached.__getitems__(rows)["images"].dtype == torch.uint8
    assert cached.__getitems__(rows)["images"][0].unique().tolist() == [140]


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_a_split_does_to_its_images_is_done_here_too(in_memory: bool) -> None:
    split = make_split([png(10), png(20), png(30)])
    labels = torch.tensor(split["label"][:])
    inverted = split.with_transform(
        lambda batch: {**batch, "image": [i.point(lambda v: 255 - v) for i in batch["image"]]}
    )
    batch = FaceImages(inverted, labels, 12, 1, in_memory).__getitems__([2, 0])
    assert batch["images"].flatten(1).float().mean(dim=1).tolist() == [225, 245]
    import datasets

    bilevel = split.cast_column("image", datasets.Image(mode="1"))  # the column's own mode counts
    images = FaceImages(bilevel, labels, 12, 1, in_memory).__getitems__([0, 1, 2])["images"]
    assert {*images.unique().tolist()} <= {0, 255}


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_row_without_an_image_is_named(in_memory: bool) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [{"bytes": png(1), "path": None}, None], "label": [0, 1]}
    split = datasets.Dataset.from_dict(rows, features=features)
    with pytest.raises(FerError, match=r"Row 1 .* cannot be decoded \(there is none\)"):
        FaceImages(split, torch.tensor([0, 1]), 16, 1, in_memory).__getitems__([0, 1])


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_damaged_image_is_named_by_its_row(in_memory: bool) -> None:
    split = make_split([png(1), png(2)[:40], png(3)])
    with pytest.raises(FerError, match=r"Row 1 .* cannot be decoded"):
        FaceImages(split, torch.zeros(3, dtype=torch.long), 16, 1, in_memory).__getitems__([0, 1])


def test_a_worker_process_reports_one_sentence_too() -> None:
    from hf_fer.training.batches import epoch_loader
    from hf_fer.training.loop import _in_one_sentence
    from hf_fer.training.stop import StopRequest

    split = make_split([png(1), b"no image", png(3), png(4)])
    images = FaceImages(split, torch.zeros(4, dtype=torch.long), 16, 1, in_memory=False)
    loader = epoch_loader(images, EpochBatches(images.labels, 4, 0, 0), num_workers=1)
    with pytest.raises(FerError, match=r"^Row 1 .*drop that row\.$"), _in_one_sentence(StopRequest()):
        list(loader)


def test_images_remember_the_side_they_came_with_and_16_bit_greys_are_scaled() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 30), 32896, np.uint16)).save(buffer, "PNG")
    images = FaceImages(make_split([png(9, 12), buffer.getvalue()]), torch.zeros(2, dtype=torch.long), 16, 1)
    batch = images.__getitems__([0, 1])
    assert batch["sides"].tolist() == [12, 30]
    assert batch["images"][1].unique().tolist() == [128]


def test_group_balanced_epochs_have_as_many_of_each_class_and_of_no_group_too_many() -> None:
    labels = torch.tensor([0] * 300 + [1] * 60)
    groups = ["long video"] * 250 + [f"video {i % 5}" for i in range(110)]
    options = {"sampling": "group_balanced", "groups": groups, "images_per_group": 40, "images_per_class": 50}
    epochs = [EpochBatches(labels, 20, 0, epoch, **options).order for epoch in (0, 1)]
    assert torch.bincount(labels[epochs[0]]).tolist() == [50, 50]
    assert sum(groups[row] == "long video" for row in epochs[0].tolist()) <= 40
    assert epochs[0].tolist() != epochs[1].tolist()
    halves = [list(EpochBatches(labels, 10, 0, 0, rank=r, world_size=2, **options)) for r in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == list(EpochBatches(labels, 20, 0, 0, **options))


@pytest.mark.parametrize("size", [(40, 40), (60, 40), (40, 53)])
def test_resizing_and_cropping_are_those_of_the_saved_processor(size: tuple[int, int]) -> None:
    from hf_fer.training.export import build_processor

    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(buffer, "PNG")
    split = make_split([buffer.getvalue()])
    labels = torch.zeros(1, dtype=torch.long)
    batch = FaceImages(split, labels, 28, 3, resize_size=32).__getitems__([0])
    processor = build_processor(28, resize_size=32, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    theirs = processor(images=split[0]["image"], return_tensors="pt")["pixel_values"] * 0.25 + 0.5
    assert batch["images"].shape == theirs.shape
    off = (batch["images"].float() - theirs * 255).abs()
    assert off.mean() < 0.2 and off.max() < 2.5  # Pillow's bicubic against torch's
    assert batch["sides"].tolist() == [35]  # 28 of 32 px of a side of 40
    whole = FaceImages(split, labels, 28, 3, resize_size=32, crop=False)
    assert whole.side == 32 and whole.__getitems__([0])["sides"].tolist() == [40]
    assert torch.equal(whole.__getitems__([0])["images"][:, :, 2:30, 2:30], batch["images"])


def test_a_damaged_image_of_a_chosen_part_is_named_by_its_row_in_the_whole() -> None:
    split = make_split([*(png(grey) for grey in range(4)), png(2)[:40], png(9)]).select([5, 4, 1])
    with pytest.raises(FerError, match=r"Row 4 .* cannot be decoded"):
        FaceImages(split, torch.zeros(3, dtype=torch.long), 16, 1)
