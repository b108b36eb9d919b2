"""Aff-Wild2, the expression set: 2.6 million frames of videos with one label a frame (Kollias & Zafeiriou 2019).

Papers: arXiv:1811.07770 (the videos), arXiv:1910.04855 (expressions), and the reports of the ABAW competitions.
For academic research: academics with a permanent position ask for it and sign its end user licence agreement.

Official layouts, newest last; the crops of the 50 videos that came later lie in a folder of their own:

    annotations/EXPR_Set/{Training_Set,Train_Set,Validation_Set}/<video>.txt
    <...> Annotations/EXPR_Classification_Challenge/{Train_Set,Validation_Set}/<video>.txt
    <...> Annotations/EXPR_Recognition_Challenge/{Train_Set,Validation_Set}/<video>.txt
    cropped_aligned/<video>/00001.jpg, cropped_aligned_new_50_vids/<video>/00001.jpg

The first line of an annotation file names the classes, `Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise` and
in the challenges `,Other`; every line after it is the class id of one frame, -1 where there is none: line n (the
header not counted) is frame n, and its image is `n` with five digits. Where a face was not found there is no image.
A video with two people has two annotation files, `<video>_left` or `<video>_right` beside `<video>`, and for each a
folder of images of the same name; they are two groups here.

The frames of the official test split have no public labels. Published counts (Massoli et al. 2021, Table 1) are
those of `OFFICIAL_COUNTS`: images of `EXPR_Set` whose frame has a label.
"""

from __future__ import annotations

import difflib
import logging
import os
from array import array
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FerError
from ..labels import OTHER, canonical_expression, label_names
from .raw_files import Rows, cached_split, contents, files_stamp, raw_folder, short
from .raw_files import check_counts as check_official_counts

if TYPE_CHECKING:
    from datasets import DatasetDict, Features, IterableDatasetDict

FORMS: tuple[str, ...] = ("EXPR_Set", "EXPR_Classification_Challenge", "EXPR_Recognition_Challenge")

#: Images per class of the 7-class release, by split.
OFFICIAL_COUNTS: dict[str, dict[str, int]] = {
    "train": {
        "neutral": 585_896,
        "anger": 23_484,
        "disgust": 12_497,
        "fear": 11_120,
        "happiness": 149_920,
        "sadness": 100_548,
        "surprise": 38_564,
    },
    "validation": {
        "neutral": 181_884,
        "anger": 8_003,
        "disgust": 5_401,
        "fear": 9_671,
        "happiness": 52_842,
        "sadness": 38_534,
        "surprise": 22_988,
    },
}

WHERE_TO_GET = (
    "ask for Aff-Wild2 as https://sites.google.com/view/dimitrioskollias/databases/aff-wild2 says (academics, by the "
    "signed agreement), and unpack the annotations and the cropped-aligned images into one folder"
)

_TITLE = "Aff-Wild2"
_SETS = {"train": ("Training_Set", "Train_Set"), "validation": ("Validation_Set",)}
# Two archives of images, which unpack with or without a folder of the archive's name.
_IMAGES = (
    "cropped_aligned",
    "cropped_aligned_new_50_vids",
    "batch1/cropped_aligned",
    "batch2/cropped_aligned_new_50_vids",
)
# Part of the cache key: raise it when the rows that are built from the same files change.
_CACHE_VERSION = 1
# Annotation lines are short; a file without line ends must not be read into memory as one line.
_LONGEST_LINE = 256
_UNLABELLED = -1

#: Annotation file, folder of its images, name.
Video = tuple[str, str, str]

logger = logging.getLogger(__name__)


