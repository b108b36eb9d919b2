"""AffectNet: both official layouts, labels by name, the counts, the cache, and every error."""

from __future__ import annotations

import csv
import io
import logging
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from hf_fer.data import affectnet as module
from hf_fer.data import load_fer_dataset
from hf_fer.errors import FerError
from hf_fer.labels import label_names

#: As the release's documentation numbers them.
NAMES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
HEADER = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
SETS = {"train": "train_set", "validation": "val_set"}
LISTS = {"train": "training.csv", "validation": "validation.csv"}


@pytest.fixture(scope="module", autouse=True)
def offline_and_cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No network, and a cache that goes away; read at import, so environment and constants are both set."""
    cache = tmp_path_factory.mktemp("datasets-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(cache))
        import datasets
        import huggingface_hub

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        datasets.disable_progress_bars()
        yield cache
        datasets.enable_progress_bars()


# --- small releases, in the official layouts ----------------------------------------------------


@dataclass
class Face:
    """One image: split, number, class id 0..10, valence, arousal, 136 landmark coordinates or None, face box."""

    split: str
    number: int
    expression: int
    valence: float
    arousal: float
    landmarks: np.ndarray | None = field(repr=False)
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """As the lists name it."""
        return f"{self.number % 3 + 1}/{self.number:04x}.jpg"


def make_faces(seed: int = 0, copies: int = 2) -> list[Face]:
    """Every id of every split, in no order; numbers with gaps; a face without landmarks."""
    rng = np.random.default_rng(seed)
    faces, number = [], 0
    for split in SETS:
        for expression in rng.permutation([*range(11)] * copies).tolist():
            number += int(rng.integers(1, 9))
            annotated = expression < 9
            faces.append(
                Face(
                    split,
                    number,
                    expression,
                    round(float(rng.uniform(-1, 1)), 6) if annotated else -2.0,
                    round(float(rng.uniform(-1, 1)), 6) if annotated else -2.0,
                    rng.uniform(0, 224, 136).round(2) if annotated else None,
                    tuple(rng.integers(0, 300, 4).tolist()),
                )
            )
    return faces


def picture(face: Face) -> Image.Image:
    return Image.new("RGB", (8, 8), (face.number * 5 % 256,) * 3)


def write_numpy(root: Path, faces: list[Face], text: bool = True) -> Path:
    """As the newer release: one value a file, as text (the official files) or as a number."""
    for face in faces:
        images, annotations = (root / SETS[face.split] / name for name in ("images", "annotations"))
        images.mkdir(parents=True, exist_ok=True)
        annotations.mkdir(parents=True, exist_ok=True)
        picture(face).save(images / f"{face.number}.jpg")
        for kind, value in (("exp", face.expression), ("val", face.valence), ("aro", face.arousal)):
            np.save(annotations / f"{face.number}_{kind}.npy", np.array(str(value) if text else value))
        if face.landmarks is not None:
            np.save(annotations / f"{face.number}_lnd.npy", face.landmarks)
    return root


def row_of(face: Face) -> list[Any]:
    landmarks = "" if face.landmarks is None else ";".join(map(str, face.landmarks))
    return [face.name, *face.box, landmarks, face.expression, face.valence, face.arousal]


def write_csv(root: Path, faces: list[Face], header: bool = True, automatic: bool = False) -> Path:
    """As the older release; `automatic` writes the training faces as those that a network labelled."""
    for split, name in LISTS.items():
        kind = "Automatically" if automatic and split == "train" else "Manually"
        lists = root / f"{kind}_Annotated_file_lists"
        lists.mkdir(parents=True, exist_ok=True)
        list_name = "automatically_annotated.csv" if kind == "Automatically" else name
        with (lists / list_name).open("w", newline="") as stream:
            rows = csv.writer(stream)
            if header or split == "train":
                rows.writerow(HEADER.split(","))
            for face in faces:
                if face.split == split:
                    rows.writerow(row_of(face))
                    path = root / f"{kind}_Annotated_Images" / face.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    picture(face).save(path)
    return root


WRITERS: dict[str, Callable[[Path, list[Face]], Path]] = {"numpy": write_numpy, "csv": write_csv}


def kept(faces: list[Face], split: str, form: str, classes: int = 8) -> list[Face]:
    faces = [face for face in faces if face.split == split and face.expression < classes]
    return sorted(faces, key=lambda face: face.number) if form == "numpy" else faces


def check_rows(dataset: Any, faces: list[Face], form: str, classes: int = 8) -> None:
    assert list(dataset) == ["train", "validation"]
    for split, rows in dataset.items():
        wanted = kept(faces, split, form, classes)
        assert rows.features["label"].names == list(label_names("affectnet", classes))
        box = ["bbox"] if form == "csv" else []
        assert rows.column_names == ["image", "label", "valence", "arousal", "landmarks", *box, "image_name"]
        assert str(rows.split) == split and len(rows) == len(wanted) > 0
        for row, face in zip(rows, wanted, strict=True):
            assert rows.features["label"].int2str(row["label"]) == NAMES[face.expression]
            assert row["image_name"] == (f"{face.number}.jpg" if form == "numpy" else face.name)
            np.testing.assert_allclose([row["valence"], row["arousal"]], [face.valence, face.arousal], rtol=1e-6)
            if face.landmarks is None:
                assert row["landmarks"] is None
            else:
                np.testing.assert_allclose(row["landmarks"], face.landmarks.reshape(68, 2), rtol=1e-6)
            assert form == "numpy" or row["bbox"] == list(face.box)
            assert abs(int(np.asarray(row["image"])[0, 0, 0]) - face.number * 5 % 256) <= 2


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in [root, *root.rglob("*")]}


@pytest.mark.parametrize("classes", [8, 7])
@pytest.mark.parametrize("form", WRITERS)
def test_official_layouts(tmp_path: Path, form: str, classes: int) -> None:
    faces = make_faces()
    faces[next(i for i, face in enumerate(faces) if face.expression == 2)].landmarks = None
    root = WRITERS[form](tmp_path, faces)
    check_rows(load_fer_dataset("affectnet", root, classes=classes), faces, form, classes)
    check_rows(load_fer_dataset("affectnet", str(root), classes=classes, form=form), faces, form, classes)


def test_values_as_numbers_and_without_a_single_landmark(tmp_path: Path) -> None:
    faces = make_faces()
    for face in faces:
        face.landmarks = None
    check_rows(load_fer_dataset("affectnet", write_numpy(tmp_path, faces, text=False)), faces, "numpy")


@pytest.mark.parametrize("value", [np.array([3]), np.array(["3"]), np.array(b"3"), np.uint8(3), np.array(3, ">i8")])
def test_one_value_in_whatever_type(tmp_path: Path, value: Any) -> None:
    faces = make_faces()
    face = kept(faces, "train", "numpy")[0]
    root = write_numpy(tmp_path, faces)
    np.save(root / "train_set/annotations" / f"{face.number}_exp.npy", value)
    row = load_fer_dataset("affectnet", root)["train"].remove_columns("image")[0]
    assert row["label"] == NAMES.index("surprise")


@pytest.mark.parametrize("order", ["C", "F"])
def test_landmarks_as_68_points_and_as_integers(tmp_path: Path, order: Literal["C", "F"]) -> None:
    faces = make_faces()
    face = kept(faces, "train", "numpy")[0]
    face.landmarks = np.asarray(np.arange(136).reshape(68, 2), order=order)
    check_rows(load_fer_dataset("affectnet", write_numpy(tmp_path, faces)), faces, "numpy")


def test_many_faces_keep_their_order_through_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDS_PER_TASK", 3)
    faces = make_faces(copies=8)
    random.Random(0).shuffle(faces)
    check_rows(load_fer_dataset("affectnet", write_numpy(tmp_path, faces)), faces, "numpy")


def test_values_that_were_not_annotated_are_none(tmp_path: Path) -> None:
    faces = make_faces()
    for form, write in WRITERS.items():
        face = kept(faces, "train", form)[0]
        face.valence = face.arousal = -2.0
        row = load_fer_dataset("affectnet", write(tmp_path / form, faces))["train"].remove_columns("image")[0]
        assert row["valence"] is None and row["arousal"] is None


def test_the_first_complete_form_is_taken(tmp_path: Path) -> None:
    faces, others = make_faces(1), make_faces(2)
    root = write_csv(write_numpy(tmp_path, faces), others)
    check_rows(load_fer_dataset("affectnet", root), faces, "numpy")
    check_rows(load_fer_dataset("affectnet", root, form="csv"), others, "csv")
    shutil.rmtree(root / "val_set")
    check_rows(load_fer_dataset("affectnet", root), others, "csv")


@pytest.mark.parametrize("place", ["root", "Manually_Annotated"])
def test_lists_in_root_and_images_in_the_archives_own_folder(tmp_path: Path, place: str) -> None:
    faces = make_faces()
    root = write_csv(tmp_path, faces)
    if place == "root":
        for name in LISTS.values():
            (root / "Manually_Annotated_file_lists" / name).rename(root / name)
        (root / "Manually_Annotated_file_lists").rmdir()
    else:
        (root / "Manually_Annotated").mkdir()
        (root / "Manually_Annotated_Images").rename(root / "Manually_Annotated" / "Manually_Annotated_Images")
    check_rows(load_fer_dataset("affectnet", root), faces, "csv")


def test_a_validation_list_without_a_header_line(tmp_path: Path) -> None:
    faces = make_faces()
    check_rows(load_fer_dataset("affectnet", write_csv(tmp_path, faces, header=False)), faces, "csv")


def test_spreadsheet_dialects_of_the_lists(tmp_path: Path) -> None:
    faces = make_faces()
    root = write_csv(tmp_path, faces)
    for path in root.rglob("*.csv"):
        text = path.read_text().replace("\r\n", "\n").replace("/", "\\").replace(HEADER, HEADER.upper())
        path.write_bytes(b"\xef\xbb\xbf" + text.replace(",", ", ").encode() + b"\n\n")
    check_rows(load_fer_dataset("affectnet", root), faces, "csv")


@pytest.mark.parametrize("folder", ["Automatically_Annotated_file_lists", "Automatically_annotated_file_list", "."])
def test_automatic_annotations(tmp_path: Path, folder: str) -> None:
    manual = make_faces(1)
    root = write_csv(tmp_path, manual)
    automatic = [face for face in make_faces(2) if face.split == "train"]
    automatic += [face for face in manual if face.split == "validation"]
    write_csv(root, automatic, automatic=True)
    source = root / "Automatically_Annotated_file_lists/automatically_annotated.csv"
    (root / folder).mkdir(exist_ok=True)
    source.rename(root / folder / source.name)
    check_rows(load_fer_dataset("affectnet", root), manual, "csv")
    check_rows(load_fer_dataset("affectnet", root, annotations="automatic", classes=7), automatic, "csv", 7)


@pytest.mark.parametrize("form", WRITERS)
def test_one_line_says_what_was_dropped(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    root = WRITERS[form](tmp_path, make_faces(copies=3))
    for classes, level in ((8, logging.WARNING), (7, logging.INFO)):  # the second time they come from the cache
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="hf_fer.data.affectnet"):
            load_fer_dataset("affectnet", root, classes=classes)
        assert [record.levelno for record in caplog.records] == [level] * 2
        contempt = "" if classes == 8 else ", 3 contempt"
        assert [record.getMessage() for record in caplog.records] == [
            f"AffectNet {split}: {3 * classes} images; dropped: 3 none, 3 uncertain, 3 no-face{contempt}"
            for split in SETS
        ]


# --- cache --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WRITERS)
def test_nothing_is_written_into_root_and_the_cache_holds_paths(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = WRITERS[form](tmp_path / "root", make_faces()), tmp_path / "cache"
    before = tree(root)
    first = load_fer_dataset("affectnet", root, cache_dir=cache)
    for rows in first.values():
        for row in rows:
            row["image"].load()
    assert tree(root) == before
    images = first["train"].data.column("image").to_pylist()
    assert all(image["bytes"] is None and image["path"].startswith(str(root)) for image in images)

    def unread(*_: object) -> None:
        raise AssertionError("read again although nothing changed")

    monkeypatch.setattr(module, "_read_npy", unread)
    monkeypatch.setattr(module, "_csv_rows", unread)
    again = load_fer_dataset("affectnet", root, cache_dir=cache)
    assert {split: rows["label"][:] for split, rows in again.items()} == {
        split: rows["label"][:] for split, rows in first.items()
    }
    # The classes are chosen after the cache: minutes of reading are not done twice.
    assert len(load_fer_dataset("affectnet", root, cache_dir=cache, classes=7)["train"]) < len(again["train"])


def test_a_changed_annotation_file_is_read_anew(tmp_path: Path) -> None:
    faces = make_faces()
    root = write_numpy(tmp_path, faces)
    load_fer_dataset("affectnet", root)
    face = kept(faces, "train", "numpy")[-1]
    folder = root / "train_set/annotations"
    times = folder.stat()
    for kind, value in (("exp", 6), ("aro", 0.5)):
        path = folder / f"{face.number}_{kind}.npy"
        path.write_bytes(npy(np.array(str(value))))  # in place, of another size or the same
        os.utime(path, ns=(10**18, 10**18))
    os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))
    face.expression, face.arousal = 6, 0.5
    check_rows(load_fer_dataset("affectnet", root), faces, "numpy")


def test_a_changed_list_is_read_anew(tmp_path: Path) -> None:
    faces = make_faces()
    root = write_csv(tmp_path, faces)
    load_fer_dataset("affectnet", root)
    face = kept(faces, "validation", "csv")[0]
    face.expression = (face.expression + 1) % 8
    write_csv(root, faces)  # of the same size
    os.utime(root / "Manually_Annotated_file_lists/validation.csv", ns=(10**18, 10**18))
    check_rows(load_fer_dataset("affectnet", root), faces, "csv")


def test_an_image_that_went_is_noticed(tmp_path: Path) -> None:
    faces = make_faces()
    root = write_numpy(tmp_path, faces)
    load_fer_dataset("affectnet", root)
    (root / "train_set/images" / f"{kept(faces, 'train', 'numpy')[0].number}.jpg").unlink()
    with pytest.raises(FerError, match="do not go together"):
        load_fer_dataset("affectnet", root)


# --- counts -------------------------------------------------------------------------------------


def test_the_published_counts() -> None:
    """All manual labels less 500 a class for validation; the sums that 7- and 8-class papers quote."""
    assert module.OFFICIAL_TRAIN == (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750)
    assert sum(module.OFFICIAL_TRAIN) == 287_651 and sum(module.OFFICIAL_TRAIN[:7]) == 283_901
    assert module.OFFICIAL_ROWS == {"train": 420_299 - 11 * 500, "validation": 11 * 500}
    assert sum(module.OFFICIAL_TRAIN) + 33_088 + 11_645 + 82_415 == module.OFFICIAL_ROWS["train"]
    assert label_names("affectnet") == NAMES


@pytest.mark.parametrize("classes", [8, 7])
@pytest.mark.parametrize("form", WRITERS)
def test_check_counts(tmp_path: Path, form: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = make_faces(copies=3)
    root = WRITERS[form](tmp_path, faces)
    options: dict[str, Any] = {"check_counts": True, "classes": classes}
    wanted = r"not the official release: train images are neutral 3 / .* official are neutral 74874 / happiness 134415"
    with pytest.raises(FerError, match=wanted):
        load_fer_dataset("affectnet", root, **options)
    monkeypatch.setattr(module, "OFFICIAL_TRAIN", (3,) * 8)
    with pytest.raises(FerError, match=r"validation images are neutral 3 / .* official are neutral 500 /"):
        load_fer_dataset("affectnet", root, **options)
    monkeypatch.setattr(module, "OFFICIAL_VALIDATION", 3)
    if form == "csv":
        with pytest.raises(FerError, match="rows of the lists are train 33 / validation 33, official are train 414799"):
            load_fer_dataset("affectnet", root, **options)
        monkeypatch.setattr(module, "OFFICIAL_ROWS", {"train": 33, "validation": 33})
    check_rows(load_fer_dataset("affectnet", root, **options), faces, form, classes)


def test_the_newer_release_has_one_contempt_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OFFICIAL_TRAIN", (2,) * 8)
    monkeypatch.setattr(module, "OFFICIAL_VALIDATION", 2)
    monkeypatch.setattr(module, "OFFICIAL_ROWS", {"train": 22, "validation": 21})
    for name in ("contempt", "fear"):
        faces = make_faces()
        faces.remove(next(f for f in faces if f.split == "validation" and f.expression == NAMES.index(name)))
        root = write_numpy(tmp_path / name, faces)
        if name == "contempt":
            assert len(load_fer_dataset("affectnet", root, check_counts=True)["validation"]) == 15
        else:
            with pytest.raises(FerError, match=r"fear 1 / .* official are .* fear 2 /"):
                load_fer_dataset("affectnet", root, check_counts=True)
        with pytest.raises(FerError, match="validation images are"):
            load_fer_dataset("affectnet", write_csv(tmp_path / f"{name}-csv", faces), check_counts=True)


# --- what can be wrong --------------------------------------------------------------------------


def sentence(root: Path, **options: Any) -> str:
    with pytest.raises(FerError) as error:
        load_fer_dataset("affectnet", root, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("form", "change", "parts"),
    [
        (
            "numpy",
            lambda root: shutil.rmtree(root / "val_set"),
            ["as numpy it lacks val_set/annotations/<id>_exp.npy, val_set/images/<id>.jpg; as csv it lacks "
             "Manually_Annotated_file_lists/training.csv, Manually_Annotated_Images/, "
             "Manually_Annotated_file_lists/validation.csv; found train_set/; ask"],
        ),
        ("numpy", lambda root: shutil.rmtree(root / "train_set/annotations"), ["lacks train_set/annotations/<id>"]),
        (
            "numpy",
            lambda root: [path.unlink() for path in (root / "train_set/images").iterdir()],
            ["as numpy it lacks train_set/images/<id>.jpg;", "found train_set/, val_set/; ask"],
        ),
        ("numpy", lambda root: (root / "train_set").rename(root / "training"), ["found training/, val_set/; ask"]),
        (
            "numpy",
            lambda root: next((root / "train_set/images").iterdir()).unlink(),
            ["of 22 faces there lack 1 files in", "train_set/images' (first: "],
        ),
        (
            "numpy",
            lambda root: [path.unlink() for path in (root / "val_set/annotations").glob("*_val.npy")],
            ["of 22 faces there lack 22 files in", "val_set/annotations' (first: ", "_val.npy)"],
        ),
        (
            "numpy",
            lambda root: [path.rename(path.with_suffix(".png")) for path in (root / "val_set/images").glob("*")],
            ["of 22 faces there lack 22 files in", "val_set/images' (first: "],
        ),
        (
            "numpy",
            lambda root: [p.rename(p.with_name(f"a{p.name}")) for s in SETS.values() for p in root.glob(f"{s}/*/*")],
            ["should have <id>.jpg and", "with whole numbers for ids, found a"],
        ),
        (
            "csv",
            lambda root: (root / "Manually_Annotated_file_lists/validation.csv").unlink(),
            ["as csv it lacks Manually_Annotated_file_lists/validation.csv; found Manually_Annotated_Images/, "],
        ),
        (
            "csv",
            lambda root: shutil.rmtree(root / "Manually_Annotated_Images"),
            ["as csv it lacks Manually_Annotated_Images/; found"],
        ),
        (
            "csv",
            lambda root: shutil.rmtree(root / "Manually_Annotated_Images/2"),
            ["training.csv lists 16 images with an expression, but ", " of them are not in", "(first: '2/"],
        ),
    ],
)  # fmt: skip
def test_wrong_trees(tmp_path: Path, form: str, change: Callable[[Path], object], parts: list[str]) -> None:
    root = WRITERS[form](tmp_path, make_faces())
    change(root)
    message = sentence(root)
    for part in [*parts, str(root), "https://mohammadmahoor.com/pages/databases/affectnet/"]:
        assert part in message, message


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def raw_npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A numpy file with any header."""
    text = header.encode() + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


