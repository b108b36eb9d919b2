"""Configuration of the Neural Resizer, and of the rows of its poster's tables."""

from __future__ import annotations

from typing import Any, ClassVar

from .configuration_base import FerConfig, is_distribution

# The poster names families, "small-sized" in Table 1; these are timm's small ones at 224 px.
_BACKBONES = {
    "ViT": "vit_small_patch16_224",
    "DeiT": "deit_small_patch16_224",
    "ConViT": "convit_small",
    "XCiT": "xcit_small_12_p16_224",
    "Swin-S": "swin_small_patch4_window7_224",
}
_SWIN_S = {"backbone": _BACKBONES["Swin-S"], "spatial_transformer": False}
_VANILLA = {"upsampler": "bilinear", "spatial_transformer": False, "downsizer": "bilinear"}
_CROSS_ENTROPY = {"prior_alpha": 1.0, "focal_gamma": 0.0}
_PDLS = {"focal_gamma": 0.0}


class NeuralResizerConfig(FerConfig):
    """Neural Resizer with F-PDLS (ICASSP 2022): super-resolution and learned down-sizing before a vision transformer.

    The defaults are the paper's best model, row e of its Table 2. `NeuralResizerConfig.ablations` holds the rows of
    Tables 1 to 3 as overrides; this is Table 2 ("Bi." bilinear, "SR" super-resolution, "LTR" learning to resize):

    | row | `backbone` | `spatial_transformer` | `upsampler` | `downsizer` |
    | --- | --- | --- | --- | --- |
    | a: Bi. / Bi. (vanilla) | Swin-S | False | "bilinear" | "bilinear" |
    | b: Bi. / LTR | Swin-S | False | "bilinear" | "learned" |
    | c: SR / Bi. | Swin-S | False | "learned" | "bilinear" |
    | d: SR / LTR | Swin-S | False | "learned" | "learned" |
    | e: STN + SR / LTR | Swin-B | True | "learned" | "learned" |

    Tables 1 and 3 put "vanilla" and "proposed" beside each other: the former is row a's front end, the latter row d's
    in Table 1 and row e's in Table 3, as their equal accuracies show. Table 3 varies the loss: cross-entropy
    (`prior_alpha` 1, `focal_gamma` 0), PDLS (0.8, 0) and F-PDLS (0.8, 2). (All of Table 2 is F-PDLS by its caption,
    yet row a has the accuracy of Table 1's cross-entropy. Here it is F-PDLS, and Table 1's row the other.)

    The authors super-resolve offline, with a network of their own for faces. So can a data step here:
    `image_size = upsampled_size` takes such images as they are. Otherwise the paper's "SR" is a small network that
    is trained with the rest and saved in the same checkpoint. By default the front end takes 1.79 G multiply-adds an
    image (SR 0.94, STN 0.003, LTR 0.85) and 0.5 M parameters, beside Swin-B's 15.4 G and 87 M.

    Args:
        image_size: side in px of the square `pixel_values`, before up-sampling.
        upsampler: "bilinear", "bicubic", or "learned", a residual on top of bicubic. Its convolutions run at
            `image_size`: cheap for 48 px, expensive for large images. Where `image_size` equals `upsampled_size`
            there is nothing to do and nothing is built.
        upsampled_size: side in px after up-sampling, at least `image_size` and `backbone_image_size`.
        upsampler_channels, upsampler_blocks: width and residual blocks of the learned up-sampler.
        spatial_transformer: straighten the up-sampled image by an affine map that a small network reads off it.
        downsizer: "bilinear" (antialiased), or "learned" (Talebi & Milanfar 2021), a residual on top of it.
        resizer_channels, resizer_blocks: its `n` and `r`.
        backbone: a timm model name; its own pooling gives the embedding (class token or average).
        backbone_kwargs: further arguments of that model, such as `{"drop_path_rate": 0.1}`.
        backbone_image_size: side in px of the images that the backbone sees.
        dropout: before the classifier, in [0, 1).
        label_prior: `d`, a row of probabilities for each label, the mean vote distribution of its training images
            (`prior_label_distribution`). None: no prior is mixed in, whatever `prior_alpha` is.
        prior_alpha: weight α of the label against the prior's row, in [0, 1].
        focal_gamma: focusing exponent γ, at least 0; 0 is no focusing.
    """

    model_type = "neural_resizer"
    citation: ClassVar[str] = """\
@inproceedings{hwang2022vision,
  title     = {Vision Transformer Equipped with Neural Resizer on Facial Expression Recognition Task},
  author    = {Hwang, Hyeonbin and Kim, Soyeon and Park, Wei-Jin and Seo, Jiho and Ko, Kyungtae and Yeo, Hyeon},
  booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing (ICASSP)},
  year      = {2022}
}"""
    ablations: ClassVar[dict[str, dict[str, Any]]] = {
        **{
            f"Table 1: {name}, {row}": {"backbone": backbone, **changes}
            for name, backbone in _BACKBONES.items()
            for row, changes in {
                "CE + vanilla": {**_VANILLA, **_CROSS_ENTROPY},
                "F-PDLS + proposed": {"spatial_transformer": False},
            }.items()
        },
        "Table 2 a: Bi / Bi": {**_SWIN_S, **_VANILLA},
        "Table 2 b: Bi / LTR": {**_SWIN_S, "upsampler": "bilinear"},
        "Table 2 c: SR / Bi": {**_SWIN_S, "downsizer": "bilinear"},
        "Table 2 d: SR / LTR": _SWIN_S,
        "Table 2 e: STN + SR / LTR": {},
        "Table 3: CE, vanilla": {**_VANILLA, **_CROSS_ENTROPY},
        "Table 3: PDLS, vanilla": {**_VANILLA, **_PDLS},
        "Table 3: F-PDLS, vanilla": _VANILLA,
        "Table 3: CE, proposed": _CROSS_ENTROPY,
        "Table 3: PDLS, proposed": _PDLS,
        "Table 3: F-PDLS, proposed": {},
    }
    tiny: ClassVar[dict[str, Any]] = {
        "image_size": 24,
        "upsampled_size": 64,
        "upsampler_channels": 16,
        "upsampler_blocks": 1,
        "resizer_channels": 8,
        "backbone": "swin_tiny_patch4_window7_224",
        "backbone_kwargs": {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        "backbone_image_size": 32,
    }

    image_size: int = 48
    upsampler: str = "learned"
    upsampled_size: int = 384
    upsampler_channels: int = 64
    upsampler_blocks: int = 4
    spatial_transformer: bool = True
    downsizer: str = "learned"
    resizer_channels: int = 16
    resizer_blocks: int = 1
    backbone: str = "swin_base_patch4_window7_224"
    backbone_kwargs: dict[str, Any] | None = None
    backbone_image_size: int = 224
    dropout: float = 0.0
    label_prior: list[list[float]] | None = None
    prior_alpha: float = 0.8
    focal_gamma: float = 2.0

    def validate_fields(self) -> None:
        """Raises ValueError naming the first field with a value it may not have."""
        super().validate_fields()
        self._check_choices(upsampler=("bilinear", "bicubic", "learned"), downsizer=("bilinear", "learned"))
        self._check_flags("spatial_transformer")
        self._check_integers(8, 2048, "upsampled_size", "backbone_image_size")
        least = max(self.image_size, self.backbone_image_size)
        allowed = f"at least image_size and backbone_image_size, {self.image_size} and {self.backbone_image_size}"
        self._check("upsampled_size", self.upsampled_size >= least, allowed)
        self._check_integers(1, 512, "upsampler_channels", "resizer_channels")
        self._check_integers(0, 64, "upsampler_blocks", "resizer_blocks")
        self._check_backbone()
        self._check_shares("dropout", one=False)
        self._check_shares("prior_alpha")
        self._check_not_negative("focal_gamma")
        prior, classes = self.label_prior, self.num_labels
        valid = prior is None or (isinstance(prior, (list, tuple)) and len(prior) == classes)
        valid = valid and all(is_distribution(row, classes) for row in prior or ())
        self._check("label_prior", valid, f"null, or {classes} rows of {classes} probabilities that sum to 1 each")
