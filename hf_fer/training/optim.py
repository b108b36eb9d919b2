"""Optimisers, parameter groups and learning-rate schedules."""

from __future__ import annotations

import math

import torch
from torch import nn

from .recipe import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """The recipe's optimiser over up to four groups: backbone or head, with or without weight decay.

    Each group keeps its `base_lr`; the loop multiplies it by `schedule_factor`.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            head = not name.startswith("backbone.")
            decay = parameter.ndim > 1 or recipe.decay_norms_and_biases
            groups.setdefault((head, decay), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": recipe.learning_rate * (recipe.head_lr_multiplier if head else 1.0),
            "weight_decay": recipe.weight_decay if decay else 0.0,
        }
        for (head, decay), parameters in groups.items()
    ]
    for group in settings:
        group["base_lr"] = group["lr"]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(settings, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return kind(settings, betas=(recipe.momentum, recipe.beta2), fused=device.type in ("cpu", "cuda"))


def schedule_factor(recipe: Recipe, epoch: float) -> float:
    """The learning rate at a moment of training, relative to its base; a pure function, so nothing to resume.

    Args:
        recipe: `schedule`, `warmup_epochs`, `lr_decay`, `lr_step_epochs`, `min_lr_ratio`, `epochs`.
        epoch: epochs done, fractional within an epoch.
    """
    if epoch < recipe.warmup_epochs:
        return (epoch + 1e-3) / (recipe.warmup_epochs + 1e-3)
    if recipe.schedule == "constant":
        factor = 1.0
    elif recipe.schedule == "cosine":
        share = (epoch - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
        factor = 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    elif recipe.schedule == "exponential":  # per epoch, as in MEK
        factor = recipe.lr_decay ** math.floor(epoch)
    else:  # step
        factor = recipe.lr_decay ** math.floor(epoch / recipe.lr_step_epochs)
    return recipe.min_lr_ratio + (1 - recipe.min_lr_ratio) * factor
