"""Losses, targets and class weights. Pure functions; losses return one value per sample, (B,)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def effective_number_weights(class_counts: Sequence[int] | Tensor, beta: float = 0.9999) -> Tensor:
    """Class weights by the effective number of samples, scaled to sum to K (Cui et al. 2019; MEK Eq. 4).

    `B_l = (1 − β) / (1 − β^{n_l})`. MEK prints this raw value; only the scaled one makes its smooth labels
    sum to 1, and scaling is what the class-balanced loss it cites does.

    Args:
        class_counts: (K,), training images per class, each at least 1.
        beta: in [0, 1); 0 gives equal weights, towards 1 inverse frequencies.

    Returns:
        (K,) float64, positive, sum K.

    Raises:
        ValueError: a count below 1, or `beta` outside [0, 1).
    """
    # Named explicitly, since models are built under a meta-device context when they are loaded.
    device = class_counts.device if isinstance(class_counts, Tensor) else torch.device("cpu")
    counts = torch.as_tensor(class_counts, dtype=torch.float64, device=device)
    if counts.ndim != 1 or counts.numel() == 0 or not bool((counts >= 1).all()):
        raise ValueError(f"class_counts must be K counts of at least 1, got {class_counts!r}")
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"beta must lie in [0, 1), got {beta}")
    # 1 − β^n without cancellation, also for tiny 1 − β.
    log_beta = math.log(beta) if beta > 0 else -math.inf
    weights = (1.0 - beta) / -torch.expm1(counts * log_beta)
    return weights * (counts.numel() / weights.sum())


def one_hot_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Class ids (B,) or distributions (B, K) as distributions (B, K) in float32 (float64 stays).

    Raises:
        ValueError: `labels` has another shape.
    """
    if labels.ndim == 1:
        return F.one_hot(labels, num_classes).to(torch.float32)
    if labels.ndim != 2 or labels.shape[1] != num_classes:
        raise ValueError(
            f"labels must be (B,) class ids or (B, {num_classes}) distributions, got shape {tuple(labels.shape)}"
        )
    return labels if labels.dtype == torch.float64 else labels.to(torch.float32)


def rebalanced_smooth_labels(
    labels: Tensor, class_weights: Tensor, alpha: float = 0.1, smooth_target: str = "all"
) -> Tensor:
    """RSL, `ỹ_l = (1 − α)·T_l + α·B_l / K` (MEK Eq. 8).

    Args:
        labels: (B,) class ids, or (B, K) distributions that take the one-hot `T`'s place.
        class_weights: (K,), `B`, summing to K.
        alpha: in [0, 1], the smoothed share.
        smooth_target: `"all"` (the paper) spreads `α` over all classes; `"others"` (the authors' released
            code) over the classes other than the target, in proportion to `B`.

    Returns:
        (B, K), rows sum to 1.

    Raises:
        ValueError: `smooth_target` is neither of the two.
    """
    num_classes = class_weights.numel()
    targets = one_hot_targets(labels, num_classes)
    weights = class_weights.to(targets)
    if smooth_target == "all":
        return (1 - alpha) * targets + alpha * weights / num_classes
    if smooth_target == "others":
        # Row l: how the weight B spreads when l is the target; for a distribution, the rows' mixture.
        identity = torch.eye(num_classes, dtype=weights.dtype, device=weights.device)
        off_target = weights.expand(num_classes, num_classes) * (1 - identity)
        spread = off_target / off_target.sum(dim=1, keepdim=True)
        return (1 - alpha) * targets + alpha * targets @ spread
    raise ValueError(f"smooth_target must be 'all' or 'others', got {smooth_target!r}")


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """`−Σ_k t_k·log softmax(z)_k`: cross-entropy against distributions.

    Args:
        logits: (B, K), any float dtype; reduced in at least float32.
        targets: (B, K), rows sum to 1.

    Returns:
        (B,).
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return -(targets.to(logits) * F.log_softmax(logits, dim=1)).sum(dim=1)
