"""Expression names, the id order of every dataset, and mapping between orders by name.

The most common bug of the field is to compare class ids of two datasets that number the expressions
differently. Everything here goes by canonical name; ids are never compared across datasets.
Pure standard library.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import FerError

#: The vocabulary, in FERPlus order (Barsoum et al. 2016).
EXPRESSIONS: tuple[str, ...] = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
)

#: Newer Aff-Wild2 releases have this class beside the vocabulary; it maps only onto itself.
OTHER = "other"

_ALPHABETICAL = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")

#: Ids of every dataset's classes, longest release; a release with fewer classes is a prefix of it.
LABEL_ORDERS: dict[str, tuple[str, ...]] = {
    "ferplus": EXPRESSIONS,
    "fer2013": ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"),
    # The files number the classes from 1; the loader subtracts 1.
    "rafdb": ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"),
    "affectnet": ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"),
    "affwild2": ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise", OTHER),
    "jaffe": _ALPHABETICAL,  # file-name codes AN DI FE HA NE SA SU
    "ferg": _ALPHABETICAL,  # folders per character; "joy" is happiness
    "sfew": _ALPHABETICAL,  # folder names, sorted
    "caers": _ALPHABETICAL,  # folder names, sorted
    "synthetic": EXPRESSIONS,
}

# Class counts a dataset is used with, the usual one first; datasets not named here have one.
_CLASS_COUNTS: dict[str, tuple[int, ...]] = {
    "ferplus": (8, 7),
    "affectnet": (8, 7),
    "affwild2": (7, 8),
    "synthetic": (8, 7),
}

_NEAR_NAMES: dict[str, tuple[str, ...]] = {
    "neutral": ("neutrality", "ne"),
    "happiness": ("happy", "joy", "joyful", "ha"),
    "surprise": ("surprised", "su"),
    "sadness": ("sad", "sa"),
    "anger": ("angry", "an"),
    "disgust": ("disgusted", "di"),
    "fear": ("fearful", "afraid", "scared", "fe"),
    "contempt": ("contemptuous",),
    OTHER: (),
}
_CANONICAL: dict[str, str] = {alias: name for name, aliases in _NEAR_NAMES.items() for alias in (name, *aliases)}


def label_names(dataset: str, classes: int | None = None) -> tuple[str, ...]:
    """Canonical class names of `dataset` in id order.

    Args:
        dataset: a key of `LABEL_ORDERS`.
        classes: number of classes where the dataset is used with several (FERPlus and AffectNet 8, or 7
            without contempt; Aff-Wild2 7, or 8 with "other"); None is the usual number.

    Raises:
        FerError: unknown dataset, or a class count it is not used with.
    """
    order = LABEL_ORDERS.get(dataset) if isinstance(dataset, str) else None
    if order is None:
        raise FerError(
            f"No label order is known for dataset {dataset!r}{_nearest(dataset, LABEL_ORDERS)}; "
            f"choose one of {', '.join(LABEL_ORDERS)}."
        )
    allowed = _CLASS_COUNTS.get(dataset, (len(order),))
    if classes is None:
        classes = allowed[0]
    if type(classes) is not int or classes not in allowed:  # 8.0 and True compare equal to ints
        raise FerError(
            f"Dataset {dataset!r} has no release with classes={classes!r}; "
            f"choose {' or '.join(str(count) for count in allowed)}."
        )
    return order[:classes]


def canonical_expression(name: str) -> str:
    """The vocabulary's name for `name`: "Happy", "joy" and JAFFE's "HA" are all "happiness".

    Case, spaces, underscores and hyphens do not count. "other" (Aff-Wild2) is its own name.

    Raises:
        FerError: not an expression; the sentence lists the vocabulary and the nearest name.
    """
    if isinstance(name, str):
        key = "".join(char for char in name.casefold() if not char.isspace() and char not in "_-")
        if key in _CANONICAL:
            return _CANONICAL[key]
        hint = _nearest(key, _CANONICAL)
    else:
        hint = ""
    raise FerError(
        f"{_short(name)} is not an expression name{hint}; the vocabulary is {', '.join(EXPRESSIONS)} "
        f"(and {OTHER!r} of Aff-Wild2)."
    )


@dataclass(frozen=True)
class LabelMapping:
    """How the class ids of one order go over into another, by canonical name.

    Attributes:
        source: canonical names in source id order.
        target: canonical names in target id order.
        index: `index[i]` is the target id of source id `i`, or None where the target lacks that class.
        missing_in_target: source classes that the target lacks, in source order.
        missing_in_source: target classes that the source lacks, in target order.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    index: tuple[int | None, ...]
    missing_in_target: tuple[str, ...]
    missing_in_source: tuple[str, ...]

    def describe(self) -> str:
        """One line for a person: how many classes map, how many change id, what either side lacks."""
        shared = [(i, j) for i, j in enumerate(self.index) if j is not None]
        moved = sum(i != j for i, j in shared)
        parts = [
            f"{len(shared)} of {len(self.source)} source classes map by name",
            f"{moved} to another id" if moved else "ids unchanged",
        ]
        if self.missing_in_target:
            parts.append(f"target lacks {', '.join(self.missing_in_target)}")
        if self.missing_in_source:
            parts.append(f"source lacks {', '.join(self.missing_in_source)}")
        return "; ".join(parts)


def map_labels(source: Sequence[str], target: Sequence[str]) -> LabelMapping:
    """Map the ids of the order `source` to those of the order `target`, by canonical name.

    Raises:
        FerError: a name outside the vocabulary, or one expression twice in one order.
    """
    names_from = _canonical_order(source, "source")
    names_to = _canonical_order(target, "target")
    ids = label2id(names_to)
    return LabelMapping(
        source=names_from,
        target=names_to,
        index=tuple(ids.get(name) for name in names_from),
        missing_in_target=tuple(name for name in names_from if name not in ids),
        missing_in_source=tuple(name for name in names_to if name not in names_from),
    )


def id2label(names: Sequence[str]) -> dict[int, str]:
    """`{id: name}` of an order, as a model config wants it."""
    return dict(enumerate(names))


def label2id(names: Sequence[str]) -> dict[str, int]:
    """`{name: id}` of an order, as a model config wants it."""
    return {name: index for index, name in enumerate(names)}


def _canonical_order(names: Sequence[str], side: str) -> tuple[str, ...]:
    if isinstance(names, str):
        # A string is a sequence of strings too; without this "joy" would be read letter by letter.
        raise FerError(f"The {side} label order must be a list of names, not the string {_short(names)}.")
    order = tuple(canonical_expression(name) for name in names)
    twice = next((name for i, name in enumerate(order) if name in order[:i]), None)
    if twice is not None:
        given = ", ".join(repr(name) for name, canon in zip(names, order, strict=True) if canon == twice)
        raise FerError(
            f"The {side} label order names {twice!r} more than once ({given}); each expression needs one id."
        )
    return order


def _nearest(name: object, known: dict[str, object] | dict[str, str] | dict[str, tuple[str, ...]]) -> str:
    if not isinstance(name, str):
        return ""
    # Capped: difflib is quadratic and the name may come from a hostile file.
    match = difflib.get_close_matches(name[:64].casefold(), known, n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
