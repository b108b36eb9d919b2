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
