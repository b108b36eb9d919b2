"""RAF-DB, the basic subset: 15,339 faces from the web with seven expressions, about 40 annotators an image.

Li, Deng, Du: "Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition in the Wild",
CVPR 2017. Asked for from its authors: http://www.whdeng.cn/RAF/model1.html. For non-commercial research only; neither
the images nor anything made from them may be passed on, published or sold.

Official layout, below the folder `basic`:

    EmoLabel/list_patition_label.txt             "train_00001.jpg 5"; ids 1 to 7 (the misspelling is theirs)
    Image/aligned/train_00001_aligned.jpg        100x100, aligned
    Image/original/train_00001.jpg               as it was found
    Annotation/manual/train_00001_manu_attri.txt five points, one "x y" a line, then gender, race and age
    Annotation/boundingbox/train_00001_boundingbox.txt

12,271 training and 3,068 test images; there is **no validation split**: take one from train. The authors say that the
two splits have nearly the same distribution of classes, not that they share no person; persons are not annotated.

Not read: the compound subset (eleven classes such as "happily surprised", 3,162 / 792 images, in the same layout below
`compound`), whose names are outside the vocabulary that everything here compares by; gender, race and age, guesses by
annotators; and the 37 points of `Annotation/auto`, an algorithm's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FerError
from ..labels import label_names
from .image_folders import Columns, check_class_counts, readable, split_sizes
from .raw_files import build_splits, contents, inside, raw_folder, short
from .raw_files import check_counts as check_official_counts

if TYPE_CHECKING:
    from datasets import DatasetDict

IMAGES: tuple[str, ...] = ("aligned", "original")

#: Images by class, in the order of ids.
OFFICIAL_CLASS_COUNTS: dict[str, tuple[int, ...]] = {
    "train": (1_290, 281, 717, 4_772, 1_982, 705, 2_524),
    "test": (329, 74, 160, 1_185, 478, 162, 680),
}

#: Order of the five points.
LANDMARKS: tuple[str, ...] = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")

WHERE_TO_GET = (
    "ask its authors for it (http://www.whdeng.cn/RAF/model1.html), unpack the archives of the folder basic, "
    "and give that folder or the one above"
)

_TITLE = "RAF-DB"
_LIST = "EmoLabel/list_patition_label.txt"
_NAMES = label_names("rafdb")
_IDS = {str(index): index - 1 for index in range(1, len(_NAMES) + 1)}
_IMAGE = re.compile(r"(train|test)_[0-9]+\.jpg")
_MAX_COORDINATE = 1e6


def load_rafdb(
    root: str | os.PathLike[str] | None = None,
    *,
    check_counts: bool = False,
    images: str = "aligned",
    annotations: bool = False,
) -> DatasetDict:
    """RAF-DB's basic subset as a `DatasetDict` with splits train and test, in the order of the official list.

    Columns: `image` (`datasets.Image`; the files stay where they are), `label` (`ClassLabel` of seven), `image_name`
    (str, as in the list: "train_00001.jpg"), and with `annotations=True` what `Annotation/` has of
    `landmarks` (5 x 2 float32: x and y of `LANDMARKS`; left and right are the picture's) and `bbox` (4 float32: x and y
    of the top left corner, x and y of the bottom right one), both in pixels of the original image.

    Args:
        root: the folder `basic`, or the one above.
        check_counts: refuse anything but the whole official release (images per split and class).
        images: "aligned" (100x100) or "original" (any size, not cropped).
        annotations: also read points and boxes, two small files an image. For `images="original"` only: of the
            aligned images there are none.

    Raises:
        FerError: data missing, half-downloaded or malformed (the sentence names file and line); wrong option.
    """
    if images not in IMAGES:
        raise FerError(f"images={images!r} is not a form of RAF-DB's images; choose one of {', '.join(IMAGES)}.")
    if annotations and images != "original":
        raise FerError(
            "RAF-DB's points and boxes are in pixels of the original images; "
            "give images='original' with annotations=True, or leave annotations out."
        )
    above = raw_folder(_TITLE, root, WHERE_TO_GET)
    with readable(_TITLE):
        folder, pictures = _find(above, images)
    splits = _read_list(folder / _LIST, pictures, "_aligned" if images == "aligned" else "")
    if check_counts:
        expected = {split: sum(counts) for split, counts in OFFICIAL_CLASS_COUNTS.items()}
        check_official_counts(_TITLE, folder, "images", split_sizes(splits), expected)
        for split, columns in splits.items():
            counts = OFFICIAL_CLASS_COUNTS[split]
            check_class_counts(_TITLE, folder, f"{split} images", columns["label"], _NAMES, counts)
    features = _add_annotations(folder / "Annotation", splits) if annotations else {}
    return build_splits(splits, _NAMES, features)


def _find(above: Path, images: str) -> tuple[Path, Path]:
    """The folder `basic`, and its folder of images."""
    basic = above / "basic"
    folder = basic if basic.is_dir() and not (above / _LIST).is_file() else above
    pictures = folder / "Image" / images
    lacking = [] if (folder / _LIST).is_file() else [_LIST]
    if not pictures.is_dir():
        lacking.append(f"Image/{images}")
    if not lacking:
        return folder, pictures
    raise FerError(
        f"No complete RAF-DB in {str(folder)!r}: it lacks {', '.join(lacking)} and holds {contents(folder)}; "
        f"{WHERE_TO_GET}."
    )


def _read_list(file: Path, pictures: Path, suffix: str) -> dict[str, Columns]:
    """Columns of each split, with every image looked for."""
    splits: dict[str, Columns] = {
        split: {"image": [], "label": [], "image_name": []} for split in OFFICIAL_CLASS_COUNTS
    }
    lines: dict[str, int] = {}
    missing: list[tuple[int, Path]] = []
    for line, fields in _lines(file):
        where = f"{file}, line {line}"
        if len(fields) != 2:
            raise FerError(f"{where}: {len(fields)} columns, not 2 (image name and label); {WHERE_TO_GET}.")
        name, label = fields
        inside(pictures, name, where)  # a path that leaves the folder gets the sentence that says so
        match = _IMAGE.fullmatch(name)
        if match is None:
            raise FerError(f"{where}: {short(name)} is no image name such as train_00001.jpg or test_0001.jpg.")
        if label not in _IDS:
            listed = ", ".join(f"{index} {expression}" for index, expression in enumerate(_NAMES, 1))
            raise FerError(f"{where}: label {short(label)} is none of {listed}.")
        if name in lines:
            raise FerError(f"{where}: {name} is already in line {lines[name]}; get the file anew.")
        lines[name] = line
        path = pictures / f"{name.removesuffix('.jpg')}{suffix}.jpg"
        try:
            there = path.stat().st_size > 0
        except OSError:
            there = False
        if not there:
            missing.append((line, path))
        columns = splits[match[1]]
        columns["image"].append(path)
        columns["label"].append(_IDS[label])
        columns["image_name"].append(name)
    if missing:
        line, path = missing[0]
        raise FerError(
            f"{file}, line {line}: the image {str(path)!r} is not there or empty, and with it {len(missing)} of "
            f"{len(lines)} images; {WHERE_TO_GET}."
        )
    for split, columns in splits.items():
        if not columns["label"]:
            raise FerError(f"{file} names no {split} image; {WHERE_TO_GET}.")
    return splits


# --- points and boxes ---------------------------------------------------------------------------


def _add_annotations(folder: Path, splits: dict[str, Columns]) -> dict[str, Any]:
    """Add the columns `landmarks` and `bbox`, of which there is a folder, and give their features."""
    from datasets import List, Value
    from datasets.utils import tqdm

    readers: dict[str, tuple[str, str, Callable[[Path], list[Any]], Any]] = {
        "landmarks": ("manual", "_manu_attri.txt", _read_points, List(List(Value("float32"), length=2), length=5)),
        "bbox": ("boundingbox", "_boundingbox.txt", _read_box, List(Value("float32"), length=4)),
    }
    features = {}
    for column, (name, ending, read, feature) in readers.items():
        if not (folder / name).is_dir():
            continue
        features[column] = feature
        for split, columns in splits.items():
            stems = [image_name.removesuffix(".jpg") for image_name in columns["image_name"]]
            progress = tqdm(stems, desc=f"Reading {column} ({split})", unit=" files")
            columns[column] = [read(folder / name / f"{stem}{ending}") for stem in progress]
    if not features:
        listed = " or ".join(f"{name}/" for name, *_ in readers.values())
        raise FerError(f"RAF-DB has no {listed} in {str(folder)!r}; unpack it, or leave annotations out.")
    return features


def _read_points(file: Path) -> list[list[float]]:
    """Five points, (5, 2); gender, race and age, which follow, are not looked at."""
    lines = _lines(file)
    points = []
    for place in range(len(LANDMARKS)):
        line, fields = next(lines, (place + 1, []))
        points.append(_numbers(file, line, fields, 2))
    return points


def _read_box(file: Path) -> list[float]:
    """(4,): left, top, right, bottom."""
    line, fields = next(_lines(file), (1, []))
    left, top, right, bottom = box = _numbers(file, line, fields, 4)
    if left >= right or top >= bottom:  # what a box of corner, width and height would look like sooner or later
        raise FerError(f"{file}, line {line}: {short(' '.join(fields))} is no box of left, top, right and bottom.")
    return box


def _numbers(file: Path, line: int, fields: list[str], count: int) -> list[float]:
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(abs(number) <= _MAX_COORDINATE for number in numbers):  # nor NaN
        raise FerError(f"{file}, line {line}: {short(' '.join(fields))} should be {count} numbers; get the file anew.")
    return numbers


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each line that is not blank."""
    line = 0
    try:
        with file.open(encoding="utf-8-sig") as stream:
            for line, text in enumerate(stream, 1):
                if not text.isspace():
                    yield line, text.split()
    except FileNotFoundError as error:
        raise FerError(f"RAF-DB's file {str(file)!r} is not there; {WHERE_TO_GET}.") from error
    except (UnicodeDecodeError, OSError) as error:
        raise FerError(
            f"{file} cannot be read as text after line {line} ({short(str(error))}); get it anew."
        ) from error
