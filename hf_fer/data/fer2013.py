"""FER2013: 48x48 grey faces of seven expressions from a web image search (Goodfellow et al. 2013, arXiv:1307.0414).

Made by P.-L. Carrier and A. Courville for Kaggle's "Challenges in Representation Learning: Facial Expression
Recognition Challenge", which has it (fer2013.tar.gz). The competition's rules apply; the pictures were found on the web
and belong to others: use them for research, and do not pass them on.

Two forms of the raw data are read, whichever lies in the folder:

- `csv`: `fer2013.csv` (`emotion,pixels,Usage`), 35,887 rows: Training 28,709, PublicTest 3,589, PrivateTest 3,589,
  which become train, validation and test;
- `folders`: the newer Kaggle form, `train|test/<emotion>/*.jpg` or `*.png`, 28,709 / 7,178 images. Its test set is
  PublicTest and PrivateTest together, so it has **no validation split**: take one from train, and do not compare its
  test figures with those on PrivateTest alone.

Class ids are those of the CSV in both. The labels are known to be noisy; FERPlus votes on the same images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FerError
from ..labels import label_names
from .fer2013_csv import KAGGLE, USAGE, cached_rows, check_usage, csv_rows, encode_pixels, file_stamp, find_columns
from .image_folders import Columns, check_class_counts, labelled_images, readable
from .raw_files import build_splits, contents, raw_folder, short
from .raw_files import check_counts as check_official_counts

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

FORMS: tuple[str, ...] = ("csv", "folders")

#: Images by class (ids of `label_names("fer2013")`) of the CSV's splits.
OFFICIAL_CLASS_COUNTS: dict[str, tuple[int, ...]] = {
    "train": (3_995, 436, 4_097, 7_215, 4_830, 3_171, 4_965),
    "validation": (467, 56, 496, 895, 653, 415, 607),
    "test": (491, 55, 528, 879, 594, 416, 626),
}

WHERE_TO_GET = (
    f"get {KAGGLE}, or its newer form with the folders train and test of one folder for each expression, "
    "and give the folder that holds it"
)

_TITLE = "FER2013"
_NAMES = label_names("fer2013")
_FOLDERS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
_IDS = {str(index): index for index in range(len(_NAMES))}
# Part of the cache key: raise it when the rows that are built from the same file change.
_CACHE_VERSION = 1


def load_fer2013(
    root: str | os.PathLike[str] | None = None,
    *,
    check_counts: bool = False,
    form: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> DatasetDict:
    """FER2013 as a `DatasetDict`: train, validation (PublicTest), test (PrivateTest); of `folders` train and test.

    Columns: `image` (`datasets.Image`; 48x48, grey), `label` (`ClassLabel` of seven), `image_name` (str: of `csv`
    "row00017", its place among the rows of the whole file from 0, which is not the number in FERPlus' names; of
    `folders` the path below the folder of train and test).

    The rows of `csv` are built once into the cache of `datasets` (keyed by the file's path, size and time); images of
    `folders` stay where they are. Both are decoded when they are read, and nothing is written into `root`.

    Args:
        root: folder with one of the two forms, directly or in `fer2013/` or `data/`.
        check_counts: refuse anything but the whole official release (images per split and class).
        form: one of `FORMS`, or None to take the first that is complete.
        cache_dir: cache folder of `datasets` for `csv`; None is its default.

    Raises:
        FerError: data missing, half-downloaded or malformed (the sentence names file and line); wrong option.
    """
    if form is not None and form not in FORMS:
        raise FerError(f"form={form!r} is not a form of FER2013; choose one of {', '.join(FORMS)}.")
    folder = raw_folder(_TITLE, root, WHERE_TO_GET)
    with readable(_TITLE):
        form, place = _find(folder, form)
        if form == "csv":
            stamp = file_stamp([place])
        else:
            splits = {split: _folder_columns(place, split) for split in ("train", "test")}
    result = _load_csv(place, stamp, cache_dir) if form == "csv" else build_splits(splits, _NAMES)
    if check_counts:
        _check_counts(place, form, result)
    return result


def _find(root: Path, form: str | None) -> tuple[str, Path]:
    """The first complete form below `root`, and the file of `csv` or the folder of `folders`."""
    places = (root, root / "fer2013", root / "data")
    problems = []
    if form in (None, "csv"):
        for place in places:
            if (place / "fer2013.csv").is_file():
                return "csv", place / "fer2013.csv"
        problems.append("as csv it lacks fer2013.csv")
    if form in (None, "folders"):
        for place in places:
            lacking = [split for split in ("train", "test") if not (place / split).is_dir()]
            if not lacking:
                return "folders", place
            if place == root or len(lacking) == 1:
                below = "" if place == root else f" (in {place.name}/)"
                problems.append(f"as folders{below} it lacks {', '.join(lacking)}")
    raise FerError(
        f"No complete FER2013 in {str(root)!r} (it holds {contents(root)}): {'; '.join(problems)}; {WHERE_TO_GET}."
    )


def _folder_columns(root: Path, split: str) -> Columns:
    return labelled_images(_TITLE, root, root / split, _NAMES, _FOLDERS, WHERE_TO_GET)


def _check_counts(place: Path, form: str, dataset: DatasetDict) -> None:
    counts = OFFICIAL_CLASS_COUNTS
    if form == "folders":
        both = tuple(map(sum, zip(counts["validation"], counts["test"], strict=True)))
        counts = {"train": counts["train"], "test": both}
    found = {split: len(rows) for split, rows in dataset.items()}
    check_official_counts(_TITLE, place, "images", found, {split: sum(counts[split]) for split in counts})
    for split, rows in dataset.items():
        check_class_counts(_TITLE, place, f"{split} images", rows["label"][:], _NAMES, counts[split])


# --- fer2013.csv --------------------------------------------------------------------------------


def _load_csv(file: Path, stamp: str, cache_dir: str | os.PathLike[str] | None) -> DatasetDict:
    from datasets import ClassLabel, DatasetDict, Features, Image, Value

    features = Features({"image": Image(), "label": ClassLabel(names=[*_NAMES]), "image_name": Value("string")})
    splits: dict[str, Dataset] = {}
    for split in USAGE:
        arguments = {"file": str(file), "split": split, "stamp": (_CACHE_VERSION, stamp)}
        splits[split] = cached_rows(_csv_split, arguments, features, cache_dir)
    return DatasetDict(splits)


def _csv_split(file: str, split: str, stamp: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """The rows of a split; `stamp` is only there to be hashed."""
    rows = csv_rows(file, header=True, where_to_get=WHERE_TO_GET)
    _, header = next(rows, (0, []))
    wanted = ("emotion", "pixels", "usage")
    emotion_column, pixel_column, usage_column = find_columns(file, header, wanted, WHERE_TO_GET)
    empty = True
    for place, (line, row) in enumerate(rows):
        if len(row) != len(header):
            raise FerError(f"{file}, line {line}: {len(row)} columns, not {len(header)}.")
        check_usage(file, line, row[usage_column])
        if row[usage_column] != USAGE[split]:
            continue
        emotion = row[emotion_column]
        if emotion not in _IDS:
            listed = ", ".join(f"{index} {name}" for index, name in enumerate(_NAMES))
            raise FerError(f"{file}, line {line}: emotion {short(emotion)} is none of {listed}.")
        empty = False
        name = f"row{place:05d}"
        data = encode_pixels(row[pixel_column], file, line, WHERE_TO_GET)
        yield {"image": {"bytes": data, "path": f"{name}.png"}, "label": _IDS[emotion], "image_name": name}
    if empty:
        raise FerError(f"{file} has no row of the {split} split ({USAGE[split]}); {WHERE_TO_GET}.")