class Canary:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "unpickled")


def objects(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Canary(canary)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


ARRAY = "{'descr': '<i8', 'fortran_order': False, 'shape': (%s), }"
CONTENTS: list[tuple[str, Callable[[Path], bytes], str]] = [
    ("exp", lambda _: npy(np.array("11")), "the expression must be an id in 0..10, not '11'"),
    ("exp", lambda _: npy(np.array(-1)), "not '-1'"),
    ("exp", lambda _: npy(np.array("happy")), "not 'happy'"),
    ("exp", lambda _: npy(np.array(3.0)), "not '3.0'"),
    ("exp", lambda _: npy(np.array("٣")), "not '٣'"),
    ("exp", lambda _: npy(np.array([1, 2])), "it must hold one value, not shape (2,)"),
    ("exp", lambda _: npy(np.array(True)), "is no numpy file of AffectNet ('its type is bool')"),
    ("exp", lambda _: npy(np.array("")), "not ''"),
    ("exp", lambda _: raw_npy("{'descr': '<U0', 'fortran_order': False, 'shape': ()}"), "('its type is <U0')"),
    ("exp", lambda _: npy(np.zeros(2000)), "is no numpy file of AffectNet ('more than 8192 bytes')"),
    ("exp", lambda _: npy(np.zeros((0,))), "('its shape is (0,)')"),
    ("exp", lambda _: npy(np.zeros(1, "i4,f4")), "is no numpy file of AffectNet"),
    ("exp", lambda _: b"", "is no numpy file of AffectNet"),
    ("exp", lambda _: b"4\n", "is no numpy file of AffectNet"),
    ("exp", lambda _: npy(np.array("4"))[:-1], "3 bytes for <U1 of shape ()"),
    ("exp", lambda _: npy(np.array("4"))[:60], "is no numpy file of AffectNet"),
    ("exp", lambda _: npy(np.array("4")) + b"x", "5 bytes for <U1 of shape ()"),
    ("exp", objects, "('its type is object')"),
    ("exp", lambda canary: pickle.dumps(Canary(canary)), "is no numpy file of AffectNet"),
    ("exp", lambda _: raw_npy(ARRAY % "10**9,"), "is no numpy file of AffectNet"),
    ("exp", lambda _: raw_npy(ARRAY % "1000000000000,"), "('its shape is (1000000000000,)')"),
    ("exp", lambda _: raw_npy(ARRAY % "-1,", b"x" * 8), "('its shape is (-1,)')"),
    ("exp", lambda _: raw_npy(ARRAY % "True,", b"x" * 8), "is no numpy file of AffectNet"),
    ("exp", lambda _: raw_npy("(" * 3000), "is no numpy file of AffectNet"),
    ("exp", lambda _: raw_npy("-" * 5000 + "1"), "is no numpy file of AffectNet"),
    ("exp", lambda _: raw_npy(ARRAY % "", version=(9, 0)), "is no numpy file of AffectNet"),
    ("exp", lambda _: raw_npy("{'descr': ['<i8'] * 9, 'shape': ()}"), "is no numpy file of AffectNet"),
    ("val", lambda _: npy(np.array("1.5")), "valence and arousal must lie in -1..1 or be -2, not '1.5'"),
    ("aro", lambda _: npy(np.array(np.nan)), "valence and arousal must be numbers, not 'nan'"),
    ("aro", lambda _: npy(np.array("inf")), "valence and arousal must be numbers, not 'inf'"),
    ("aro", lambda _: npy(np.array("sad")), "valence and arousal must be numbers, not 'sad'"),
    ("lnd", lambda _: npy(np.zeros(135)), "landmarks must be 136 numbers, not float64 of shape (135,)"),
    ("lnd", lambda _: npy(np.zeros((2, 68))), "of shape (2, 68)"),
    ("lnd", lambda _: npy(np.full(136, "1")), "not <U1 of shape (136,)"),
    ("lnd", lambda _: npy(np.full(136, np.inf)), "the landmarks must be numbers up to"),
    ("lnd", lambda _: npy(np.full(136, np.nan)), "the landmarks must be numbers up to"),
]


@pytest.fixture(scope="module")
def numpy_release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Face]]:
    faces = make_faces()
    return write_numpy(tmp_path_factory.mktemp("numpy"), faces), faces


