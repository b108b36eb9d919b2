"""Configuration of MEK, and of the baselines it is compared with."""

from __future__ import annotations

from typing import Any, ClassVar

from .configuration_base import MapBackboneConfig

_CROSS_ENTROPY = {"consistency_weight": 0.0, "smoothing": 0.0, "classify_transformed": False}


class MEKConfig(MapBackboneConfig):
    """MEK, "Mine Extra Knowledge" (NeurIPS 2023): re-balanced attention consistency and smooth labels.

    The defaults are the paper's. Its baselines are switches of the same code:

    | method | `consistency_weight` | `rebalance_attention` | `smoothing` | `classify_transformed` | `class_weighting` |
    | --- | --- | --- | --- | --- | --- |
    | MEK (RAC + RSL) | 2 | True | 0.1 | True | "none" |
    | RAC only / RSL only | 2 / 0 | True | 0 / 0.1 | True | "none" |
    | EAC | 5 | False | 0 | False | "none" |
    | cross-entropy | 0 | – | 0 | False | "none" |
    | class-balanced loss | 0 | – | 0 | False | "effective_number" |

    `MEKConfig.ablations` holds these and the other rows of the paper's Tables 5 to 7 as overrides.

    Args:
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
        backbone, backbone_kwargs, stem_pool, grayscale, dropout, image_size: see `MapBackboneConfig`.
    """

    model_type = "mek"
    citation: ClassVar[str] = """\
@inproceedings{zhang2023leave,
  title     = {Leave No Stone Unturned: Mine Extra Knowledge for Imbalanced Facial Expression Recognition},
  author    = {Zhang, Yuhang and Li, Yaqi and Qin, Lixiong and Liu, Xuannan and Deng, Weihong},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {36},
  year      = {2023}
}"""
    ablations: ClassVar[dict[str, dict[str, Any]]] = {
        "Table 5: MobileNet": {"backbone": "mobilenetv2_100", **_CROSS_ENTROPY},
        "Table 5: MobileNet + MEK": {"backbone": "mobilenetv2_100"},
        "Table 5: ResNet-18": {"backbone": "resnet18", **_CROSS_ENTROPY},
        "Table 5: ResNet-18 + MEK": {"backbone": "resnet18"},
        "Table 5: ResNet-50": {"backbone": "resnet50", **_CROSS_ENTROPY},
        "Table 5: ResNet-50 + MEK": {"backbone": "resnet50"},
        "Table 5: Swin-T": {"backbone": "swin_tiny_patch4_window7_224", **_CROSS_ENTROPY},
        "Table 5: Swin-T + MEK": {"backbone": "swin_tiny_patch4_window7_224"},
        "Table 6: baseline": _CROSS_ENTROPY,
        "Table 6: RAC": {"smoothing": 0.0},
        "Table 6: RSL": {"consistency_weight": 0.0},
        "Table 6: RAC + RSL": {},
        "Table 7: intensity": {"transform": "intensity"},
        "Table 7: scaling": {"transform": "scale"},
        "Table 7: flip": {},
        "baseline: EAC": {**_CROSS_ENTROPY, "consistency_weight": 5.0, "rebalance_attention": False},
        "baseline: class-balanced loss": {**_CROSS_ENTROPY, "class_weighting": "effective_number"},
        "released code": {"attention_weighting": "outside", "smooth_target": "others"},
    }
    tiny: ClassVar[dict[str, Any]] = {
        "backbone": "resnet18",
        "backbone_kwargs": {"layers": [1, 1, 1, 1], "channels": [16, 32, 48, 64]},
        "image_size": 64,
    }

    backbone: str = "resnet18"
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

    def validate_fields(self) -> None:
        """Raises ValueError naming the first field with a value it may not have."""
        super().validate_fields()
        self._check_flags("rebalance_attention", "classify_transformed")
        self._check_shares("effective_number_beta", one=False)
        self._check_shares("smoothing")
        self._check_not_negative("consistency_weight")
        self._check_positive("transform_strength")
        self._check_choices(
            attention_weighting=("inside", "outside"),
            smooth_target=("all", "others"),
            class_weighting=("none", "effective_number"),
            transform=("flip", "scale", "intensity"),
        )
        self._check_class_counts()
