"""Configuration of MEK, and of the baselines it is compared with."""

from __future__ import annotations

import math
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)


class MEKConfig(PreTrainedConfig):
    """MEK, "Mine Extra Knowledge" (NeurIPS 2023): re-balanced attention consistency and smooth labels.

    The defaults are the paper's. Its baselines are switches of the same code:

    | method | `consistency_weight` | `rebalance_attention` | `smoothing` | `classify_transformed` | `class_weighting` |
    | --- | --- | --- | --- | --- | --- |
    | MEK (RAC + RSL) | 2 | True | 0.1 | True | "none" |
    | RAC only / RSL only | 2 / 0 | True | 0 / 0.1 | True | "none" |
    | EAC | 5 | False | 0 | False | "none" |
    | cross-entropy | 0 | – | 0 | False | "none" |
    | class-balanced loss | 0 | – | 0 | False | "effective_number" |

    Args:
        backbone: a timm model name.
        backbone_kwargs: further arguments of the timm model, such as `{"layers": [1, 1, 1, 1]}`.
        stem_pool: keep the max-pooling after a ResNet's stem; False for faces under 64 px.
        image_size: side of the square input in px.
        grayscale: the network sees the luminance (ITU-R 601) of its RGB input; the image processor must
            then normalise the three channels alike.
        dropout: before the classifier, in [0, 1).
        class_counts: training images per class; the re-balancing weights come from them. None: equal weights.
        effective_number_beta: β of the effective number, in [0, 1).
        consistency_weight: λ, at least 0.
        rebalance_attention: weight the maps by class (RAC); False is EAC's plain consistency.
        attention_weighting: "inside" (the paper) or "outside" (the released code) of the square.
        smoothing: α of RSL, in [0, 1]; 0 turns RSL off.
        smooth_target: "all" (the paper) or "others" (the released code).
        classify_transformed: the transformed view enters the classification loss too.
        class_weighting: "none", or "effective_number" for the class-balanced loss.
        transform: of the second view, "flip", "scale" or "intensity" (Table 7).
        transform_strength: the zoom of "scale" or the gain of "intensity", positive; unused by "flip".
    """

    model_type = "mek"
    # Per-step scalars and maps are no predictions: keep transformers' evaluation loops from gathering them.
    keys_to_ignore_at_inference = ("losses", "attention_maps", "hidden_states")

    backbone: str = "resnet18"
    backbone_kwargs: dict[str, Any] | None = None
    stem_pool: bool = True
    image_size: int = 224
    grayscale: bool = False
    dropout: float = 0.0
    class_counts: list[int] | None = None
    effective_number_beta: float = 0.9999
    consistency_weight: float = 2.0
    rebalance_attention: bool = True
    attention_weighting: str = "inside"
    smoothing: float = 0.1
    smooth_target: str = "all"
    classify_transformed: bool = True
    class_weighting: str = "none"
    transform: str = "flip"
    transform_strength: float = 0.8

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As its base, but overrides are validated with the rest, and counts of labels that are gone are dropped."""
        own = {*cls.__annotations__, "id2label", "label2id"}
        given = {name: kwargs.pop(name) for name in [*kwargs] if name in own}
        counts, labels = config_dict.get("class_counts"), given.get("id2label")
        num_labels = kwargs.get("num_labels", len(labels) if labels is not None else None)
        if counts is not None and "class_counts" not in given and num_labels not in (None, len(counts)):
            logger.warning(f"class_counts are of {len(counts)} labels, not {num_labels}: set to None (equal weights).")
            given["class_counts"] = None
        return super().from_dict({**config_dict, **given}, **kwargs)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.validate_fields()

    def validate_fields(self) -> None:
        """Raises ValueError naming the first field with a value it may not have."""

        def check(field: str, valid: bool, allowed: str) -> None:
            if not valid:
                raise ValueError(f"MEKConfig: {field} must be {allowed}, got {getattr(self, field)!r}")

        def number(value: Any) -> bool:
            return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

        check("num_labels", self.num_labels >= 2, "at least 2")
        check("backbone", isinstance(self.backbone, str) and self.backbone != "", "a timm model name")
        check("backbone_kwargs", self.backbone_kwargs is None or isinstance(self.backbone_kwargs, dict), "a mapping")
        check(
            "image_size",
            isinstance(self.image_size, int) and not isinstance(self.image_size, bool) and 8 <= self.image_size <= 2048,
            "an integer from 8 to 2048",
        )
        for field in ("stem_pool", "grayscale", "rebalance_attention", "classify_transformed"):
            check(field, isinstance(getattr(self, field), bool), "true or false")
        for field in ("dropout", "effective_number_beta"):
            value = getattr(self, field)
            check(field, number(value) and 0 <= value < 1, "a number in [0, 1)")
        check("smoothing", number(self.smoothing) and 0 <= self.smoothing <= 1, "a number in [0, 1]")
        check("consistency_weight", number(self.consistency_weight) and self.consistency_weight >= 0, "at least 0")
        check("transform_strength", number(self.transform_strength) and self.transform_strength > 0, "positive")
        for field, allowed in (
            ("attention_weighting", ("inside", "outside")),
            ("smooth_target", ("all", "others")),
            ("class_weighting", ("none", "effective_number")),
            ("transform", ("flip", "scale", "intensity")),
        ):
            check(field, getattr(self, field) in allowed, "one of " + ", ".join(map(repr, allowed)))
        if self.class_counts is not None:
            check(
                "class_counts",
                isinstance(self.class_counts, (list, tuple))
                and len(self.class_counts) == self.num_labels
                and all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in self.class_counts),
                f"{self.num_labels} integers of at least 1, one for each label",
            )
