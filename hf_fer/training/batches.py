"""What the loop eats: face images as uint8 batches, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..data.images import to_rgb
from ..errors import FerError

_FETCHED = 64  # encoded files in memory while all of a split are decoded


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the parts: the same on every machine, unrelated for neighbouring parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def image_to_array(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """A PIL image as (channels, size, size) uint8, resized bicubically where it has another size."""
    image = to_rgb(image)
    if channels == 1:
        image = image.convert("L")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


class FaceImages(Dataset):
    """Images and targets of one split.

    Args:
        split: a `datasets.Dataset` with columns `image` and `label`.
        targets: (N,) int64 class ids or (N, K) float32 distributions.
        size: side in px of the square images.
        channels: 1 or 3.
        in_memory: decode everything once now (N·channels·size² bytes) instead of at every visit.
        progress: show a progress bar while decoding.

    Raises:
        FerError: an image cannot be decoded; the sentence names its row.
    """

    def __init__(
        self, split: Any, targets: Tensor, size: int, channels: int, in_memory: bool = True, progress: bool = False
    ) -> None:
        self.split, self.targets, self.size, self.channels = split, targets, size, channels
        self.labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        self.feature, self.encoded = _encoded_images(split)
        self.cache: tuple[Tensor, Tensor] | None = None
        if in_memory:
            from tqdm import tqdm

            images = np.empty((len(split), channels, size, size), np.uint8)
            sides = np.empty(len(split), np.int64)
            with tqdm(total=len(split), desc="decoding", unit="img", disable=not progress, leave=False) as bar:
                for start in range(0, len(split), _FETCHED):
                    rows = range(start, min(start + _FETCHED, len(split)))
                    for row, (image, side) in zip(rows, self._decode(rows), strict=True):
                        images[row], sides[row] = image, side
                        bar.update()
            self.cache = torch.from_numpy(images), torch.from_numpy(sides)

    def _decode(self, rows: Sequence[int]) -> Iterator[tuple[np.ndarray, int]]:
        """Each row's image and the shorter side that it came with."""
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
            return image_to_array(image, self.size, self.channels), min(image.size)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise FerError(
                f"Row {row} of the {self.split.split or 'given'} split holds an image that cannot be decoded "
                f"({error}); repair or drop that row."
            ) from error

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """A batch.

        Returns:
            `images` (B, channels, size, size) uint8, `sides` (B,) int64 (the shorter side each came with, px),
            `targets` (B,) or (B, K), `rows` (B,) int64.
        """
        index = torch.as_tensor(rows)
        if self.cache is not None:
            images, sides = (part[index] for part in self.cache)
        else:
            decoded = list(self._decode([int(row) for row in rows]))
            images = torch.from_numpy(np.stack([image for image, _ in decoded]))
            sides = torch.tensor([side for _, side in decoded])
        return {"images": images, "sides": sides, "targets": self.targets[index], "rows": index}

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([row]).items()}


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
        labels: (N,) int64, for class-balanced drawing.
        batch_size: per process.
        seed, epoch, first_step: see above.
        rank, world_size: which process of how many.
        class_balanced: draw with replacement so that every class is equally likely.
        multiple_of: the number of steps is rounded down to a multiple of it (gradient accumulation, so that
            no update straddles two epochs).

    Raises:
        FerError: the split is smaller than one global batch.
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
        class_balanced: bool = False,
        multiple_of: int = 1,
    ) -> None:
        self.global_batch = batch_size * world_size
        self.steps = len(labels) // (self.global_batch * multiple_of) * multiple_of
        if self.steps == 0:
            raise FerError(
                f"The training split has {len(labels)} images, too few for one update of {multiple_of} x {batch_size} "
                f"on each of {world_size} process(es); lower batch_size or gradient_accumulation."
            )
        generator = torch.Generator().manual_seed(derive_seed("order", seed, epoch))
        if class_balanced:
            weights = 1.0 / torch.bincount(labels).clamp(min=1).double()
            self.order = torch.multinomial(weights[labels], len(labels), replacement=True, generator=generator)
        else:
            self.order = torch.randperm(len(labels), generator=generator)
        self.batch_size, self.first_step, self.rank = batch_size, first_step, rank

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.steps):
            start = step * self.global_batch + self.rank * self.batch_size
            yield self.order[start : start + self.batch_size].tolist()


def _as_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch


def epoch_loader(
    images: FaceImages, batches: EpochBatches, num_workers: int = 0, pin_memory: bool = False
) -> DataLoader:
    """A DataLoader over one epoch's batches, as `FaceImages.__getitems__` gives them."""
    return DataLoader(images, batch_sampler=batches, collate_fn=_as_is, num_workers=num_workers, pin_memory=pin_memory)
