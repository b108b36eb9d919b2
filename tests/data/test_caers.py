"""CAER-S: the two splits, and the filter by size, which decodes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from face_trees import CAERS, opened_files, picture, shown, state, write_caers
from PIL import Image, ImageFile

from hf_fer.data import caers as module
from hf_fer.data import load_fer_dataset
from hf_fer.errors import FerError


@pytest.fixture(autouse=True)
def quiet() -> Any:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(FerError) as error:
        load_fer_dataset("caers", root, **options)
    message = str(error.value)
    assert "\n" not in message and len(message) < 900 and message.endswith("."), message
    return message


@pytest.mark.parametrize("below", ["", "CAER-S"])
@pytest.mark.parametrize("capital", [False, True])
def test_places(tmp_path: Path, below: str, capital: bool) -> None:
    root = write_caers(tmp_path / below)
    if capital:
        (root / "train").rename(root / "Train")
    loaded = load_fer_dataset("caers", tmp_path)
    assert list(loaded) == ["train", "test"]
    for rows in loaded.values():
        names = rows.features["label"].names
        assert [names[row["label"]] for row in rows] == [shown(row["image"]) for row in rows]
        assert [CAERS[name.split("/")[1]] for name in rows["image_name"]] == [names[label] for label in rows["label"]]


def sized(root: Path) -> Path:
    """Beside the 8x8 pictures, of anger in test: one of each of these sizes."""
    for number, size in enumerate([(67, 67), (68, 67), (67, 68), (100, 10), (712, 400)], 2):
        picture(root / "test" / "Anger" / f"{number:04d}.png", "anger", size)
    return root


def test_max_side_is_the_larger_of_both_and_included(tmp_path: Path) -> None:
    root = sized(write_caers(tmp_path))
    loaded = load_fer_dataset("caers", root, max_side=67)
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 14, "test": 8}
    assert max(max(image.size) for image in loaded["test"]["image"]) == 67
    names = loaded["test"].features["label"].names
    assert [names[row["label"]] for row in loaded["test"]] == [shown(row["image"]) for row in loaded["test"]]
    assert len(load_fer_dataset("caers", root, max_side=68)["test"]) == 10
    assert len(load_fer_dataset("caers", root, max_side=712)["test"]) == 12
    assert len(load_fer_dataset("caers", root)["test"]) == 12


def test_sizes_are_read_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sized(write_caers(tmp_path))
    whole = (root / "test" / "Anger" / "0006.png").read_bytes()
    (root / "test" / "Anger" / "0006.png").write_bytes(whole[:60])  # header and no pixels
    before = state(tmp_path)

    def decoded(self: Any) -> None:
        raise AssertionError("an image was decoded")

    with monkeypatch.context() as patch, opened_files() as opened:
        patch.setattr(ImageFile.ImageFile, "load", decoded)
        loaded = load_fer_dataset("caers", root, max_side=67)
    assert len([path for path in opened if path.startswith(str(tmp_path))]) == 14 + 12
    assert len(loaded["test"]) == 8 and state(tmp_path) == before


def test_splits_without_a_small_image_are_left_out(tmp_path: Path) -> None:
    root = write_caers(tmp_path)
    for path in (root / "train").rglob("*.png"):
        Image.new("L", (70, 10)).save(path)
    assert list(load_fer_dataset("caers", root, max_side=67)) == ["test"]
    message = refusal(root, max_side=7)
    assert "has both sides of at most max_side=7" in message and "whole scenes; crop the faces" in message


@pytest.mark.parametrize("max_side", [0, -1, 67.0, "67", True, [67]])
def test_wrong_max_side(tmp_path: Path, max_side: Any) -> None:
    assert "must be a number of pixels" in refusal(write_caers(tmp_path), max_side=max_side)


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    root = write_caers(tmp_path)
    (root / "train" / "Sad" / "0002.png").write_bytes(b"<html>Quota exceeded</html>")
    assert "0002.png' is no image (" in refusal(root, max_side=67)


def test_half_a_download(tmp_path: Path) -> None:
    root = write_caers(tmp_path / "CAER-S")
    shutil.rmtree(root / "test")
    message = refusal(tmp_path)
    assert "CAER-S/ lacks test and holds train/" in message and "caer-dataset.github.io" in message


def test_check_counts_comes_before_the_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sized(write_caers(tmp_path))
    message = refusal(root, check_counts=True)
    assert (
        "images are train 14 / test 12, published are train 49007 / test 20992, or train 48995 / test 20987" in message
    )
    monkeypatch.setattr(module, "PUBLISHED_COUNTS", ({"train": 14, "test": 12},))
    assert len(load_fer_dataset("caers", root, check_counts=True, max_side=67)["test"]) == 8
