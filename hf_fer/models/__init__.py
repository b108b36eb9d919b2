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
    "FerOutput": "modeling_outputs",
    "class_activation_map": "attention_maps",
    "flip_maps": "attention_maps",
    "rebalanced_attention_consistency": "attention_maps",
    "effective_number_weights": "losses",
    "rebalanced_smooth_labels": "losses",
    "soft_cross_entropy": "losses",
    "one_hot_targets": "losses",
    "create_backbone": "backbones",
}

__all__ = [*_EXPORTS]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
