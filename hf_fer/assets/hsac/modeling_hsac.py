"""HSAC, "Hard Sample-aware Consistency for Low-resolution Facial Expression Recognition" (WACV 2024)."""

from __future__ import annotations

import itertools
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from .attention_maps import (
    attention_consistency,
    class_activation_map,
    combined_attention_consistency,
    flip_maps,
    rebalanced_attention_consistency,
)
from .configuration_hsac import HSACConfig
from .losses import classification_difficulty, label_distribution_loss, one_hot_targets, soft_cross_entropy
from .modeling_base import MapClassifier
from .modeling_outputs import HSACOutput
from .resampling import at_least_float32, downsample_upsample


class HSACForImageClassification(MapClassifier):
    """A plain classifier that is trained on each image, on a low-resolution view of it, and on that one mirrored.

    One backbone pass takes all three; the paper's baseline EAC is each image and that one mirrored. The discriminator
    is part of the loss: it never runs in eval mode.
    """

    config_class = HSACConfig
    diagnostics: ClassVar[dict[str, str]] = {
        "s_A": "low-resolution maps are nearer to the image's (1) or to their mirrored view's (0)",
        "s_P": "low-resolution prediction is nearer to the image's (1) or to the label (0)",
        "tau": "0 for a sample that is hard at low resolution, else 1",
    }

    def __init__(self, config: HSACConfig) -> None:
        super().__init__(config)
        self.discriminator = None
        if config.adversarial_weight > 0:
            self.discriminator = MapDiscriminator(config.num_labels, config.discriminator_channels)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        pixel_values_lr: Tensor | None = None,
        downsampling_factors: Tensor | None = None,
        output_attention_maps: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> HSACOutput | tuple[Tensor, ...]:
        """
        Args:
            pixel_values: (B, 3, H, W), H = W, normalised as the checkpoint's image processor does; with
                `config.grayscale` (B, 1, H, W) is taken too.
            labels: (B,) int64 class ids or (B, K) float distributions. In training mode they give HSAC's whole
                loss; in eval mode the cross-entropy of the one view.
            pixel_values_lr: (B, 3, H, W), the low-resolution views, for those who degrade images themselves; None:
                made here. Training mode only.
            downsampling_factors: (B,) float, at least 1, of the views made here; None: drawn, see `draw_views`.
            output_attention_maps: also return the class activation maps.
            output_hidden_states: also return the backbone's last feature map.
        """
        return_dict, output_hidden_states = self._switches(return_dict, output_hidden_states)
        batch = pixel_values.shape[0]
        names = self._views() if self.training and labels is not None else ["hr"]
        images = self._images(pixel_values)
        views = {"hr": images}
        if "lr" in names:
            if pixel_values_lr is None:
                views["lr"] = self._low_resolution(images, downsampling_factors)
            else:
                views["lr"] = self._images(pixel_values_lr)
        if "lr_flip" in names:
            views["lr_flip"] = flip_maps(views["lr"])
        if "hr_flip" in names:
            views["hr_flip"] = flip_maps(images)
        features = self.backbone(torch.cat([views[name] for name in names]) if len(names) > 1 else images)[-1]
        # Mirrored views count by their maps alone.
        logits_all = self._classify(features[: (2 if "lr" in names else 1) * batch])
        logits = logits_all[:batch]
        maps = None
        if output_attention_maps or (len(names) > 1 and self._needs_maps()):
            maps = class_activation_map(features, self.classifier.weight)

        output = HSACOutput(
            logits=logits,
            attention_maps=maps[:batch] if output_attention_maps else None,
            hidden_states=(features[:batch],) if output_hidden_states else None,
        )
        if labels is not None:
            targets = one_hot_targets(labels, self.num_labels)
            output.loss = soft_cross_entropy(logits, targets).mean()
            if self.training:
                output.losses = {"cross_entropy": output.loss.detach()}
            if len(names) > 1:
                output.logits_lr = logits_all[batch:] if "lr" in names else None
                each = {} if maps is None else dict(zip(names, at_least_float32(maps).split(batch), strict=True))
                self._add_consistency(output, targets, each)
        return output if return_dict else output.to_tuple()

    def _views(self) -> list[str]:
        """What a training step sees of an image, those that are classified first."""
        config = self.config
        low = config.combined_attention_weight > 0
        others = (config.label_distribution_weight, config.adversarial_weight)
        names = ["hr"]
        if low or max(*others, config.attention_weight, config.prediction_weight) > 0:
            names.append("lr")
        if low:
            names.append("lr_flip")
        if config.flip_attention_weight > 0:
            names.append("hr_flip")
        return names

    def _needs_maps(self) -> bool:
        config = self.config
        weights = (config.combined_attention_weight, config.attention_weight, config.flip_attention_weight)
        return max(*weights, config.adversarial_weight) > 0

    def draw_views(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Factors from U(1, `config.max_downsampling`) (HSAC Section 4.1); see the base class."""
        return {"downsampling_factors": self._factors(torch.rand(count, generator=generator))}

    def _factors(self, draw: Tensor) -> Tensor:
        return 1 + draw * (self.config.max_downsampling - 1)

    def _low_resolution(self, images: Tensor, factors: Tensor | None = None) -> Tensor:
        """Each image down by its own factor and up again (HSAC Section 4.1)."""
        batch, size = images.shape[0], images.shape[-1]
        if factors is None:
            factors = self._factors(torch.rand(batch, device=images.device))
        return downsample_upsample(images, (size / factors).round().long().clamp(1, size))

    def _add_consistency(self, output: HSACOutput, targets: Tensor, maps: dict[str, Tensor]) -> None:
        """Adds everything but `L_ce` of HSAC Eq. 8 to `output.loss`, and what it computes on the way."""
        config, logits, logits_lr = self.config, output.logits, output.logits_lr
        parts: dict[str, Tensor] = {}
        weighted: list[Tensor] = []  # (B,) each

        def add(name: str, values: Tensor, weight: float | Tensor) -> None:
            parts[name] = values.mean()
            weighted.append(weight * values)

        tau = None
        if logits_lr is not None:
            output.tau = tau = self._difficulty(logits_lr, logits, targets)
            parts["tau"] = tau.mean()
        if config.flip_attention_weight > 0:
            plain = torch.ones(self.num_labels, device=logits.device)
            values = rebalanced_attention_consistency(maps["hr"], maps["hr_flip"], plain)
            add("flip_attention_consistency", values, config.flip_attention_weight)
        if config.attention_weight > 0:
            add("attention_consistency", attention_consistency(maps["lr"], maps["hr"]), config.attention_weight)
        if config.prediction_weight > 0:
            add("cross_entropy_lr", soft_cross_entropy(logits_lr, targets), config.prediction_weight)
        if config.combined_attention_weight > 0:
            values, output.s_a = combined_attention_consistency(
                maps["lr"], maps["hr"], maps["lr_flip"], config.detach_attention_target
            )
            add("combined_attention_consistency", values, config.combined_attention_weight)
            parts["s_A"] = output.s_a.mean()
        if config.label_distribution_weight > 0:
            values, output.s_p = label_distribution_loss(logits_lr, logits, targets)
            add("label_distribution", values, tau * config.label_distribution_weight)
            parts["s_P"] = output.s_p.mean()
        if self.discriminator is not None:
            add("adversarial_generator", self.discriminator.generator_loss(maps["lr"]), tau * config.adversarial_weight)
            # With weight 1: it reaches the discriminator alone, whose parameters nothing else moves.
            add("adversarial_discriminator", self.discriminator.own_loss(maps["hr"], maps["lr"]), 1.0)
        output.loss = output.loss + sum(weighted).mean()
        output.losses.update({name: value.detach() for name, value in parts.items()})

    def _difficulty(self, logits_lr: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """`τ` (B,) float32, by the config's criterion."""
        if self.config.difficulty_criterion == "none":
            return torch.ones_like(logits[:, 0], dtype=torch.float32)
        return classification_difficulty(logits_lr, logits, targets, self.config.difficulty_criterion).float()

    def _diagnose(self, pixel_values: Tensor, labels: Tensor | None, factor: float) -> dict[str, Tensor]:
        """What HSAC's loss is weighted with (Eqs. 4, 5, 7), here for one factor: training draws one for each image.

        Measured whatever the loss uses of it, so that the rows of Table 1 can be compared.
        """
        images = self._images(pixel_values)
        size = images.shape[-1]
        side = torch.full(images.shape[:1], max(1, round(size / factor)), device=images.device)
        low = downsample_upsample(images, side)
        views = torch.cat([images, low, flip_maps(low)])
        output = self(views, output_attention_maps=True, return_dict=True)
        maps, maps_lr, maps_lr_flip = at_least_float32(output.attention_maps).chunk(3)
        logits, logits_lr, _ = output.logits.chunk(3)
        figures = {"s_A": combined_attention_consistency(maps_lr, maps, maps_lr_flip)[1]}
        if labels is not None:
            targets = one_hot_targets(labels, self.num_labels)
            figures["s_P"] = label_distribution_loss(logits_lr, logits, targets)[1]
            figures["tau"] = self._difficulty(logits_lr, logits, targets)
        return figures


class MapDiscriminator(nn.Module):
    """Tells the attention maps of images from those of low-resolution views (HSAC Eq. 6).

    The paper gives no layers: three strided convolutions with spectral norm, and the mean over what is left.

    Args:
        num_labels: K, channels of the maps.
        channels: of the first convolution; the second has twice as many.
    """

    def __init__(self, num_labels: int, channels: int) -> None:
        super().__init__()
        widths = (num_labels, channels, 2 * channels, 1)
        self.convs = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 3, stride=2, padding=1)) for a, b in itertools.pairwise(widths)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, K, H, W) maps to (B,) logits of being an image's own."""
        # In at least float32, whatever the weights are: spectral norm divides by what it estimates, and of maps this
        # small torch's half-precision convolutions leave parts of a gradient uninitialised on CPUs.
        maps = at_least_float32(maps)
        with torch.autocast(maps.device.type, enabled=False):
            for k, conv in enumerate(self.convs):
                maps = maps if k == 0 else F.leaky_relu(maps, 0.2)
                maps = F.conv2d(maps, conv.weight.to(maps), conv.bias.to(maps), conv.stride, conv.padding)
            return maps.mean(dim=(1, 2, 3))

    def own_loss(self, attn_hr: Tensor, attn_lr: Tensor) -> Tensor:
        """`L_adv_d = −log D(A_H) − log(1 − D(A_L))`, (B,); its gradient reaches the discriminator alone."""
        real, fake = self(torch.cat([attn_hr, attn_lr]).detach()).float().chunk(2)
        return F.softplus(-real) + F.softplus(fake)

    def generator_loss(self, attn_lr: Tensor) -> Tensor:
        """`L_adv_g = log(1 − D(A_L))`, (B,); its gradient reaches the maps alone."""
        frozen = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return -F.softplus(torch.func.functional_call(self, frozen, (attn_lr,)).float())


__all__ = ["HSACForImageClassification"]
