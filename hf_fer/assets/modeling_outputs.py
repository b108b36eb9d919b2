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
