"""AffectNet: a million faces from the web, 420,299 of them in the public lists of manual labels (Mollahosseini 2017).

Paper: Mollahosseini, Hasani & Mahoor, arXiv:1708.03985. For research only; lab managers and professors ask for it at
https://mohammadmahoor.com/pages/databases/affectnet/ and sign the licence agreement. Ids of the expressions:
0 neutral, 1 happiness, 2 sadness, 3 surprise, 4 fear, 5 disgust, 6 anger, 7 contempt, and 8 none, 9 uncertain,
10 no-face, which are dropped.

Two official layouts are read, whichever lies in the folder:

- `numpy`, the newer one, cropped faces of 224x224: `train_set/` and `val_set/`, each with `images/<id>.jpg` and
  `annotations/<id>_exp.npy`, `_val.npy`, `_aro.npy`, `_lnd.npy`; the first three hold one value, as text or number,
  the last 68 points;
- `csv`, the older one: `Manually_Annotated_file_lists/training.csv` and `validation.csv` with
  `subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal` (copies are
  about whose `validation.csv` has no header line) and `Manually_Annotated_Images/`; beside them
  `Automatically_Annotated_file_lists/automatically_annotated.csv` and `Automatically_Annotated_Images/`, labelled by a
  network.

Published counts (per class: `OFFICIAL_TRAIN`): 287,651 images for training and 4,000 for validation with 8 classes,
283,901 and 3,500 with 7; the newer release has 3,999 for validation, one contempt less. The labels of the official test
split are not public, so the field reports on the validation split. Who also selects the checkpoint there reports the
best of many tries: select on a part of the training split, and have a protocol report on validation once.

Known blemishes, kept so that counts stay comparable: the older lists name some images twice, and a few images cannot be
decoded (a public loader skips `103/29a31ebf1567693f4644c8ba3476ca9a72ee07fe67a5860d98707a0a.jpg`).
"""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import FerError
from ..labels import label_names
from .raw_files import Rows, cached_split, contents, files_stamp, inside, raw_folder, short
from .raw_files import check_counts as check_official_counts

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

FORMS: tuple[str, ...] = ("numpy", "csv")
ANNOTATIONS: tuple[str, ...] = ("manual", "automatic")

#: Ids from 8 on; images of these classes are dropped.
NO_EXPRESSION: tuple[str, ...] = ("none", "uncertain", "no-face")

#: Training images per class, in id order; the manual lists and the newer release have the same.
OFFICIAL_TRAIN: tuple[int, ...] = (74_874, 134_415, 25_459, 14_090, 6_378, 3_803, 24_882, 3_750)
#: Validation images per class; 499 of contempt in the newer release.
OFFICIAL_VALIDATION = 500
#: Rows of the manual lists, of every class.
OFFICIAL_ROWS: dict[str, int] = {"train": 414_799, "validation": 5_500}

WHERE_TO_GET = (
    "ask for AffectNet at https://mohammadmahoor.com/pages/databases/affectnet/ (lab managers and professors, by the "
    "signed agreement), and unpack it as it comes"
)

_TITLE = "AffectNet"
_NAMES = label_names("affectnet")
_COLUMNS = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
_SETS = {"train": "train_set", "validation": "val_set"}
# The first of each pair is the official name of list and folder of lists; the archives differ in spelling.
_LISTS = {
    "training.csv": ("Manually_Annotated_file_lists", "."),
    "validation.csv": ("Manually_Annotated_file_lists", "."),
    "automatically_annotated.csv": ("Automatically_Annotated_file_lists", "Automatically_annotated_file_list", "."),
}
_MANUAL_IMAGES = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images")
_AUTOMATIC_IMAGES = ("Automatically_Annotated_Images", "Automatically_Annotated/Automatically_Annotated_Images")

