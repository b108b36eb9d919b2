"""Configuration of GReFEL, and of the rows of its ablation tables."""

from __future__ import annotations

from typing import Any, ClassVar

from .configuration_base import FerConfig


class GReFELConfig(FerConfig):
    """GReFEL, "Geometry-Aware Reliable Facial Expression Learning" (2024); the defaults are the paper's.

    `GReFELConfig.ablations` holds the rows of its tables as overrides:

    | row | fields |
    | --- | --- |
    | Table 2: without reliability balancing | `num_anchors` 0, `attentive_correction` False |
    | Table 2: anchors | `attentive_correction` False |
    | Table 2: MHSA | `num_anchors` 0 |
    | Table 2: both | the defaults |
    | Table 3: `L_cls` | `anchor_weight` 0, `center_weight` 0 |
    | Table 3: `L_a` | `classification_weight` 0, `center_weight` 0 |
    | Table 3: `L_c` | `classification_weight` 0, `anchor_weight` 0 |
    | Table 3: `L_cls + L_a` | `center_weight` 0 |
    | Table 3: all | the defaults |
    | Table 6: M | `num_anchors` 0, 1, 4, 6, 8, 10, 20 |

    Args:
        image_size: side in px, a multiple of 32. Both streams see half of it (112 px of 224).
        backbone: of the image stream: "ir50".
        landmark_backbone: of the landmark stream: "mobilefacenet".
        landmark_weights: where the landmark stream's pretrained weights came from, which also freezes it; None:
            it trains with the rest. `load_landmark_weights` sets it.
        dims: channels of the three levels.
        image_depths: units of IR-50's three stages.
        num_heads: of the three levels' cross-attention; each divides its entry of `dims`.
        window_sizes: sides of the cross-attention's windows in tokens, each dividing its level's side
            (`image_size` / 8, / 16 and / 32); None: one window a level, as in the paper.
        embed_dim: width D of the joining transformer and of the embedding; a multiple of `vit_heads` and of
            `attentive_width`.
        vit_depth, vit_heads: of the joining transformer.
        head_width: of the classification head's two hidden layers.
        head_dropout: after each of these, in [0, 1).
        num_anchors: M, trainable anchors a class; 0 turns the geometric correction off.
        anchor_temperature: δ, positive.
        attentive_correction: self-attention over the embedding.
        attentive_width: of a head of this attention, and of the pieces of the embedding it attends to.
        classification_weight, anchor_weight, center_weight: λ_cls, λ_a, λ_c, at least 0; the latter two have no
            effect without anchors.
        label_smoothing: in [0, 1].
    """

    model_type = "grefel"
    citation: ClassVar[str] = r"""@misc{wasi2024grefel,
  title     = {GReFEL: Geometry-Aware Reliable Facial Expression Learning under Bias and Imbalanced Data Distribution},
  author    = {Wasi, Azmine Toushik and Rafi, Taki Hasan and Islam, Raima and {\v{S}}erbetar, Karlo and Chae, Dong-Kyu},
  year      = {2024}
}"""
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        *FerConfig.keys_to_ignore_at_inference,
        *(
            f"{name}_{kind}"
            for name in ("primary", "anchor", "attentive", "corrected", "final")
            for kind in ("distribution", "confidence")
        ),
        "embeddings",
    ]
    ablations: ClassVar[dict[str, dict[str, Any]]] = {
        "Table 2: without reliability balancing": {"num_anchors": 0, "attentive_correction": False},
        "Table 2: anchors": {"attentive_correction": False},
        "Table 2: MHSA": {"num_anchors": 0},
        "Table 2: both": {},
        "Table 3: L_cls": {"anchor_weight": 0.0, "center_weight": 0.0},
        "Table 3: L_a": {"classification_weight": 0.0, "center_weight": 0.0},
        "Table 3: L_c": {"classification_weight": 0.0, "anchor_weight": 0.0},
        "Table 3: L_cls + L_a": {"center_weight": 0.0},
        "Table 3: L_cls + L_a + L_c": {},
        **{f"Table 6: M = {m}": {"num_anchors": m} for m in (0, 1, 4, 6, 8, 10, 20)},
    }
    tiny: ClassVar[dict[str, Any]] = {
        "image_size": 64,
        "dims": [16, 32, 48],
        "image_depths": [1, 1, 1],
        "num_heads": [2, 2, 2],
        "embed_dim": 64,
        "vit_heads": 4,
        "vit_depth": 1,
        "head_width": 32,
        "head_dropout": 0.1,
        "attentive_width": 16,
    }

    backbone: str = "ir50"
    landmark_backbone: str = "mobilefacenet"
    landmark_weights: str | None = None
    dims: list[int] | tuple[int, ...] = (64, 128, 256)
    image_depths: list[int] | tuple[int, ...] = (3, 4, 14)
    num_heads: list[int] | tuple[int, ...] = (2, 4, 8)
    window_sizes: list[int] | tuple[int, ...] | None = None
    embed_dim: int = 768
    vit_depth: int = 2
    vit_heads: int = 8
    head_width: int = 64
    head_dropout: float = 0.5
    num_anchors: int = 10
    anchor_temperature: float = 1.0
    attentive_correction: bool = True
    attentive_width: int = 64
    classification_weight: float = 1.0
    anchor_weight: float = 1.0
    center_weight: float = 1.0
    label_smoothing: float = 0.11

    @property
    def level_sides(self) -> tuple[int, int, int]:
        """Sides in tokens of the three levels."""
        return self.image_size // 8, self.image_size // 16, self.image_size // 32

    def validate_fields(self) -> None:
        """Raises ValueError naming the first field with a value it may not have."""
        super().validate_fields()
        self._check("image_size", self.image_size % 32 == 0, "a multiple of 32")
        self._check_choices(backbone=("ir50",), landmark_backbone=("mobilefacenet",))
        source = self.landmark_weights
        self._check("landmark_weights", source is None or isinstance(source, str), "the name of their source, or null")
        self._check_integer_lists(3, 2048, "dims", "num_heads")
        self._check_integer_lists(3, 256, "image_depths")
        fits = all(dim % heads == 0 for dim, heads in zip(self.dims, self.num_heads, strict=True))
        self._check("num_heads", fits, f"divisors of dims {list(self.dims)}")
        if self.window_sizes is not None:
            self._check_integer_lists(3, 2048, "window_sizes")
            fits = all(side % window == 0 for side, window in zip(self.level_sides, self.window_sizes, strict=True))
            self._check("window_sizes", fits, f"divisors of the levels' sides {list(self.level_sides)}")
        self._check_integers(1, 4096, "embed_dim", "vit_heads", "head_width", "attentive_width")
        self._check_integers(1, 64, "vit_depth")
        self._check("vit_heads", self.embed_dim % self.vit_heads == 0, f"a divisor of embed_dim {self.embed_dim}")
        self._check_shares("head_dropout", one=False)
        self._check_integers(0, 1000, "num_anchors")
        fits = self.num_anchors * self.num_labels <= 100_000
        self._check("num_anchors", fits, f"at most {100_000 // self.num_labels} for {self.num_labels} labels")
        self._check_positive("anchor_temperature")
        self._check_flags("attentive_correction")
        divides = not self.attentive_correction or self.embed_dim % self.attentive_width == 0
        self._check("attentive_width", divides, f"a divisor of embed_dim {self.embed_dim}")
        self._check_not_negative("classification_weight", "anchor_weight", "center_weight")
        self._check_shares("label_smoothing")