@pytest.mark.parametrize(("kind", "content", "part"), CONTENTS)
def test_hostile_numpy_files_are_named(
    tmp_path: Path,
    numpy_release: tuple[Path, list[Face]],
    kind: str,
    content: Callable[[Path], bytes],
    part: str,
) -> None:
    root, faces = numpy_release
    face = kept(faces, "train", "numpy")[3]
    path = root / "train_set/annotations" / f"{face.number}_{kind}.npy"
    before, canary = path.read_bytes(), tmp_path / "canary"
    try:
        path.write_bytes(content(canary))
        message = sentence(root)
    finally:
        path.write_bytes(before)
    assert part in message and str(path) in message, message
    assert not canary.exists()


def test_a_damaged_header_in_any_byte_is_an_error_or_read(numpy_release: tuple[Path, list[Face]]) -> None:
    rng = random.Random(0)
    good = npy(np.array("4"))
    path = numpy_release[0] / "x.npy"
    for _ in range(300):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            assert module._read_npy(str(path)).nbytes == 4
        except FerError as error:
            assert str(path) in str(error)


def test_annotations_that_are_dropped_need_not_make_sense(tmp_path: Path) -> None:
    faces = make_faces()
    numpy_root, csv_root = write_numpy(tmp_path / "numpy", faces), write_csv(tmp_path / "csv", faces)
    face = next(face for face in faces if face.expression == 10 and face.split == "train")
    (numpy_root / "train_set/annotations" / f"{face.number}_val.npy").write_bytes(b"")
    check_rows(load_fer_dataset("affectnet", numpy_root), faces, "numpy")
    path = csv_root / "Manually_Annotated_file_lists/training.csv"
    lines = [f"{face.name},NULL,NULL,NULL,NULL,NULL,10,-2,-2" if face.name in line else line
             for line in path.read_text().splitlines()]  # fmt: skip
    path.write_text("\n".join(lines))
    (csv_root / "Manually_Annotated_Images" / face.name).unlink()
    check_rows(load_fer_dataset("affectnet", csv_root), faces, "csv")


