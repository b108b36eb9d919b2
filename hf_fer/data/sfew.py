"""SFEW 2.0, the aligned faces: stills from feature films with seven expressions, 143x181.

Dhall, Goecke, Lucey, Gedeon: "Static Facial Expression Analysis in Tough Conditions", ICCV workshops 2011; version 2.0
is the set of the EmotiW 2015 challenge (Dhall et al., ICMI 2015). Asked for from its authors:
https://users.cecs.anu.edu.au/~few_group/AFEW.html. For academic research under a signed agreement; the films belong to
their makers and no image may be passed on.

Official layout, with the archives of aligned faces unpacked where they lie:

    Train/Train_Aligned_Faces/<Emotion>/Airheads_000519240_00000005.png
    Val/Val_Aligned_Faces/<Emotion>/*.png        also below Val_Aligned_Faces_new, a later archive
    Test/Test_Aligned_Faces/*.png                without labels: not read

with the folders Angry, Disgust, Fear, Happy, Neutral, Sad, Surprise. `Train_Aligned_Faces` and `Val_Aligned_Faces` may
also lie at the top.

Published counts: 958 / 436 / 372 stills in train, validation and test, of which 891 train and 431 validation images
come aligned. Some of those show no face. Papers that align by themselves end up with other numbers (427 for validation
is said of some; the figures of HSAC's Table 2 are multiples of 1/404): say which images and how many. The labels of
test are kept by the organisers, so that papers report on validation: then do not choose epochs on it, too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FerError
from ..labels import label_names
from .image_folders import Columns, check_class_counts, labelled_images, readable, split_sizes, subfolders
from .raw_files import build_splits, contents, raw_folder
from .raw_files import check_counts as check_official_counts

if TYPE_CHECKING:
    from datasets import DatasetDict

#: Aligned images by class, in the order of ids.
OFFICIAL_CLASS_COUNTS: dict[str, tuple[int, ...]] = {
    "train": (178, 52, 78, 184, 144, 161, 94),
    "validation": (77, 23, 46, 72, 84, 73, 56),
}

WHERE_TO_GET = (
    "ask its authors for it (https://users.cecs.anu.edu.au/~few_group/AFEW.html), unpack Train_Aligned_Faces.zip and "
    "Val_Aligned_Faces_new.zip, and give the folder that holds Train and Val"
)

_TITLE = "SFEW 2.0"
_NAMES = label_names("sfew")
_FOLDERS = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
_PARTS = {"train": "Train", "validation": "Val"}
_STILL = re.compile(r"(?P<film>.+)_[0-9]{9}_[0-9]{8}")


def load_sfew(root: str | os.PathLike[str] | None = None, *, check_counts: bool = False) -> DatasetDict:
    """SFEW 2.0's aligned faces as a `DatasetDict` with splits train and validation (Val).

    Columns: `image` (`datasets.Image`; the files stay where they are), `label` (`ClassLabel` of seven), `image_name`
    (str, the path below `root`), `group` (str: the film, as the file name has it before the time stamp; None where the
    name is of another form).

    Args:
        root: folder with `Train` and `Val`, or with `Train_Aligned_Faces` and `Val_Aligned_Faces`.
        check_counts: refuse anything but the whole official release (aligned images per split and class).

    Raises:
        FerError: data missing or half-downloaded, folders that are not SFEW's.
    """
    folder = raw_folder(_TITLE, root, WHERE_TO_GET)
    with readable(_TITLE):
        faces = {split: _find(folder, part) for split, part in _PARTS.items()}
        splits = {split: _read(folder, place, split) for split, place in faces.items()}
    if check_counts:
        expected = {split: sum(counts) for split, counts in OFFICIAL_CLASS_COUNTS.items()}
        check_official_counts(_TITLE, folder, "aligned images", split_sizes(splits), expected)
        for split, columns in splits.items():
            counts = OFFICIAL_CLASS_COUNTS[split]
            check_class_counts(_TITLE, folder, f"{split} images", columns["label"], _NAMES, counts)
    return build_splits(splits, _NAMES)


def _find(root: Path, part: str) -> Path:
    """The one folder of aligned faces of "Train" or "Val"."""
    above = [root, *(path for path in subfolders(root) if path.name.lower() == part.lower())]
    found = [place for path in above for place in _aligned(path, f"{part}_Aligned_Faces".lower())]
    if len(found) == 1:
        return found[0]
    if found:
        listed = " and ".join(path.relative_to(root).as_posix() for path in found)
        raise FerError(f"SFEW 2.0 in {str(root)!r} has {part} twice, {listed}; keep one of them there.")
    held = "; ".join(f"{path.name}/ holds {contents(path)}" for path in above)
    raise FerError(
        f"No complete SFEW 2.0 in {str(root)!r}: it lacks {part}/{part}_Aligned_Faces ({held}); {WHERE_TO_GET}."
    )


def _aligned(folder: Path, name: str) -> list[Path]:
    """Folders in `folder` called `name` (or with more behind it), or the ones of that name in them."""
    found = []
    for path in subfolders(folder):
        if path.name.lower().startswith(name):
            found += _aligned(path, name) or [path]
    return found


def _read(root: Path, folder: Path, split: str) -> Columns:
    columns = labelled_images(f"{_TITLE}, {split}", root, folder, _NAMES, _FOLDERS, WHERE_TO_GET)
    films = [_STILL.fullmatch(path.stem) for path in columns["image"]]
    columns["group"] = [film["film"] if film else None for film in films]
    return columns
