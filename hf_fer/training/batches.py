"""What the loop eats: face images as uint8 batches, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..data.images import to_rgb
from ..data.sampling import group_balanced_rows
from ..errors import FerError

# FER2013's faces are grey and cover the whole range; one mean and deviation for all channels keeps
# luminance a linear function of the normalised image.
IMAGE_MEAN, IMAGE_STD = 0.5, 0.25

_FETCHED = 64  # encoded files in memory while all of a split are decoded


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the parts: the same on every machine, unrelated for neighbouring parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def image_to_array(
    image: Image.Image, size: int, channels: int, resize_size: int | None = None, crop: bool = True
) -> np.ndarray:
    """A PIL image as (channels, size, size) uint8, resized bicubically where it has another size.

    With `resize_size` the shorter side is brought to it, the aspect ratio kept, and the middle cut out: `size` px of
    it as transformers' processors do, or without `crop` the whole square of `resize_size`.
    """
    image = to_rgb(image)
    if channels == 1:
        image = image.convert("L")
    if resize_size is not None:
        shorter = min(image.size)
        image = _resized(image, *(int(resize_size * side / shorter) for side in image.size))
        size = size if crop else resize_size
        left, top = ((side - size) // 2 for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    array = np.asarray(_resized(image, size, size))
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def normalize(images: Tensor, mean: float | Tensor = IMAGE_MEAN, std: float | Tensor = IMAGE_STD) -> Tensor:
    """(B, C, H, W) float, 0–255, as the saved image processor normalises them; `mean`, `std` of pixels in [0, 1]."""
    return (images / 255 - mean) / std


class FaceImages(Dataset):
    """Images and targets of one split.

    Args:
        split: a `datasets.Dataset` with columns `image` and `label`.
        targets: (N,) int64 class ids or (N, K) float32 distributions.
        size: side in px of the square images.
        channels: 1 or 3.
        in_memory: decode everything once now (N·channels·size² bytes) instead of at every visit.
        progress: show a progress bar while decoding.
        resize_size, crop: see `image_to_array`.

    Attributes:
        side: side in px of the images that come out: `size`, or without `crop` `resize_size`.

    Raises:
        FerError: an image cannot be decoded; the sentence names its row.
    """

    def __init__(
        self,
        split: Any,
        targets: Tensor,
        size: int,
        channels: int,
        in_memory: bool = True,
        progress: bool = False,
        resize_size: int | None = None,
        crop: bool = True,
    ) -> None:
        self.split, self.targets, self.size, self.channels = split, targets, size, channels
        self.resize_size, self.crop = resize_size, crop
        self.side = size if crop or resize_size is None else resize_size
        self.labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        self.feature, self.encoded = _encoded_images(split)
        self.cache: tuple[Tensor, Tensor] | None = None
        if in_memory:
            from tqdm import tqdm

            images = np.empty((len(split), channels, self.side, self.side), np.uint8)
            sides = np.empty(len(split), np.int64)
            with tqdm(total=len(split), desc="decoding", unit="img", disable=not progress, leave=False) as bar:
                for start in range(0, len(split), _FETCHED):
                    rows = range(start, min(start + _FETCHED, len(split)))
                    for row, (image, side) in zip(rows, self._decode(rows), strict=True):
                        images[row], sides[row] = image, side
                        bar.update()
            self.cache = torch.from_numpy(images), torch.from_numpy(sides)

    def _decode(self, rows: Sequence[int]) -> Iterator[tuple[np.ndarray, int]]:
        """Each row's image, and how long its side was before it was resized (of the part that a crop leaves)."""
        # The files of all rows at once: one by one, `datasets` takes as long to fetch them as Pillow to decode.
        files = [None] * len(rows) if self.encoded is None else self.encoded[rows]["image"]
        return map(self._decode_one, rows, files)

    def _decode_one(self, row: int, file: dict[str, Any] | None) -> tuple[np.ndarray, int]:
        try:
            if self.encoded is None:
                image = self.split[row]["image"]
            else:
                image = None if file is None else self.feature.decode_example(file)
            if image is None:
                raise ValueError("there is none")
            array = image_to_array(image, self.size, self.channels, self.resize_size, self.crop)
            side = min(image.size)
            if self.side != (self.resize_size or self.side):
                side = max(1, round(side * self.side / self.resize_size))
            return array, side
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            name = "" if not file or not file.get("path") else f" ({Path(file['path']).name})"
            row = original_row(self.split, row)
            raise FerError(
                f"Row {row}{name} of the {self.split.split or 'given'} split holds an image that cannot be decoded "
                f"({error}); repair or drop that row."
            ) from error

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """A batch.

        Returns:
            `images` (B, channels, side, side) uint8, `sides` (B,) int64 (the side each came with, in px),
            `targets` (B,) or (B, K), `rows` (B,) int64.
        """
        index = torch.as_tensor(rows)
        if self.cache is not None:
            # Whole rows at once: `part[index]` would go value by value.
            images, sides = (part.index_select(0, index) for part in self.cache)
        else:
            decoded = list(self._decode([int(row) for row in rows]))
            images = torch.from_numpy(np.stack([image for image, _ in decoded]))
            sides = torch.tensor([side for _, side in decoded])
        return {"images": images, "sides": sides, "targets": self.targets[index], "rows": index}

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([row]).items()}