POINTS = ";".join(["1.5"] * 136)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (f"{{name}},1,2,3,4,{POINTS},11,0,0", "the expression must be an id in 0..10, not '11'"),
        (f"{{name}},1,2,3,4,{POINTS},1.0,0,0", "not '1.0'"),
        (f"{{name}},1,2,3,4,{POINTS},,0,0", "not ''"),
        (f"{{name}},1,2,3,4,{POINTS},1,3,0", "valence and arousal must lie in -1..1 or be -2, not '3'"),
        (f"{{name}},1,2,3,4,{POINTS},1,0,nan", "valence and arousal must be numbers, not 'nan'"),
        (f"{{name}},1,2,x,4,{POINTS},1,0,0", "the face box must be numbers, not 'x'"),
        (f"{{name}},1,2,3,inf,{POINTS},1,0,0", "the face box must be numbers, not 'inf'"),
        ("{name},1,2,3,4,1;2;3,1,0,0", "3 landmark coordinates, not 136"),
        (f"{{name}},1,2,3,4,{POINTS[:-3]}abc,1,0,0", "landmarks must be numbers, not 'abc'"),
        (f"{{name}},1,2,3,4,{POINTS},1,0", "the columns must be subDirectory_filePath,face_x"),
        (f"{{name}},1,2,3,4,{POINTS},1,0,0,0", "the columns must be subDirectory_filePath,face_x"),
        (f"../../canary.jpg,1,2,3,4,{POINTS},1,0,0", "'../../canary.jpg' is no path inside"),
        (f"1/../../../canary.jpg,1,2,3,4,{POINTS},1,0,0", "is no path inside"),
        (f"..\\..\\canary.jpg,1,2,3,4,{POINTS},1,0,0", "is no path inside"),
        (f"{{root}}/../canary.jpg,1,2,3,4,{POINTS},1,0,0", "is no path inside"),
        (f"/etc/hostname,1,2,3,4,{POINTS},1,0,0", "is no path inside"),
        (f"C:/canary.jpg,1,2,3,4,{POINTS},1,0,0", "is no path inside"),
        (f"a\0b.jpg,1,2,3,4,{POINTS},1,0,0", "is no path inside"),
        (f",1,2,3,4,{POINTS},1,0,0", "'' is no path inside"),
    ],
)
def test_hostile_lines_are_named_and_the_canary_is_not_read(tmp_path: Path, line: str, part: str) -> None:
    root = write_csv(tmp_path / "root", make_faces())
    picture(make_faces()[0]).save(tmp_path / "canary.jpg")
    path = root / "Manually_Annotated_file_lists/training.csv"
    lines = path.read_text().splitlines()
    lines[5] = line.format(name=lines[5].split(",")[0], root=root)
    path.write_text("\n".join(lines))
    message = sentence(root)
    assert part in message and f"{path}, line 6: " in message, message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "has no image with an expression for the validation split"),
        (HEADER, "has no image with an expression for the validation split"),
        (HEADER.replace("face_x", "x"), "validation.csv, line 1: the columns must be subDirectory_filePath,"),
        ("subDirectory_filePath,expression\n1/a.jpg,3\n", "validation.csv, line 1: the columns must be"),
        (f"a,b\n{HEADER}\n", "validation.csv, line 1: the columns must be"),
        (f"{HEADER}\n{HEADER}\n", "validation.csv, line 2: the expression must be an id in 0..10, not 'expression'"),
        (HEADER.encode("utf-16"), "validation.csv cannot be read as CSV after line 0"),
        (HEADER.encode() + b"\n\xff\xfe,1,2,3,4,,1,0,0\n", "validation.csv cannot be read as CSV after line"),
        (HEADER + '\n"' + "x" * 200_000, "validation.csv cannot be read as CSV after line 1"),
    ],
)
def test_damaged_lists(tmp_path: Path, content: str | bytes, part: str) -> None:
    root = write_csv(tmp_path, make_faces())
    path = root / "Manually_Annotated_file_lists/validation.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = sentence(root)
    assert part in message and str(path) in message, message


