"""JAFFE: 213 pictures of ten Japanese women posing seven expressions, 256x256 grey, from a laboratory.

Lyons, Akamatsu, Kamachi, Gyoba: "Coding Facial Expressions with Gabor Wavelets", FG 1998. Asked for at
https://doi.org/10.5281/zenodo.3451524. For non-commercial scientific research only, with the article cited; the images
may not be passed on.

Official layout: one folder, file names `KA.AN1.39.tiff` of subject, expression code and take, and number. Conversions
to PNG, JPEG or BMP under the same names are read too.

Published counts: 213 images. A listing of the release's names gives, by class, anger 30, disgust 29, fear 32,
happiness 31, neutral 30, sadness 31, surprise 30, and by subject 20 to 23. Known blemishes: the numbers run to 219 with
six of them missing, so they do not count images, and the takes have gaps too (`KM.SA5.13`). The codes say what was
posed; the ratings by 60 viewers in the release's README, which are not read, need not agree.

There is **no official split**, and papers differ in theirs. Random splits have the same women, and nearly the same
pictures, on both sides: `test_subjects` makes a split without that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FerError
from ..labels import canonical_expression, label_names
from .image_folders import Columns, check_class_counts, image_files, readable, split_by_group
from .raw_files import build_splits, raw_folder, short
from .raw_files import check_counts as check_official_counts

if TYPE_CHECKING:
    from datasets import DatasetDict

#: Images of each subject.
OFFICIAL_SUBJECTS: dict[str, int] = {
    "KA": 23, "KL": 22, "KM": 22, "KR": 20, "MK": 21, "NA": 21, "NM": 20, "TM": 21, "UY": 21, "YM": 22,
}  # fmt: skip
#: Images by class, in the order of ids.
OFFICIAL_CLASS_COUNTS: tuple[int, ...] = (30, 29, 32, 31, 30, 31, 30)

WHERE_TO_GET = (
    "ask for it at https://doi.org/10.5281/zenodo.3451524, and give the folder of the 213 files such as KA.AN1.39.tiff"
)

_TITLE = "JAFFE"
_NAMES = label_names("jaffe")
_CODES: dict[str, int] = {
    code: _NAMES.index(canonical_expression(code)) for code in ("AN", "DI", "FE", "HA", "NE", "SA", "SU")
}
_FILE = re.compile(r"(?P<subject>[A-Z]{2})\.(?P<code>[A-Z]{2})(?P<take>[0-9])\.(?P<number>[0-9]{1,3})\.[A-Za-z]{3,4}")


def load_jaffe(
    root: str | os.PathLike[str] | None = None,
    *,
    check_counts: bool = False,
    test_subjects: Sequence[str] | None = None,
) -> DatasetDict:
    """JAFFE as a `DatasetDict` with the one split train, or with train and test of different subjects.

    Columns: `image` (`datasets.Image`; the files stay where they are), `label` (`ClassLabel` of seven), `group` (str,
    the subject), `image_name` (str, the file's name).

    Args:
        root: folder of the images, or the one above it (`jaffe`, `jaffedbase` or `jaffeimages/jaffe`).
        check_counts: refuse anything but the whole official release (images per class and subject).
        test_subjects: subjects of the test split, such as `["KA", "YM"]`; the others are train. The ten are the keys of
            `OFFICIAL_SUBJECTS`: each in turn gives the leave-one-subject-out protocol.

    Raises:
        FerError: data missing or half-downloaded, a file name that is not JAFFE's, wrong subjects.
    """
    above = raw_folder(_TITLE, root, WHERE_TO_GET)
    with readable(_TITLE):
        folder = next((path for path in _places(above) if _has_images(path)), above)
        columns = _read_names(folder)
    if check_counts:
        found = {subject: columns["group"].count(subject) for subject in OFFICIAL_SUBJECTS}
        check_official_counts(_TITLE, folder, "images by subject", found, OFFICIAL_SUBJECTS)
        check_class_counts(_TITLE, folder, "images", columns["label"], _NAMES, OFFICIAL_CLASS_COUNTS)
    return build_splits(split_by_group(_TITLE, columns, "test_subjects", test_subjects), _NAMES)


def _places(above: Path) -> list[Path]:
    return [above, above / "jaffe", above / "jaffedbase", above / "jaffeimages" / "jaffe"]


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(_FILE.fullmatch(path.name) for path in folder.iterdir())


def _read_names(folder: Path) -> Columns:
    columns: Columns = {"image": [], "label": [], "group": [], "image_name": []}
    seen: dict[str, str] = {}
    for path in image_files(_TITLE, folder, WHERE_TO_GET):
        match = _FILE.fullmatch(path.name)
        if match is None or match["code"] not in _CODES or match["subject"] not in OFFICIAL_SUBJECTS:
            raise FerError(
                f"JAFFE: {short(path.name)} in {str(folder)!r} is no name such as KA.AN1.39.tiff, of a subject "
                f"({', '.join(OFFICIAL_SUBJECTS)}), an expression ({', '.join(_CODES)}) with its take, and a number; "
                "remove the file, or get it anew."
            )
        stem = path.stem
        if stem in seen:
            raise FerError(f"JAFFE: {seen[stem]} and {path.name} in {str(folder)!r} are the same picture; keep one.")
        seen[stem] = path.name
        columns["image"].append(path)
        columns["label"].append(_CODES[match["code"]])
        columns["group"].append(match["subject"])
        columns["image_name"].append(path.name)
    return columns
