"""Writes a model the way the Hub wants it: weights, config, processor, and the code to load it anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .batches import IMAGE_MEAN, IMAGE_STD


def build_processor(
    image_size: int,
    resize_size: int | None = None,
    image_mean: Sequence[float] = (IMAGE_MEAN,) * 3,
    image_std: Sequence[float] = (IMAGE_STD,) * 3,
) -> Any:
    """A stock image processor: bicubic resize, then (x/255 − mean)/std in each channel.

    Args:
        image_size: side in px of the square that comes out.
        resize_size: bring the shorter side to it, the aspect ratio kept, and cut `image_size` out of the middle; None:
            resize to the square at once.
        image_mean, image_std: three numbers each, of pixels in [0, 1].
    """
    from transformers import BitImageProcessor, ViTImageProcessor

    square = {"height": image_size, "width": image_size}
    shared = {"resample": 3, "image_mean": [*image_mean], "image_std": [*image_std], "do_convert_rgb": True}
    if resize_size is None:
        return ViTImageProcessor(size=square, **shared)
    return BitImageProcessor(size={"shortest_edge": resize_size}, crop_size=square, **shared)


def save_release(model: Any, processor: Any, folder: Path, half_precision: bool = False) -> None:
    """`save_pretrained` of model and processor, with the model's own code beside it.

    Args:
        model: one of the package's models, float32, on any device.
        processor: its image processor.
        folder: created if need be.
        half_precision: store matrices and kernels in float16. The config keeps saying float32, so the model
            computes in float32 wherever it is loaded; batch-norm statistics stay in float32.
    """
    type(model.config).register_for_auto_class()
    type(model).register_for_auto_class("AutoModelForImageClassification")
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if half_precision:
        state = {k: v.to(torch.float16) if v.ndim > 1 and v.dtype == torch.float32 else v for k, v in state.items()}
    model.save_pretrained(folder, state_dict=state)
    processor.save_pretrained(folder)
    # save_pretrained writes the dtype of the first tensor it finds; what counts is the dtype to compute in.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
