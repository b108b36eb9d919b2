"""Small raw releases in their official layouts; the grey of every picture says which expression it shows."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

GREYS: dict[str, int] = {
    "neutral": 10, "happiness": 40, "surprise": 70, "sadness": 100, "anger": 130, "disgust": 160, "fear": 190,
}  # fmt: skip

# Folder names of the releases, and what they mean: by hand, not by the library.
KAGGLE = {"angry": "anger", "disgust": "disgust", "fear": "fear", "happy": "happiness", "neutral": "neutral",
          "sad": "sadness", "surprise": "surprise"}  # fmt: skip
FERG = {"anger": "anger", "disgust": "disgust", "fear": "fear", "joy": "happiness", "neutral": "neutral",
        "sadness": "sadness", "surprise": "surprise"}  # fmt: skip
SFEW = {"Angry": "anger", "Disgust": "disgust", "Fear": "fear", "Happy": "happiness", "Neutral": "neutral",
        "Sad": "sadness", "Surprise": "surprise"}  # fmt: skip
CAERS = {**{name: SFEW[name] for name in SFEW if name != "Angry"}, "Anger": "anger"}
JAFFE = {"AN": "anger", "DI": "disgust", "FE": "fear", "HA": "happiness", "NE": "neutral", "SA": "sadness",
         "SU": "surprise"}  # fmt: skip
RAFDB = {1: "surprise", 2: "fear", 3: "disgust", 4: "happiness", 5: "sadness", 6: "anger", 7: "neutral"}
FER2013 = {0: "anger", 1: "disgust", 2: "fear", 3: "happiness", 4: "sadness", 5: "surprise", 6: "neutral"}
CHARACTERS = ("aia", "bonnie", "jules", "malcolm", "mery", "ray")
SUBJECTS = ("KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM")


def picture(path: Path, expression: str, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, GREYS[expression]).save(path)
    return path


def shown(image: Image.Image) -> str:
    """The expression that a picture shows."""
    grey = float(np.asarray(image).mean())
    return min(GREYS, key=lambda name: abs(GREYS[name] - grey))


def write_fer2013_folders(root: Path, ending: str = "jpg") -> Path:
    for split, each in (("train", 2), ("test", 1)):
        for folder, expression in KAGGLE.items():
            for number in range(each):
                picture(root / split / folder / f"Training_{number}.{ending}", expression)
    return root


def write_fer2013_csv(root: Path, rows: list[tuple[int, str]] | None = None) -> Path:
    """`rows` of (emotion, Usage)."""
    root.mkdir(parents=True, exist_ok=True)
    if rows is None:
        rows = [(emotion, usage) for usage in ("Training", "PublicTest", "PrivateTest") for emotion in FER2013]
    with (root / "fer2013.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["emotion", "pixels", "Usage"])
        for emotion, usage in rows:
            table.writerow([emotion, " ".join([str(GREYS[FER2013[emotion]])] * 48 * 48), usage])
    return root


def write_rafdb(root: Path, annotations: bool = True) -> Path:
    """`root` is the folder basic. Seven training and seven test images."""
    lines = []
    for split, digits in (("train", 5), ("test", 4)):
        for label, expression in RAFDB.items():
            stem = f"{split}_{label:0{digits}d}"
            lines.append(f"{stem}.jpg {label}")
            picture(root / "Image" / "aligned" / f"{stem}_aligned.jpg", expression)
            picture(root / "Image" / "original" / f"{stem}.jpg", expression, (20, 16))
            if annotations:
                points = "".join(f"{label + place}.5\t{10 * place}\n" for place in range(5))
                write(root / "Annotation" / "manual" / f"{stem}_manu_attri.txt", f"{points}1\n0\n2\n")
                write(root / "Annotation" / "boundingbox" / f"{stem}_boundingbox.txt", f"{label} 2.5 {label + 9} 12 \n")
    write(root / "EmoLabel" / "list_patition_label.txt", "".join(f"{line}\n" for line in lines))
    return root


def write_jaffe(root: Path, ending: str = "tiff") -> Path:
    number = 0
    for subject in SUBJECTS:
        for code, expression in JAFFE.items():
            number += 1
            picture(root / f"{subject}.{code}{number % 4 + 1}.{number}.{ending}", expression)
    return root


def write_ferg(root: Path) -> Path:
    """`root` is the folder FERG_DB_256."""
    for character in CHARACTERS:
        for folder, expression in FERG.items():
            for number in (1, 2):
                picture(root / character / f"{character}_{folder}" / f"{character}_{folder}_{number}.png", expression)
    return root


def write_sfew(root: Path, train: str = "Train/Train_Aligned_Faces", val: str = "Val/Val_Aligned_Faces") -> Path:
    for folder, expression in SFEW.items():
        picture(root / train / folder / "Airheads_000519240_00000005.png", expression)
        picture(root / train / folder / "HarryPotter_Half_Blood_Prince_001259094_00000033.png", expression)
        picture(root / val / folder / "21_001010160_00000010.png", expression)
    picture(root / "Test" / "Test_Aligned_Faces" / "0001.png", "fear")
    return root


def write_caers(root: Path) -> Path:
    for split, each in (("train", 2), ("test", 1)):
        for folder, expression in CAERS.items():
            for number in range(each):
                picture(root / split / folder / f"{number + 1:04d}.png", expression)
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def state(root: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of everything below `root`."""
    return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in root.rglob("*")}


_opened: list[str] | None = None


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes):
        _opened.append(arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0])


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Every file that Python opens meanwhile."""
    global _opened
    if not getattr(sys, "_face_trees_listens", False):
        sys.addaudithook(_listen)  # for the rest of the process: it cannot be taken away
        sys._face_trees_listens = True  # type: ignore[attr-defined]
    _opened = opened = []
    try:
        yield opened
    finally:
        _opened = None
