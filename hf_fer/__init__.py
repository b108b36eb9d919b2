"""hf-fer: facial expression recognition that holds up at low resolution and under class imbalance.

Importing this package registers its models with the transformers Auto classes. It is cheap: the public
names below, and the registration itself, wait until somebody needs them.
"""

from __future__ import annotations

import importlib
from typing import Any

from ._auto import register_auto_classes

__version__ = "0.1.0"

_EXPORTS = {
    "EXPRESSIONS": "labels",
    "FacialExpressionPipeline": "inference.pipeline",
    "FerError": "errors",
    "GReFELConfig": "models",
    "GReFELForImageClassification": "models",
    "HSACConfig": "models",
    "HSACForImageClassification": "models",
    "MEKConfig": "models",
    "MEKForImageClassification": "models",
    "MultiResConfig": "models",
    "MultiResForImageClassification": "models",
    "NeuralResizerConfig": "models",
    "NeuralResizerForImageClassification": "models",
    "OnnxClassifier": "inference.onnx_runtime",
    "analyze_video": "inference.video",
    "build_release": "hub.release",
    "embedded_model_path": "checkpoints.loading",
    "embedded_models": "checkpoints.loading",
    "evaluate_model": "evaluation",
    "export_onnx": "inference.onnx_export",
    "iter_faces": "inference.pipeline",
    "label_names": "labels",
    "load_classifier": "checkpoints.loading",
    "load_detector": "inference.detection",
    "load_fer_dataset": "data",
    "load_pipeline": "inference.pipeline",
    "map_labels": "labels",
    "metric_path": "evaluation",
    "open_image": "inference.images",
    "predict_images": "inference.predict",
    "push_release": "hub.push",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


register_auto_classes()
