"""Neural Resizer, "Vision Transformer Equipped with Neural Resizer on FER" (Hwang et al., ICASSP 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .backbones import create_pooled_backbone
from .configuration_neural_resizer import NeuralResizerConfig
from .losses import focal_pdls, one_hot_targets, soft_cross_entropy
from .modeling_base import FerPreTrainedModel
from .modeling_outputs import FerOutput
from .resizer import Interpolation, LearnedResizer, SpatialTransformer, SuperResolution


class NeuralResizerForImageClassification(FerPreTrainedModel):
    """A trainable front end for small faces, a vision transformer of timm's, and a linear classifier."""

    config_class = NeuralResizerConfig

    def __init__(self, config: NeuralResizerConfig) -> None:
        super().__init__(config)
        self.upsampler = _create_upsampler(config)
        self.spatial_transformer = SpatialTransformer() if config.spatial_transformer else nn.Identity()
        self.downsizer = _create_downsizer(config)
        self.backbone = create_pooled_backbone(
            config.backbone, image_size=config.backbone_image_size, **(config.backbone_kwargs or {})
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(self.backbone.num_features, config.num_labels)
        # Float32 in a half-precision model too: rounded rows would not sum to 1.
        prior = torch.empty(self.num_labels, self.num_labels, dtype=torch.float32) if config.label_prior else None
        self.register_buffer("label_prior", prior, persistent=False)
        self.post_init()

    def fill_buffers(self) -> None:
        if self.label_prior is not None:
            init.copy_(self.label_prior, torch.tensor(self.config.label_prior, dtype=torch.float32, device="cpu"))

    def resize(self, pixel_values: Tensor) -> Tensor:
        """What the backbone gets to see: (B, 3, s, s) images to (B, 3, S, S), normalised alike.

        `s` is `config.image_size`, `S` is `config.backbone_image_size`.

        Raises:
            ValueError: images of another shape.
        """
        side = self.config.image_size
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (3, side, side):
            shape = tuple(pixel_values.shape)
            raise ValueError(f"pixel_values must be (B, 3, {side}, {side}), as config.image_size says, got {shape}")
        return self.downsizer(self.spatial_transformer(self.upsampler(pixel_values)))

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
            pixel_values: (B, 3, s, s), s = `config.image_size`, normalised as the checkpoint's image processor does.
            labels: (B,) int64 class ids or (B, K) float distributions. In training mode they give F-PDLS; in eval
                mode the plain cross-entropy.
            output_attention_maps: accepted as in every model here. A class token has no class activation map, so
                this method returns none.
            output_hidden_states: also return the front end's image, what `resize` gives.
        """
        return_dict, output_hidden_states = self._switches(return_dict, output_hidden_states)
        images = self.resize(pixel_values)
        logits = self.classifier(self.dropout(self.backbone(images)))

        loss, losses = None, None
        if labels is not None and self.training:
            config, prior = self.config, self.label_prior
            alpha = 1.0 if prior is None else config.prior_alpha
            loss = focal_pdls(logits, labels, prior, alpha, config.focal_gamma).mean()
            losses = {"focal_pdls": loss.detach()}
        elif labels is not None:
            loss = soft_cross_entropy(logits, one_hot_targets(labels, self.num_labels)).mean()

        hidden_states = (images,) if output_hidden_states else None
        output = FerOutput(loss=loss, logits=logits, losses=losses, hidden_states=hidden_states)
        return output if return_dict else output.to_tuple()


def _create_upsampler(config: NeuralResizerConfig) -> nn.Module:
    if config.image_size == config.upsampled_size:  # super-resolved offline
        return nn.Identity()
    if config.upsampler == "learned":
        return SuperResolution(
            config.image_size, config.upsampled_size, config.upsampler_channels, config.upsampler_blocks
        )
    return Interpolation(config.upsampled_size, config.upsampler)


def _create_downsizer(config: NeuralResizerConfig) -> nn.Module:
    if config.downsizer == "learned":
        return LearnedResizer(config.backbone_image_size, config.resizer_channels, config.resizer_blocks)
    return Interpolation(config.backbone_image_size, config.downsizer)


__all__ = ["NeuralResizerForImageClassification"]
