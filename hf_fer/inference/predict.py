"""From image files to expressions, image after image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..checkpoints.checks import first_sentence
from ..errors import FerError
from .images import FailedImage, open_image

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

__all__ = ["FailedImage", "Prediction", "predict_images"]


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        path: as given.
        label: the most probable class, by the checkpoint's own name for it.
        score: its probability, 0..1.
        probabilities: every class to its probability, most probable first.
    """

    path: str
    label: str
    score: float
    probabilities: dict[str, float]


def predict_images(
    paths: Iterable[str | os.PathLike[str]],
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    batch_size: int = 32,
    progress: bool = False,
) -> Iterator[Prediction | FailedImage]:
    """Answer images one after another, in order; nothing is kept once it is yielded.

    At most one decoded image and `batch_size` preprocessed ones are in memory.

    Args:
        paths: image files, each showing one face.
        model, processor: as from `load_classifier`.
        batch_size: images a forward pass.
        progress: draw a tqdm bar on stderr.

    Yields:
        A `Prediction`, or a `FailedImage` for a file that could not be read, preprocessed or scored.

    Raises:
        FerError: a batch size below 1, or not enough memory on the device for a batch.
    """
    if batch_size < 1:
        raise FerError(f"the batch size must be at least 1, not {batch_size}")
    return _predict(paths, model, processor, batch_size, progress)


def _predict(
    paths: Iterable[str | os.PathLike[str]],
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    batch_size: int,
    progress: bool,
) -> Iterator[Prediction | FailedImage]:
    from tqdm import tqdm

    with tqdm(paths, unit="image", disable=not progress, dynamic_ncols=True) as bar:
        slots: list[tuple[str, torch.Tensor | FailedImage]] = []
        waiting = 0
        for path in bar:
            name = os.fspath(path)
            pixels = _read_pixels(name, processor)
            slots.append((name, pixels))
            waiting += not isinstance(pixels, FailedImage)
            # Failures count too: a folder of nothing but damaged files must not pile up either.
            if waiting == batch_size or len(slots) >= 4 * batch_size:
                yield from _answer(slots, model)
                slots, waiting = [], 0
        yield from _answer(slots, model)


def _read_pixels(name: str, processor: BaseImageProcessor) -> torch.Tensor | FailedImage:
    """One image as the model wants it, (1,3,H,W) float, or why not."""
    try:
        image = open_image(name)
    except FerError as error:
        return FailedImage(name, str(error))
    try:
        # One at a time: a picture of an impossible shape then fails alone, and only one is held decoded.
        return processor(images=image, return_tensors="pt")["pixel_values"]
    except Exception as error:
        size = f"{image.width} x {image.height}"
        return FailedImage(name, f"{name}: the image ({size}) cannot be preprocessed ({first_sentence(error)})")


def _answer(
    slots: list[tuple[str, torch.Tensor | FailedImage]], model: PreTrainedModel
) -> Iterator[Prediction | FailedImage]:
    """Score the preprocessed images of a batch and yield its slots in order."""
    import torch

    pixels = [p for _, p in slots if not isinstance(p, FailedImage)]
    scores: Iterator[list[float]] = iter(())
    if pixels:
        # A processor that neither fixes the size nor crops gives tensors that cannot share a batch.
        alike = all(p.shape == pixels[0].shape for p in pixels)
        batches = [torch.cat(pixels)] if alike else pixels
        scores = iter([row for batch in batches for row in _probabilities(batch, model)])
    names = model.config.id2label
    for name, pixel in slots:
        if isinstance(pixel, FailedImage):
            yield pixel
            continue
        row = next(scores)
        if not all(p == p for p in row):  # NaN
            yield FailedImage(name, f"{name}: the model's answer is not a number; its weights may be damaged")
            continue
        order = sorted(range(len(row)), key=lambda k: -row[k])
        probabilities = {str(names[k]): row[k] for k in order}
        label = str(names[order[0]])
        yield Prediction(name, label, row[order[0]], probabilities)


def _probabilities(pixels: torch.Tensor, model: PreTrainedModel) -> list[list[float]]:
    """(B,3,H,W) -> B rows of K probabilities, by the rule of the image-classification pipeline."""
    import torch

    try:
        with torch.inference_mode():
            logits = model(pixel_values=pixels.to(model.device, model.dtype)).logits.float()
    except torch.cuda.OutOfMemoryError as error:
        raise FerError(
            f"not enough memory on {model.device} for {len(pixels)} images at once; lower the batch size"
        ) from error
    multi_label = getattr(model.config, "problem_type", None) == "multi_label_classification"
    return (logits.sigmoid() if multi_label or logits.shape[1] == 1 else logits.softmax(1)).tolist()
