"""FERG-DB: 55,767 rendered faces of six animated characters with seven expressions, 256x256.

Aneja, Colburn, Faigin, Shapiro, Mones: "Modeling Stylized Character Expressions via Deep Learning", ACCV 2016. Asked
for at http://grail.cs.washington.edu/projects/deepexpr/ferg-2d-db.html. For non-commercial research only; the images
may not be passed on, and the characters belong to their makers.

Official layout: `FERG_DB_256/<character>/<character>_<expression>/*.png`, with the characters aia, bonnie, jules,
malcolm, mery, ray and the expressions anger, disgust, fear, joy (happiness here), neutral, sadness, surprise.

Published counts: the release's own README has a table that adds up to 55,767; many papers write 55,769.

There is **no official split**. Frames of one character are alike, so that random splits are close to solved by any
network (papers report 98 % and more); `test_characters` asks for faces that were never seen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FerError
from ..labels import label_names
from .image_folders import Columns, check_class_counts, labelled_images, readable, split_by_group, subfolders
from .raw_files import build_splits, contents, raw_folder

if TYPE_CHECKING:
    from datasets import DatasetDict

#: Images of each character by class, in the order of ids: the table of the release's README.
OFFICIAL_CLASS_COUNTS: dict[str, tuple[int, ...]] = {
    "aia": (1_644, 1_596, 1_116, 1_232, 1_200, 1_469, 1_746),
    "bonnie": (2_059, 2_088, 1_255, 1_438, 1_243, 1_506, 1_682),
    "jules": (1_479, 1_321, 1_858, 1_317, 1_344, 1_475, 1_961),
    "malcolm": (1_100, 1_190, 1_018, 1_089, 1_083, 1_034, 1_065),
    "mery": (1_428, 911, 1_035, 1_140, 941, 1_045, 1_058),
    "ray": (1_459, 1_465, 1_137, 1_114, 1_128, 1_098, 1_200),
}
CHARACTERS: tuple[str, ...] = (*OFFICIAL_CLASS_COUNTS,)

WHERE_TO_GET = (
    "ask for it at http://grail.cs.washington.edu/projects/deepexpr/ferg-2d-db.html, and give the folder FERG_DB_256 "
    "or the one above"
)

_TITLE = "FERG-DB"
_NAMES = label_names("ferg")
_FOLDERS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")


def load_ferg(
    root: str | os.PathLike[str] | None = None,
    *,
    check_counts: bool = False,
    test_characters: Sequence[str] | None = None,
) -> DatasetDict:
    """FERG-DB as a `DatasetDict` with the one split train, or with train and test of different characters.

    Columns: `image` (`datasets.Image`; the files stay where they are), `label` (`ClassLabel` of seven), `image_name`
    (str, the path below `FERG_DB_256`), `group` (str, the character).

    Args:
        root: the folder `FERG_DB_256`, or the one above.
        check_counts: refuse anything but the whole official release (images per character and class).
        test_characters: characters of the test split, such as `["ray"]`; the others are train.

    Raises:
        FerError: data missing or half-downloaded, folders that are not FERG-DB's, wrong characters.
    """
    above = raw_folder(_TITLE, root, WHERE_TO_GET)
    with readable(_TITLE):
        columns = _read(_find(above), check_counts)
    return build_splits(split_by_group(_TITLE, columns, "test_characters", test_characters), _NAMES)


def _read(folder: Path, check_counts: bool) -> Columns:
    columns: Columns = {"image": [], "label": [], "image_name": [], "group": []}
    for character in CHARACTERS:
        title = f"{_TITLE}, {character}"
        part = labelled_images(
            title, folder, folder / character, _NAMES, _FOLDERS, WHERE_TO_GET, prefix=f"{character}_"
        )
        if check_counts:
            expected = OFFICIAL_CLASS_COUNTS[character]
            check_class_counts(_TITLE, folder, f"images of {character}", part["label"], _NAMES, expected)
        part["group"] = [character] * len(part["label"])
        for name, column in columns.items():
            column += part[name]
    return columns


def _find(above: Path) -> Path:
    """The folder of the characters."""
    folder = above / "FERG_DB_256" if (above / "FERG_DB_256").is_dir() else above
    held = [path.name for path in subfolders(folder)]
    if set(held) != set(CHARACTERS):
        raise FerError(
            f"No complete FERG-DB in {str(folder)!r}: it must hold the folders {', '.join(CHARACTERS)}, "
            f"and holds {contents(folder)}; {WHERE_TO_GET}."
        )
    return folder
