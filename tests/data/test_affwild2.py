"""Aff-Wild2: the official layouts, labels by name, streaming in shards, flat memory, and every error."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_fer.data import affwild2 as module
from hf_fer.data import load_fer_dataset
from hf_fer.errors import FerError
from hf_fer.labels import label_names

SEVEN = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise"
EIGHT = f"{SEVEN},Other"
NAMES = {
    "Neutral": "neutral",
    "Anger": "anger",
    "Disgust": "disgust",
    "Fear": "fear",
    "Happiness": "happiness",
    "Sadness": "sadness",
    "Surprise": "surprise",
    "Other": "other",
}


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
class Clip:
    """One annotated video: its split, its class ids line by line, and the frames whose face was not found."""

    split: str
    name: str
    ids: list[int]
    without_image: set[int] = field(default_factory=set)
    second_archive: bool = False


def clips(classes: int = 7) -> list[Clip]:
    """Every class and -1 in both splits; frames without a face; a video with two people; names as the official ones."""
    everything = [-1, *range(classes), -1, *reversed(range(classes))]
    return [
        Clip("train", "10-60-1280x720", everything, {3, 5}),
        Clip("train", "10-60-1280x720_right", [0, 0, 4], {1}),
        Clip("train", "video5_left", [-1, -1, 1], {1}),
        Clip("train", "451", [6, 5, 4], second_archive=True),
        Clip("validation", "1-30-1280x720", everything),
        Clip("validation", "video68", [2, 2], {2}),
    ]


def write(
    root: Path,
    videos: list[Clip] | None = None,
    release: str = "annotations/EXPR_Set",
    train: str = "Training_Set",
    header: str = SEVEN,
    end: str = "\n",
) -> Path:
    for clip in clips(header.count(",") + 1) if videos is None else videos:
        annotations = root / release / (train if clip.split == "train" else "Validation_Set")
        annotations.mkdir(parents=True, exist_ok=True)
        lines = [header, *map(str, clip.ids)]
        (annotations / f"{clip.name}.txt").write_bytes((end.join(lines) + end).encode())
        images = root / ("cropped_aligned_new_50_vids" if clip.second_archive else "cropped_aligned") / clip.name
        images.mkdir(parents=True, exist_ok=True)
        for frame in range(1, len(clip.ids) + 1):
            if frame not in clip.without_image:
                picture(clip.name, frame).save(images / f"{frame:05d}.jpg")
    return root


def picture(video: str, frame: int) -> Image.Image:
    """A grey that says which frame it is."""
    return Image.new("RGB", (8, 8), (grey(video, frame),) * 3)


def grey(video: str, frame: int) -> int:
    return (sum(video.encode()) * 7 + frame * 11) % 256


def expected(videos: list[Clip], header: str, classes: int) -> dict[str, list[tuple[str, str, str]]]:
    """(class name, video, image name) of the rows of each split, read here without the loader."""
    rows: dict[str, list[tuple[str, str, str]]] = {"train": [], "validation": []}
    for clip in sorted(videos, key=lambda clip: clip.name):
        for frame, value in enumerate(clip.ids, start=1):
            name = "" if value == -1 else NAMES[header.split(",")[value]]
            if name and frame not in clip.without_image and not (classes == 7 and name == "other"):
                rows[clip.split].append((name, clip.name, f"{clip.name}/{frame:05d}.jpg"))
    return rows


def found(dataset: Any) -> dict[str, list[tuple[str, str, str]]]:
    rows = {}
    for split, part in dataset.items():
        names = part.features["label"].names
        plain = part.remove_columns("image")
        rows[split] = [(names[row["label"]], row["group"], row["image_name"]) for row in plain]
    return rows


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in [root, *root.rglob("*")]}


RELEASES = [
    ("annotations/EXPR_Set", "Training_Set", SEVEN, 7),
    ("annotations/EXPR_Set", "Train_Set", SEVEN, 7),
    ("EXPR_Set", "Training_Set", SEVEN, 7),
    ("Third ABAW Annotations/EXPR_Classification_Challenge", "Train_Set", EIGHT, 8),
    ("3rd ABAW Annotations/Third ABAW Annotations/EXPR_Classification_Challenge", "Train_Set", EIGHT, 7),
    ("6th_ABAW_Annotations/EXPR_Recognition_Challenge", "Train_Set", EIGHT, 8),
    ("annotations/EXPR_Recognition_Challenge", "Train_Set", EIGHT, 7),
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("release", "train", "header", "classes"), RELEASES)
def test_official_layouts(tmp_path: Path, release: str, train: str, header: str, classes: int, streaming: bool) -> None:
    root = write(tmp_path, release=release, train=train, header=header)
    dataset = load_fer_dataset("affwild2", root, classes=classes, streaming=streaming)
    assert list(dataset) == ["train", "validation"]
    assert found(dataset) == expected(clips(header.count(",") + 1), header, classes)
    for split, rows in dataset.items():
        assert rows.features["label"].names == list(label_names("affwild2", classes))
        assert rows.column_names == ["image", "label", "group", "image_name"]
        assert str(rows.split) == split
        for row in rows:
            video, frame = row["image_name"].split("/")
            assert abs(int(np.asarray(row["image"])[0, 0, 0]) - grey(video, int(frame[:5]))) <= 2
    train_videos, validation_videos = ({group for _, group, _ in rows} for rows in found(dataset).values())
    assert train_videos == {"10-60-1280x720", "10-60-1280x720_right", "video5_left", "451"}
    assert not train_videos & validation_videos


def test_the_names_of_the_header_decide(tmp_path: Path) -> None:
    header = "surprise, Sad,Happiness,Fear,Disgust,ANGER,Neutral"
    root = write(tmp_path, [Clip("train", "a", [*range(7)]), Clip("validation", "b", [6])], header=header)
    rows = found(load_fer_dataset("affwild2", root))
    wanted = ["surprise", "sadness", "happiness", "fear", "disgust", "anger", "neutral"]
    assert [name for name, _, _ in rows["train"]] == wanted and rows["validation"][0][0] == "neutral"


@pytest.mark.parametrize("batches", [False, True])
def test_the_second_archive_and_the_archives_own_folders(tmp_path: Path, batches: bool) -> None:
    root = write(tmp_path)
    if batches:
        (root / "batch1").mkdir()
        (root / "cropped_aligned").rename(root / "batch1" / "cropped_aligned")
        (root / "batch2").mkdir()
        (root / "cropped_aligned_new_50_vids").rename(root / "batch2" / "cropped_aligned_new_50_vids")
    assert found(load_fer_dataset("affwild2", root)) == expected(clips(), SEVEN, 7)


def test_a_video_that_lies_in_both_archives(tmp_path: Path) -> None:
    root = write(tmp_path)
    shutil.copytree(root / "cropped_aligned" / "video68", root / "cropped_aligned_new_50_vids" / "video68")
    rows = load_fer_dataset("affwild2", root)["validation"].data.column("image").to_pylist()
    assert str(root / "cropped_aligned" / "video68" / "00001.jpg") in [row["path"] for row in rows]


def test_frame_n_is_line_n_beyond_five_digits_too(tmp_path: Path) -> None:
    last = 100_001
    clip = Clip("train", "long", [*[0] * (last - 1), 4], set(range(2, last)))
    root = write(tmp_path, [clip, Clip("validation", "short", [0])])
    rows = found(load_fer_dataset("affwild2", root))["train"]
    assert rows == [("neutral", "long", "long/00001.jpg"), ("happiness", "long", "long/100001.jpg")]


def test_images_of_frames_that_have_no_line_and_other_files_are_no_rows(tmp_path: Path) -> None:
    root = write(tmp_path, [Clip("train", "a", [0, 1], {2}), Clip("validation", "b", [0])])
    folder = root / "cropped_aligned" / "a"
    for name in ("00003.jpg", "00000.jpg", "2.jpg", "000002.jpg", "00002.png", "00002.jpg.txt", "٠٠٠٠٢.jpg", "x.jpg"):
        shutil.copy(folder / "00001.jpg", folder / name)
    (folder / "00002.jpg").mkdir()
    (root / "annotations" / "EXPR_Set" / "Training_Set" / "._a.txt").write_bytes(b"\xff")
    (root / "annotations" / "EXPR_Set" / "Training_Set" / ".DS_Store").write_bytes(b"\xff")
    assert found(load_fer_dataset("affwild2", root))["train"] == [("neutral", "a", "a/00001.jpg")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_marks_and_empty_lines_at_the_end(tmp_path: Path, end: str) -> None:
    root = write(tmp_path, end=end)
    for path in root.rglob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + end.encode() * 2)
    assert found(load_fer_dataset("affwild2", root)) == expected(clips(), SEVEN, 7)


def test_one_line_says_what_was_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write(tmp_path, release="annotations/EXPR_Recognition_Challenge", train="Train_Set", header=EIGHT)
    lines = []
    for level in (logging.WARNING, logging.INFO):  # the second time they come from the cache
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="hf_fer.data.affwild2"):
            load_fer_dataset("affwild2", root)
        assert [record.levelno for record in caplog.records] == [level, level]
        lines.append([record.getMessage() for record in caplog.records])
    rows = expected(clips(8), EIGHT, 7)
    # By hand: without an image 2 + 1 (the third is of a frame without a label) and 1; other 2 in each long video.
    assert (
        lines[0]
        == lines[1]
        == [
            f"Aff-Wild2 train: {len(rows['train'])} frames of 4 videos; "
            "dropped: 3 without an image, 4 without a label, 2 of 'other'",
            f"Aff-Wild2 validation: {len(rows['validation'])} frames of 2 videos; "
            "dropped: 1 without an image, 2 without a label, 2 of 'other'",
        ]
    )


# --- a part of the videos, several releases -----------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_a_part_of_the_videos(tmp_path: Path, streaming: bool) -> None:
    root = write(tmp_path)
    for name in ("10-60-1280x720", "video5_left", "451", "video68"):
        shutil.rmtree(next(root.glob(f"cropped_aligned*/{name}")))  # only what is asked for has to be there
    chosen = ["10-60-1280x720_right", "1-30-1280x720"]
    dataset = load_fer_dataset("affwild2", root, videos=chosen, streaming=streaming)
    rows = {split: [row for row in part if row[1] in chosen] for split, part in expected(clips(), SEVEN, 7).items()}
    assert found(dataset) == rows
    assert list(load_fer_dataset("affwild2", root, videos={"1-30-1280x720"})) == ["validation"]


def test_videos_that_are_none(tmp_path: Path) -> None:
    root = write(tmp_path)
    with pytest.raises(FerError, match=r"no annotated video '10-60', the nearest is '10-60-1280x720'"):
        load_fer_dataset("affwild2", root, videos=["10-60"])
    for name in ("../../etc", str(root), "a\0b", "x" * 5000, "video5"):
        with pytest.raises(FerError, match="no annotated video"):
            load_fer_dataset("affwild2", root, videos=["451", name])
    for wrong in ([], "451", [7], {}, 5):
        with pytest.raises(FerError, match="videos= must be a list of video names"):
            load_fer_dataset("affwild2", root, videos=wrong)


def test_several_releases_in_one_folder(tmp_path: Path) -> None:
    write(tmp_path)
    root = write(
        tmp_path, [Clip("train", "video5_left", [7]), Clip("validation", "video68", [0])],
        "annotations/EXPR_Recognition_Challenge", "Train_Set", EIGHT,
    )  # fmt: skip
    with pytest.raises(FerError, match=r"several releases of Aff-Wild2: .*EXPR_Set, .*EXPR_Recognition_Challenge; "):
        load_fer_dataset("affwild2", root)
    assert found(load_fer_dataset("affwild2", root, form="EXPR_Set")) == expected(clips(), SEVEN, 7)
    newer = load_fer_dataset("affwild2", root, form="EXPR_Recognition_Challenge", classes=8)
    assert found(newer)["train"] == [("other", "video5_left", "video5_left/00001.jpg")]
    with pytest.raises(FerError, match=r"looked for EXPR_Classification_Challenge in it"):
        load_fer_dataset("affwild2", root, form="EXPR_Classification_Challenge")
    with pytest.raises(FerError, match=r"form='csv'.*EXPR_Set, EXPR_Classification_Challenge"):
        load_fer_dataset("affwild2", root, form="csv")


# --- cache --------------------------------------------------------------------------------------


def test_nothing_is_written_into_root_and_the_cache_holds_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = write(tmp_path / "root"), tmp_path / "cache"
    canary = tmp_path / "canary.jpg"
    picture("canary", 1).save(canary)
    before = tree(root)
    first = load_fer_dataset("affwild2", root, cache_dir=cache)
    for rows in first.values():
        for row in rows:
            row["image"].load()
    for rows in load_fer_dataset("affwild2", root, streaming=True).values():
        assert all(row["image"] for row in rows)
    assert tree(root) == before
    images = first["train"].data.column("image").to_pylist()
    assert all(image["bytes"] is None and image["path"].startswith(str(root)) for image in images)
    assert canary.name not in str(images)

    def unread(*_: object) -> None:
        raise AssertionError("read again although nothing changed")

    monkeypatch.setattr(module, "_read_labels", unread)
    assert found(load_fer_dataset("affwild2", root, cache_dir=cache)) == found(first)


def test_a_changed_annotation_file_is_read_anew(tmp_path: Path) -> None:
    root = write(tmp_path)
    first = found(load_fer_dataset("affwild2", root))
    path = root / "annotations/EXPR_Set/Validation_Set/video68.txt"
    path.write_text(f"{SEVEN}\n3\n2\n")  # of the same size
    os.utime(path, ns=(10**18, 10**18))
    second = found(load_fer_dataset("affwild2", root))
    assert second["train"] == first["train"]
    assert [name for name, group, _ in second["validation"] if group == "video68"] == ["fear"]


def test_images_that_came_later_are_found(tmp_path: Path) -> None:
    root = write(tmp_path)
    assert "video68/00002.jpg" not in str(found(load_fer_dataset("affwild2", root)))
    picture("video68", 2).save(root / "cropped_aligned/video68/00002.jpg")
    assert "video68/00002.jpg" in str(found(load_fer_dataset("affwild2", root)))


def test_counts_that_were_swept_from_the_cache_are_counted_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write(tmp_path / "root")
    messages = []
    for content in (None, "", "{", None):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="hf_fer.data.affwild2"):
            load_fer_dataset("affwild2", root, cache_dir=tmp_path / "cache")
        messages.append([record.getMessage() for record in caplog.records])
        files = list((tmp_path / "cache").rglob("*.counts.json"))
        assert len(files) == 2 and all(json.loads(file.read_text()) for file in files)
        for file in files:
            file.unlink() if content is None else file.write_text(content)
    assert messages == messages[:1] * 4
    assert not list((tmp_path / "cache").rglob("*.tmp"))


# --- counts -------------------------------------------------------------------------------------


def per_class(videos: list[Clip], with_image: bool) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {"train": Counter(), "validation": Counter()}
    for clip in videos:
        for frame, value in enumerate(clip.ids, start=1):
            if value >= 0 and not (with_image and frame in clip.without_image):
                counts[clip.split][NAMES[SEVEN.split(",")[value]]] += 1
    return {split: {name: count[name] for name in label_names("affwild2", 7)} for split, count in counts.items()}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("with_image", [False, True])
def test_check_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_image: bool, streaming: bool) -> None:
    root = write(tmp_path)
    options: dict[str, Any] = {"check_counts": True, "streaming": streaming}
    with pytest.raises(FerError) as error:
        load_fer_dataset("affwild2", root, **options)
    for part in (
        "not the official release: images of labelled train frames (labelled frames: 4 / 3 / 2 / 2 / 4 / 3 / 3)",
        "are neutral 3 / anger 2 / disgust 2 / fear 1 / happiness 4 / sadness 3 / surprise 3",
        "official are neutral 585896 / anger 23484 / disgust 12497",
    ):
        assert part in str(error.value), str(error.value)
    counts = per_class(clips(), with_image)
    monkeypatch.setattr(module, "OFFICIAL_COUNTS", counts)
    assert found(load_fer_dataset("affwild2", root, **options)) == expected(clips(), SEVEN, 7)
    counts["validation"]["fear"] += 1
    with pytest.raises(FerError, match="labelled validation frames"):
        load_fer_dataset("affwild2", root, **options)


def test_the_published_counts_are_those_of_the_paper() -> None:
    """Massoli et al. 2021, Table 1, and the class weights that their Table 2 makes of it."""
    train = [585896, 23484, 12497, 11120, 149920, 100548, 38564]
    assert list(module.OFFICIAL_COUNTS["train"].values()) == train
    assert list(module.OFFICIAL_COUNTS["validation"].values()) == [181884, 8003, 5401, 9671, 52842, 38534, 22988]
    weights = [round(1 - count / sum(train), 3) for count in train]
    assert weights == pytest.approx([0.365, 0.975, 0.986, 0.988, 0.837, 0.891, 0.958], abs=1e-3)
    assert all(tuple(counts) == label_names("affwild2", 7) for counts in module.OFFICIAL_COUNTS.values())


def test_counts_that_cannot_be_checked(tmp_path: Path) -> None:
    root = write(tmp_path, release="annotations/EXPR_Recognition_Challenge", train="Train_Set", header=EIGHT)
    with pytest.raises(FerError, match="No counts are published for"):
        load_fer_dataset("affwild2", root, check_counts=True)
    with pytest.raises(FerError, match=r"check_counts compares the whole release .*leave out videos="):
        load_fer_dataset("affwild2", root, check_counts=True, videos=["451"])


# --- streaming ----------------------------------------------------------------------------------


def test_streaming_shares_videos_out_to_processes_and_workers(tmp_path: Path) -> None:
    from datasets.distributed import split_dataset_by_node
    from torch.utils.data import DataLoader

    root = write(tmp_path)
    whole = load_fer_dataset("affwild2", root)["train"].remove_columns("image")
    stream = load_fer_dataset("affwild2", root, streaming=True)["train"].remove_columns("image")
    assert stream.num_shards == 4
    rows = [row["image_name"] for row in whole]
    assert [row["image_name"] for row in stream] == rows
    parts = [[row["image_name"] for row in split_dataset_by_node(stream, rank, 2)] for rank in range(2)]
    assert all(parts) and sorted(parts[0] + parts[1]) == sorted(rows) and not set(parts[0]) & set(parts[1])
    # A process reads whole videos: no video is in two.
    assert not {name.split("/")[0] for name in parts[0]} & {name.split("/")[0] for name in parts[1]}
    three = [[row["image_name"] for row in split_dataset_by_node(stream, rank, 3)] for rank in range(3)]
    assert sorted(name for part in three for name in part) == sorted(rows)
    loader = DataLoader(split_dataset_by_node(stream, 0, 2), batch_size=None, num_workers=2)
    assert sorted(row["image_name"] for row in loader) == sorted(parts[0])
    shuffled = [row["image_name"] for row in stream.shuffle(seed=1, buffer_size=4)]
    assert sorted(shuffled) == sorted(rows) and shuffled != rows


MEMORY = """
import gc, json, os, sys, time
from pathlib import Path
from PIL import Image
from hf_fer.data import load_fer_dataset

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

