"""Attention maps and their consistencies. Pure functions; reductions return one value per sample, (B,)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def class_activation_map(features: Tensor, weight: Tensor) -> Tensor:
    """Class activation maps, `A[b,k,h,w] = Σ_c W[k,c]·F[b,c,h,w]` (CAM; MEK Eq. 2).

    Args:
        features: (B, C, H, W), the last feature maps.
        weight: (K, C), the classifier's weight; its bias has no place in a map.

    Returns:
        (B, K, H, W), differentiable in both.
    """
    return torch.einsum("kc,bchw->bkhw", weight, features)


def flip_maps(maps: Tensor) -> Tensor:
    """Mirrors (..., H, W) maps or images along their width."""
    return torch.flip(maps, dims=(-1,))


def rebalanced_attention_consistency(
    attn: Tensor,
    attn_flip: Tensor,
    class_weights: Tensor,
    weighting: str = "inside",
    realign: Callable[[Tensor], Tensor] = flip_maps,
) -> Tensor:
    """RAC, `l = 1/(KHW) Σ (B·A − Flip(B·Ã))²` (MEK Eqs. 3, 5).

    Args:
        attn: (B, K, H, W), maps of the images.
        attn_flip: (B, K, H, W), maps of the transformed images, as the network gave them.
        class_weights: (K,), re-balancing weights `B`; ones give EAC's flip attention consistency.
        weighting: `"inside"` squares the weighted difference (the paper), `"outside"` weights the
            squared one (the authors' released code).
        realign: brings the transformed images' maps back onto the images' (the paper's flip).

    Returns:
        (B,), non-negative.

    Raises:
        ValueError: `weighting` is neither of the two.
    """
    weight = class_weights.to(attn)[:, None, None]
    squared = (attn - realign(attn_flip)).square()
    if weighting == "inside":
        return (weight.square() * squared).mean(dim=(1, 2, 3))
    if weighting == "outside":
        return (weight * squared).mean(dim=(1, 2, 3))
    raise ValueError(f"weighting must be 'inside' or 'outside', got {weighting!r}")


def attention_consistency(attn_lr: Tensor, attn_hr: Tensor) -> Tensor:
    """The earlier attention consistency, `L_a = (1/K) Σ_k mean_{h,w} |A_H,k − A_L,k|` (HSAC Eq. 2).

    Args:
        attn_lr: (B, K, H, W), maps of the low-resolution images.
        attn_hr: (B, K, H, W), maps of the images.

    Returns:
        (B,), non-negative.
    """
    return (attn_hr - attn_lr).abs().mean(dim=(1, 2, 3))


def combined_attention_consistency(
    attn_lr: Tensor, attn_hr: Tensor, attn_lr_flip: Tensor, detach_target: bool = False
) -> tuple[Tensor, Tensor]:
    """Combined attention consistency, `L_ca = (1/K) Σ_k mean_{h,w} |A_C,k − A_L,k|` (HSAC Eq. 4).

    `A_C = (1 − s_A)·A_H + s_A·Flip(A_LF)` with `s_A = δ_LF / (δ_LF + δ_LH)`, where `δ_LH = ‖A_L − A_H‖₁` and
    `δ_LF = ‖A_L − Flip(A_LF)‖₁`. Where all views agree, `s_A` is 0.5.

    Args:
        attn_lr: (B, K, H, W), `A_L`, maps of the low-resolution images.
        attn_hr: (B, K, H, W), `A_H`, maps of the images.
        attn_lr_flip: (B, K, H, W), `A_LF`, maps of the mirrored low-resolution images, as the network gave them.
        detach_target: `A_C` is a constant target; False (our reading) lets gradients through it, as the
            consistencies it extends do.

    Returns:
        The loss (B,), non-negative, and `s_A` (B,) in [0, 1], which is a weight and carries no gradient.
    """
    attn_lrf = flip_maps(attn_lr_flip)
    with torch.no_grad():
        to_hr = (attn_lr - attn_hr).abs().sum(dim=(1, 2, 3))
        to_flip = (attn_lr - attn_lrf).abs().sum(dim=(1, 2, 3))
        s_a = share(to_flip, to_hr)
    weight = s_a[:, None, None, None]
    target = (1 - weight) * attn_hr + weight * attn_lrf
    if detach_target:
        target = target.detach()
    return (target - attn_lr).abs().mean(dim=(1, 2, 3)), s_a


def share(first: Tensor, second: Tensor) -> Tensor:
    """`first / (first + second)` of non-negative numbers, and 0.5 where both are 0; differentiable."""
    total = first + second
    empty = total <= 0
    return torch.where(empty, 0.5, first / torch.where(empty, 1.0, total))
