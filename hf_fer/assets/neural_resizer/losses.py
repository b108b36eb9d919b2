"""Losses, targets and class weights. Pure functions; losses return one value per sample, (B,)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention_maps import share
from .resampling import at_least_float32


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
    counts = _counts(class_counts)
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"beta must lie in [0, 1), got {beta}")
    # 1 − β^n without cancellation, also for tiny 1 − β.
    log_beta = math.log(beta) if beta > 0 else -math.inf
    weights = (1.0 - beta) / -torch.expm1(counts * log_beta)
    return weights * (counts.numel() / weights.sum())


def inverse_frequency_weights(class_counts: Sequence[int] | Tensor) -> Tensor:
    """Class weights of the balanced cross-entropy, `w_c = 1 − n_c / Σn` (Massoli et al. 2021, Table 2).

    Args:
        class_counts: (K,), training images per class, each at least 1.

    Returns:
        (K,) float64 in [0, 1), sum K − 1.

    Raises:
        ValueError: a count below 1.
    """
    counts = _counts(class_counts)
    return 1 - counts / counts.sum()


def _counts(class_counts: Sequence[int] | Tensor) -> Tensor:
    # Named explicitly, since models are built under a meta-device context when they are loaded.
    device = class_counts.device if isinstance(class_counts, Tensor) else torch.device("cpu")
    counts = torch.as_tensor(class_counts, dtype=torch.float64, device=device)
    if counts.ndim != 1 or counts.numel() == 0 or not bool(((counts >= 1) & counts.isfinite()).all()):
        raise ValueError(f"class_counts must be K counts of at least 1, got {class_counts!r}")
    return counts


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
        return (1 - alpha) * targets + alpha * _mix(targets, spread)
    raise ValueError(f"smooth_target must be 'all' or 'others', got {smooth_target!r}")


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """`−Σ_k t_k·log softmax(z)_k`: cross-entropy against distributions.

    Args:
        logits: (B, K), any float dtype; reduced in at least float32.
        targets: (B, K), rows sum to 1.

    Returns:
        (B,).
    """
    log_p = F.log_softmax(at_least_float32(logits), dim=1)
    return -(targets.to(log_p) * log_p).sum(dim=1)


def label_distribution_loss(logits_lr: Tensor, logits_hr: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Label distribution learning on the low-resolution view, `L_ldl = −Σ_k P_C,k·log p_L,k` (HSAC Eq. 5).

    `P_C = s_P·p_H + (1 − s_P)·T` with `s_P = δ_PT / (δ_PT + δ_PH)`, where `δ_PH = ‖p_L − p_H‖₁` and
    `δ_PT = ‖p_L − T‖₁`. `P_C` is a target and carries no gradient. Where `p_L` equals both, `s_P` is 0.5.

    Args:
        logits_lr: (B, K), of the low-resolution images.
        logits_hr: (B, K), of the images.
        labels: (B,) class ids or (B, K) distributions, `T`.

    Returns:
        The loss (B,), non-negative, and `s_P` (B,) in [0, 1]; at least float32.
    """
    log_p = F.log_softmax(at_least_float32(logits_lr), dim=1)
    with torch.no_grad():
        targets = one_hot_targets(labels, logits_lr.shape[1]).to(log_p)
        p_lr, p_hr = F.softmax(at_least_float32(logits_lr), dim=1), F.softmax(at_least_float32(logits_hr), dim=1)
        to_hr = (p_lr - p_hr).abs().sum(dim=1)
        to_target = (p_lr - targets).abs().sum(dim=1)
        s_p = share(to_target, to_hr)
        combined = s_p[:, None] * p_hr + (1 - s_p[:, None]) * targets
    return -(combined * log_p).sum(dim=1), s_p