stream = load_fer_dataset("affwild2", sys.argv[1], streaming=True)["train"]
sample = next(iter(stream))["image"].size
rows, levels, started = 0, [], time.monotonic()
for row in stream.decode(False):  # paths and labels: decoding 200,000 images takes minutes
    rows += 1
    if rows % 10_000 == 0:
        levels.append(resident())
print(json.dumps({"rows": rows, "size": sample, "levels": levels, "seconds": time.monotonic() - started}))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_stays_flat_over_200_000_frames(tmp_path: Path) -> None:
    """200 videos of 1,000 frames: their folders are links to one, whose images are links to one."""
    frames, videos = 1_000, 200
    shared = tmp_path / "shared"
    shared.mkdir()
    picture("shared", 1).save(shared / "00001.jpg")
    for frame in range(2, frames + 1):
        os.link(shared / "00001.jpg", shared / f"{frame:05d}.jpg")
    text = "\n".join([SEVEN, *(str(frame % 7) for frame in range(frames))])
    for folder in ("cropped_aligned", "annotations/EXPR_Set/Training_Set", "annotations/EXPR_Set/Validation_Set"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    for video in range(videos + 1):
        split = "Training_Set" if video < videos else "Validation_Set"
        (tmp_path / "root/annotations/EXPR_Set" / split / f"v{video}.txt").write_text(text)
        (tmp_path / "root/cropped_aligned" / f"v{video}").symlink_to(shared, target_is_directory=True)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "root")],
        env=environment, capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["rows"] == frames * videos and result["size"] == [8, 8]
    growth = max(result["levels"]) - result["levels"][0]
    assert growth <= 0.1 * result["levels"][0], result
    assert growth <= 40 * frames * videos, result  # the libraries fill most of it: 40 bytes a frame is less than a row


