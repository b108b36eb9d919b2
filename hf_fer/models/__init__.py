"""The five methods as transformers models, and their losses as plain functions.

The files of this folder are flat on purpose: transformers copies them next to a pushed checkpoint
(remote code), so they import each other only as `from .sibling import name` and nothing else of ours.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "MEKConfig": "configuration_mek",
    "MEKForImageClassification": "modeling_mek",
    "HSACConfig": "configuration_hsac",
    "HSACForImageClassification": "modeling_hsac",
    "NeuralResizerConfig": "configuration_neural_resizer",
    "NeuralResizerForImageClassification": "modeling_neural_resizer",
    "MultiResConfig": "configuration_multires",
    "MultiResForImageClassification": "modeling_multires",
    "GReFELConfig": "configuration_grefel",
    "GReFELForImageClassification": "modeling_grefel",
    "FerOutput": "modeling_outputs",
    "HSACOutput": "modeling_outputs",
    "GReFELOutput": "modeling_outputs",
    "attention_consistency": "attention_maps",
    "class_activation_map": "attention_maps",
    "combined_attention_consistency": "attention_maps",
    "flip_maps": "attention_maps",
    "rebalanced_attention_consistency": "attention_maps",
    "anchor_center_loss": "losses",
    "anchor_distribution": "losses",
    "anchor_loss": "losses",
    "classification_difficulty": "losses",
    "combine_by_confidence": "losses",
    "effective_number_weights": "losses",
    "focal_pdls": "losses",
    "inverse_frequency_weights": "losses",
    "label_distribution_loss": "losses",
    "normalized_entropy_confidence": "losses",
    "one_hot_targets": "losses",
    "prior_label_distribution": "losses",
    "rebalanced_smooth_labels": "losses",
    "soft_cross_entropy": "losses",
    "downsample_upsample": "resampling",
    "create_backbone": "backbones",
    "create_pooled_backbone": "backbones",
    "WeightsReport": "pretrained_weights",
    "load_pretrained_weights": "pretrained_weights",
}

__all__ = [*_EXPORTS]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
