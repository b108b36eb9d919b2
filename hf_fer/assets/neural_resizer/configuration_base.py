"""What the configurations of all methods share: labels, image size, and validation that names the field."""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Far above any method's networks: a config from strangers must not be able to ask for all the memory there is.
MAX_LABELS = 10_000
MAX_COUNT = 10**12  # training images of a class
MAX_KWARG = 16_384  # any number among a backbone's arguments
MAX_DEPTH = 256  # blocks of a stage, of which each costs memory even where it has no weights yet
# Crops that hf_fer.inference.alignment has points of: a face as FERPlus shows it, and as ArcFace's images are aligned.
FACE_TEMPLATES = ("ferplus", "arcface")
_DEPTHS = ("layers", "depths", "depth", "num_layers", "num_blocks")
# timm's own loading, which reads a file of any name, and in old releases, with torch before 2.6, ran a pickle.
_LOADING = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


class FerConfig(PreTrainedConfig):
    """Base of the methods' configurations.

    A method adds `validate_fields`, its fields, `citation` (BibTeX of its paper), and two tables of overrides:
    `ablations`, which maps the rows of the paper's tables to configurations, and `tiny`, a network of the same shape
    that trains in seconds.

    Args:
        image_size: side in px of the square input that the image processor makes.
        face_template: how faces lie in the training images, so that they can be cut out of photos alike: a name of
            FACE_TEMPLATES, or five points (x, y) in 0..1 that the images were aligned to (both eyes, tip of the nose,
            both corners of the mouth; the one further left first). None: as in FERPlus.
    """

    # Per-step scalars and maps are no predictions: keep transformers' evaluation loops from gathering them.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["losses", "attention_maps", "hidden_states"]
    citation: ClassVar[str] = ""
    ablations: ClassVar[dict[str, dict[str, Any]]] = {}
    tiny: ClassVar[dict[str, Any]] = {}

    image_size: int = 224
    face_template: str | list[list[float]] | None = None

    @classmethod
    def method_fields(cls) -> set[str]:
        """Names of the fields that transformers' own configuration does not have."""
        return {f.name for f in dataclasses.fields(cls)} - {f.name for f in dataclasses.fields(PreTrainedConfig)}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As its base, but overrides are validated with the rest, and facts about labels that are gone are dropped."""
        own = cls.method_fields() | {"id2label", "label2id"}
        given = {name: kwargs.pop(name) for name in [*kwargs] if name in own}
        labels = given.get("id2label")
        num_labels = kwargs.get("num_labels", len(labels) if labels is not None else None)
        for field in ("class_counts", "label_prior"):
            known = config_dict.get(field)
            if known is not None and field not in given and num_labels not in (None, len(known)):
                logger.warning(f"{field} is of {len(known)} labels, not {num_labels}: set to None.")
                given[field] = None
        return super().from_dict({**config_dict, **given}, **kwargs)

    def __post_init__(self, **kwargs: Any) -> None:
        # Before transformers makes a name for each of them.
        for count in (kwargs.get("num_labels"), len(self.id2label) if hasattr(self.id2label, "__len__") else None):
            valid = count is None or (isinstance(count, numbers.Integral) and count <= MAX_LABELS)
            self._check("num_labels", valid, f"an integer of at most {MAX_LABELS}", count)
        super().__post_init__(**kwargs)
        for field in self.method_fields():  # as they come back from JSON
            if isinstance(getattr(self, field), tuple):
                setattr(self, field, [*getattr(self, field)])
        self.validate_fields()

    def validate_fields(self) -> None:
        """Raises ValueError naming the first field with a value it may not have."""
        self._check("num_labels", self.num_labels >= 2, "at least 2")
        self._check_integers(8, 2048, "image_size")
        allowed = "None, " + ", ".join(map(repr, FACE_TEMPLATES)) + " or five different points (x, y) in 0..1"
        self._check("face_template", self.face_template in (None, *FACE_TEMPLATES) or self._has_points(), allowed)

    def _has_points(self) -> bool:
        points = self.face_template
        pairs = isinstance(points, (list, tuple)) and len(points) == 5
        pairs = pairs and all(isinstance(point, (list, tuple)) and len(point) == 2 for point in points)
        inside = pairs and all(_is_number(v) and 0 <= v <= 1 for point in points for v in point)
        return inside and len({tuple(point) for point in points}) == 5

    def _check(self, field: str, valid: bool, allowed: str, *value: Any) -> None:
        """Raises the sentence about a field unless its value, or the one given, is valid."""
        if not valid:
            got = repr(value[0] if value else getattr(self, field))
            got = got if len(got) <= 300 else f"{got[:300]}..."
            raise ValueError(f"{type(self).__name__}: {field} must be {allowed}, got {got}")

    def _check_flags(self, *fields: str) -> None:
        for field in fields:
            self._check(field, isinstance(getattr(self, field), bool), "true or false")

    def _check_choices(self, **choices: Iterable[str]) -> None:
        for field, allowed in choices.items():
            self._check(field, getattr(self, field) in allowed, "one of " + ", ".join(map(repr, allowed)))

    def _check_integers(self, low: int, high: int, *fields: str) -> None:
        for field in fields:
            value = getattr(self, field)
            self._check(field, _is_integer(value) and low <= value <= high, f"an integer from {low} to {high}")

    def _check_integer_lists(self, length: int, high: int, *fields: str) -> None:
        for field in fields:
            value = getattr(self, field)
            valid = isinstance(value, (list, tuple)) and len(value) == length
            valid = valid and all(_is_integer(n) and 1 <= n <= high for n in value)
            self._check(field, valid, f"{length} integers from 1 to {high}")

    def _check_class_counts(self) -> None:
        counts = self.class_counts
        valid = counts is None or (isinstance(counts, (list, tuple)) and len(counts) == self.num_labels)
        valid = valid and all(_is_integer(n) and 1 <= n <= MAX_COUNT for n in counts or ())
        allowed = f"{self.num_labels} integers of at least 1 (and at most {MAX_COUNT}), one for each label"
        self._check("class_counts", valid, allowed)

    def _check_shares(self, *fields: str, one: bool = True) -> None:
        """Numbers from 0 to 1, the latter included or not."""
        for field in fields:
            value = getattr(self, field)
            valid = _is_number(value) and (0 <= value <= 1 if one else 0 <= value < 1)
            self._check(field, valid, "a number in [0, 1]" if one else "a number in [0, 1)")

    def _check_not_negative(self, *fields: str) -> None:
        for field in fields:
            value = getattr(self, field)
            self._check(field, _is_number(value) and value >= 0, "at least 0")

    def _check_positive(self, *fields: str) -> None:
        for field in fields:
            value = getattr(self, field)
            self._check(field, _is_number(value) and value > 0, "positive")

    def _check_backbone(self) -> None:
        valid = isinstance(self.backbone, str) and re.fullmatch(r"[\w.-]{1,200}", self.backbone)
        self._check("backbone", bool(valid), "a timm model name")
        kwargs = self.backbone_kwargs
        self._check("backbone_kwargs", kwargs is None or isinstance(kwargs, dict), "a mapping")
        for name, value in (kwargs or {}).items():
            loads = name in _LOADING
            self._check("backbone_kwargs", not loads, f"without {name!r}: weights come by load_backbone_weights")
            limit = MAX_DEPTH if name in _DEPTHS else MAX_KWARG
            allowed = f"a mapping in which {name!r} holds finite numbers of at most {limit}, in short lists"
            self._check("backbone_kwargs", _is_bounded(value, limit), allowed)


class MapBackboneConfig(FerConfig):
    """Base of the methods that classify the average of a backbone's last feature maps (and so have CAMs).

    Args:
        backbone: a timm model name, "ir50" or "mobilefacenet".
        backbone_kwargs: further arguments of that model, such as `{"layers": [1, 1, 1, 1]}`.
        stem_pool: keep the max-pooling after a ResNet's stem; False for faces under 64 px.
        grayscale: the network sees the luminance (ITU-R 601) of its RGB input; the image processor must
            then normalise the three channels alike.
        dropout: before the classifier, in [0, 1).
    """

    backbone: str = "resnet18"
    backbone_kwargs: dict[str, Any] | None = None
    stem_pool: bool = True
    grayscale: bool = False
    dropout: float = 0.0

    def validate_fields(self) -> None:
        super().validate_fields()
        self._check_backbone()
        self._check_flags("stem_pool", "grayscale")
        self._check_shares("dropout", one=False)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_bounded(value: Any, limit: int, depth: int = 4) -> bool:
    """Whether all numbers in `value` are finite and of at most `limit`, and its lists and texts short."""
    if isinstance(value, (list, tuple, dict)):
        parts = value.values() if isinstance(value, dict) else value
        return depth > 0 and len(value) <= 100 and all(_is_bounded(part, limit, depth - 1) for part in parts)
    if isinstance(value, (int, float)):
        return abs(value) <= limit  # False for NaN
    return not isinstance(value, str) or len(value) <= 200


def is_distribution(row: Any, length: int) -> bool:
    """Whether `row` is `length` numbers of at least 0 that sum to 1 (to 1e-4)."""
    if not isinstance(row, Sequence) or isinstance(row, str) or len(row) != length:
        return False
    return all(_is_number(p) and p >= 0 for p in row) and abs(sum(row) - 1) < 1e-4
