"""FERG-DB: characters, their folders, and splits by character."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from face_trees import CHARACTERS, FERG, picture, shown, write_ferg

from hf_fer.data import ferg as module
from hf_fer.data import load_fer_dataset
from hf_fer.errors import FerError


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(FerError) as error:
        load_fer_dataset("ferg", root, **options)
    message = str(error.value)
    assert "\n" not in message and len(message) < 900 and message.endswith("."), message
    return message


@pytest.mark.parametrize("below", ["", "FERG_DB_256"])
def test_groups_are_characters(tmp_path: Path, below: str) -> None:
    write_ferg(tmp_path / below)
    (rows,) = load_fer_dataset("ferg", tmp_path).values()
    names = rows.features["label"].names
    for row in rows:
        character, folder, file = row["image_name"].split("/")
        assert row["group"] == character and file.startswith(folder)
        assert names[row["label"]] == FERG[folder.removeprefix(f"{character}_")] == shown(row["image"])
    assert sorted(set(rows["group"])) == list(CHARACTERS)


def test_splits_share_no_character(tmp_path: Path) -> None:
    write_ferg(tmp_path)
    loaded = load_fer_dataset("ferg", tmp_path, test_characters=["ray", "aia"])
    assert {split: sorted(set(rows["group"])) for split, rows in loaded.items()} == {
        "train": ["bonnie", "jules", "malcolm", "mery"],
        "test": ["aia", "ray"],
    }
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 56, "test": 28}
    assert "test_characters=['ra'] must be a list of some of aia, bonnie" in refusal(tmp_path, test_characters=["ra"])


@pytest.mark.parametrize("change", ["lost", "more", "renamed"])
def test_other_characters(tmp_path: Path, change: str) -> None:
    root = write_ferg(tmp_path / "FERG_DB_256")
    if change == "lost":
        shutil.rmtree(root / "mery")
    elif change == "more":
        (root / "bob").mkdir()
    else:
        (root / "mery").rename(root / "Mery")
    message = refusal(tmp_path)
    assert "it must hold the folders aia, bonnie, jules, malcolm, mery, ray, and holds " in message
    assert str(root) in message and ("bob/" in message) == (change == "more")


def test_folders_of_another_character(tmp_path: Path) -> None:
    root = write_ferg(tmp_path)
    (root / "ray" / "ray_joy").rename(root / "ray" / "aia_joy")
    message = refusal(root)
    assert "FERG-DB, ray: " in message and "ray_joy, ray_" in message and "and besides 'aia_joy'" in message


def test_check_counts_by_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_ferg(tmp_path)
    message = refusal(root, check_counts=True)
    assert "images of aia by class are anger 2 /" in message and "official are anger 1644 / disgust 1596" in message
    monkeypatch.setattr(module, "OFFICIAL_CLASS_COUNTS", dict.fromkeys(CHARACTERS, (2,) * 7))
    assert load_fer_dataset("ferg", root, check_counts=True)
    picture(root / "mery" / "mery_joy" / "mery_joy_3.png", "happiness")
    assert "images of mery by class are anger 2 / disgust 2 / fear 2 / happiness 3" in refusal(root, check_counts=True)