def classification_difficulty(logits_lr: Tensor, logits_hr: Tensor, labels: Tensor, criterion: str = "both") -> Tensor:
    """Hard-sample indicator `τ` (HSAC Eq. 7): 0 for a hard sample, else 1.

    Args:
        logits_lr: (B, K), of the low-resolution images.
        logits_hr: (B, K), of the images.
        labels: (B,) class ids or (B, K) distributions, whose largest entry counts.
        criterion: what the class of the low-resolution image must differ from to be hard: "both" the class of
            the image and the label, "hr" the former alone, "label" the latter alone (HSAC Table 3).

    Returns:
        (B,) of 0 and 1, in the dtype of `logits_lr`, without gradient.

    Raises:
        ValueError: `criterion` is none of the three, or `labels` of another shape.
    """
    lr, hr = logits_lr.argmax(dim=1), logits_hr.argmax(dim=1)
    target = one_hot_targets(labels, logits_lr.shape[1]).argmax(dim=1)
    if criterion == "both":
        hard = (lr != hr) & (lr != target)
    elif criterion == "hr":
        hard = lr != hr
    elif criterion == "label":
        hard = lr != target
    else:
        raise ValueError(f"criterion must be 'both', 'hr' or 'label', got {criterion!r}")
    return (~hard).to(logits_lr.dtype)


def focal_pdls(logits: Tensor, labels: Tensor, prior: Tensor | None, alpha: float = 0.8, gamma: float = 2.0) -> Tensor:
    """Focal prior distribution label smoothing (Neural Resizer, ICASSP 2022).

    `L = −Σ_c (1 − p_c)^γ · (α·T_c + (1 − α)·d_{y,c}) · log p_c`; `gamma=0` is PDLS, `prior=None` with `alpha=1`
    the focal cross-entropy.

    Args:
        logits: (B, K); reduced in at least float32.
        labels: (B,) class ids or (B, K) distributions, for which the prior's rows are mixed alike.
        prior: (K, K), `d`: row y is the mean vote distribution of the images of class y. None: no prior.
        alpha: weight of the label, in [0, 1].
        gamma: focusing exponent, at least 0.

    Returns:
        (B,), non-negative.

    Raises:
        ValueError: `alpha` or `gamma` out of range, `prior` of another shape, or none where `alpha` wants one.
    """
    num_classes = logits.shape[1]
    if not 0 <= alpha <= 1 or not 0 <= gamma < math.inf:
        raise ValueError(f"alpha must lie in [0, 1] and gamma be at least 0 and finite, got {alpha} and {gamma}")
    log_p = F.log_softmax(at_least_float32(logits), dim=1)
    targets = one_hot_targets(labels, num_classes).to(log_p)
    if prior is not None:
        if prior.shape != (num_classes, num_classes):
            raise ValueError(f"prior must be ({num_classes}, {num_classes}), got shape {tuple(prior.shape)}")
        targets = alpha * targets + (1 - alpha) * _mix(targets, prior)
    elif alpha != 1:
        raise ValueError(f"alpha={alpha} mixes in a prior, and prior is None: give one, or alpha=1")
    if gamma > 0:
        # Never quite 0, where a power below 1 has no slope.
        targets = targets * (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny) ** gamma
    return -(targets * log_p).sum(dim=1)


def prior_label_distribution(votes: Tensor, labels: Tensor) -> Tensor:
    """The prior `d` of PDLS: row y is the mean vote distribution of the images whose class is y.

    Args:
        votes: (N, K), votes per class, not negative, at least one an image.
        labels: (N,), class ids.

    Returns:
        (K, K) float64, rows sum to 1. A class without images gets a one-hot row: nothing is known of it.

    Raises:
        ValueError: shapes that do not fit, negative votes, or an image without votes.
    """
    if votes.ndim != 2 or labels.shape != votes.shape[:1]:
        raise ValueError(f"votes must be (N, K) and labels (N,), got {tuple(votes.shape)} and {tuple(labels.shape)}")
    votes, labels = votes.to(torch.float64), labels.long()
    totals = votes.sum(dim=1, keepdim=True)
    if not bool(votes.isfinite().all()) or bool((votes < 0).any()) or bool((totals <= 0).any()):
        raise ValueError("votes must be finite and not negative, and every image needs at least one")
    num_classes = votes.shape[1]
    members = F.one_hot(labels, num_classes).to(votes)
    sizes = members.sum(dim=0)[:, None]
    mean = members.T @ (votes / totals) / sizes.clamp_min(1)
    return torch.where(sizes > 0, mean, torch.eye(num_classes, dtype=mean.dtype, device=mean.device))


