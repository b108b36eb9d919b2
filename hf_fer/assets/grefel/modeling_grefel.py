"""GReFEL, "Geometry-Aware Reliable Facial Expression Learning under Bias and Imbalanced Data Distribution" (2024)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_grefel import GReFELConfig
from .ir50 import IR50
from .landmark_fusion import FusionTransformer, WindowCrossAttention
from .losses import (
    anchor_center_loss,
    anchor_distribution,
    anchor_loss,
    combine_by_confidence,
    normalized_entropy_confidence,
    one_hot_targets,
)
from .mobilefacenet import MobileFaceNet
from .modeling_base import FerPreTrainedModel, load_weights
from .modeling_outputs import GReFELOutput


class GReFELForImageClassification(FerPreTrainedModel):
    """Image and landmark streams joined into an embedding, classified, and corrected by anchors and attention.

    Training and evaluation correct alike. No sample sees its neighbours in eval mode.
    """

    config_class = GReFELConfig
    diagnostics: ClassVar[dict[str, str]] = {
        "primary_confidence": "how sure the classification head is: 0 uniform, 1 one-hot",
        "anchor_confidence": "how sure the correction by anchors is",
        "attentive_confidence": "how sure the correction by self-attention is",
        "corrected_confidence": "how sure both corrections are together",
        "final_confidence": "how sure the answer is",
    }

    def __init__(self, config: GReFELConfig) -> None:
        super().__init__(config)
        self.backbone = IR50(dims=config.dims, depths=config.image_depths)
        self.landmarks = MobileFaceNet(dims=config.dims)
        self.landmark_conv = nn.Conv2d(self.landmarks.num_features, config.dims[2], 3, padding=1)
        self.image_convs = nn.ModuleList(nn.Conv2d(dim, dim, 3, 2, 1) for dim in config.dims)
        self.cross_attentions = nn.ModuleList(
            WindowCrossAttention(dim, heads, window)
            for dim, heads, window in zip(
                config.dims, config.num_heads, config.window_sizes or config.level_sides, strict=True
            )
        )
        self.fusion = FusionTransformer(
            config.dims, config.level_sides[2], config.embed_dim, config.vit_depth, config.vit_heads
        )
        self.classifier = _build_head(config)
        self.anchors = None
        if config.num_anchors > 0:
            self.anchors = Anchors(config.num_labels, config.num_anchors, config.embed_dim)
        self.attentive = None
        if config.attentive_correction:
            self.attentive = AttentiveCorrection(config.embed_dim, config.attentive_width, config.num_labels)
        self.post_init()
        # A random stream must not be frozen. Built on the meta device, the model is about to be loaded.
        self._landmarks_loaded, self._landmarks_frozen = next(self.landmarks.parameters()).is_meta, False
        self.landmarks.register_load_state_dict_post_hook(self._note_loaded_landmarks)
        self._freeze_landmarks()

    def _init_weights(self, module: nn.Module) -> None:
        # transformers calls this, after loading, for the modules that the checkpoint did not fill.
        if any(module is part for part in self.landmarks.modules()):
            self._landmarks_loaded = False
        super()._init_weights(module)

    def load_landmark_weights(self, source: str) -> Any:
        """Loads pretrained weights into the landmark stream and freezes it, in this model and in its config.

        Args:
            source: as in `load_backbone_weights`; the field's file is `mobilefacenet_model_best.pth.tar`.

        Returns:
            A `WeightsReport`.

        Raises:
            ValueError: see `load_backbone_weights`; here everything must match, since what is frozen never learns.
        """
        report = load_weights(self.landmarks, source, minimum=1.0)
        self.config.landmark_weights = report.source
        self._landmarks_loaded = True
        self._freeze_landmarks()
        return report

    def train(self, mode: bool = True) -> GReFELForImageClassification:
        """As its base, but a frozen landmark stream stays in eval mode."""
        super().train(mode)
        self._freeze_landmarks()
        return self

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attention_maps: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> GReFELOutput | tuple[Tensor, ...]:
        """
        Args:
            pixel_values: (B, 3, S, S), S = `config.image_size`, normalised as the checkpoint's image processor does.
            labels: (B,) int64 class ids or (B, K) float distributions. In training mode they give GReFEL's whole
                loss; in eval mode the negative log-likelihood of the final distribution.
            output_attention_maps: taken for uniformity; this method has no class activation maps.
            output_hidden_states: also return the three levels' maps after cross-attention.

        Raises:
            ValueError: images of another size, fewer than two of them in training mode (its head normalises over
                the batch), or training with a frozen landmark stream that no weights were loaded into.
        """
        return_dict, output_hidden_states = self._switches(return_dict, output_hidden_states)
        size = self.config.image_size
        if pixel_values.shape[-2:] != (size, size):
            raise ValueError(f"pixel_values must be {size} px wide and high, got {tuple(pixel_values.shape)}")
        if self.training:
            self._check_trainable(pixel_values.shape[0])
        levels = self._levels(pixel_values)
        embeddings = self.fusion(levels)
        output = self._distributions(embeddings)
        if output_hidden_states:
            output.hidden_states = levels
        if labels is not None:
            self._add_loss(output, one_hot_targets(labels, self.num_labels))
        return output if return_dict else output.to_tuple()

    def _levels(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Both streams on the images at half size, and their cross-attention at three levels."""
        images = F.avg_pool2d(pixel_values, 2)  # what bilinear interpolation by exactly 2 computes
        low, middle, high = self.landmarks(images)
        landmarks = (low, middle, self.landmark_conv(high))
        stages = self.backbone(images)
        return tuple(
            attention(conv(stage), landmark)
            for attention, conv, stage, landmark in zip(
                self.cross_attentions, self.image_convs, stages, landmarks, strict=True
            )
        )

    def _distributions(self, embeddings: Tensor) -> GReFELOutput:
        """Primary distribution, its two corrections, and all of them together (GReFEL Eqs. 9–19)."""
        # At least float32: in half precision, logarithms of small probabilities and distances are noise.
        wide = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
        found: dict[str, Tensor] = {"primary": F.softmax(self.classifier(embeddings).to(wide.dtype), dim=1)}
        corrections = []
        if self.anchors is not None:
            anchors = self.anchors.weight.to(wide.dtype)
            found["anchor"] = anchor_distribution(wide, anchors, self.config.anchor_temperature)
            corrections.append(found["anchor"])
        if self.attentive is not None:
            found["attentive"] = F.softmax(self.attentive(embeddings).to(wide.dtype), dim=1)
            corrections.append(found["attentive"])
        final = found["primary"]
        if corrections:
            both = len(corrections) == 2
            found["corrected"] = combine_by_confidence(*corrections) if both else corrections[0]
            final = combine_by_confidence(final, found["corrected"])
        found["final"] = final
        output = GReFELOutput(logits=final.clamp_min(torch.finfo(final.dtype).tiny).log(), embeddings=wide)
        for name, distribution in found.items():
            output[f"{name}_distribution"] = distribution
            output[f"{name}_confidence"] = normalized_entropy_confidence(distribution)
        return output

    def _diagnose(self, pixel_values: Tensor, labels: Tensor | None, factor: float) -> dict[str, Tensor]:
        """The confidences that weigh head and corrections against each other (GReFEL Eqs. 10–11), of those built."""
        output = self(pixel_values, return_dict=True)
        return {name: output[name] for name in self.diagnostics if output.get(name) is not None}

    def _add_loss(self, output: GReFELOutput, targets: Tensor) -> None:
        """`λ_cls·L_cls + λ_a·L_a + λ_c·L_c` in training mode (GReFEL Eq. 23), else `L_cls` without smoothing."""
        config, log_p = self.config, output.logits
        targets = targets.to(log_p)
        if not self.training:
            output.loss = -(targets * log_p).sum(dim=1).mean()
            return
        smoothing = config.label_smoothing
        smooth = (1 - smoothing) * targets + smoothing / self.num_labels
        parts = {"classification": -(smooth * log_p).sum(dim=1).mean()}
        weights = {"classification": config.classification_weight}
        if self.anchors is not None:
            anchors = self.anchors.weight.to(log_p.dtype)
            parts["anchor"], weights["anchor"] = anchor_loss(anchors), config.anchor_weight
            parts["center"] = anchor_center_loss(output.embeddings, anchors, targets).mean()
            weights["center"] = config.center_weight
        output.loss = sum(weights[name] * value for name, value in parts.items())
        output.losses = {name: value.detach() for name, value in parts.items()}
        for name in ("primary", "anchor", "attentive", "final"):
            confidence = output.get(f"{name}_confidence")
            if confidence is not None:
                output.losses[f"{name}_confidence"] = confidence.detach().mean()

    def _check_trainable(self, batch: int) -> None:
        if batch < 2:
            raise ValueError(
                f"GReFEL's head normalises over the batch: give at least 2 images to train on, got {batch}"
            )
        if self.config.landmark_weights is not None and not self._landmarks_loaded:
            raise ValueError(
                f"GReFEL's landmark stream is frozen (config.landmark_weights is {self.config.landmark_weights!r}) but "
                "random: load_landmark_weights first, or set landmark_weights to None and train it with the rest"
            )

    def _freeze_landmarks(self) -> None:
        if self.config.landmark_weights is not None:
            self._landmarks_frozen = True
            self.landmarks.requires_grad_(False).eval()
        elif self._landmarks_frozen:  # the config was changed: it trains with the rest again
            self._landmarks_frozen = False
            self.landmarks.requires_grad_(True)

    def _note_loaded_landmarks(self, module: nn.Module, incompatible: Any) -> None:
        own = module.state_dict().keys()  # the list is of the whole model's missing keys
        if not any(key.rpartition("landmarks.")[2] in own for key in incompatible.missing_keys):
            self._landmarks_loaded = True


