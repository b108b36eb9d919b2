"""What GReFEL's reliability balancing does to one model's answers: its classification head alone, and corrected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hf_fer import load_classifier
from hf_fer.errors import FerError
from hf_fer.evaluation.fer_metrics.scores import expected_calibration_error

DISTRIBUTIONS = {"before": "primary_distribution", "after": "final_distribution"}


def before_and_after(checkpoint: Path, data: Any, batch_size: int = 64) -> dict[str, dict[str, float]]:
    """Accuracy and expected calibration error of a GReFEL checkpoint before and after balancing.

    Args:
        checkpoint: the folder; its classes are the data set's, in the same order, as after a training on it.
        data: a `datasets.Dataset` with columns `image` and `label`.
        batch_size: images at a time.

    Returns:
        `accuracy` and `ece` under "before" (the head's distribution `l`) and "after" (`L_final`, GReFEL Eq. 14).

    Raises:
        FerError: other classes than the checkpoint's.
    """
    model, processor = load_classifier(checkpoint, "cpu")
    names = data.features["label"].names
    if [model.config.id2label[k] for k in range(model.config.num_labels)] != names:
        raise FerError(
            f"The classes of {checkpoint} are not those of the data set, in its order; measure it on the data it was "
            "trained on."
        )
    labels = torch.tensor(data["label"][:])
    found: dict[str, list[torch.Tensor]] = {when: [] for when in DISTRIBUTIONS}
    with torch.inference_mode():
        for begin in range(0, len(data), batch_size):
            images = [image.convert("RGB") for image in data[begin : begin + batch_size]["image"]]
            output = model(**processor(images=images, return_tensors="pt"))
            for when, name in DISTRIBUTIONS.items():
                found[when].append(output[name])
    result = {}
    for when, parts in found.items():
        probabilities = torch.cat(parts)
        result[when] = {
            "accuracy": (probabilities.argmax(1) == labels).double().mean().item(),
            "ece": float(expected_calibration_error(probabilities.double().numpy(), labels.numpy())),
        }
    return result
