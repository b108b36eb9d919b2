"""FER2013: the CSV's rows and their cache, both forms, and every error of the table."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face_trees import FER2013, GREYS, opened_files, shown, state, write_fer2013_csv, write_fer2013_folders

from hf_fer.data import fer2013 as module
from hf_fer.data import load_fer_dataset
from hf_fer.errors import FerError

ORDER = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]


@pytest.fixture(autouse=True)
def quiet() -> Any:
    import datasets

    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def load(root: Path, cache: Path, **options: Any) -> Any:
    return load_fer_dataset("fer2013", root, cache_dir=cache, **options)


def refusal(root: Path, cache: Path, **options: Any) -> str:
    with pytest.raises(FerError) as error:
        load(root, cache, **options)
    message = str(error.value)
    assert "\n" not in message and len(message) < 900 and message.endswith("."), message
    return message


def test_rows_splits_and_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    usages = ["Training", "PublicTest", "PrivateTest", "PublicTest", "Training", "Training"]
    faces = rng.integers(0, 256, (6, 48, 48))
    with (tmp_path / "fer2013.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["emotion", "pixels", "Usage"])
        for emotion, (usage, face) in enumerate(zip(usages, faces, strict=True)):
            rows.writerow([emotion, " ".join(map(str, face.ravel())), usage])
    loaded = load(tmp_path, tmp_path / "cache")
    assert list(loaded) == ["train", "validation", "test"]
    places = {"train": [0, 4, 5], "validation": [1, 3], "test": [2]}
    for split, part in loaded.items():
        assert str(part.split) == split
        assert part.column_names == ["image", "label", "image_name"]
        assert part.features["label"].names == ORDER
        assert list(part["image_name"]) == [f"row{place:05d}" for place in places[split]]
        assert [ORDER[label] for label in part["label"]] == [FER2013[place] for place in places[split]]
        for row, place in zip(part, places[split], strict=True):
            assert row["image"].mode == "L"
            assert (np.asarray(row["image"]) == faces[place]).all()


def test_both_forms_number_the_classes_alike(tmp_path: Path) -> None:
    write_fer2013_csv(tmp_path / "csv")
    write_fer2013_folders(tmp_path / "folders", "png")
    table, folders = load(tmp_path / "csv", tmp_path / "cache"), load(tmp_path / "folders", tmp_path / "cache")
    assert list(folders) == ["train", "test"]
    for loaded in (table, folders):
        for rows in loaded.values():
            assert [ORDER[row["label"]] for row in rows] == [shown(row["image"]) for row in rows]
    assert table["train"].features == folders["train"].features


@pytest.mark.parametrize("below", ["", "fer2013", "data"])
def test_where_the_forms_may_lie(tmp_path: Path, below: str) -> None:
    write_fer2013_folders(tmp_path / below)
    assert list(load(tmp_path, tmp_path / "cache")) == ["train", "test"]
    write_fer2013_csv(tmp_path / below)
    assert list(load(tmp_path, tmp_path / "cache")) == ["train", "validation", "test"]
    assert list(load(tmp_path, tmp_path / "cache", form="folders")) == ["train", "test"]


def test_half_a_download(tmp_path: Path) -> None:
    assert "as csv it lacks fer2013.csv; as folders it lacks train, test" in refusal(tmp_path, tmp_path / "cache")
    (tmp_path / "train").mkdir()
    message = refusal(tmp_path, tmp_path / "cache")
    assert "as folders it lacks test; get fer2013.csv from Kaggle" in message and "it holds train" in message
    assert "folders" not in refusal(tmp_path, tmp_path / "cache", form="csv").split(";")[0]
    assert "as csv" not in refusal(tmp_path, tmp_path / "cache", form="folders")
    with pytest.raises(FerError, match=r"form='zip'.*csv, folders"):
        load(tmp_path, tmp_path, form="zip")


def test_other_column_orders_and_dialects(tmp_path: Path) -> None:
    write_fer2013_csv(tmp_path / "plain")
    with (tmp_path / "plain" / "fer2013.csv").open(newline="") as stream:
        rows = [[row[0], row[2], row[1]] for row in csv.reader(stream)]
    (tmp_path / "other").mkdir()
    text = "emotion, Usage, pixels\r\n" + "".join(f"{','.join(row)}\r\n" for row in rows[1:]) + "\r\n"
    (tmp_path / "other" / "fer2013.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    plain, other = (load(tmp_path / name, tmp_path / "cache") for name in ("plain", "other"))
    assert {split: list(part["label"]) for split, part in plain.items()} == {
        split: list(part["label"]) for split, part in other.items()
    }


# --- the cache ----------------------------------------------------------------------------------


def test_built_once_and_not_into_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_fer2013_csv(tmp_path / "root")
    before = state(root)
    first = load(root, tmp_path / "cache")
    assert state(root) == before and list((tmp_path / "cache").rglob("*.arrow"))

    def unread(*_: object, **__: object) -> Any:
        raise AssertionError("read again although nothing changed")

    monkeypatch.setattr(module, "csv_rows", unread)
    with opened_files() as opened:
        again = load(root, tmp_path / "cache")
    assert not [path for path in opened if path.startswith(str(root))]
    assert {split: part._fingerprint for split, part in again.items()} == {
        split: part._fingerprint for split, part in first.items()
    }


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    rows = [(1, "Training"), (2, "PublicTest"), (3, "PrivateTest")]
    root = write_fer2013_csv(tmp_path, rows)
    assert shown(load(root, tmp_path / "cache")["train"][0]["image"]) == "disgust"
    size = (root / "fer2013.csv").stat().st_size
    write_fer2013_csv(tmp_path, [(2, "Training"), *rows[1:]])
    assert (root / "fer2013.csv").stat().st_size == size
    os.utime(root / "fer2013.csv", ns=(10**18, 10**18))
    assert shown(load(root, tmp_path / "cache")["train"][0]["image"]) == "fear"


# --- errors of the table ------------------------------------------------------------------------


def line(number: int, change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(file: Path) -> None:
        lines = file.read_text().splitlines()
        lines[number - 1] = change(lines[number - 1])
        file.write_text("\n".join(lines) + "\n")

    return apply


def field(number: int, place: int, value: str) -> Callable[[Path], None]:
    def change(text: str) -> str:
        fields = text.split(",")
        fields[place] = value
        return ",".join(fields)

    return line(number, change)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        # Line 3 is the second training row.
        (field(3, 0, "7"), ["line 3", "emotion '7' is none of 0 anger, 1 disgust", "6 neutral"]),
        (field(3, 0, "-1"), ["line 3", "emotion '-1'"]),
        (field(3, 0, ""), ["line 3", "emotion ''"]),
        (field(3, 0, "1.0"), ["line 3", "emotion '1.0'"]),
        (field(3, 0, "01"), ["line 3", "emotion '01'"]),
        (field(3, 0, "\u0661"), ["line 3", "emotion"]),
        (field(3, 0, "happy"), ["line 3", "emotion 'happy'"]),
        (field(3, 1, "1 2 3"), ["line 3", "3 pixels, not 2304"]),
        (field(3, 1, " ".join(["256"] * 2304)), ["line 3", "'256'", "0..255"]),
        (field(3, 2, "Test"), ["line 3", "Usage is 'Test'", "Training, PublicTest, PrivateTest"]),
        (line(3, lambda text: text + ",x"), ["line 3", "4 columns, not 3"]),
        (line(3, lambda text: text[:50]), ["line 3", "2 columns, not 3"]),
        (line(1, lambda _: "emotion,pixels"), ["header must be emotion,pixels,Usage", "'emotion,pixels'"]),
        (line(1, lambda _: "a,pixels,Usage"), ["header", "'a,pixels,Usage'"]),
        (line(1, lambda _: "emotion,emotion,Usage"), ["header"]),
        (line(1, lambda _: "emotion,pixels,Usage,usage"), ["header", "'emotion,pixels,Usage,usage'"]),
        (lambda file: file.write_text(""), ["fer2013.csv is empty", "Kaggle"]),
        (lambda file: file.write_text("emotion,pixels,Usage\n"), ["no row of the train split (Training)"]),
        (lambda file: file.write_bytes(b"emotion,pixels,Usage\n\xff\xfe\n"), ["cannot be read as CSV"]),
        (lambda file: file.write_text("emotion,pixels,Usage\n0," + "1 " * 99_999), ["cannot be read as CSV"]),
    ],
)
def test_damaged_table(tmp_path: Path, change: Callable[[Path], None], parts: list[str]) -> None:
    root = write_fer2013_csv(tmp_path)
    change(root / "fer2013.csv")
    message = refusal(root, tmp_path / "cache")
    assert "fer2013.csv" in message and all(part in message for part in parts), message


def test_a_truncated_table(tmp_path: Path) -> None:
    """Whole rows lost at the end take a split away, or are for check_counts to see."""
    root = write_fer2013_csv(tmp_path)
    lines = (root / "fer2013.csv").read_text().splitlines(keepends=True)
    (root / "fer2013.csv").write_text("".join(lines[:15]))
    assert "no row of the test split (PrivateTest)" in refusal(root, tmp_path / "cache")
    (root / "fer2013.csv").write_text("".join(lines[:16]))
    assert len(load(root, tmp_path / "cache")["test"]) == 1
    message = refusal(root, tmp_path / "cache", check_counts=True)
    assert "images are train 7 / validation 7 / test 1, official are train 28709 / validation 3589" in message


def test_check_counts_of_the_table_and_of_its_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OFFICIAL_CLASS_COUNTS", dict.fromkeys(("train", "validation", "test"), (1,) * 7))
    root = write_fer2013_csv(tmp_path)
    assert load(root, tmp_path / "cache", check_counts=True)
    rows = [(emotion, usage) for usage in ("Training", "PublicTest", "PrivateTest") for emotion in FER2013]
    rows[8] = (2, "PublicTest")
    write_fer2013_csv(tmp_path, rows)
    message = refusal(root, tmp_path / "cache", check_counts=True)
    assert "validation images by class are anger 1 / disgust 0 / fear 2" in message


def test_check_counts_of_folders_adds_the_two_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"train": (2,) * 7, "validation": (1,) * 7, "test": (0,) * 7}
    monkeypatch.setattr(module, "OFFICIAL_CLASS_COUNTS", counts)
    root = write_fer2013_folders(tmp_path)
    assert load(root, tmp_path, check_counts=True)
    (root / "train" / "angry" / "Training_0.jpg").rename(root / "train" / "fear" / "moved.jpg")
    message = refusal(root, tmp_path, check_counts=True)
    assert "train images by class are anger 1 / disgust 2 / fear 3" in message
    assert GREYS  # the pictures were never looked at