def original_row(split: Any, row: int) -> int:
    """A row's number in the split that it was chosen from, where one was (`Dataset.select`)."""
    indices = getattr(split, "_indices", None)
    return row if indices is None else indices.column(0)[int(row)].as_py()


def _encoded_images(split: Any) -> tuple[Any, Any]:
    """A split's `Image` feature and its images as encoded files; None where a row is more than that (a transform)."""
    from datasets import Dataset, Image

    feature = split.features.get("image") if isinstance(split, Dataset) else None
    if not isinstance(feature, Image) or not feature.decode or split.format["type"] is not None:
        return None, None
    return feature, split.select_columns("image").cast_column("image", Image(decode=False))


class EpochBatches(Sampler[list[int]]):
    """Batches of row ids for one epoch, for one of several processes; the last partial batch is dropped.

    Nothing here has a state: epoch e from step s on is the same whether or not the steps before were taken
    in this process, which is what makes a resumed run equal an uninterrupted one.

    Args:
        labels: (N,) int64, for balanced drawing.
        batch_size: per process.
        seed, epoch, first_step: see above.
        rank, world_size: which process of how many.
        sampling: "shuffle" (every image once), "class_balanced" (with replacement, every class equally likely) or
            "group_balanced" (GReFEL's refinement, see `hf_fer.data.sampling.group_balanced_rows`).
        groups: (N,) video, subject or character of each image, for "group_balanced"; None: every image is its own.
        images_per_group, images_per_class: of "group_balanced".
        multiple_of: the number of steps is rounded down to a multiple of it (gradient accumulation, so that
            no update straddles two epochs).

    Attributes:
        order: (M,) int64 row ids; step t of rank r takes `batch_size` from t·`global_batch` + r·`batch_size` on.
        steps: of the whole epoch.

    Raises:
        FerError: the epoch is smaller than one global batch.
    """

    def __init__(
        self,
        labels: Tensor,
        batch_size: int,
        seed: int,
        epoch: int,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        sampling: str = "shuffle",
        groups: Sequence[str] | None = None,
        images_per_group: int = 512,
        images_per_class: int = 500,
        multiple_of: int = 1,
    ) -> None:
        generator = torch.Generator().manual_seed(derive_seed("order", seed, epoch))
        if sampling == "class_balanced":
            weights = 1.0 / torch.bincount(labels).clamp(min=1).double()
            self.order = torch.multinomial(weights[labels], len(labels), replacement=True, generator=generator)
        elif sampling == "group_balanced":
            groups = range(len(labels)) if groups is None else groups
            rows = group_balanced_rows(labels.numpy(), groups, images_per_group, images_per_class, seed, epoch)
            self.order = torch.from_numpy(rows)
        else:
            self.order = torch.randperm(len(labels), generator=generator)
        self.global_batch = batch_size * world_size
        self.steps = len(self.order) // (self.global_batch * multiple_of) * multiple_of
        if self.steps == 0:
            raise FerError(
                f"An epoch has {len(self.order)} training images, too few for one update of {multiple_of} x "
                f"{batch_size} on each of {world_size} process(es); lower batch_size or gradient_accumulation."
            )
        self.batch_size, self.first_step, self.rank = batch_size, first_step, rank

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.steps):
            yield self.rows(step, self.rank)

    def rows(self, step: int, rank: int) -> list[int]:
        """Row ids that a process takes in a step."""
        start = step * self.global_batch + rank * self.batch_size
        return self.order[start : start + self.batch_size].tolist()


def _as_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch


def epoch_loader(
    images: FaceImages, batches: EpochBatches, num_workers: int = 0, pin_memory: bool = False
) -> DataLoader:
    """A DataLoader over one epoch's batches, as `FaceImages.__getitems__` gives them."""
    return DataLoader(
        images,
        batch_sampler=batches,
        collate_fn=_as_is,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_leave_process_group,
    )


def _leave_process_group(_: int) -> None:
    """Signals to a run's process group, such as a machine's that is taken away, are not for its loader processes.

    They would end at once, and take the run down before it can write its checkpoint.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()