def test_a_split_without_an_expression(tmp_path: Path) -> None:
    faces = [face for face in make_faces() if face.split == "train" or face.expression > 7]
    for form, write in WRITERS.items():
        assert "no image with an expression for the validation split" in sentence(write(tmp_path / form, faces))


def test_wrong_options(tmp_path: Path) -> None:
    root = write_numpy(tmp_path, make_faces())
    assert "form='npy' is not a form of AffectNet; choose one of numpy, csv" in sentence(root, form="npy")
    assert "annotations='auto' is none of AffectNet" in sentence(root, annotations="auto")
    assert "only in the form 'csv'" in sentence(root, annotations="automatic", form="numpy")
    assert "No counts are published" in sentence(root, annotations="automatic", check_counts=True)
    assert "classes=9" in sentence(root, classes=9)
    message = sentence(root, annotations="automatic")
    assert "as csv it lacks Automatically_Annotated_file_lists/automatically_annotated.csv, " in message
    assert "Automatically_Annotated_Images/, Manually_Annotated_file_lists/validation.csv" in message
    assert "no option 'label_rule'" in sentence(root, label_rule="majority")


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_numpy(tmp_path, make_faces())

    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied", "annotations")

    denied = "cannot be read: [Errno 13] Permission denied: 'annotations'; make"
    with monkeypatch.context() as patch:
        patch.setattr(module, "_stamp", refuse)
        assert f"The AffectNet folder {str(root)!r} {denied} it readable" in sentence(root)
    with monkeypatch.context() as patch:  # as it looks when the folder becomes unreadable while rows are built
        patch.setattr(module, "_IMAGE", type("Unreadable", (), {"fullmatch": refuse}))
        assert f"Images and annotations of AffectNet {denied} them readable" in sentence(root)
    face = kept(make_faces(), "train", "numpy")[0]
    path = root / "train_set/annotations" / f"{face.number}_exp.npy"
    path.unlink()
    path.mkdir()
    assert f"{path} cannot be read: [Errno 21]" in sentence(root)


@pytest.mark.parametrize("root", [None, "/no/such/folder", "x" * 5000, "a\0b"])
def test_missing_root(root: str | None) -> None:
    with pytest.raises(FerError, match=r"(needs root=|does not exist).*mohammadmahoor\.com/pages/databases/affectnet"):
        load_fer_dataset("affectnet", root)


def test_an_empty_folder_lists_what_was_looked_for(tmp_path: Path) -> None:
    message = sentence(tmp_path)
    for part in (str(tmp_path), "train_set/images/<id>.jpg", "Manually_Annotated_Images/", "found nothing; ask for"):
        assert part in message