# Part of the cache key: raise it when the rows that are built from the same files change.
_CACHE_VERSION = 2
_IMAGE = re.compile(r"(0|[1-9][0-9]{0,8})\.jpg")
_ANNOTATION = re.compile(r"(0|[1-9][0-9]{0,8})_(exp|val|aro|lnd)\.npy")
_IDS = {str(value): value for value in range(len(_NAMES) + len(NO_EXPRESSION))}
_POINTS = 68
# Marks a value that was not annotated (none, uncertain, no-face).
_NO_VALUE = -2.0
_MAX_COORDINATE = 1e6
# 68 points of 8 bytes are 1.1 kB, and a numpy header 128 bytes.
_MAX_NPY_BYTES = 8192
_THREADS, _IDS_PER_TASK = 8, 128

Row = dict[str, Any]

logger = logging.getLogger(__name__)


def load_affectnet(
    root: str | os.PathLike[str] | None = None,
    *,
    classes: int = 8,
    form: str | None = None,
    annotations: str = "manual",
    check_counts: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> DatasetDict:
    """AffectNet's faces with an expression as a `DatasetDict` with splits train and validation.

    The annotations (a million small files in the newer release, minutes) are read once into the cache of `datasets`,
    keyed by the annotation files' paths, sizes and times. Images stay where they are and are decoded when they are
    read; nothing is written into `root`. Images of none, uncertain and no-face are dropped and counted in the line
    that is logged when the rows are built.

    Columns: `image` (`datasets.Image`), `label` (`ClassLabel`), `valence` and `arousal` (float32 in -1..1, None where
    there is none), `landmarks` (68 points x, y as the release has them, float32, None where there are none), in the
    form `csv` `bbox` (x, y, width, height as the list has them, float32), `image_name` (the file, below the folder of
    images).

    Args:
        root: folder with one of the two layouts.
        classes: 8, or 7 without contempt.
        form: one of `FORMS`, or None to take the first that is complete.
        annotations: which training images of the form `csv`: "manual" or "automatic"; validation is always manual.
        check_counts: refuse anything but the whole official release (images per class; rows of the lists).
        cache_dir: cache folder of `datasets`; None is its default.

    Raises:
        FerError: data missing, half-downloaded or malformed (the sentence names file and line); wrong option.
    """
    names = label_names("affectnet", classes)
    if form is not None and form not in FORMS:
        raise FerError(f"form={short(form)} is not a form of {_TITLE}; choose one of {', '.join(FORMS)}.")
    if annotations not in ANNOTATIONS:
        raise FerError(f"annotations={short(annotations)} is none of {_TITLE}; choose one of {', '.join(ANNOTATIONS)}.")
    if annotations == "automatic":
        if form == "numpy":
            raise FerError(f"{_TITLE} has automatic annotations only in the form 'csv'; leave out form='numpy'.")
        if check_counts:
            raise FerError(f"No counts are published for {_TITLE}'s automatic annotations; leave out check_counts.")
        form = "csv"
    root = raw_folder(_TITLE, root, WHERE_TO_GET)
    try:
        form, sources = _find_files(root, form, annotations)
        stamps = {split: _stamp(form, source) for split, source in sources.items()}
    except OSError as error:
        raise FerError(f"The {_TITLE} folder {str(root)!r} cannot be read: {error}; make it readable.") from error

    from datasets import DatasetDict

    result = DatasetDict()
    counts = {}
    for split, source in sources.items():
        empty = f"{source[0]!r} has no image with an expression for the {split} split; {WHERE_TO_GET}."
        dataset, counts[split], built = cached_split(
            _READERS[form], {"source": source}, _features(form), split, stamps[split], empty, cache_dir
        )
        result[split] = _choose_classes(dataset, names)
        dropped = {name: counts[split][name] for name in NO_EXPRESSION}
        dropped |= {name: len(dataset) - len(result[split]) for name in _NAMES[len(names) :]}
        logger.log(
            logging.WARNING if built else logging.INFO,
            f"{_TITLE} {split}: {len(result[split])} images; dropped: "
            + ", ".join(f"{count} {name}" for name, count in dropped.items()),
        )
    if check_counts:
        _check_release(root, form, result, counts, names)
    return result


def _features(form: str) -> Features:
    from datasets import ClassLabel, Features, Image, List, Value

    number = Value("float32")
    columns = {"image": Image(), "label": ClassLabel(names=[*_NAMES]), "valence": number, "arousal": number}
    columns["landmarks"] = List(List(number, length=2), length=_POINTS)
    if form == "csv":
        columns["bbox"] = List(number, length=4)
    return Features({**columns, "image_name": Value("string")})


def _choose_classes(dataset: Dataset, names: tuple[str, ...]) -> Dataset:
    """The rows of the first classes, under their names; copies nothing."""
    if len(names) == len(_NAMES):
        return dataset
    from datasets import ClassLabel

    labels = dataset.data.column("label").to_numpy()
    columns = dataset.column_names
    keep = np.flatnonzero(labels < len(names))
    # The class that goes is none of the new names; its rows are gone right after.
    labels = np.minimum(labels, len(names) - 1)
    dataset = dataset.remove_columns("label").add_column("label", labels, feature=ClassLabel(names=[*names]))
    return dataset.select_columns(columns).select(keep)


def _check_release(
    root: Path, form: str, result: DatasetDict, counts: dict[str, dict[str, int]], names: tuple[str, ...]
) -> None:
    for split, dataset in result.items():
        per_class = np.bincount(np.asarray(dataset["label"][:]), minlength=len(names)).tolist()
        found = dict(zip(names, per_class, strict=True))
        expected = OFFICIAL_TRAIN if split == "train" else (OFFICIAL_VALIDATION,) * len(_NAMES)
        official = dict(zip(names, expected[: len(names)], strict=True))
        if form == "numpy" and split == "validation" and found.get("contempt") == OFFICIAL_VALIDATION - 1:
            official["contempt"] -= 1
        check_official_counts(_TITLE, root, f"{split} images", found, official)
    if form == "csv":
        rows = {split: sum(count.values()) for split, count in counts.items()}
        check_official_counts(_TITLE, root, "rows of the lists", rows, OFFICIAL_ROWS)


def _stamp(form: str, source: tuple[str, ...]) -> str:
    if form == "csv":
        return files_stamp(source[:1], _CACHE_VERSION)
    annotations, images = source
    with os.scandir(annotations) as entries:
        # Also a file that was written over in place, which the folder's own time does not show.
        stamp = files_stamp((entry for entry in entries if entry.name.endswith(".npy")), _CACHE_VERSION)
    return files_stamp([images], stamp)


# --- finding the files --------------------------------------------------------------------------

#: By split: `numpy` annotations and images folder, `csv` list and images folder.
Sources = dict[str, tuple[str, ...]]


def _find_files(root: Path, form: str | None, annotations: str) -> tuple[str, Sources]:
    """The first complete form in `root` and its files by split."""
    problems = []
    for candidate in FORMS if form is None else (form,):
        sources, missing = _find_numpy(root) if candidate == "numpy" else _find_csv(root, annotations)
        if not missing:
            return candidate, sources
        problems.append(f"as {candidate} it lacks {', '.join(missing)}")
    raise FerError(
        f"No complete {_TITLE} in {str(root)!r}: {'; '.join(problems)}; found {contents(root)}; {WHERE_TO_GET}."
    )


def _find_numpy(root: Path) -> tuple[Sources, list[str]]:
    sources, missing = {}, []
    for split, name in _SETS.items():
        folders = [root / name / "annotations", root / name / "images"]
        sources[split] = tuple(str(folder) for folder in folders)
        endings = ("<id>_exp.npy", "<id>.jpg")
        for folder, files in zip(folders, endings, strict=True):
            if not folder.is_dir() or next(os.scandir(folder), None) is None:
                missing.append(f"{name}/{folder.name}/{files}")
    return sources, missing


def _find_csv(root: Path, annotations: str) -> tuple[Sources, list[str]]:
    train = "training.csv" if annotations == "manual" else "automatically_annotated.csv"
    sources, missing = {}, []
    for split, name in (("train", train), ("validation", "validation.csv")):
        files = [root / folder / name for folder in _LISTS[name]]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            missing.append(f"{_LISTS[name][0]}/{name}")
        folders = _AUTOMATIC_IMAGES if name == "automatically_annotated.csv" else _MANUAL_IMAGES
        images = next((root / folder for folder in folders if (root / folder).is_dir()), None)
        if images is None and f"{folders[0]}/" not in missing:
            missing.append(f"{folders[0]}/")
        sources[split] = (str(file), str(images))
    return sources, missing


# --- the newer release --------------------------------------------------------------------------


def _read_numpy(source: tuple[str, ...]) -> Rows:
    """Rows of one split in the order of the ids; annotation files are read by threads, which is what a disk wants."""
    from datasets.utils import tqdm

    annotations, images = source
    ids, with_landmarks = _pair(annotations, images)
    dropped = dict.fromkeys(NO_EXPRESSION, 0)

    def read(part: Sequence[int]) -> list[Row | str]:
        return [_read_face(annotations, images, face, face in with_landmarks) for face in part]

    with tqdm(total=len(ids), unit="face", desc=f"{_TITLE} annotations") as progress:
        for faces in _in_threads(read, ids):
            for face in faces:
                if isinstance(face, str):
                    dropped[face] += 1
                else:
                    yield face
            progress.update(len(faces))
    return {"rows": len(ids) - sum(dropped.values()), **dropped}


def _in_threads(read: Callable[[Sequence[int]], list[Row | str]], ids: Sequence[int]) -> Iterator[list[Row | str]]:
    """`read` of parts of `ids`, in their order, a few parts ahead of who consumes them."""
    parts = (ids[start : start + _IDS_PER_TASK] for start in range(0, len(ids), _IDS_PER_TASK))
    waiting: deque[Future[list[Row | str]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for part in parts:
                waiting.append(pool.submit(read, part))
                if len(waiting) > 2 * _THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # after an error nothing more is read
            for future in waiting:
                future.cancel()


def _pair(annotations: str, images: str) -> tuple[list[int], set[int]]:
    """Ids of the faces, ascending, and those of them that have landmarks; images and annotations must go together."""
    found: dict[str, set[int]] = {"jpg": set(), "exp": set(), "val": set(), "aro": set(), "lnd": set()}
    try:
        with os.scandir(images) as entries:
            found["jpg"].update(int(match[1]) for entry in entries if (match := _IMAGE.fullmatch(entry.name)))
        with os.scandir(annotations) as entries:
            for entry in entries:
                if match := _ANNOTATION.fullmatch(entry.name):
                    found[match[2]].add(int(match[1]))
    except OSError as error:
        raise FerError(f"Images and annotations of {_TITLE} cannot be read: {error}; make them readable.") from error
    ids = found["jpg"] | found["exp"] | found["val"] | found["aro"]
    if not ids:
        raise FerError(
            f"{images!r} should have <id>.jpg and {annotations!r} <id>_exp.npy with whole numbers for ids, found "
            f"{contents(Path(images))} and {contents(Path(annotations))}; {WHERE_TO_GET}."
        )
    lacking = []
    for kind, where in (("jpg", images), ("exp", annotations), ("val", annotations), ("aro", annotations)):
        missing = ids - found[kind]
        if missing:
            name = f"{min(missing)}.jpg" if kind == "jpg" else f"{min(missing)}_{kind}.npy"
            lacking.append(f"{len(missing)} files in {where!r} (first: {name})")
    if lacking:
        raise FerError(
            f"Images and annotations of {_TITLE} do not go together: of {len(ids)} faces there lack "
            f"{' and '.join(lacking)}; {WHERE_TO_GET}."
        )
    return sorted(ids), found["lnd"]


def _read_face(annotations: str, images: str, face: int, with_landmarks: bool) -> Row | str:
    """The row of one face, or why it is dropped."""
    prefix = f"{annotations}{os.sep}{face}_"
    expression = _expression(_read_value(f"{prefix}exp.npy"), f"{prefix}exp.npy")
    if expression >= len(_NAMES):
        return NO_EXPRESSION[expression - len(_NAMES)]
    landmarks = None
    if with_landmarks:
        landmarks = _read_npy(f"{prefix}lnd.npy")
        if landmarks.dtype.kind in "US" or landmarks.shape not in ((2 * _POINTS,), (_POINTS, 2)):
            raise FerError(
                f"{prefix}lnd.npy: landmarks must be {2 * _POINTS} numbers, not {landmarks.dtype} of shape "
                f"{landmarks.shape}; {WHERE_TO_GET}."
            )
        landmarks = _points(landmarks.reshape(_POINTS, 2), f"{prefix}lnd.npy")
    return {
        "image": f"{images}{os.sep}{face}.jpg",
        "label": expression,
        "valence": _affect(_read_value(f"{prefix}val.npy"), f"{prefix}val.npy"),
        "arousal": _affect(_read_value(f"{prefix}aro.npy"), f"{prefix}aro.npy"),
        "landmarks": landmarks,
        "image_name": f"{face}.jpg",
    }


def _read_value(file: str) -> str:
    """The one value of a numpy file, as text."""
    array = _read_npy(file)
    if array.shape not in ((), (1,)):
        raise FerError(f"{file}: it must hold one value, not shape {array.shape}; {WHERE_TO_GET}.")
    value = array.reshape(()).item()
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _read_npy(file: str) -> np.ndarray:
    """A small array of numbers or text.

    As `numpy.load(file, allow_pickle=False)`, but size, type and shape are checked before anything is allocated,
    and a header that was read once is not parsed again: there are a million files and few headers.
    """
    try:
        with open(file, "rb") as stream:  # noqa: PTH123 - a million times
            data = stream.read(_MAX_NPY_BYTES + 1)
    except OSError as error:
        raise FerError(f"{file} cannot be read: {error}; make it readable.") from error
    wide = data[6:7] > b"\x01"  # version 1 has two bytes for the header's length, later ones four
    start = 12 + int.from_bytes(data[8:12], "little") if wide else 10 + int.from_bytes(data[8:10], "little")
    try:
        if len(data) > _MAX_NPY_BYTES:
            raise ValueError(f"more than {_MAX_NPY_BYTES} bytes")
        dtype, shape, order = _parse_header(data[:start])
        if math.prod(shape) * dtype.itemsize != len(data) - start:
            raise ValueError(f"{len(data) - start} bytes for {dtype} of shape {shape}")
        return np.frombuffer(data, dtype, offset=start).reshape(shape, order=order)
    except Exception as error:  # numpy's parser raises anything from ValueError to RecursionError on odd headers
        raise FerError(f"{file} is no numpy file of {_TITLE} ({short(str(error))}); {WHERE_TO_GET}.") from error


@lru_cache(maxsize=256)
def _parse_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], Literal["C", "F"]]:
    """Type, shape and order; an exception for anything but small arrays of numbers and text: objects are unpickled."""
    stream = io.BytesIO(header)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(stream)
    if dtype.kind not in "iufUS" or dtype.itemsize == 0 or dtype.hasobject:
        raise ValueError(f"its type is {dtype}")
    if len(shape) > 2 or any(type(size) is not int or not 1 <= size <= _MAX_NPY_BYTES for size in shape):
        raise ValueError(f"its shape is {shape}")
    return dtype, shape, "F" if by_columns else "C"


# --- the older release --------------------------------------------------------------------------


def _read_csv(source: tuple[str, ...]) -> Rows:
    """Rows of one list, in its order."""
    file, images = source[0], Path(source[1])
    dropped = dict.fromkeys(NO_EXPRESSION, 0)
    kept = missing = 0
    first_missing = ""
    files: dict[Path, set[str]] = {}
    for line, fields in _csv_rows(file):
        where = f"{file}, line {line}"
        expression = _expression(fields[6], where)
        if expression >= len(_NAMES):
            dropped[NO_EXPRESSION[expression - len(_NAMES)]] += 1
            continue
        path = inside(images, fields[0], where)
        kept += 1
        # Folders are listed, a thousand of them, rather than half a million files asked for.
        if path.parent not in files:
            files[path.parent] = _file_names(path.parent)
        if path.name not in files[path.parent]:
            missing += 1
            first_missing = first_missing or f"{short(fields[0])} in line {line}"
            continue
        yield {
            "image": str(path),
            "label": expression,
            "valence": _affect(fields[7], where),
            "arousal": _affect(fields[8], where),
            "landmarks": _csv_landmarks(fields[5], where),
            "bbox": [_number(field, where, "the face box") for field in fields[1:5]],
            "image_name": path.relative_to(images).as_posix(),
        }
    if missing:
        raise FerError(
            f"{file} lists {kept} images with an expression, but {missing} of them are not in {str(images)!r} (first: "
            f"{first_missing}); {WHERE_TO_GET}."
        )
    return {"rows": kept, **dropped}


def _file_names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return set()


def _csv_rows(file: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, stripped fields) of the rows of a list, with or without the header line."""
    line = 0
    try:
        with Path(file).open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            for row in reader:
                line = reader.line_num
                fields = [field.strip() for field in row]
                if not any(fields):
                    continue
                if line == 1 and [field.lower() for field in fields] == [name.lower() for name in _COLUMNS]:
                    continue
                if len(fields) != len(_COLUMNS) or (line == 1 and not fields[6].isdigit()):
                    raise FerError(
                        f"{file}, line {line}: the columns must be {','.join(_COLUMNS)}, "
                        f"not {short(','.join(fields))}; {WHERE_TO_GET}."
                    )
                yield line, fields
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise FerError(f"{file} cannot be read as CSV after line {line} ({short(str(error))}).") from error


def _csv_landmarks(field: str, where: str) -> np.ndarray | None:
    if not field:
        return None
    values = field.split(";")
    if len(values) != 2 * _POINTS:
        raise FerError(f"{where}: {len(values)} landmark coordinates, not {2 * _POINTS}; {WHERE_TO_GET}.")
    return _points(np.array([_number(value, where, "landmarks") for value in values]).reshape(_POINTS, 2), where)


_READERS = {"numpy": _read_numpy, "csv": _read_csv}


# --- values -------------------------------------------------------------------------------------


def _expression(text: str, where: str) -> int:
    expression = _IDS.get(text)
    if expression is None:
        raise FerError(
            f"{where}: the expression must be an id in 0..{len(_IDS) - 1}, not {short(text)}; {WHERE_TO_GET}."
        )
    return expression


def _affect(text: str, where: str) -> float | None:
    """Valence or arousal; None where it was not annotated."""
    value = _number(text, where, "valence and arousal")
    if value == _NO_VALUE:
        return None
    if abs(value) > 1:
        raise FerError(f"{where}: valence and arousal must lie in -1..1 or be -2, not {short(text)}; {WHERE_TO_GET}.")
    return value


def _number(text: str, where: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= _MAX_COORDINATE:  # also where it is no number
        raise FerError(f"{where}: {what} must be numbers, not {short(text)}; {WHERE_TO_GET}.")
    return value


def _points(points: np.ndarray, where: str) -> np.ndarray:
    """(68, 2) float32."""
    if not (np.abs(points) <= _MAX_COORDINATE).all():
        raise FerError(f"{where}: the landmarks must be numbers up to {_MAX_COORDINATE:.0f}; {WHERE_TO_GET}.")
    return points.astype(np.float32)
