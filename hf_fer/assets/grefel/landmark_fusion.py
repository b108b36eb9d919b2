"""The trunk of GReFEL: two streams, joined by window cross-attention and a small transformer (POSTER++)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WindowCrossAttention(nn.Module):
    """Cross-attention inside windows and an MLP (GReFEL Eqs. 1–5).

    Queries come from the landmark stream, keys and values from the image stream. The landmark map is brought to the
    size of one window, whose queries all windows share.

    Args:
        dim: channels of both maps.
        heads: number of attention heads.
        window: side of a window in tokens.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.project = nn.Linear(dim, dim)
        self.position_bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Of the parameters that are this module's own."""
        nn.init.trunc_normal_(self.position_bias, std=0.02)

    def forward(self, image: Tensor, landmarks: Tensor) -> Tensor:
        """(B, C, H, W) image map and (B, C, H', W') landmark map to (B, C, H, W)."""
        batch, _, height, width = image.shape
        tokens = self.norm(image.permute(0, 2, 3, 1))
        windows = self._partition(tokens)  # (B·n, N, C), the windows of a sample next to each other
        count = windows.shape[0] // batch
        landmarks = F.adaptive_avg_pool2d(landmarks, self.window).flatten(2).transpose(1, 2)
        query = self._split_heads(self.query(landmarks)).repeat_interleave(count, dim=0)
        key, value = (self._split_heads(x) for x in self.key_value(windows).chunk(2, dim=2))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=self._bias().to(query.dtype))
        attended = self.project(attended.transpose(1, 2).flatten(2))
        tokens = tokens + self._join(attended, batch, height, width)
        tokens = tokens + self.mlp(self.mlp_norm(tokens))
        return tokens.permute(0, 3, 1, 2)

    def _split_heads(self, tokens: Tensor) -> Tensor:
        """(B, N, C) to (B, heads, N, C/heads)."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _partition(self, tokens: Tensor) -> Tensor:
        batch, height, width, dim = tokens.shape
        w = self.window
        tokens = tokens.view(batch, height // w, w, width // w, w, dim).transpose(2, 3)
        return tokens.reshape(-1, w * w, dim)

    def _join(self, windows: Tensor, batch: int, height: int, width: int) -> Tensor:
        w = self.window
        windows = windows.view(batch, height // w, width // w, w, w, -1).transpose(2, 3)
        return windows.reshape(batch, height, width, -1)

    def _bias(self) -> Tensor:
        """Relative position bias (1, heads, N, N), N = window²."""
        # Not a buffer: its 28⁴ numbers would be larger than the parameters they point into.
        place = torch.arange(self.window, device=self.position_bias.device)
        row, column = place.repeat_interleave(self.window), place.repeat(self.window)
        offset = self.window - 1
        index = (row[:, None] - row + offset) * (2 * self.window - 1) + column[:, None] - column + offset
        return self.position_bias[index].permute(2, 0, 1).unsqueeze(0)


class FusionTransformer(nn.Module):
    """Joins the tokens of all levels into one embedding: class token, transformer, gate (GReFEL Eqs. 6–8).

    Args:
        dims: channels of the three levels.
        side: side in tokens of the last level; the others are brought to it.
        embed_dim: width D.
        depth: number of blocks.
        heads: attention heads of each.
    """

    def __init__(self, dims: Sequence[int], side: int, embed_dim: int, depth: int, heads: int) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.embed1 = nn.Sequential(nn.Conv2d(dims[0], embed_dim, 3, 2, 1), nn.Conv2d(embed_dim, embed_dim, 3, 2, 1))
        self.embed2 = nn.Conv2d(dims[1], embed_dim, 3, 2, 1)
        self.embed3 = nn.Conv2d(dims[2], embed_dim, 1)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 3 * side * side + 1, embed_dim))
        norm = partial(nn.LayerNorm, eps=1e-6)  # ViT's; timm's default has changed over time
        self.blocks = nn.Sequential(*(Block(embed_dim, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)))
        self.norm = norm(embed_dim)
        self.gate = nn.Sequential(
            nn.Linear(embed_dim, embed_dim), nn.ReLU(), nn.Linear(embed_dim, embed_dim), nn.Sigmoid()
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Of the parameters that are this module's own."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Three maps (B, dims[i], H_i, W_i), each half the size of the one before, to (B, D)."""
        embedded = [embed(x) for embed, x in zip((self.embed1, self.embed2, self.embed3), levels, strict=True)]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in embedded], dim=1)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        embedding = self.norm(self.blocks(tokens + self.pos_embed)[:, 0])
        return embedding * self.gate(embedding)