def normalized_entropy_confidence(p: Tensor) -> Tensor:
    """Confidence of a distribution, `1 − H(p) / log K`: 0 for the uniform one, 1 for a one-hot (GReFEL Eqs. 10–11).

    The paper's Eq. 11 divides by `K`, against its own two sentences on these values.

    Args:
        p: (..., K), rows sum to 1, K at least 2.

    Returns:
        (...) in [0, 1], with finite gradients everywhere.
    """
    # log K − H(p) is the divergence from the uniform distribution. As a mean of r·log r − (r − 1) with r = K·p, none
    # of whose terms is negative, it stays exact near 0, where confidences are weighed against each other.
    ratio = p.shape[-1] * p
    terms = ratio * ratio.clamp_min(torch.finfo(p.dtype).tiny).log() - (ratio - 1)
    return (terms.mean(dim=-1) / math.log(p.shape[-1])).clamp(0, 1)


def combine_by_confidence(first: Tensor, second: Tensor) -> Tensor:
    """`(c_1·p_1 + c_2·p_2) / (c_1 + c_2)` with the distributions' own confidences (GReFEL Eqs. 18, 19).

    Args:
        first, second: (B, K), rows sum to 1. Two uniform rows, which have no confidence, weigh the same.

    Returns:
        (B, K), rows sum to 1.
    """
    weight = share(normalized_entropy_confidence(first), normalized_entropy_confidence(second))[:, None]
    return weight * first + (1 - weight) * second


def anchor_distribution(embeddings: Tensor, anchors: Tensor, delta: float = 1.0) -> Tensor:
    """Geometric label correction `t_g = Σ_ij s_ij·onehot(i)`, `s = softmax(−‖e − a‖₂/δ)` (GReFEL Eqs. 13–15).

    Args:
        embeddings: (B, D).
        anchors: (K, M, D), M anchors a class.
        delta: temperature `δ`, positive.

    Returns:
        (B, K), rows sum to 1.
    """
    # The clamp keeps the root's slope finite for an embedding right on an anchor.
    distances = _squared_distances(embeddings, anchors).clamp_min(1e-12).sqrt()
    return F.softmax(-distances.flatten(1) / delta, dim=1).unflatten(1, anchors.shape[:2]).sum(dim=2)


def anchor_loss(anchors: Tensor) -> Tensor:
    """Minus the mean squared distance between different anchors, each scaled to length 1 (GReFEL Eq. 21).

    The paper sums unscaled distances and says, without a formula, that the loss is normalised. Unscaled, moving
    all anchors to infinity would be its minimum; on the unit sphere it depends on directions alone and lies
    between −2·N/(N − 1) (anchors that cancel out) and 0 (anchors that all point one way).

    Args:
        anchors: (K, M, D), K·M = N of them, at least 2.

    Returns:
        (), non-positive. Its gradient is zero where all anchors are the same: initialise them apart.
    """
    unit = F.normalize(anchors.flatten(0, 1), dim=1)
    # Σ_ij ‖u_i − u_j‖² = 2·N·Σ_i ‖u_i − mean‖²
    return -2 * (unit - unit.mean(dim=0)).square().sum() / (unit.shape[0] - 1)


def anchor_center_loss(embeddings: Tensor, anchors: Tensor, labels: Tensor) -> Tensor:
    """`L_c = min_j ‖e − a^{yj}‖²`: the squared distance to the nearest anchor of the label (GReFEL Eq. 22).

    Args:
        embeddings: (B, D).
        anchors: (K, M, D).
        labels: (B,) class ids or (B, K) distributions, which average the classes' distances.

    Returns:
        (B,), non-negative.
    """
    nearest = _squared_distances(embeddings, anchors).amin(dim=2)
    return (one_hot_targets(labels, anchors.shape[0]).to(nearest) * nearest).sum(dim=1)


def _squared_distances(embeddings: Tensor, anchors: Tensor) -> Tensor:
    """(B, D) and (K, M, D) to (B, K, M). By differences: the usual expansion would cancel close by."""
    return (at_least_float32(embeddings)[:, None, None] - at_least_float32(anchors)).square().sum(dim=3)


def _mix(weights: Tensor, rows: Tensor) -> Tensor:
    """(B, K) weights of (K, K) rows to (B, K). No matrix product: autocast would round it to half precision."""
    return (weights[:, :, None] * rows.to(weights)).sum(dim=1)
