"""Expression names, the id order of every dataset, and mapping between orders by name.

The most common bug of the field is to compare class ids of two datasets that number the expressions
differently. Everything here goes by canonical name; ids are never compared across datasets.
Pure standard library.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
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

# "suprise", "suprised", "digust" and "happyness" are how some checkpoints and FER2013 scripts spell these. Words that
# could mean something else (calm, natural, sorrow, smile) are not here: `aliases` of `map_labels` says what they mean.
_NEAR_NAMES: dict[str, tuple[str, ...]] = {
    "neutral": ("neutrality", "ne"),
    "happiness": ("happy", "happyness", "joy", "joyful", "ha"),
    "surprise": ("surprised", "suprise", "suprised", "su"),
    "sadness": ("sad", "sa"),
    "anger": ("angry", "an"),
    "disgust": ("disgusted", "digust", "di"),
    "fear": ("fearful", "afraid", "scared", "fe"),
    "contempt": ("contemptuous",),
    OTHER: (),
}
_CANONICAL: dict[str, str] = {alias: name for name, aliases in _NEAR_NAMES.items() for alias in (name, *aliases)}
# What an error may suggest: a code of two letters is near to nearly everything, a misspelling is no advice.
_SUGGESTED: tuple[str, ...] = tuple(
    name for name in _CANONICAL if len(name) > 2 and name not in ("suprise", "suprised", "digust", "happyness")
)
_VOCABULARY = f"the vocabulary is {', '.join(EXPRESSIONS)} (and {OTHER!r} of Aff-Wild2)"
_LISTED = 10  # names that one error lists


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
    expression = find_expression(name)
    if expression is not None:
        return expression
    raise FerError(f"{_short(name)} is not an expression name{_nearest_expression(name)}; {_VOCABULARY}.")


def find_expression(name: object) -> str | None:
    """`canonical_expression(name)`, or None where that would be an error."""
    return _CANONICAL.get(_folded(name)) if isinstance(name, str) else None


@dataclass(frozen=True)
class LabelMapping:
    """How the class ids of one order go over into another, by canonical name.

    Attributes:
        source: canonical names in source id order; a class that is no expression (see `map_labels`) stands as given.
        target: canonical names in target id order.
        index: `index[i]` is the target id of source id `i`, or None where the target lacks that class.
        missing_in_target: source classes that the target lacks (those whose index is None), in source order.
        missing_in_source: target classes that the source lacks, in target order.
        renamed: `(as given, canonical)` of every source name that differs from its canonical name in more than case,
            spaces, underscores and hyphens, whether the vocabulary or an alias says so, in source order.
        no_expression: source names, as given, that an alias of None says are no expression, in source order.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    index: tuple[int | None, ...]
    missing_in_target: tuple[str, ...]
    missing_in_source: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...] = ()
    no_expression: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line for a person: how many classes map, how many change id, what either side lacks, what was read how.

        Names of a foreign checkpoint are cut, and quoted so that they cannot break the line.
        """
        shared = [(i, j) for i, j in enumerate(self.index) if j is not None]
        moved = sum(i != j for i, j in shared)
        parts = [
            f"{len(shared)} of {len(self.source)} source classes map by name",
            f"{moved} to another id" if moved else "ids unchanged",
        ]
        lacking = [name for name in self.missing_in_target if name not in self.no_expression]
        if lacking:
            parts.append(f"target lacks {', '.join(lacking)}")
        if self.missing_in_source:
            parts.append(f"source lacks {', '.join(self.missing_in_source)}")
        read = [f"{_short(given)} read as {canonical}" for given, canonical in self.renamed]
        read += [f"{_short(given)} read as no expression" for given in self.no_expression]
        if read:
            parts.append(", ".join(read))
        return "; ".join(parts)


def map_labels(
    source: Sequence[str], target: Sequence[str], *, aliases: Mapping[str, str | None] | None = None
) -> LabelMapping:
    """Map the ids of the order `source` to those of the order `target`, by canonical name.

    Args:
        source: names in source id order, such as the labels of a foreign checkpoint.
        target: names in target id order.
        aliases: what source names mean, exactly as `source` spells them: an expression name, or None for a class
            that is no expression (`{"LABEL_0": "anger", "ahegao": None}`). Aliases win over the vocabulary.

    Raises:
        FerError: names outside the vocabulary that no alias explains (one error lists them), one expression twice in
            one order, or an alias for a name that `source` lacks or whose meaning is no expression name.
    """
    names_from, no_expression = _source_order(source, aliases)
    names_to = _canonical_order(target, "target")
    ids = label2id(names_to)
    index = tuple(
        None if given in no_expression else ids.get(name) for given, name in zip(source, names_from, strict=True)
    )
    return LabelMapping(
        source=names_from,
        target=names_to,
        index=index,
        missing_in_target=tuple(name for name, i in zip(names_from, index, strict=True) if i is None),
        missing_in_source=tuple(name for i, name in enumerate(names_to) if i not in index),
        renamed=tuple(
            (given, name)
            for given, name in zip(source, names_from, strict=True)
            if given not in no_expression and _folded(given) != name
        ),
        no_expression=no_expression,
    )


def id2label(names: Sequence[str]) -> dict[int, str]:
    """`{id: name}` of an order, as a model config wants it."""
    return dict(enumerate(names))


def label2id(names: Sequence[str]) -> dict[str, int]:
    """`{name: id}` of an order, as a model config wants it."""
    return {name: index for index, name in enumerate(names)}


def _source_order(
    names: Sequence[str], aliases: Mapping[str, str | None] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Canonical names of a source order, and those names that are no expression."""
    _check_order(names, "source")
    known = {name for name in names if isinstance(name, str)}
    if aliases is None:
        aliases = {}
    elif not isinstance(aliases, Mapping):
        raise FerError(
            f"aliases must be a mapping from source label to expression name or None, not {_short(aliases)}."
        )
    strangers = [alias for alias in aliases if not isinstance(alias, str) or alias not in known]
    if strangers:
        listed = _list(f"{_short(alias)}{_nearest(alias, known)}" for alias in strangers[:_LISTED])
        raise FerError(
            f"The source labels have no {listed}{_more(len(strangers))}, for which there is an alias, but "
            f"{_list(_short(name) for name in names[:_LISTED])}{_more(len(names))}; "
            "spell aliases exactly as the source spells its labels, or leave them out."
        )
    wrong = [name for name, meaning in aliases.items() if meaning is not None and find_expression(meaning) is None]
    if wrong:
        listed = _list(
            f"{_short(name)} is to mean {_short(aliases[name])}, which is not an expression name"
            f"{_nearest_expression(aliases[name])}"
            for name in wrong[:_LISTED]
        )
        raise FerError(
            f"{listed}{_more(len(wrong))}; {_VOCABULARY}, and an alias of None says that a label is no expression."
        )
    no_expression = tuple(name for name in names if isinstance(name, str) and name in aliases and aliases[name] is None)
    meanings = [aliases.get(name, name) if isinstance(name, str) else name for name in names]
    unknown = [
        name
        for name, meaning in zip(names, meanings, strict=True)
        if meaning is not None and find_expression(meaning) is None
    ]
    if unknown:
        listed = _list(f"{_short(name)}{_nearest_expression(name)}" for name in unknown[:_LISTED])
        one = len(unknown) == 1
        raise FerError(
            f"{listed}{_more(len(unknown))} {'is not an expression name' if one else 'are not expression names'} "
            f"({len(unknown)} of {len(names)} source labels); say what {'it means' if one else 'they mean'} with "
            f"aliases= (None for no expression) or --label-map NAME=EXPRESSION: {_VOCABULARY}."
        )
    order = tuple(
        name if meaning is None else find_expression(meaning) for name, meaning in zip(names, meanings, strict=True)
    )
    _check_unique(names, order, "source")
    return order, no_expression


