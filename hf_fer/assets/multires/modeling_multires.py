"""Multi-resolution training, "A Multi-resolution Training for Expression Recognition in the Wild" (SEBD 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import initialization as init

from .attention_maps import class_activation_map
from .configuration_multires import MultiResConfig
from .losses import inverse_frequency_weights, one_hot_targets, soft_cross_entropy
from .modeling_base import MapClassifier
from .modeling_outputs import FerOutput
from .resampling import downsample_upsample


class MultiResForImageClassification(MapClassifier):
    """A plain classifier that is trained on images of random resolution with a class-balanced cross-entropy."""

    config_class = MultiResConfig

    def __init__(self, config: MultiResConfig) -> None:
        super().__init__(config)
        weights = torch.empty(config.num_labels, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.post_init()

    def fill_buffers(self) -> None:
        counts = self.config.class_counts
        if counts is None or self.config.class_weighting == "none":
            init.ones_(self.class_weights)
        else:
            init.copy_(self.class_weights, inverse_frequency_weights(counts))

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        resolution_draws: Tensor | None = None,
        output_attention_maps: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> FerOutput | tuple[Tensor, ...]:
        """
        Args:
            pixel_values: (B, 3, H, W), H = W, normalised as the checkpoint's image processor does; with
                `config.grayscale` (B, 1, H, W) is taken too. In training mode their resolution is lowered here.
            labels: (B,) int64 class ids or (B, K) float distributions. In training mode they give the balanced
                cross-entropy; in eval mode the plain one.
            resolution_draws: (B, 2) float in [0, 1): whether to degrade an image, and to which side; None: drawn here,
                see `draw_views`. Training mode only.
            output_attention_maps: also return the class activation maps.
            output_hidden_states: also return the backbone's last feature map.
        """
        return_dict, output_hidden_states = self._switches(return_dict, output_hidden_states)
        images = self._images(pixel_values)
        if self.training and self.config.resolution_probability > 0:
            images = downsample_upsample(images, self._sides(images, resolution_draws))
        features = self.backbone(images)[-1]
        logits = self._classify(features)
        loss, losses = None, None
        if labels is not None:
            targets = one_hot_targets(labels, self.num_labels)
            loss = soft_cross_entropy(logits, targets)
            if self.training:
                losses = {"cross_entropy": loss.mean().detach()}
                loss = loss * (targets.float() @ self.class_weights.float())
                losses["balanced_cross_entropy"] = loss.mean().detach()
            loss = loss.mean()
        maps = class_activation_map(features, self.classifier.weight) if output_attention_maps else None
        hidden_states = (features,) if output_hidden_states else None
        output = FerOutput(loss=loss, logits=logits, losses=losses, attention_maps=maps, hidden_states=hidden_states)
        return output if return_dict else output.to_tuple()

    def draw_views(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Both draws of the double random extraction; see the base class."""
        return {"resolution_draws": torch.rand(count, 2, generator=generator)}

    def _sides(self, images: Tensor, draws: Tensor | None = None) -> Tensor:
        """Double random extraction: (B,) int64, whether to degrade, and if so to which side in px of `images`."""
        config, batch, size = self.config, images.shape[0], images.shape[-1]
        draws = torch.rand(batch, 2, device=images.device) if draws is None else draws
        degrade, draw = draws.unbind(dim=1)
        if config.resolution_mode == "power_of_two":
            low, high = math.log2(config.min_side), math.log2(config.max_side)
            sides = torch.exp2((low + draw * (high - low)).floor())
        else:
            sides = (config.min_side + draw * (config.max_side + 1 - config.min_side)).floor()
        sides = (sides * (size / config.reference_side)).round().long().clamp(1, size)
        return sides.where(degrade < config.resolution_probability, size)


__all__ = ["MultiResForImageClassification"]
