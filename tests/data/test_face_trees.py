"""What the loaders of folder trees have in common, on every one of them: labels by name, laziness, refusals."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
from face_trees import (
    GREYS,
    opened_files,
    shown,
    state,
    write_caers,
    write_fer2013_folders,
    write_ferg,
    write_jaffe,
    write_rafdb,
    write_sfew,
)

from hf_fer.data import DATASETS, load_fer_dataset
from hf_fer.data import ferg as ferg_module
from hf_fer.data import jaffe as jaffe_module
from hf_fer.errors import FerError

ALPHABETICAL = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]


@dataclass
class Tree:
    """A release: how it is written, what must come out of it, one of its images, and where it is to be had."""

    name: str
    write: Callable[[Path], Path]
    order: list[str]
    sizes: dict[str, int]
    columns: list[str]
    image: str
    source: str


TREES = [
    Tree("fer2013", write_fer2013_folders, ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"],
         {"train": 14, "test": 7}, ["image", "label", "image_name"], "train/sad/Training_1.jpg", "Kaggle"),
    Tree("rafdb", write_rafdb, ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"],
         {"train": 7, "test": 7}, ["image", "label", "image_name"], "Image/aligned/test_0003_aligned.jpg", "whdeng.cn"),
    Tree("jaffe", write_jaffe, ALPHABETICAL, {"train": 70}, ["image", "label", "group", "image_name"],
         "KA.AN2.1.tiff", "zenodo"),
    Tree("ferg", write_ferg, ALPHABETICAL, {"train": 84}, ["image", "label", "image_name", "group"],
         "ray/ray_joy/ray_joy_2.png", "grail.cs.washington.edu"),
    Tree("sfew", write_sfew, ALPHABETICAL, {"train": 14, "validation": 7}, ["image", "label", "image_name", "group"],
         "Val/Val_Aligned_Faces/Sad/21_001010160_00000010.png", "few_group"),
    Tree("caers", write_caers, ALPHABETICAL, {"train": 14, "test": 7}, ["image", "label", "image_name"],
         "test/Fear/0001.png", "caer-dataset.github.io"),
]  # fmt: skip


@pytest.fixture(params=TREES, ids=[tree.name for tree in TREES])
def tree(request: pytest.FixtureRequest) -> Tree:
    return request.param


def refusal(name: str, root: Path, **options: Any) -> str:
    """The one sentence that loading gives."""
    with pytest.raises(FerError) as error:
        load_fer_dataset(name, root, **options)
    message = str(error.value)
    assert "\n" not in message and len(message) < 900, message
    assert message.endswith(".")
    return message


def test_labels_are_what_the_pictures_show(tree: Tree, tmp_path: Path) -> None:
    root = tree.write(tmp_path / tree.name)
    loaded = load_fer_dataset(tree.name, root)
    assert {split: len(rows) for split, rows in loaded.items()} == tree.sizes
    for rows in loaded.values():
        names = rows.features["label"].names
        assert names == tree.order
        assert rows.column_names == tree.columns
        assert [names[row["label"]] for row in rows] == [shown(row["image"]) for row in rows]
        assert set(rows["label"]) == set(range(7))
        assert len(set(rows["image_name"])) == len(rows)
        # As text: the file as it lies there, no copy of it.
        paths = [row["image"] for row in rows.cast_column("image", datasets.Image(decode=False))]
        assert all(path["bytes"] is None and Path(path["path"]).is_relative_to(root) for path in paths)
        if tree.name != "rafdb":
            assert [Path(path["path"]).relative_to(root).as_posix() for path in paths] == list(rows["image_name"])
    assert len({str(rows.features) for rows in loaded.values()}) == 1


def test_nothing_is_written_and_no_image_is_opened(tree: Tree, tmp_path: Path) -> None:
    root = tree.write(tmp_path / "place" / tree.name)
    before = state(tmp_path)
    with opened_files() as opened:
        loaded = load_fer_dataset(tree.name, root)
    mine = [path for path in opened if path.startswith(str(tmp_path))]
    assert [Path(path).name for path in mine] == (["list_patition_label.txt"] if tree.name == "rafdb" else [])
    for rows in loaded.values():
        assert shown(rows[0]["image"]) in GREYS
    assert state(tmp_path) == before


def test_order_does_not_depend_on_the_file_system(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree.write(tmp_path)
    first = {split: list(rows["image_name"]) for split, rows in load_fer_dataset(tree.name, root).items()}
    scan = os.scandir

    class Backwards:
        def __init__(self, path: Any) -> None:
            with scan(path) as entries:
                self.entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self) -> Any:
            return self.entries

        def __next__(self) -> Any:
            return next(self.entries)

    monkeypatch.setattr(os, "scandir", Backwards)
    assert {split: list(rows["image_name"]) for split, rows in load_fer_dataset(tree.name, root).items()} == first


@pytest.mark.parametrize("root", [None, "/no/such/folder", "a\0b", "x" * 5000])
def test_no_root(tree: Tree, root: str | None) -> None:
    with pytest.raises(FerError, match=r"(needs root=|does not exist).*") as error:
        load_fer_dataset(tree.name, root)
    assert tree.source in str(error.value)


def test_another_folder_says_what_it_lacks_and_holds(tree: Tree, tmp_path: Path) -> None:
    message = refusal(tree.name, tmp_path)
    assert str(tmp_path) in message and tree.source in message
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "a.txt").touch()
    message = refusal(tree.name, tmp_path)
    assert str(tmp_path) in message and tree.source in message
    assert tree.name == "jaffe" or "holiday" in message


def test_an_empty_image_is_an_unfinished_download(tree: Tree, tmp_path: Path) -> None:
    root = tree.write(tmp_path)
    (root / tree.image).write_bytes(b"")
    message = refusal(tree.name, root)
    assert Path(tree.image).name in message and "empty" in message


def test_what_systems_leave_behind_is_no_image(tree: Tree, tmp_path: Path) -> None:
    root = tree.write(tmp_path)
    folder = (root / tree.image).parent
    (folder / "._hidden.png").write_bytes(b"\0")
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "Thumbs.db").write_bytes(b"\0")
    (folder / "README").write_text("text")
    (folder / "notes.txt").write_text("text")
    (folder / "folder.png").mkdir()
    if folder != root:
        (folder.parent / "__MACOSX").mkdir()
        (folder.parent / ".git").mkdir()
    loaded = load_fer_dataset(tree.name, root)
    assert {split: len(rows) for split, rows in loaded.items()} == tree.sizes


def test_check_counts_refuses_a_part(tree: Tree, tmp_path: Path) -> None:
    message = refusal(tree.name, tree.write(tmp_path), check_counts=True)
    assert "not the official release" in message or "not a known release" in message
    assert "without check_counts" in message


def test_check_counts_takes_the_whole(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the published counts put to those of the small tree; one image more is refused."""
    root = tree.write(tmp_path)
    module = __import__(f"hf_fer.data.{tree.name}", fromlist=["x"])
    if tree.name == "fer2013":
        counts: Any = {"train": (2,) * 7, "validation": (0,) * 7, "test": (1,) * 7}
    elif tree.name == "jaffe":
        counts = (10,) * 7
        monkeypatch.setattr(jaffe_module, "OFFICIAL_SUBJECTS", dict.fromkeys(jaffe_module.OFFICIAL_SUBJECTS, 7))
    elif tree.name == "ferg":
        counts = dict.fromkeys(ferg_module.CHARACTERS, (2,) * 7)
    else:
        counts = {split: (size // 7,) * 7 for split, size in tree.sizes.items()}
    if tree.name == "caers":
        monkeypatch.setattr(module, "PUBLISHED_COUNTS", ({"train": 1, "test": 1}, tree.sizes))
    else:
        monkeypatch.setattr(module, "OFFICIAL_CLASS_COUNTS", counts)
    assert load_fer_dataset(tree.name, root, check_counts=True)
    if tree.name != "rafdb":  # whose counts are those of the list
        image = root / tree.image
        copy = image.with_name("KA.AN9.999.tiff" if tree.name == "jaffe" else f"copy{image.suffix}")
        shutil.copy(image, copy)
        assert "release" in refusal(tree.name, root, check_counts=True)


def test_published_counts_add_up() -> None:
    from hf_fer.data import caers, fer2013, ferg, jaffe, rafdb, sfew

    def sums(counts: dict[str, tuple[int, ...]]) -> dict[str, int]:
        assert all(len(of_split) == 7 for of_split in counts.values())
        return {split: sum(of_split) for split, of_split in counts.items()}

    assert sums(fer2013.OFFICIAL_CLASS_COUNTS) == {"train": 28_709, "validation": 3_589, "test": 3_589}
    assert sums(rafdb.OFFICIAL_CLASS_COUNTS) == {"train": 12_271, "test": 3_068}
    assert sums(sfew.OFFICIAL_CLASS_COUNTS) == {"train": 891, "validation": 431}
    assert sum(sums(ferg.OFFICIAL_CLASS_COUNTS).values()) == 55_767
    assert sum(jaffe.OFFICIAL_CLASS_COUNTS) == sum(jaffe.OFFICIAL_SUBJECTS.values()) == 213
    assert [sum(counts.values()) for counts in caers.PUBLISHED_COUNTS] == [69_999, 69_982]
    happiness = {name: module.label_names(name).index("happiness") for name, module in
                 (("rafdb", rafdb), ("fer2013", fer2013), ("sfew", sfew))}  # fmt: skip
    # The largest class of each, and RAF-DB's smallest.
    assert rafdb.OFFICIAL_CLASS_COUNTS["train"][happiness["rafdb"]] == 4_772
    assert rafdb.OFFICIAL_CLASS_COUNTS["test"][rafdb.label_names("rafdb").index("fear")] == 74
    assert fer2013.OFFICIAL_CLASS_COUNTS["train"][happiness["fer2013"]] == 7_215
    assert sfew.OFFICIAL_CLASS_COUNTS["train"][happiness["sfew"]] == 184


# --- folders named after expressions ------------------------------------------------------------

FOLDERS = [tree for tree in TREES if tree.name not in ("rafdb", "jaffe")]


@pytest.fixture(params=FOLDERS, ids=[tree.name for tree in FOLDERS])
def folders(request: pytest.FixtureRequest) -> Tree:
    return request.param


def test_a_missing_expression(folders: Tree, tmp_path: Path) -> None:
    root = folders.write(tmp_path)
    folder = (root / folders.image).parent
    shutil.rmtree(folder)
    message = refusal(folders.name, root)
    assert str(folder.parent) in message and "must hold the folders " in message
    held = message.split("but has")[1].split(";")[0]
    assert folder.name not in held and held.count(",") == 5 and folders.source in message


def test_an_expression_without_images(folders: Tree, tmp_path: Path) -> None:
    root = folders.write(tmp_path)
    folder = (root / folders.image).parent
    for image in folder.iterdir():
        image.rename(image.with_suffix(".txt"))
    assert f"there is no image in {str(folder)!r}" in refusal(folders.name, root)


@pytest.mark.parametrize("name", ["contempt", "other", "new folder", "Hapy"])
def test_a_folder_that_is_no_expression_of_the_set(folders: Tree, tmp_path: Path, name: str) -> None:
    root = folders.write(tmp_path)
    folder = (root / folders.image).parent
    folder.with_name(name).mkdir()
    assert f"and besides {name!r}" in refusal(folders.name, root)


def test_one_expression_twice(folders: Tree, tmp_path: Path) -> None:
    root = folders.write(tmp_path)
    fear = next(path for path in (root / folders.image).parent.parent.iterdir() if path.name.lower().endswith("fear"))
    twin = fear.with_name(fear.name.lower().replace("fear", "fearful"))
    twin.mkdir()
    assert f"{fear.name!r} and {twin.name!r}" in refusal(folders.name, root)
    assert "are both fear; keep one" in refusal(folders.name, root)


def test_a_name_that_is_no_text(folders: Tree, tmp_path: Path) -> None:
    root = folders.write(tmp_path)
    image = root / folders.image
    try:
        shutil.copy(image, os.fsencode(image.parent) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    assert "is not a name in UTF-8" in refusal(folders.name, root)


def test_an_unreadable_folder(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree.write(tmp_path)
    closed = root / "EmoLabel" if tree.name == "rafdb" else (root / tree.image).parent
    for method in ("stat", "is_file", "is_dir", "iterdir"):
        monkeypatch.setattr(Path, method, refusing(getattr(Path, method), closed))
    monkeypatch.setattr(os, "scandir", refusing(os.scandir, closed))
    message = refusal(tree.name, root)
    assert "cannot be read" in message and "Permission denied" in message and str(closed) in message


def refusing(method: Callable[..., Any], closed: Path) -> Callable[..., Any]:
    """`method`, which may not look below `closed`."""

    def refuse(path: Any, *arguments: Any, **options: Any) -> Any:
        inside = Path(path) in closed.parents or (Path(path) == closed and method.__name__ in ("stat", "is_dir"))
        if Path(path).is_relative_to(closed) and not inside:
            raise PermissionError(13, "Permission denied", str(path))
        return method(path, *arguments, **options)

    return refuse


def test_a_dangling_link(folders: Tree, tmp_path: Path) -> None:
    root = folders.write(tmp_path)
    (root / folders.image).with_name("zz.png").symlink_to(tmp_path / "nowhere.png")
    assert "zz.png' cannot be read (No such file or directory); make it readable, or get it anew." in refusal(
        folders.name, root
    )


def test_registered() -> None:
    assert {tree.name for tree in TREES} <= set(DATASETS)
    assert Counter(DATASETS).most_common(1)[0][1] == 1
    with pytest.raises(FerError, match="no option 'test_subject', the nearest is 'test_subjects'"):
        load_fer_dataset("jaffe", ".", test_subject=["KA"])