# --- what can be wrong --------------------------------------------------------------------------

ANNOTATIONS, VALIDATION = "annotations/EXPR_Set", "Validation_Set"


def sentence(root: Path, **options: Any) -> str:
    """The error of both ways to load, which must be the same one."""
    messages = []
    for streaming in (False, True):
        with pytest.raises(FerError) as error:
            dataset = load_fer_dataset("affwild2", root, streaming=streaming, **options)
            assert streaming, "loading map-style must already find it"
            for rows in dataset.values():
                assert [row["label"] for row in rows.remove_columns("image")]
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0] and messages[0].count(";") < 6
    return messages[0]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda root: shutil.rmtree(root / "annotations"), ["looked for EXPR_Set or", "found cropped_aligned/,"]),
        (lambda root: shutil.rmtree(root / ANNOTATIONS), ["No Aff-Wild2 expression annotations in"]),
        (
            lambda root: shutil.rmtree(root / ANNOTATIONS / "Validation_Set"),
            ["one folder Validation_Set/ with a <video>.txt", "found Training_Set/;"],
        ),
        (
            lambda root: (root / ANNOTATIONS / "Training_Set").rename(root / ANNOTATIONS / "train"),
            ["one folder Training_Set/ or Train_Set/", "found Validation_Set/, train/;"],
        ),
        (
            lambda root: shutil.copytree(root / ANNOTATIONS / "Training_Set", root / ANNOTATIONS / "Train_Set"),
            ["one folder Training_Set/ or Train_Set/", "found Train_Set/, Training_Set/, Validation_Set/;"],
        ),
        (
            lambda root: [path.rename(path.with_suffix(".csv")) for path in (root / ANNOTATIONS).glob("Train*/*")],
            ["one folder Training_Set/", "found Training_Set/ with 10-60-1280x720.csv, "],
        ),
        (
            lambda root: shutil.copy(root / ANNOTATIONS / "Training_Set/451.txt", root / ANNOTATIONS / VALIDATION),
            ["1 videos both for training and for validation (first: '451')"],
        ),
        (
            lambda root: [shutil.rmtree(path) for path in root.glob("cropped_aligned*")],
            ["for 6 of 6 annotated videos: 1-30-1280x720, 10-60-1280x720, 10-60-1280x720_right, ... should be"],
        ),
        (
            lambda root: shutil.rmtree(root / "cropped_aligned/video68"),
            ["no images for 1 of 6 annotated videos: video68 should be", "videos that are there by videos="],
        ),
        (
            lambda root: [path.unlink() for path in (root / "cropped_aligned/video68").iterdir()],
            ["has none of the images of the 2 frames that", "video68.txt lists", "found nothing;"],
        ),
        (
            lambda root: [p.rename(p.with_name(f"frame{p.name}")) for p in root.glob("cropped_aligned/video68/*")],
            ["should be 00001.jpg and so on, found frame00001.jpg;"],
        ),
    ],
)
def test_wrong_trees(tmp_path: Path, change: Callable[[Path], object], parts: list[str]) -> None:
    root = write(tmp_path)
    change(root)
    message = sentence(root)
    for part in [*parts, str(root), "https://sites.google.com/view/dimitrioskollias/databases/aff-wild2"]:
        assert part in message, message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (f"{SEVEN}\n0\n7\n", ["line 3: a frame's label must be a class id in 0..6 or -1, not '7'"]),
        (f"{SEVEN}\n-2\n", ["line 2:", "not '-2'"]),
        (f"{SEVEN}\n0\n\n1\n", ["line 3:", "not an empty line"]),
        (f"{SEVEN}\n0.0\n", ["not '0.0'"]),
        (f"{SEVEN}\n1_0\n", ["not '1_0'"]),
        (f"{SEVEN}\n+1\n", ["not '+1'"]),
        (f"{SEVEN}\n٣\n", ["not '٣'"]),
        (f"{SEVEN}\n0,1\n", ["not '0,1'"]),
        (f"{SEVEN}\n0\n\0\n", ["line 3:", "not '\\x00'"]),
        (SEVEN.encode() + b"\n0\n\xff\xfe\n", ["line 3:", "not '\\\\xff"]),
        (SEVEN + "\n" + "0" * 100_000, ["line 2:", "not '000"]),
        ("0\n1\n", ["line 1: it must name the classes", "not '0'"]),
        ("", ["line 1: it must name the classes", "not ''"]),
        ("valence,arousal\n0.1,0.2\n", ["line 1:", "not 'valence,arousal'"]),
        (f"{SEVEN},Contempt\n0\n", ["line 1:", "Surprise,Contempt'"]),
        ("Neutral,Anger,Disgust,Fear,Happiness,Sadness\n0\n", ["line 1: it must name"]),
        ("Neutral,Anger,Disgust,Fear,Happiness,Sadness,Sad\n0\n", ["line 1: it must name"]),
        (f"{SEVEN},Sad,Sad\n0\n", ["line 1: it must name"]),
        (f"{SEVEN},\n0\n", ["line 1: it must name"]),
        (b"\xff\xfe" + SEVEN.encode("utf-16-le"), ["line 1:", "not '\\\\xff"]),
        ("Neutral," * 100_000, ["line 1: it must name"]),
        (f"{EIGHT}\n0\n", ["line 1: the classes are neutral, ", "10-60-1280x720.txt; keep files of one release"]),
        (
            "Anger,Neutral,Disgust,Fear,Happiness,Sadness,Surprise\n0\n",
            ["line 1: the classes are anger, neutral,", "but neutral, anger,"],
        ),
    ],
)
def test_damaged_annotations_are_named_by_file_and_line(tmp_path: Path, content: str | bytes, parts: list[str]) -> None:
    root = write(tmp_path)
    path = root / ANNOTATIONS / "Validation_Set" / "video68.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = sentence(root)
    for part in [*parts, f"{path}, line "]:
        assert part in message, message


