"""What a model says about a split beyond its answers: the figures of its method, and the embeddings it classifies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_fer.errors import FerError
from hf_fer.evaluation.matching import match_classes, model_classes
from hf_fer.evaluation.splits import read_labels
from hf_fer.evaluation.systems import as_rgb, batches


def collect_diagnostics(
    model: torch.nn.Module,
    processor: Any,
    data: Any,
    *,
    factor: float = 4.0,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    progress: bool = True,
    dataset_name: str = "the data set",
    split: str = "test",
) -> dict[str, Any]:
    """Runs a split through the model once, in eval mode, and keeps what is known of each image.

    Args:
        model: one of ours, or any image classifier with a module `classifier`, which then has no figures; its
            train/eval mode is restored afterwards.
        processor: the stock image processor of the checkpoint.
        data: a `datasets.Dataset` with columns `image` and `label` (`ClassLabel`).
        factor: down-sampling factor, at least 1, of the low-resolution view that HSAC's figures compare with.
        batch_size: images in one batch; a figure may take several views of each.
        device: where to run; the model is moved there. None: where the model is.
        progress: show a progress bar on standard error.
        dataset_name, split: for messages.

    Returns:
        - `figures`: {name: (N,) float64}, as the model's `diagnose` gives them; {} for a method without any.
        - `meanings`: {name: a line on what it says}.
        - `embeddings`: (N, D) float32, what `model.classifier` gets.
        - `labels`: (N,) int64, `classes`: their K names, both the data set's.
        - `factor`.

    Raises:
        FerError: no images, an element that is not an image, an unset label, a class that the model lacks, a wrong
            `factor` or `batch_size`, no module `classifier`, or a figure or an embedding that is not finite.
    """
    from tqdm.auto import tqdm

    if batch_size < 1:
        raise FerError(f"batch_size={batch_size} leaves nothing to run; use 1 or more.")
    if not (np.isfinite(factor) and factor >= 1):
        raise FerError(f"factor={factor:g} is not a factor of at least 1; use for example 4.")
    if not isinstance(getattr(model, "classifier", None), torch.nn.Module):
        raise FerError(f"The {type(model).__name__} has no module `classifier`, so its embeddings cannot be told.")
    if not len(data):
        raise FerError("There are no images to diagnose; check the split and its filters.")
    labels, classes = read_labels(data, dataset_name, split)
    meanings = dict(getattr(model, "diagnostics", {}))
    targets = _labels_of_the_model(model, labels, classes) if meanings else None
    if device is not None:
        model.to(device)
    parameter = next(model.parameters())
    embeddings: list[Tensor] = []
    figures: dict[str, list[Tensor]] = {}
    was_training = model.training
    model.eval()
    seen = 0
    try:
        with tqdm(total=len(data), unit="image", desc="diagnose", disable=not progress) as bar:
            for batch in batches(data["image"], batch_size):
                faces = [as_rgb(image, seen + i) for i, image in enumerate(batch)]
                pixels = processor(images=faces, return_tensors="pt")["pixel_values"]
                pixels = pixels.to(parameter.device, parameter.dtype)
                with _classifier_inputs(model) as caught, torch.no_grad():
                    if targets is not None:
                        own = targets[seen : seen + len(faces)].to(parameter.device)
                        for name, values in model.diagnose(pixels, own, factor).items():
                            figures.setdefault(name, []).append(values.double().cpu())
                    if not caught:
                        model(pixel_values=pixels)
                embeddings.append(caught[0][: len(faces)].flatten(1).float().cpu())  # views come after the images
                seen += len(faces)
                bar.update(len(faces))
    finally:
        model.train(was_training)
    collected = {
        "figures": {name: torch.cat(parts).numpy() for name, parts in figures.items()},
        "meanings": {name: meanings.get(name, "") for name in figures},
        "embeddings": torch.cat(embeddings).numpy(),
        "labels": labels,
        "classes": classes,
        "factor": float(factor),
    }
    for name, values in {**collected["figures"], "embedding": collected["embeddings"]}.items():
        finite = np.isfinite(values.reshape(len(labels), -1)).all(axis=1)
        if not finite.all():
            raise FerError(
                f"The {name} of image {int((~finite).argmax())} is not finite; check the model's weights, or run it "
                "in float32."
            )
    return collected


def summarize(collected: Mapping[str, Any]) -> dict[str, Any]:
    """Means of what `collect_diagnostics` returned, ready for JSON.

    Returns:
        `n`, `n_per_class` {class: images}, `factor`, and `figures`: for each name its `meaning`, the `mean` over all
        images, and `per_class` {class: mean, or None for a class without images}.
    """
    labels, classes = collected["labels"], collected["classes"]
    rows = {name: labels == k for k, name in enumerate(classes)}
    return {
        "n": len(labels),
        "n_per_class": {name: int(own.sum()) for name, own in rows.items()},
        "factor": collected["factor"],
        "figures": {
            figure: {
                "meaning": collected["meanings"][figure],
                "mean": float(values.mean()),
                "per_class": {name: float(values[own].mean()) if own.any() else None for name, own in rows.items()},
            }
            for figure, values in collected["figures"].items()
        },
    }


def _labels_of_the_model(model: torch.nn.Module, labels: np.ndarray, classes: list[str]) -> Tensor:
    """(N,) int64, the data set's labels as the model's class ids, matched by name."""
    columns = match_classes(model_classes(model), classes).columns
    ids = np.full(len(classes), -1)
    for k, column in reversed([*enumerate(columns.tolist())]):
        if column < len(classes):
            ids[column] = k
    lacking = [classes[k] for k in np.unique(labels) if ids[k] < 0]
    if lacking:
        raise FerError(
            f"The model has no class {', '.join(lacking)}, so its figures on such images mean nothing; filter them out."
        )
    return torch.from_numpy(ids[labels])


@contextmanager
def _classifier_inputs(model: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Fills the list with what the model's classifier gets."""
    caught: list[Tensor] = []
    handle = model.classifier.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].detach()))
    try:
        yield caught
    finally:
        handle.remove()
