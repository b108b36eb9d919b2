"""What the models of this package return."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class FerOutput(ModelOutput):
    """Output of every model here; a method may add fields of its own.

    Args:
        loss: (), the training loss; only where `labels` were given.
        logits: (B, K), before the softmax.
        losses: the loss' named parts, detached 0-d tensors, for logging; only in training mode.
        attention_maps: (B, K, H, W), class activation maps; only where asked for.
        hidden_states: feature maps (B, C_i, H_i, W_i), the shallowest first; only where asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    attention_maps: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class HSACOutput(FerOutput):
    """`FerOutput`, and in training mode what HSAC computes on the way.

    Args:
        logits_lr: (B, K), of the low-resolution view.
        s_a: (B,), similarity of the attention maps `s_A`, in [0, 1].
        s_p: (B,), similarity of the predictions `s_P`, in [0, 1].
        tau: (B,), difficulty `τ`: 0 for hard samples, else 1.
    """

    logits_lr: torch.Tensor | None = None
    s_a: torch.Tensor | None = None
    s_p: torch.Tensor | None = None
    tau: torch.Tensor | None = None


@dataclass
class GReFELOutput(FerOutput):
    """`FerOutput`, and the distributions that reliability balancing weighs against each other.

    Each is (B, K), with a confidence (B,) in [0, 1] beside it; those that the configuration turns off are None.
    `logits` are the logarithm of the final distribution.

    Args:
        primary_distribution, primary_confidence: of the classification head, `l` and `c_l`.
        anchor_distribution, anchor_confidence: of the anchors, `t_g` and `c_g`.
        attentive_distribution, attentive_confidence: of the self-attention, `t_a` and `c_a`.
        corrected_distribution, corrected_confidence: of these two corrections together, `t` and `c_t`.
        final_distribution, final_confidence: `L_final` and its own confidence.
        embeddings: (B, D), `e`.
    """

    primary_distribution: torch.Tensor | None = None
    primary_confidence: torch.Tensor | None = None
    anchor_distribution: torch.Tensor | None = None
    anchor_confidence: torch.Tensor | None = None
    attentive_distribution: torch.Tensor | None = None
    attentive_confidence: torch.Tensor | None = None
    corrected_distribution: torch.Tensor | None = None
    corrected_confidence: torch.Tensor | None = None
    final_distribution: torch.Tensor | None = None
    final_confidence: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