def load_affwild2(
    root: str | os.PathLike[str] | None = None,
    *,
    classes: int = 7,
    form: str | None = None,
    videos: Collection[str] | None = None,
    streaming: bool = False,
    check_counts: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> DatasetDict | IterableDatasetDict:
    """Aff-Wild2's labelled frames as a `DatasetDict` with splits train and validation, apart by video.

    The rows (paths, not images) are built once into the cache of `datasets`, keyed by the annotation files and the
    image folders, and read from there by memory-mapping: memory does not grow with the data. Images stay where they
    are and are decoded when they are read; nothing is written into `root`. A video that lies in both image folders
    is taken from `cropped_aligned`.

    Frames without a label are dropped; frames with one but without an image (no face found) are dropped and counted
    in the line that is logged when the rows are built, and so are those of "other" with 7 classes.

    Columns: `image` (`datasets.Image`, the official 112x112 crop), `label` (`ClassLabel`, mapped by the names in the
    files' first line), `group` (the video, by the name of its annotation file), `image_name` (`<video>/00001.jpg`).

    Args:
        root: folder that holds the annotations and the images.
        classes: 7, or 8 with "other" (only releases that have it).
        form: one of `FORMS`, where the folder holds several releases of the annotations.
        videos: names of the videos to take, such as `["1-30-1280x720", "10-60-1280x720_right"]`; None is all. A split
            without any of them is left out.
        streaming: give an `IterableDatasetDict` of the same rows in the same order, which reads files as it goes and
            caches nothing. Each video is a shard, so `datasets.distributed.split_dataset_by_node` and the workers of
            a `DataLoader` share them out. Nothing is logged.
        check_counts: refuse anything but the whole 7-class release: frames per class that have a label and an image
            (or, of images that were cropped anew, all frames that have a label) must be `OFFICIAL_COUNTS`. With
            `streaming` this reads all annotations once.
        cache_dir: cache folder of `datasets`; None is its default.

    Raises:
        FerError: data missing, half-downloaded or malformed (the sentence names file and line); wrong option.
    """
    names = label_names("affwild2", classes)
    if form is not None and form not in FORMS:
        raise FerError(f"form={short(form)} is not a form of {_TITLE}; choose one of {', '.join(FORMS)}.")
    listed = isinstance(videos, Collection) and not isinstance(videos, str)
    if videos is not None and not (listed and videos and all(isinstance(video, str) for video in videos)):
        raise FerError(f"videos= must be a list of video names, not {short(videos)}; leave it out to take all.")
    if check_counts and videos is not None:
        raise FerError(f"check_counts compares the whole release of {_TITLE}; leave out videos=.")
    root = raw_folder(_TITLE, root, WHERE_TO_GET)
    try:
        release, splits = _find_videos(root, form, videos)
        header = _common_header([video for part in splits.values() for video in part])
        if len(names) > len(header):
            raise FerError(f"{str(release)!r} has no class {OTHER!r}, so classes={classes} does not apply; choose 7.")
        if check_counts and OTHER in header:
            raise FerError(f"No counts are published for {str(release)!r}; load it without check_counts.")
        stamps = {} if streaming else {split: _stamp(part) for split, part in splits.items()}
    except OSError as error:
        raise FerError(f"The {_TITLE} folder {str(root)!r} cannot be read: {error}; make it readable.") from error
    if streaming:
        result: Any = _stream(splits, header, names)
        counts = {split: _count(part, header, names) for split, part in splits.items()} if check_counts else {}
    else:
        result, counts = _build(splits, header, names, stamps, cache_dir)
    for split in splits if check_counts else ():
        _check_split(root, split, counts[split], names)
    return result


def _features(names: Sequence[str]) -> Features:
    from datasets import ClassLabel, Features, Image, Value

    text = Value("string")
    return Features({"image": Image(), "label": ClassLabel(names=[*names]), "group": text, "image_name": text})


def _stream(
    splits: dict[str, tuple[Video, ...]], header: tuple[str, ...], names: tuple[str, ...]
) -> IterableDatasetDict:
    from datasets import IterableDataset, IterableDatasetDict, NamedSplit

    result = IterableDatasetDict()
    for split, videos in splits.items():
        result[split] = IterableDataset.from_generator(
            _rows,
            features=_features(names),
            # A list is what `datasets` takes for shards; of tuples, or it would take each for one.
            gen_kwargs={"videos": [*videos], "header": header, "names": names},
            split=NamedSplit(split),
        )
    return result


def _build(
    splits: dict[str, tuple[Video, ...]],
    header: tuple[str, ...],
    names: tuple[str, ...],
    stamps: dict[str, str],
    cache_dir: str | os.PathLike[str] | None,
) -> tuple[DatasetDict, dict[str, dict[str, int]]]:
    from datasets import DatasetDict

    result, counts = DatasetDict(), {}
    for split, videos in splits.items():
        dataset, counted, built = cached_split(
            _rows,
            {"videos": videos, "header": header, "names": names},
            _features(names),
            split,
            stamps[split],
            f"No frame of the {split} split of {_TITLE} has both a label and an image; {WHERE_TO_GET}.",
            cache_dir,
        )
        result[split], counts[split] = dataset, counted
        logger.log(
            logging.WARNING if built else logging.INFO,
            f"{_TITLE} {split}: {len(dataset)} frames of {len(videos)} videos; dropped: {counted['without an image']} "
            f"without an image, {counted['unlabelled']} without a label"
            + (f", {counted[f'image {OTHER}']} of {OTHER!r}" if len(names) < len(header) else ""),
        )
    return result, counts


def _stamp(videos: tuple[Video, ...]) -> str:
    return files_stamp((path for annotations, images, _ in videos for path in (annotations, images)), _CACHE_VERSION)


def _check_split(root: Path, split: str, counts: dict[str, int], names: tuple[str, ...]) -> None:
    official = OFFICIAL_COUNTS[split]
    labelled = {name: counts[f"labelled {name}"] for name in names}
    if labelled == official:
        return
    shown = " / ".join(map(str, labelled.values()))
    check_official_counts(
        _TITLE,
        root,
        f"images of labelled {split} frames (labelled frames: {shown})",
        {name: counts[f"image {name}"] for name in names},
        official,
    )


# --- finding the files --------------------------------------------------------------------------


def _find_videos(
    root: Path, form: str | None, chosen: Collection[str] | None
) -> tuple[Path, dict[str, tuple[Video, ...]]]:
    """The folder of the release below `root`, and its videos by split, in the order of their names."""
    release = _find_release(root, form)
    files = {split: _annotation_files(release, split) for split in _SETS}
    twice = sorted(files["train"].keys() & files["validation"].keys())
    if twice:
        raise FerError(
            f"{str(release)!r} has {len(twice)} videos both for training and for validation (first: {twice[0]!r}); "
            f"it is damaged: {WHERE_TO_GET}."
        )
    if chosen is not None:
        files = _choose(files, chosen)
    folders = _image_folders(root)
    wanted = [name for part in files.values() for name in part]
    missing = sorted(name for name in wanted if name not in folders)
    if missing:
        raise FerError(
            f"{_TITLE} in {str(root)!r} has no images for {len(missing)} of {len(wanted)} annotated videos: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''} should be folders in "
            f"{_IMAGES[0]}/ or {_IMAGES[1]}/ with 00001.jpg and so on (found {len(folders)} folders); {WHERE_TO_GET}; "
            "or name the videos that are there by videos=."
        )
    splits = {
        split: tuple((file, folders[name], name) for name, file in sorted(part.items()))
        for split, part in files.items()
    }
    return release, {split: part for split, part in splits.items() if part}


def _find_release(root: Path, form: str | None) -> Path:
    places, found = [root], []
    for depth in range(2):  # archives unpack into a folder of their name, which some put into another
        parents = [root] if depth == 0 else places[1:]
        places += [
            Path(entry.path)
            for parent in parents
            for entry in sorted(os.scandir(parent), key=lambda entry: entry.name)
            if "annotation" in entry.name.lower() and entry.is_dir()
        ]
    found = [place / name for place in places for name in FORMS if form in (None, name) and (place / name).is_dir()]
    if len(found) > 1:
        listed = ", ".join(str(path.relative_to(root)) for path in found)
        raise FerError(
            f"{str(root)!r} has several releases of {_TITLE}: {listed}; choose one by form=, or move the others away."
        )
    if not found:
        raise FerError(
            f"No {_TITLE} expression annotations in {str(root)!r}: looked for "
            f"{' or '.join(FORMS if form is None else [form])} in it and in its folders with 'annotations' in their "
            f"names, found {contents(root)}; {WHERE_TO_GET}."
        )
    return found[0]


def _annotation_files(release: Path, split: str) -> dict[str, str]:
    """Annotation files of a split by video."""
    folders = [release / name for name in _SETS[split] if (release / name).is_dir()]
    files = {
        entry.name[: -len(".txt")]: entry.path
        for folder in folders
        for entry in os.scandir(folder)
        if entry.name.endswith(".txt") and not entry.name.startswith(".") and entry.is_file()
    }
    if len(folders) != 1 or not files:
        names = " or ".join(f"{name}/" for name in _SETS[split])
        found = f"{folders[0].name}/ with {contents(folders[0])}" if len(folders) == 1 else contents(release)
        raise FerError(
            f"{str(release)!r} must have one folder {names} with a <video>.txt for each video, "
            f"found {found}; {WHERE_TO_GET}."
        )
    odd = next((name for name in files if not name.isprintable()), None)  # such as bytes that are no UTF-8
    if odd is not None:
        raise FerError(f"{str(folders[0])!r}: {short(odd)} is no name of a video; {WHERE_TO_GET}.")
    return files


def _choose(files: dict[str, dict[str, str]], chosen: Collection[str]) -> dict[str, dict[str, str]]:
    known = [name for part in files.values() for name in part]
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name[:128], known, n=1, cutoff=0.0)[0]
            raise FerError(
                f"{_TITLE} has no annotated video {short(name)}, the nearest is {near!r}; "
                "videos= takes the names of annotation files without .txt."
            )
    names = {*chosen}
    return {split: {name: file for name, file in part.items() if name in names} for split, part in files.items()}