class Anchors(nn.Module):
    """M trainable points a class in the embedding space (GReFEL Eq. 12), initialised apart."""

    def __init__(self, num_labels: int, num_anchors: int, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_labels, num_anchors, embed_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal: all anchors at one point, such as zero, would give the anchor loss no gradient."""
        nn.init.normal_(self.weight)


class AttentiveCorrection(nn.Module):
    """Multi-head self-attention over one embedding, projected to the classes (GReFEL Eqs. 16, 17).

    The embedding is cut into D/width pieces, which attend to each other with as many heads of that width, so that
    samples never mix and queries and keys matter (attention to a single token would not depend on them). Its size
    is that of the paper's Table 2 (0.2 M parameters).

    Args:
        embed_dim: D.
        width: of pieces and heads.
        num_labels: K.
    """

    def __init__(self, embed_dim: int, width: int, num_labels: int) -> None:
        super().__init__()
        self.width = width
        self.query_key_value = nn.Linear(width, 3 * embed_dim)
        self.project = nn.Linear(embed_dim, width)
        self.classifier = nn.Linear(embed_dim, num_labels)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, D) to (B, K) logits."""
        pieces = embeddings.unflatten(1, (-1, self.width))
        heads = self.query_key_value(pieces).unflatten(2, (3, -1, self.width))  # (B, N, 3, heads, width)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.classifier(self.project(attended).flatten(1))


def _build_head(config: GReFELConfig) -> nn.Sequential:
    """MLP with two hidden layers (Section 4.1)."""
    layers: list[nn.Module] = []
    width = config.embed_dim
    for _ in range(2):
        layers += [
            nn.Linear(width, config.head_width),
            nn.BatchNorm1d(config.head_width),
            nn.ReLU(),
            nn.Dropout(config.head_dropout),
        ]
        width = config.head_width
    return nn.Sequential(*layers, nn.Linear(width, config.num_labels))


__all__ = ["GReFELForImageClassification"]
