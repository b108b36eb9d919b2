"""JAFFE: codes, subjects, conversions, and splits by subject."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from face_trees import JAFFE, SUBJECTS, picture, shown, write_jaffe

from hf_fer.data import load_fer_dataset
from hf_fer.errors import FerError


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(FerError) as error:
        load_fer_dataset("jaffe", root, **options)
    message = str(error.value)
    assert "\n" not in message and len(message) < 900 and message.endswith("."), message
    return message


@pytest.mark.parametrize(
    ("ending", "below"),
    [("tiff", ""), ("tif", "jaffe"), ("png", "jaffedbase"), ("jpg", "jaffeimages/jaffe"), ("bmp", ""), ("TIFF", "")],
)
def test_names_say_it_all(tmp_path: Path, ending: str, below: str) -> None:
    write_jaffe(tmp_path / below, ending)
    (rows,) = load_fer_dataset("jaffe", tmp_path).values()
    names = rows.features["label"].names
    for row in rows:
        subject, code, _, _ = row["image_name"].split(".")
        assert row["group"] == subject
        assert names[row["label"]] == JAFFE[code[:2]] == shown(row["image"])
    assert sorted(set(rows["group"])) == list(SUBJECTS)


def test_splits_share_no_subject(tmp_path: Path) -> None:
    write_jaffe(tmp_path)
    for subjects in (["KA"], ("KA", "YM", "KA"), {"TM"}, list(SUBJECTS[:9])):
        loaded = load_fer_dataset("jaffe", tmp_path, test_subjects=subjects)
        assert list(loaded) == ["train", "test"]
        assert set(loaded["test"]["group"]) == set(subjects)
        assert set(loaded["train"]["group"]) == set(SUBJECTS) - set(subjects)
        assert len(loaded["train"]) + len(loaded["test"]) == 70
        for rows in loaded.values():
            assert [rows.features["label"].names[row["label"]] for row in rows] == [shown(row["image"]) for row in rows]


@pytest.mark.parametrize("subjects", [[], "KA", ["XX"], ["ka"], ["KA", "XX"], [1], 5, [["KA"]]])
def test_wrong_subjects(tmp_path: Path, subjects: Any) -> None:
    write_jaffe(tmp_path)
    assert f"must be a list of some of {', '.join(SUBJECTS)}" in refusal(tmp_path, test_subjects=subjects)


def test_all_subjects(tmp_path: Path) -> None:
    write_jaffe(tmp_path)
    assert "leaves nothing to train on" in refusal(tmp_path, test_subjects=SUBJECTS)


@pytest.mark.parametrize(
    "name",
    ["KA.XX1.39.tiff", "XX.AN1.39.tiff", "KA.AN.39.tiff", "KA.AN1.tiff", "ka.an1.39.tiff", "KA-AN1-39.tiff", "face.png",
     "KA.AN1.39.tiff.png", "KA.AN1.\u0663.tiff"],
)  # fmt: skip
def test_a_name_of_another_form(tmp_path: Path, name: str) -> None:
    write_jaffe(tmp_path)
    picture(tmp_path / name, "anger")
    message = refusal(tmp_path)
    assert f"{name!r} in" in message and "is no name such as KA.AN1.39.tiff" in message


def test_one_picture_twice(tmp_path: Path) -> None:
    write_jaffe(tmp_path)
    picture(tmp_path / "KA.AN2.1.png", "anger")
    assert "KA.AN2.1.png and KA.AN2.1.tiff in" in refusal(tmp_path)


def test_numbers_may_repeat_and_lack(tmp_path: Path) -> None:
    for name, expression in (("KA.AN1.7.tiff", "anger"), ("KA.AN2.7.tiff", "anger"), ("KM.SA5.219.tiff", "sadness")):
        picture(tmp_path / name, expression)
    assert len(load_fer_dataset("jaffe", tmp_path)["train"]) == 3
    message = refusal(tmp_path, check_counts=True)
    assert "images by subject are KA 2 / KL 0" in message and "official are KA 23 / KL 22" in message