def _image_folders(root: Path) -> dict[str, str]:
    """Folder of the images by video."""
    folders: dict[str, str] = {}
    for place in _IMAGES:
        if (root / place).is_dir():
            for entry in os.scandir(root / place):
                if entry.is_dir():
                    folders.setdefault(entry.name, entry.path)
    return folders


# --- reading ------------------------------------------------------------------------------------


def _common_header(videos: Sequence[Video]) -> tuple[str, ...]:
    """Canonical class names in the order of the files' ids; the same in all files, or they are of several releases."""
    header = _read_header(videos[0][0])
    for file, _, _ in videos[1:]:
        other = _read_header(file)
        if other != header:
            raise FerError(
                f"{file}, line 1: the classes are {', '.join(other)}, but {', '.join(header)} in {videos[0][0]}; "
                "keep files of one release together."
            )
    return header


def _read_header(file: str) -> tuple[str, ...]:
    with Path(file).open("rb") as stream:
        line = stream.readline(_LONGEST_LINE)
    try:
        header = tuple(canonical_expression(name) for name in line.decode("utf-8-sig").split(","))
    except (FerError, UnicodeDecodeError):
        header = ()
    if len(set(header)) != len(header) or set(header) not in ({*label_names("affwild2", 7)}, {*_all_names()}):
        raise FerError(
            f"{file}, line 1: it must name the classes (Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise and in "
            f"newer releases Other, comma-separated), not {_shown(line)}; {WHERE_TO_GET}."
        )
    return header


