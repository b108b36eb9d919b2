"""Attention rollout: how much of each token reaches a transformer's answer, read off its attention weights.

Pure functions, and `AttentionRecorder`, which keeps the weights of a forward pass. Imported where it is used: it needs
torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def attention_rollout(attentions: Sequence[Tensor], readout: Tensor) -> Tensor:
    """Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (ACL 2020): `Π_l (0.5·Ā_l + 0.5·I)`.

    `Ā` is the mean over heads; the identity stands for the residual connection. It is the same for all classes.

    Args:
        attentions: the blocks' weights (B, heads, n, n), first block first, rows summing to 1. Blocks before a class
            token joined have fewer tokens: these are the last n of N.
        readout: (N,), the share of each last token in the embedding: 1 for a class token, 1/N for an average.

    Returns:
        (B, N), non-negative, rows summing to the sum of `readout`.
    """
    return _roll([a.mean(dim=1) for a in attentions], readout, lambda row, mixed: 0.5 * row + 0.5 * mixed)


def gradient_rollout(attentions: Sequence[Tensor], gradients: Sequence[Tensor], readout: Tensor) -> Tensor:
    """Chefer, Gur and Wolf (ICCV 2021), Eqs. 5 and 6 for self-attention: `Π_l (I + E_h[(∇A_l ⊙ A_l)⁺])`.

    "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers": rollout with
    each weight counted by what it does for one class.

    Args:
        attentions: as in `attention_rollout`.
        gradients: of the class' logit with respect to these, of the same shapes.
        readout: as in `attention_rollout`.

    Returns:
        (B, N), non-negative.
    """
    weighted = [(g * a).clamp_min(0).mean(dim=1) for a, g in zip(attentions, gradients, strict=True)]
    return _roll(weighted, readout, lambda row, mixed: row + mixed)


def _roll(mixings: Sequence[Tensor], readout: Tensor, step: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """From the last block to the first: only the row that is read out, never a product of N × N matrices."""
    row = readout.to(mixings[0]).expand(mixings[0].shape[0], -1)
    for mixing in reversed(mixings):
        late = row.shape[1] - mixing.shape[1]  # tokens that joined later pass unmixed
        mixed = torch.bmm(row[:, None, late:], mixing).squeeze(1)
        row = torch.cat([row[:, :late], step(row[:, late:], mixed)], dim=1)
    return row


class AttentionRecorder(TorchFunctionMode):
    """Keeps the attention weights (B, heads, n, n) of the forward passes inside its `with` block, in order.

    Nothing about the model changes: fused attention, which never forms its weights, is answered by the same formula
    spelt out, and written-out attention is known by the dropout that it puts on its weights. A function mode is a
    matter of the thread that enters it, so other threads may use the model meanwhile.

    Attributes:
        weights: the recorded tensors, part of the graph where gradients are on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            weights, value = _spell_out(*args, **kwargs)
            if weights is not None:
                self.weights.append(weights)
                return weights.to(value.dtype) @ value
        result = func(*args, **kwargs)
        if func is F.dropout and isinstance(result, Tensor) and result.ndim == 4 and _is_square(result):
            self.weights.append(result)
        return result


def _spell_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor | None, Tensor]:
    """The weights that `scaled_dot_product_attention` does not return; None for what is no plain self-attention."""
    if query.ndim != 4 or query.shape != key.shape or dropout_p or is_causal or enable_gqa:
        return None, value
    # Softmax in at least float32, as the fused kernels do it.
    wide = query.dtype if query.dtype == torch.float64 else torch.float32
    scores = query.to(wide) @ key.to(wide).transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
    if attn_mask is not None:
        is_flag = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if is_flag else scores + attn_mask.to(wide)
    return scores.softmax(dim=-1), value


def _is_square(weights: Tensor) -> bool:
    return weights.shape[-1] == weights.shape[-2]
