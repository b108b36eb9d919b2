"""MEK, "Leave No Stone Unturned: Mine Extra Knowledge for Imbalanced FER" (Zhang et al., NeurIPS 2023)."""

from __future__ import annotations

import functools
import operator
from typing import ClassVar

import torch
from torch import Tensor
from transformers import initialization as init

from .attention_maps import class_activation_map, flip_maps, rebalanced_attention_consistency
from .configuration_mek import MEKConfig
from .losses import effective_number_weights, one_hot_targets, rebalanced_smooth_labels, soft_cross_entropy
from .modeling_base import MapClassifier
from .modeling_outputs import FerOutput
from .resampling import affine_sample, at_least_float32


class MEKForImageClassification(MapClassifier):
    """A plain classifier; MEK is in the loss alone."""

    config_class = MEKConfig
    diagnostics: ClassVar[dict[str, str]] = {
        "map_consistency": "mean squared difference of the two views' maps (lower: they agree)",
    }

    def __init__(self, config: MEKConfig) -> None:
        super().__init__(config)
        # Float32 in a half-precision model too: rounded weights would not sum to K.
        weights = torch.empty(config.num_labels, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.post_init()

    def fill_buffers(self) -> None:
        counts = self.config.class_counts or [1] * self.num_labels
        init.copy_(self.class_weights, effective_number_weights(counts, self.config.effective_number_beta))

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attention_maps: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> FerOutput | tuple[Tensor, ...]:
        """
        Args:
            pixel_values: (B, 3, H, W), normalised as the checkpoint's image processor does; with
                `config.grayscale` (B, 1, H, W) is taken too.
            labels: (B,) int64 class ids or (B, K) float distributions. In training mode they give MEK's whole
                loss (the second view is made here); in eval mode the cross-entropy of the one view.
            output_attention_maps: also return the class activation maps.
            output_hidden_states: also return the backbone's last feature map.
        """
        return_dict, output_hidden_states = self._switches(return_dict, output_hidden_states)
        two_views = (
            self.training
            and labels is not None
            and (self.config.consistency_weight > 0 or self.config.classify_transformed)
        )
        images = self._images(pixel_values)
        batch = images.shape[0]
        features = self.backbone(torch.cat([images, self._transform(images)]) if two_views else images)[-1]
        logits_all = self._classify(features)
        logits = logits_all[:batch]

        maps = None
        if output_attention_maps or (two_views and self.config.consistency_weight > 0):
            maps = class_activation_map(features, self.classifier.weight)

        loss, losses = None, None
        if labels is not None:
            targets = one_hot_targets(labels, self.num_labels)
            if not self.training:
                loss = soft_cross_entropy(logits, targets).mean()
            else:
                loss, losses = self._training_loss(logits_all, targets, maps if two_views else None)

        output = FerOutput(
            loss=loss,
            logits=logits,
            losses=losses,
            attention_maps=maps[:batch] if output_attention_maps else None,
            hidden_states=(features[:batch],) if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()

    def _training_loss(self, logits: Tensor, targets: Tensor, maps: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """`L = CE(z, ỹ) + CE(z̃, ỹ) + λ·l_cons` (MEK Eqs. 1, 6–8) with the switches of the config."""
        config, batch = self.config, targets.shape[0]
        smooth = targets
        if config.smoothing > 0:
            smooth = rebalanced_smooth_labels(targets, self.class_weights, config.smoothing, config.smooth_target)
        sample_weight = torch.ones(batch, device=logits.device)
        if config.class_weighting == "effective_number":
            sample_weight = targets.float() @ self.class_weights.float()
        losses = {"cross_entropy": (sample_weight * soft_cross_entropy(logits[:batch], smooth)).mean()}
        if config.classify_transformed:
            losses["cross_entropy_transformed"] = (sample_weight * soft_cross_entropy(logits[batch:], smooth)).mean()
        # Not sum(), which begins with 0 +: inductor drops that, and takes the loss for its detached copy below.
        loss = functools.reduce(operator.add, losses.values())
        if maps is not None and config.consistency_weight > 0:
            weights = self.class_weights if config.rebalance_attention else torch.ones_like(self.class_weights)
            losses["attention_consistency"] = rebalanced_attention_consistency(
                maps[:batch].float(), maps[batch:].float(), weights, config.attention_weighting, self._realign
            ).mean()
            loss = loss + config.consistency_weight * losses["attention_consistency"]
        return loss, {name: value.detach() for name, value in losses.items()}

    def _diagnose(self, pixel_values: Tensor, labels: Tensor | None, factor: float) -> dict[str, Tensor]:
        """MEK Eq. 3 without the class weights, so that a baseline's maps and MEK's are judged alike."""
        images = self._images(pixel_values)
        views = torch.cat([images, self._transform(images)])
        output = self(views, output_attention_maps=True, return_dict=True)
        maps, others = at_least_float32(output.attention_maps).chunk(2)
        ones = torch.ones_like(self.class_weights)
        return {"map_consistency": rebalanced_attention_consistency(maps, others, ones, realign=self._realign)}

    def _transform(self, images: Tensor) -> Tensor:
        """The second view (Table 7): mirrored, zoomed about the centre, or with another gain."""
        if self.config.transform == "flip":
            return flip_maps(images)
        if self.config.transform == "scale":
            return _zoom(images, self.config.transform_strength)
        return images * self.config.transform_strength

    def _realign(self, maps: Tensor) -> Tensor:
        """Brings the second view's maps onto the first's."""
        if self.config.transform == "flip":
            return flip_maps(maps)
        if self.config.transform == "scale":
            return _zoom(maps, 1 / self.config.transform_strength)
        return maps


def _zoom(images: Tensor, factor: float) -> Tensor:
    """Zooms (B, C, H, W) about the centre; a factor under 1 shrinks and repeats the border."""
    theta = torch.eye(2, 3, device=images.device) / factor
    return affine_sample(images, theta.expand(images.shape[0], 2, 3))


__all__ = ["MEKForImageClassification"]