def _all_names() -> tuple[str, ...]:
    return label_names("affwild2", 8)


def _read_labels(file: str, header: tuple[str, ...]) -> array[int]:
    """The class id of frame n at n - 1, `_UNLABELLED` where there is none."""
    ids = {str(value).encode(): value for value in range(_UNLABELLED, len(header))}
    labels, blank = array("b"), 0
    with Path(file).open("rb") as stream:
        stream.readline(_LONGEST_LINE)
        while line := stream.readline(_LONGEST_LINE):
            value = ids.get(line.strip())
            if value is not None and not blank:
                labels.append(value)
            elif not line.strip():  # at the end it does no harm; elsewhere every later label would be one frame off
                blank = blank or len(labels) + 2
            else:
                number = blank or len(labels) + 2
                what = "an empty line" if blank else _shown(line)
                raise FerError(
                    f"{file}, line {number}: a frame's label must be a class id in 0..{len(header) - 1} or "
                    f"{_UNLABELLED}, not {what}; {WHERE_TO_GET}."
                )
    return labels


def _frames_with_image(folder: str, frames: int) -> bytearray:
    """1 at n where the image of frame n is there, 0 elsewhere."""
    there = bytearray(frames + 1)
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, dot, ending = entry.name.rpartition(".")
            if dot and ending == "jpg" and len(stem) < 10 and stem.isascii() and stem.isdigit():
                frame = int(stem)
                if 1 <= frame <= frames and stem == f"{frame:05d}" and entry.is_file():
                    there[frame] = 1
    return there


def _rows(videos: Sequence[Video], header: tuple[str, ...], names: tuple[str, ...]) -> Rows:
    """Rows of `videos`: what it holds at a time is one byte for each frame of one video, twice."""
    keep = [names.index(name) if name in names else None for name in header]
    labelled, with_image, unlabelled, rows = [0] * len(header), [0] * len(header), 0, 0
    for file, folder, video in videos:
        try:
            labels = _read_labels(file, header)
            there = _frames_with_image(folder, len(labels))
        except OSError as error:
            raise FerError(f"Video {video!r} of {_TITLE} cannot be read: {error}; make it readable.") from error
        if any(label != _UNLABELLED for label in labels) and not any(there):
            raise FerError(
                f"{folder!r} has none of the images of the {len(labels)} frames that {file} lists: there should be "
                f"00001.jpg and so on, found {contents(Path(folder))}; {WHERE_TO_GET}; or leave the video out by "
                "videos=."
            )
        for frame, label in enumerate(labels, start=1):
            if label == _UNLABELLED:
                unlabelled += 1
                continue
            labelled[label] += 1
            if not there[frame]:
                continue
            with_image[label] += 1
            kept = keep[label]
            if kept is not None:
                rows += 1
                name = f"{frame:05d}.jpg"
                yield {
                    "image": f"{folder}{os.sep}{name}",
                    "label": kept,
                    "group": video,
                    "image_name": f"{video}/{name}",
                }
    counts = {f"labelled {name}": count for name, count in zip(header, labelled, strict=True)}
    counts |= {f"image {name}": count for name, count in zip(header, with_image, strict=True)}
    lost = sum(labelled) - sum(with_image)
    return counts | {"rows": rows, "without an image": lost, "unlabelled": unlabelled}


def _count(videos: tuple[Video, ...], header: tuple[str, ...], names: tuple[str, ...]) -> dict[str, int]:
    rows = _rows(videos, header, names)
    while True:
        try:
            next(rows)
        except StopIteration as end:
            return end.value


def _shown(line: bytes) -> str:
    return short(line.strip().decode("utf-8", "backslashreplace"))
