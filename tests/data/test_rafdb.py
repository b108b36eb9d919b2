"""RAF-DB: the official list, aligned and original images, points and boxes, and what a hostile list may try."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from face_trees import RAFDB, opened_files, picture, shown, state, write_rafdb

from hf_fer.data import load_fer_dataset
from hf_fer.data import rafdb as module
from hf_fer.errors import FerError

LIST = "EmoLabel/list_patition_label.txt"
POINTS = "Annotation/manual/train_00002_manu_attri.txt"
BOX = "Annotation/boundingbox/test_0003_boundingbox.txt"


@pytest.fixture(autouse=True)
def quiet() -> Any:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(FerError) as error:
        load_fer_dataset("rafdb", root, **options)
    message = str(error.value)
    assert "\n" not in message and len(message) < 900 and message.endswith("."), message
    return message


@pytest.mark.parametrize("images", ["aligned", "original"])
@pytest.mark.parametrize("below", ["", "basic"])
def test_both_kinds_of_images_from_either_folder(tmp_path: Path, images: str, below: str) -> None:
    root = write_rafdb(tmp_path / below)
    other = "original" if images == "aligned" else "aligned"
    shutil.rmtree(root / "Image" / other)  # the archives can be unpacked one by one
    loaded = load_fer_dataset("rafdb", tmp_path, images=images)
    assert list(loaded) == ["train", "test"]
    for split, digits in (("train", 5), ("test", 4)):
        rows = loaded[split]
        names = rows.features["label"].names
        assert [names[label] for label in rows["label"]] == list(RAFDB.values()) == [shown(i) for i in rows["image"]]
        assert list(rows["image_name"]) == [f"{split}_{label:0{digits}d}.jpg" for label in RAFDB]
        assert {image.size for image in rows["image"]} == {(8, 8) if images == "aligned" else (20, 16)}


def test_rows_keep_the_order_of_the_list(tmp_path: Path) -> None:
    root = write_rafdb(tmp_path)
    lines = (root / LIST).read_text().splitlines()
    (root / LIST).write_text("\r\n\n".join(reversed(lines)))
    loaded = load_fer_dataset("rafdb", root)
    assert list(loaded["train"]["image_name"]) == [f"train_{label:05d}.jpg" for label in range(7, 0, -1)]
    assert [loaded["train"].features["label"].names[label] for label in loaded["train"]["label"]] == [
        shown(image) for image in loaded["train"]["image"]
    ]


def test_points_and_boxes(tmp_path: Path) -> None:
    root = write_rafdb(tmp_path)
    before = state(root)
    loaded = load_fer_dataset("rafdb", root, images="original", annotations=True)
    assert state(root) == before
    for rows in loaded.values():
        assert rows.column_names == ["image", "label", "image_name", "landmarks", "bbox"]
        for label, row in enumerate(rows, 1):
            assert row["landmarks"] == [[label + place + 0.5, 10.0 * place] for place in range(5)]
            assert row["bbox"] == [label, 2.5, label + 9, 12]
    assert len(module.LANDMARKS) == 5
    shutil.rmtree(root / "Annotation" / "manual")
    rows = load_fer_dataset("rafdb", root, images="original", annotations=True)["test"]
    assert rows.column_names == ["image", "label", "image_name", "bbox"]
    shutil.rmtree(root / "Annotation")
    assert "no manual/ or boundingbox/ in" in refusal(root, images="original", annotations=True)
    assert load_fer_dataset("rafdb", root, images="original")["test"].column_names == ["image", "label", "image_name"]


def test_options(tmp_path: Path) -> None:
    root = write_rafdb(tmp_path)
    assert "images='cropped' is not a form" in refusal(root, images="cropped")
    assert "in pixels of the original images" in refusal(root, annotations=True)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    root = write_rafdb(tmp_path / "basic")
    (root / LIST).rename(root / "list_patition_label.txt")
    message = refusal(tmp_path)
    assert f"it lacks {LIST} and holds Annotation/" in message and "whdeng.cn" in message
    assert str(root) in message
    (root / "list_patition_label.txt").rename(root / LIST)
    shutil.rmtree(root / "Image")
    assert "it lacks Image/aligned and holds Annotation/, EmoLabel/" in refusal(tmp_path)
    assert "it lacks Image/original" in refusal(tmp_path, images="original")


@pytest.mark.parametrize("lost", [1, 3])
def test_missing_images_are_counted(tmp_path: Path, lost: int) -> None:
    root = write_rafdb(tmp_path)
    for label in range(2, 2 + lost):
        (root / "Image" / "aligned" / f"train_0000{label}_aligned.jpg").unlink()
    message = refusal(root)
    assert "list_patition_label.txt, line 2: the image" in message and "train_00002_aligned.jpg" in message
    assert f"{lost} of 14 images" in message


HOSTILE = [
    "../../../canary.jpg 3", "../aligned/train_00002_aligned.jpg 3", "..\\..\\..\\canary.jpg 3", "/etc/passwd 3",
    "{canary} 3", "train_00001/../../../../canary.jpg 3", "C:\\canary.jpg 3", "train_00002.jpg\0.jpg 3",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_paths_that_leave_the_folder(tmp_path: Path, text: str) -> None:
    root = write_rafdb(tmp_path / "place" / "basic")
    canary = picture(tmp_path / "place" / "canary.jpg", "fear")
    picture(tmp_path / "canary.jpg", "fear")
    edit(root, 2, lambda _: text.format(canary=canary))
    with opened_files() as opened:
        message = refusal(root)
    assert "list_patition_label.txt, line 2: " in message and "is no path inside" in message
    assert not [path for path in opened if "canary" in path or "passwd" in path]


def edit(root: Path, number: int, change: Callable[[str], str], file: str = LIST) -> None:
    lines = (root / file).read_text().splitlines()
    lines[number - 1] = change(lines[number - 1])
    (root / file).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train_00002.jpg 0", ["label '0' is none of 1 surprise, 2 fear", "7 neutral"]),
        ("train_00002.jpg 8", ["label '8'"]),
        ("train_00002.jpg -1", ["label '-1'"]),
        ("train_00002.jpg 2.0", ["label '2.0'"]),
        ("train_00002.jpg 02", ["label '02'"]),
        ("train_00002.jpg \u0662", ["label '\u0662'"]),
        ("train_00002.jpg fear", ["label 'fear'"]),
        ("train_00002.jpg", ["1 columns, not 2"]),
        ("train_00002.jpg 2 1", ["3 columns, not 2"]),
        ("train 00002.jpg 2", ["3 columns, not 2"]),
        ("valid_00002.jpg 2", ["'valid_00002.jpg' is no image name such as train_00001.jpg"]),
        ("train_00002_aligned.jpg 2", ["is no image name"]),
        ("train_00002.JPG 2", ["is no image name"]),
        ("train_.jpg 2", ["is no image name"]),
        ("sub/train_00002.jpg 2", ["is no image name"]),
        ("train_\u0662.jpg 2", ["is no image name"]),
        ("train_00001.jpg 1", ["train_00001.jpg is already in line 1"]),
        ("train_99999.jpg 2", ["train_99999_aligned.jpg' is not there or empty", "1 of 14"]),
    ],
)
def test_damaged_lines(tmp_path: Path, text: str, parts: list[str]) -> None:
    root = write_rafdb(tmp_path)
    edit(root, 2, lambda _: text)
    message = refusal(root)
    assert "list_patition_label.txt, line 2: " in message and all(part in message for part in parts), message


def test_a_list_that_is_no_list(tmp_path: Path) -> None:
    root = write_rafdb(tmp_path)
    text = (root / LIST).read_bytes()
    (root / LIST).write_bytes(text[:20] + b"\xff" + text[20:])
    assert "cannot be read as text" in refusal(root)
    (root / LIST).write_bytes(b"")
    assert "names no train image" in refusal(root)
    (root / LIST).write_bytes(b"".join(line for line in text.splitlines(keepends=True) if line.startswith(b"train")))
    assert "names no test image" in refusal(root)
    (root / LIST).write_bytes(b"\xef\xbb\xbf" + text)
    assert load_fer_dataset("rafdb", root)


@pytest.mark.parametrize(
    ("file", "text", "parts"),
    [
        (POINTS, "1 2\n3 4\n5 6\n", ["line 4", "'' should be 2 numbers"]),
        (POINTS, "1 2\n3\n", ["line 2", "'3' should be 2 numbers"]),
        (POINTS, "1 2\n3 4 5\n", ["line 2", "'3 4 5' should be 2 numbers"]),
        (POINTS, "1 2\n3 x\n", ["line 2", "'3 x'"]),
        (POINTS, "1 2\n3 nan\n", ["line 2", "'3 nan'"]),
        (POINTS, "1 2\ninf 4\n", ["line 2", "'inf 4'"]),
        (POINTS, "1 2\n3 -1e39\n", ["line 2", "'3 -1e39'"]),  # -inf in float32
        (POINTS, "", ["line 1", "should be 2 numbers"]),
        (POINTS, None, ["is not there"]),
        (BOX, "1 2 3\n", ["line 1", "should be 4 numbers"]),
        (BOX, "1 2 3 4 5\n", ["line 1", "should be 4 numbers"]),
        (BOX, "", ["line 1", "should be 4 numbers"]),
        (BOX, "30 40 20 50\n", ["line 1", "no box of left, top, right and bottom"]),
        (BOX, "30 40 50 40\n", ["line 1", "no box of left"]),
        (BOX, None, ["is not there"]),
    ],
)
def test_damaged_annotations(tmp_path: Path, file: str, text: str | None, parts: list[str]) -> None:
    root = write_rafdb(tmp_path)
    if text is None:
        (root / file).unlink()
    else:
        (root / file).write_text(text)
    message = refusal(root, images="original", annotations=True)
    assert Path(file).name in message and all(part in message for part in parts), message
    assert load_fer_dataset("rafdb", root, images="original")  # who does not ask for them is not bothered


def test_annotations_in_another_encoding(tmp_path: Path) -> None:
    root = write_rafdb(tmp_path)
    (root / BOX).write_bytes(b"1 2 \xff 4\n")
    assert "test_0003_boundingbox.txt cannot be read as text" in refusal(root, images="original", annotations=True)


def test_check_counts_looks_at_splits_and_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_rafdb(tmp_path)
    message = refusal(root, check_counts=True)
    assert "images are train 7 / test 7, official are train 12271 / test 3068" in message
    monkeypatch.setattr(module, "OFFICIAL_CLASS_COUNTS", {"train": (1,) * 7, "test": (1,) * 7})
    assert load_fer_dataset("rafdb", root, check_counts=True)
    edit(root, 9, lambda line: line[:-1] + "1")
    message = refusal(root, check_counts=True)
    assert "test images by class are surprise 2 / fear 0 / disgust 1" in message
