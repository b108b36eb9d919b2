"""Judging a model on the validation split, in one process or in many, to the same figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.resampling import BatchDegrader
from .batches import FaceImages, normalize
from .recipe import Recipe


@torch.no_grad()
def validate(
    model: nn.Module,
    split: FaceImages,
    recipe: Recipe,
    accelerator: Any,
    mean: float | Tensor = 0.5,
    std: float | Tensor = 0.25,
) -> dict[str, float]:
    """Loss, accuracy and mean class accuracy of a split at each of `recipe.eval_resolutions`.

    Every process takes each world-size-th image; the answers are put back together exactly. The factors count
    from the images' own sides or from `recipe.eval_reference_side`, as in `hf_fer.evaluate_model`.

    Args:
        model: the bare network; it is left in eval mode.
        split: at least as many images as there are processes.
        recipe: `eval_resolutions`, `eval_batch_size`, `select_by`.
        accelerator: an `accelerate.Accelerator`.
        mean, std: of the normalisation, numbers or (1, C, 1, 1).

    Returns:
        `validation_loss`, `accuracy` and `mean_class_accuracy`, with the suffix `_x<factor>` for factors above 1, and
        `selection`, what `recipe.select_by` makes of them.
    """
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    labels = split.labels
    if world > 1:  # batch-norm statistics are each process' own: judge those that will be saved
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
    rows = torch.arange(rank, len(split), world)
    degrader = BatchDegrader(split.size, device) if max(recipe.eval_resolutions) > 1 else None
    figures: dict[str, float] = {}
    model.eval()
    parts: dict[float, list[Tensor]] = {factor: [] for factor in recipe.eval_resolutions}
    for start in range(0, len(rows), recipe.eval_batch_size):
        # Each image is decoded once, whatever the number of factors.
        batch = split.__getitems__(rows[start : start + recipe.eval_batch_size].tolist())
        whole = batch["images"].to(device).float()
        for factor in recipe.eval_resolutions:
            images = whole if factor == 1 else degrader(whole, _sides(batch["sides"], factor, split, recipe))
            with accelerator.autocast():
                parts[factor].append(model(pixel_values=normalize(images, mean, std)).logits.float())
    for factor in recipe.eval_resolutions:
        logits = _gather_interleaved(torch.cat(parts[factor]), len(split), accelerator).cpu()
        hits = (logits.argmax(dim=1) == labels).double()
        recalls = [hits[labels == k].mean() for k in labels.unique()]
        suffix = "" if factor == 1 else f"_x{factor:g}"
        figures[f"validation_loss{suffix}"] = nn.functional.cross_entropy(logits, labels).item()
        figures[f"accuracy{suffix}"] = hits.mean().item()
        figures[f"mean_class_accuracy{suffix}"] = torch.stack(recalls).mean().item()
    name, over_all, _ = recipe.select_by.partition("_over_resolutions")
    suffixes = ["" if f == 1 else f"_x{f:g}" for f in recipe.eval_resolutions]
    figures["selection"] = float(np.mean([figures[name + s] for s in (suffixes if over_all else [""])]))
    return figures


def _sides(sides: Tensor, factor: float, split: FaceImages, recipe: Recipe) -> Tensor:
    """(B,) int64, the sides in px to shrink the images to, at least 1 and at most theirs."""
    reference = recipe.eval_reference_side
    if reference is not None:
        left = 1.0 if split.resize_size is None else split.side / split.resize_size  # by the crop
        sides = torch.full_like(sides, round(reference * left))
    return (sides / factor).round().long().clamp(1, split.size)


def _gather_interleaved(mine: Tensor, total: int, accelerator: Any) -> Tensor:
    """Puts the rows rank, rank + world, … of each process back into their order."""
    world = accelerator.num_processes
    if world == 1:
        return mine
    longest = -(-total // world)
    padded = torch.cat([mine, mine.new_zeros(longest - len(mine), *mine.shape[1:])])
    gathered = accelerator.gather(padded).view(world, longest, *mine.shape[1:])
    return gathered.transpose(0, 1).reshape(world * longest, *mine.shape[1:])[:total]
