"""SFEW 2.0: where the aligned faces may lie, and the films."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from face_trees import SFEW, picture, shown, write_sfew

from hf_fer.data import load_fer_dataset
from hf_fer.errors import FerError

PLACES = [
    ("Train/Train_Aligned_Faces", "Val/Val_Aligned_Faces"),
    ("Train_Aligned_Faces", "Val_Aligned_Faces"),
    ("Train/Train_Aligned_Faces/Train_Aligned_Faces", "Val/Val_Aligned_Faces_new/Val_Aligned_Faces"),
    ("train/train_aligned_faces", "val/Val_Aligned_Faces_new"),
]


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(FerError) as error:
        load_fer_dataset("sfew", root, **options)
    message = str(error.value)
    assert "\n" not in message and len(message) < 900 and message.endswith("."), message
    return message


@pytest.mark.parametrize(("train", "val"), PLACES)
def test_places(tmp_path: Path, train: str, val: str) -> None:
    write_sfew(tmp_path, train, val)
    (tmp_path / "Train" / "Angry").mkdir(parents=True, exist_ok=True)  # the stills that are not aligned
    loaded = load_fer_dataset("sfew", tmp_path)
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 14, "validation": 7}
    for split, place in (("train", train), ("validation", val)):
        for row in loaded[split]:
            assert row["image_name"].startswith(f"{place}/")
            folder = row["image_name"].split("/")[-2]
            assert loaded[split].features["label"].names[row["label"]] == SFEW[folder] == shown(row["image"])


def test_groups_are_films(tmp_path: Path) -> None:
    root = write_sfew(tmp_path)
    picture(root / "Val" / "Val_Aligned_Faces" / "Sad" / "still 7.png", "sadness")
    picture(root / "Val" / "Val_Aligned_Faces" / "Sad" / "Hangover_0010_00000001.png", "sadness")
    loaded = load_fer_dataset("sfew", root)
    assert set(loaded["train"]["group"]) == {"Airheads", "HarryPotter_Half_Blood_Prince"}
    by_name = {row["image_name"].split("/")[-1]: row["group"] for row in loaded["validation"]}
    assert by_name == {
        "21_001010160_00000010.png": "21",
        "still 7.png": None,
        "Hangover_0010_00000001.png": None,
    }


def test_half_a_download(tmp_path: Path) -> None:
    root = write_sfew(tmp_path)
    shutil.rmtree(root / "Val" / "Val_Aligned_Faces")
    message = refusal(root)
    assert (
        "it lacks Val/Val_Aligned_Faces (" in message and "Train/, Val/" in message and "Val/ holds nothing" in message
    )
    assert "few_group" in message
    shutil.rmtree(root / "Train")
    assert "it lacks Train/Train_Aligned_Faces" in refusal(root)


def test_two_archives_of_one_split(tmp_path: Path) -> None:
    root = write_sfew(tmp_path)
    shutil.copytree(root / "Val" / "Val_Aligned_Faces", root / "Val" / "Val_Aligned_Faces_new")
    message = refusal(root)
    assert "has Val twice, Val/Val_Aligned_Faces and Val/Val_Aligned_Faces_new; keep one" in message


def test_check_counts(tmp_path: Path) -> None:
    message = refusal(write_sfew(tmp_path), check_counts=True)
    assert "aligned images are train 14 / validation 7, official are train 891 / validation 431" in message
