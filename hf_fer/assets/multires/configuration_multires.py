"""Configuration of multi-resolution training."""

from __future__ import annotations

from typing import Any, ClassVar

from .configuration_base import MapBackboneConfig


class MultiResConfig(MapBackboneConfig):
    """Multi-resolution training of an SE-ResNet-50 (Massoli et al., SEBD 2021).

    Each training image is, with probability `resolution_probability`, brought down to a random shortest side and
    up again; the loss is the class-balanced cross-entropy. `MultiResConfig.ablations` holds the variants:

    | variant | fields |
    | --- | --- |
    | paper (Tables 2–4) | the defaults |
    | released code | `resolution_probability` 1 |
    | uniform draw of the side | `resolution_mode` "uniform" |
    | no multi-resolution | `resolution_probability` 0 |
    | no class balance | `class_weighting` "none" |

    Args:
        class_counts: training images per class; the class weights come from them. None: equal weights.
        class_weighting: "inverse_frequency" (Table 2) or "none".
        resolution_probability: of degrading a training image, in [0, 1]. The paper is silent: 0.5; the released
            code always degrades.
        min_side, max_side: range in px of the drawn side, of a face whose shortest side is `reference_side`.
        reference_side: px that `image_size` stands for: the paper draws the side before it crops 224 of 256 px,
            so a drawn 128 halves the resolution whatever the network's input is.
        resolution_mode: "power_of_two" (2^⌊U(log2 min, log2 max)⌋, the released code) or "uniform" (any whole side).
        backbone, backbone_kwargs, stem_pool, grayscale, dropout, image_size: see `MapBackboneConfig`.
    """

    model_type = "multires"
    citation: ClassVar[str] = """\
@inproceedings{massoli2021multi,
  title     = {A Multi-resolution Training for Expression Recognition in the Wild},
  author    = {Massoli, Fabio Valerio and Cafarelli, Donato and Amato, Giuseppe and Falchi, Fabrizio},
  booktitle = {Italian Symposium on Advanced Database Systems (SEBD)},
  year      = {2021}
}"""
    ablations: ClassVar[dict[str, dict[str, Any]]] = {
        "Table 4: multi-resolution": {},
        "released code": {"resolution_probability": 1.0},
        "uniform sides": {"resolution_mode": "uniform"},
        "baseline: one resolution": {"resolution_probability": 0.0},
        "baseline: plain cross-entropy": {"class_weighting": "none"},
    }
    tiny: ClassVar[dict[str, Any]] = {
        "backbone": "resnet18",
        "backbone_kwargs": {"layers": [1, 1, 1, 1], "channels": [16, 32, 48, 64]},
        "image_size": 64,
    }

    backbone: str = "legacy_seresnet50"
    class_counts: list[int] | None = None
    class_weighting: str = "inverse_frequency"
    resolution_probability: float = 0.5
    min_side: int = 8
    max_side: int = 256
    reference_side: int = 256
    resolution_mode: str = "power_of_two"

    def validate_fields(self) -> None:
        """Raises ValueError naming the first field with a value it may not have."""
        super().validate_fields()
        self._check_class_counts()
        self._check_shares("resolution_probability")
        self._check_integers(1, 4096, "min_side", "reference_side")
        self._check_integers(self.min_side, 4096, "max_side")
        self._check_choices(class_weighting=("inverse_frequency", "none"), resolution_mode=("power_of_two", "uniform"))
