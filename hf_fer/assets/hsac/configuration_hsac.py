"""Configuration of HSAC, and of the rows of its ablation tables."""

from __future__ import annotations

from typing import Any, ClassVar

from .configuration_base import MapBackboneConfig

_NO_LOSS = {"combined_attention_weight": 0.0, "label_distribution_weight": 0.0, "adversarial_weight": 0.0}


class HSACConfig(MapBackboneConfig):
    """HSAC, "Hard Sample-aware Consistency for Low-resolution FER" (WACV 2024).

    `L = L_ce + λ_ca·L_ca + τ·(λ_ldl·L_ldl + λ_adv·L_adv_g)`; the defaults are the paper's. The two earlier
    consistencies it is compared with, `L_a` (Eq. 2) and `L_p` (Eq. 3, against the label), have weights too, which
    the paper does not give: its tables' rows take `λ_ca` for `L_a` and 1 for `L_p`.

    `HSACConfig.ablations` holds these rows as overrides:

    | row | loss | `combined_attention_weight` | `label_distribution_weight` | `adversarial_weight` | others |
    | --- | --- | --- | --- | --- | --- |
    | Table 1, 1 | `L_ce` | 0 | 0 | 0 | |
    | Table 1, 2 | `L_ce + L_a` | 0 | 0 | 0 | `attention_weight` 3 |
    | Table 1, 3 | `L_ce + L_ca` | 3 | 0 | 0 | |
    | Table 1, 4 | `L_ce + L_p` | 0 | 0 | 0 | `prediction_weight` 1 |
    | Table 1, 5 | `L_ce + L_ldl` | 0 | 0.01 | 0 | |
    | Table 1, 6 | `L_ce + L_a + L_p` | 0 | 0 | 0 | `attention_weight` 3, `prediction_weight` 1 |
    | Table 1, 7 | `L_ce + L_p + L_ca` | 3 | 0 | 0 | `prediction_weight` 1 |
    | Table 1, 8 | `L_ce + L_ca + L_ldl` | 3 | 0.01 | 0 | |
    | Table 1, 9 | HSAC | 3 | 0.01 | 1e-5 | |
    | Table 2 | EAC | 0 | 0 | 0 | `flip_attention_weight` 5 |
    | Table 2 | EAC + `L_a` | 0 | 0 | 0 | `flip_attention_weight` 5, `attention_weight` 3 |
    | Table 3 | HSAC | 3 | 0.01 | 1e-5 | `difficulty_criterion` "hr", "label", "both" |

    Args:
        combined_attention_weight: `λ_ca`, at least 0.
        label_distribution_weight: `λ_ldl`, at least 0.
        adversarial_weight: `λ_adv`, at least 0; 0 builds no discriminator.
        attention_weight: of the earlier attention consistency `L_a`, at least 0.
        prediction_weight: of the earlier prediction consistency `L_p`, at least 0.
        flip_attention_weight: of EAC's consistency between the maps of an image and of its mirror image, at least 0;
            the paper's baseline EAC is this alone.
        difficulty_criterion: whose class the low-resolution view must miss to be hard (`τ = 0`): "both" the
            image's and the label, "hr" the image's, "label" the label (Table 3); "none" takes nothing for hard.
        detach_attention_target: let no gradient through the combined maps `A_C`.
        max_downsampling: the low-resolution view is down-sampled by U(1, this), at least 1.
        discriminator_channels: of its first convolution; the second has twice as many.
        backbone, backbone_kwargs, stem_pool, grayscale, dropout, image_size: see `MapBackboneConfig`.
    """

    model_type = "hsac"
    citation: ClassVar[str] = """\
@inproceedings{lee2024hard,
  title     = {Hard Sample-aware Consistency for Low-resolution Facial Expression Recognition},
  author    = {Lee, Bokyeung and Ko, Kyungdeuk and Hong, Jonghwan and Ko, Hanseok},
  booktitle = {IEEE/CVF Winter Conference on Applications of Computer Vision (WACV)},
  year      = {2024}
}"""
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        *MapBackboneConfig.keys_to_ignore_at_inference,
        "logits_lr",
        "s_a",
        "s_p",
        "tau",
    ]
    ablations: ClassVar[dict[str, dict[str, Any]]] = {
        "Table 1, row 1: L_ce": _NO_LOSS,
        "Table 1, row 2: L_ce + L_a": {**_NO_LOSS, "attention_weight": 3.0},
        "Table 1, row 3: L_ce + L_ca": {**_NO_LOSS, "combined_attention_weight": 3.0},
        "Table 1, row 4: L_ce + L_p": {**_NO_LOSS, "prediction_weight": 1.0},
        "Table 1, row 5: L_ce + L_ldl": {**_NO_LOSS, "label_distribution_weight": 1e-2},
        "Table 1, row 6: L_ce + L_a + L_p": {**_NO_LOSS, "attention_weight": 3.0, "prediction_weight": 1.0},
        "Table 1, row 7: L_ce + L_p + L_ca": {
            **_NO_LOSS,
            "combined_attention_weight": 3.0,
            "prediction_weight": 1.0,
        },
        "Table 1, row 8: L_ce + L_ca + L_ldl": {"adversarial_weight": 0.0},
        "Table 1, row 9: HSAC": {},
        "Table 2: EAC": {**_NO_LOSS, "flip_attention_weight": 5.0},
        "Table 2: EAC + L_a": {**_NO_LOSS, "flip_attention_weight": 5.0, "attention_weight": 3.0},
        "Table 3: C(P_L) != C(P_H)": {"difficulty_criterion": "hr"},
        "Table 3: C(P_L) != C(T)": {"difficulty_criterion": "label"},
        "Table 3: both": {"difficulty_criterion": "both"},
    }
    tiny: ClassVar[dict[str, Any]] = {
        "backbone": "resnet18",
        "backbone_kwargs": {"layers": [1, 1, 1, 1], "channels": [16, 32, 48, 64]},
        "image_size": 64,
    }

    backbone: str = "resnet50"
    combined_attention_weight: float = 3.0
    label_distribution_weight: float = 1e-2
    adversarial_weight: float = 1e-5
    attention_weight: float = 0.0
    prediction_weight: float = 0.0
    flip_attention_weight: float = 0.0
    difficulty_criterion: str = "both"
    detach_attention_target: bool = False
    max_downsampling: float = 8.0
    discriminator_channels: int = 64

    def validate_fields(self) -> None:
        """Raises ValueError naming the first field with a value it may not have."""
        super().validate_fields()
        self._check_not_negative(
            "combined_attention_weight",
            "label_distribution_weight",
            "adversarial_weight",
            "attention_weight",
            "prediction_weight",
            "flip_attention_weight",
        )
        self._check_choices(difficulty_criterion=("both", "hr", "label", "none"))
        self._check_flags("detach_attention_target")
        self._check_positive("max_downsampling")
        self._check("max_downsampling", self.max_downsampling >= 1, "at least 1")
        self._check_integers(1, 1024, "discriminator_channels")
