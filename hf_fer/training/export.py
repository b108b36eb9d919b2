"""Writes a model the way the Hub wants it: weights, config, processor, and the code to load it anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from .loop import IMAGE_MEAN, IMAGE_STD


def build_processor(image_size: int) -> Any:
    """The stock processor of our models: bicubic resize to a square, then (x/255 − 0.5)/0.25 in each channel."""
    from transformers import ViTImageProcessor

    return ViTImageProcessor(
        size={"height": image_size, "width": image_size},
        resample=3,
        image_mean=[IMAGE_MEAN] * 3,
        image_std=[IMAGE_STD] * 3,
        do_convert_rgb=True,
    )


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
