"""CAER-S: stills from 79 television shows with seven expressions; whole scenes, not faces.

Lee, Kim, Kim, Park, Sohn: "Context-Aware Emotion Recognition Networks", ICCV 2019, arXiv:1908.05913. From its authors:
https://caer-dataset.github.io. For research only; the shows belong to their makers and no image may be passed on.

Official layout: `train|test/<Emotion>/0001.png` with the folders Anger, Disgust, Fear, Happy, Neutral, Sad, Surprise.
Images are as large as the video (712x400 and others). Boxes of faces are not part of the release.

Published counts differ. The paper says about 70,000 in 7 : 1 : 2, but the download has train and test only; counted
in a download they are 49,007 (7,001 a class) and 20,992. MA-Net (Zhao et al. 2021) uses 48,995 and 20,987; that its
paper prints 44,996 and 65,983 in all is a misprint, say its authors. There is **no validation split**: take one from
train. Which show or clip a still is from is not known, and stills of one scene can be in both splits.

The HSAC paper (WACV 2024, Section 4.1) tests real low resolution on the 1,223 images of CAER-S "with less than 68
pixels in width and height", which `max_side=67` asks for. Whole scenes are hardly so small: it must have measured
cropped faces, and does not say how they were cropped. So crop first, into a tree of the same layout.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FerError
from ..labels import label_names
from .image_folders import Columns, check_one_of_counts, labelled_images, readable, split_sizes, subfolders
from .raw_files import build_splits, contents, raw_folder, short

if TYPE_CHECKING:
    from datasets import DatasetDict

#: Images per split: as counted in a download, and as the authors of MA-Net count them.
PUBLISHED_COUNTS: tuple[dict[str, int], ...] = (
    {"train": 49_007, "test": 20_992},
    {"train": 48_995, "test": 20_987},
)

WHERE_TO_GET = "get it from https://caer-dataset.github.io, and give the folder that holds train and test"

_TITLE = "CAER-S"
_NAMES = label_names("caers")
_FOLDERS = ("Anger", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
_SPLITS = ("train", "test")


def load_caers(
    root: str | os.PathLike[str] | None = None, *, check_counts: bool = False, max_side: int | None = None
) -> DatasetDict:
    """CAER-S as a `DatasetDict` with splits train and test.

    Columns: `image` (`datasets.Image`; the files stay where they are), `label` (`ClassLabel` of seven), `image_name`
    (str, the path below the folder of train and test).

    Args:
        root: folder with `train` and `test`, or the one above it (`CAER-S`).
        check_counts: refuse anything but the whole release as one of `PUBLISHED_COUNTS` has it, before `max_side`.
        max_side: keep images whose width and height are both at most this many pixels (67 for HSAC's "less than 68"),
            and no split that has none. Sizes are read from the files' headers.

    Raises:
        FerError: data missing or half-downloaded, folders that are not CAER-S', a file that is no image, no image as
            small as `max_side`.
    """
    if max_side is not None and (type(max_side) is not int or max_side < 1):
        raise FerError(f"max_side={short(max_side)} must be a number of pixels, at least 1, or None.")
    above = raw_folder(_TITLE, root, WHERE_TO_GET)
    with readable(_TITLE):
        folder, places = _find(above)
        splits = {
            split: labelled_images(f"{_TITLE}, {split}", folder, place, _NAMES, _FOLDERS, WHERE_TO_GET)
            for split, place in places.items()
        }
    if check_counts:
        check_one_of_counts(_TITLE, folder, "images", split_sizes(splits), PUBLISHED_COUNTS)
    if max_side is not None:
        splits = {split: _smaller(columns, split, max_side) for split, columns in splits.items()}
        splits = {split: columns for split, columns in splits.items() if columns["label"]}
        if not splits:
            raise FerError(
                f"No image of CAER-S in {str(folder)!r} has both sides of at most max_side={max_side} pixels: the "
                "release has whole scenes; crop the faces into a tree of the same layout first, or leave max_side out."
            )
    return build_splits(splits, _NAMES)


def _find(above: Path) -> tuple[Path, dict[str, Path]]:
    """The folder of the splits, and the splits' own."""
    problems = []
    for folder in (above, above / "CAER-S"):
        if not folder.is_dir():
            continue
        held = {path.name.lower(): path for path in subfolders(folder)}
        lacking = [split for split in _SPLITS if split not in held]
        if not lacking:
            return folder, {split: held[split] for split in _SPLITS}
        problems.append(f"{folder.name}/ lacks {', '.join(lacking)} and holds {contents(folder)}")
    raise FerError(f"No complete CAER-S in {str(above)!r}: {'; '.join(problems)}; {WHERE_TO_GET}.")


def _smaller(columns: Columns, split: str, max_side: int) -> Columns:
    """The rows whose image has no side above `max_side`; decodes none."""
    from datasets.utils import tqdm

    progress = tqdm(columns["image"], desc=f"Reading sizes ({split})", unit=" images")
    keep = [max(_size(path)) <= max_side for path in progress]
    return {name: [value for value, kept in zip(column, keep, strict=True) if kept] for name, column in columns.items()}


def _size(path: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(path) as image:  # the header; pixels are read by load()
            return image.size
    except Exception as error:  # Pillow's readers raise anything from OSError to struct.error on damaged files
        raise FerError(f"CAER-S: {str(path)!r} is no image ({short(str(error))}); get it anew.") from error