def _canonical_order(names: Sequence[str], side: str) -> tuple[str, ...]:
    _check_order(names, side)
    order = tuple(canonical_expression(name) for name in names)
    _check_unique(names, order, side)
    return order


def _check_order(names: Sequence[str], side: str) -> None:
    if isinstance(names, str):
        # A string is a sequence of strings too; without this "joy" would be read letter by letter.
        raise FerError(f"The {side} label order must be a list of names, not the string {_short(names)}.")


def _check_unique(names: Sequence[str], order: Sequence[str], side: str) -> None:
    seen: set[str] = set()
    twice = next((name for name in order if name in seen or seen.add(name)), None)
    if twice is not None:
        given = [name for name, canon in zip(names, order, strict=True) if canon == twice]
        raise FerError(
            f"The {side} label order names {_short(twice)} more than once "
            f"({_list(_short(name) for name in given[:_LISTED])}{_more(len(given))}); each expression needs one id."
        )


def _folded(name: str) -> str:
    """Without what does not count: case, spaces, underscores and hyphens."""
    return "".join(char for char in name.casefold() if not char.isspace() and char not in "_-")


def _nearest_expression(name: object) -> str:
    return _nearest(_folded(name[:64]), _SUGGESTED) if isinstance(name, str) else ""


def _nearest(name: object, known: Iterable[str]) -> str:
    if not isinstance(name, str):
        return ""
    # Capped: difflib is quadratic and the name may come from a hostile file.
    near = {candidate[:64].casefold(): candidate for candidate in itertools.islice(known, 100)}
    match = difflib.get_close_matches(name[:64].casefold(), near, n=1, cutoff=0.5)
    return f" (did you mean {_short(near[match[0]])}?)" if match else ""


def _list(texts: Iterable[str]) -> str:
    return ", ".join(texts)


def _more(count: int) -> str:
    return f" and {count - _LISTED} more" if count > _LISTED else ""


def _short(value: object) -> str:
    # Cut before `repr`: the value may be a whole file.
    text = repr(value[:64] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 60 else text[:57] + "..."
