"""MEK, "Leave No Stone Unturned: Mine Extra Knowledge for Imbalanced FER" (Zhang et al., NeurIPS 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .attention_maps import class_activation_map, flip_maps, rebalanced_attention_consistency
from .backbones import create_backbone, keep_own_initialization, reset_missing_weights
from .configuration_mek import MEKConfig
from .losses import effective_number_weights, one_hot_targets, rebalanced_smooth_labels, soft_cross_entropy
from .modeling_outputs import FerOutput


class MEKForImageClassification(PreTrainedModel):
    """Backbone, global average pooling, linear classifier; MEK is in the loss alone.

    So inference costs what the backbone costs, and the class activation maps are the exact decomposition
    of the logits (up to the bias).
    """

    config_class = MEKConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"

    def __init__(self, config: MEKConfig) -> None:
        config.validate_fields()  # it may have been changed since it was made
        super().__init__(config)
        self.num_labels = config.num_labels
        self.backbone = create_backbone(
            config.backbone,
            in_chans=1 if config.grayscale else 3,
            image_size=config.image_size,
            stem_pool=config.stem_pool,
            **(config.backbone_kwargs or {}),
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(self.backbone.num_features, config.num_labels)
        # Follows from the config, so it is not saved; `_init_weights` fills it, after loading too. Float32 in a
        # half-precision model too: rounded weights would not sum to K.
        weights = torch.empty(config.num_labels, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        keep_own_initialization(self.backbone)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self.classifier:
            # As torch does it: uniform in ±1/√C.
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif module is self:
            counts = self.config.class_counts or [1] * self.num_labels
            init.copy_(self.class_weights, effective_number_weights(counts, self.config.effective_number_beta))
        else:
            reset_missing_weights(module)

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
        return_dict = self.config.return_dict if return_dict is None else return_dict
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        two_views = (
            self.training
            and labels is not None
            and (self.config.consistency_weight > 0 or self.config.classify_transformed)
        )
        images = self._luminance(pixel_values) if self.config.grayscale else pixel_values
        batch = images.shape[0]
        features = self.backbone(torch.cat([images, self._transform(images)]) if two_views else images)[-1]
        logits_all = self.classifier(self.dropout(features.mean(dim=(2, 3))))
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
        loss = sum(losses.values())
        if maps is not None and config.consistency_weight > 0:
            weights = self.class_weights if config.rebalance_attention else torch.ones_like(self.class_weights)
            losses["attention_consistency"] = rebalanced_attention_consistency(
                maps[:batch].float(), maps[batch:].float(), weights, config.attention_weighting, self._realign
            ).mean()
            loss = loss + config.consistency_weight * losses["attention_consistency"]
        return loss, {name: value.detach() for name, value in losses.items()}

    def _luminance(self, pixel_values: Tensor) -> Tensor:
        if pixel_values.shape[1] == 1:
            return pixel_values
        red, green, blue = pixel_values.unbind(dim=1)
        return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)

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
    # At least float32: a grid in half precision would miss by a good part of a pixel.
    wide = images if images.dtype == torch.float64 else images.float()
    theta = torch.eye(2, 3, dtype=wide.dtype, device=wide.device) / factor
    grid = F.affine_grid(theta.expand(images.shape[0], 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(wide, grid, padding_mode="border", align_corners=False).to(images.dtype)


__all__ = ["MEKForImageClassification"]