def test_a_split_without_a_label(tmp_path: Path) -> None:
    root = write(tmp_path, [Clip("train", "a", [0]), Clip("validation", "b", [-1, -1])])
    with pytest.raises(FerError, match="No frame of the validation split of Aff-Wild2 has both"):
        load_fer_dataset("affwild2", root)


def test_a_video_whose_name_is_no_text(tmp_path: Path) -> None:
    root = write(tmp_path)
    try:
        Path(os.fsdecode(os.fsencode(root / ANNOTATIONS / "Training_Set") + b"/\xff.txt")).write_text(SEVEN)
    except OSError:
        pytest.skip("this file system takes only text for names")
    assert "'\\udcff' is no name of a video" in sentence(root)


def test_eight_classes_need_a_release_with_other(tmp_path: Path) -> None:
    root = write(tmp_path)
    assert "has no class 'other', so classes=8 does not apply; choose 7" in sentence(root, classes=8)
    with pytest.raises(FerError, match="classes=6"):
        load_fer_dataset("affwild2", root, classes=6)


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path)

    def refuse(folder: str, frames: int) -> bytearray:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(module, "_frames_with_image", refuse)
    message = sentence(root)
    assert "Video '10-60-1280x720' of Aff-Wild2 cannot be read: [Errno 13] Permission denied: " in message


@pytest.mark.parametrize("root", [None, "/no/such/folder", "x" * 5000, "a\0b"])
def test_missing_root(root: str | None) -> None:
    with pytest.raises(FerError, match=r"(needs root=|does not exist).*dimitrioskollias/databases/aff-wild2"):
        load_fer_dataset("affwild2", root)


def test_an_empty_folder_and_an_unknown_option(tmp_path: Path) -> None:
    assert "found nothing; ask for Aff-Wild2 as" in sentence(tmp_path)
    with pytest.raises(FerError, match="no option 'video', the nearest is 'videos'"):
        load_fer_dataset("affwild2", tmp_path, video=["a"])
