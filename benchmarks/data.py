"""Speed of the data path: lowering the resolution of images, feeding a training loop, and memory while streaming.

    python benchmarks/data.py --root ferplus/ --output results/data.json

**Degradation**: down and up again (bicubic, a factor per image from U(1, 8)) at 48 px in grey and at 224 px in colour.
Every subject starts from the same uint8 batch (B, C, H, W), as a loader hands it over, and ends in such a batch. The
reference goes image by image through Pillow, from an array to a PIL image and back; beside it the same in threads,
and Pillow alone, which begins and ends with PIL images that lie ready. `BatchDegrader`'s two ways both run on every
device, the CPU's also on the floats that training gives it. What was not kept: torch's uint8 `interpolate`, equal sides
together, which is the fastest on a CPU and misses Pillow's values by two or three grey levels in places. The columns
"off" say how many values differ from Pillow's, and by how much at most.

**Loading**: one pass over images of a data set, from Arrow to normalised float batches (B, 3, 48, 48), through the
package's `FaceImages` and `epoch_loader`, decoded once (the default where the images fit into 4 GB) or at each visit;
against torchvision's `ImageFolder` and transforms on the same PNG files. One process, one thread: per core.

**Memory**: what a fresh process holds (resident set) while it goes once through 200,000 frames in Aff-Wild2's layout,
made for the purpose: `load_fer_dataset("affwild2", root, streaming=True)`, each image decoded and let go. Looked at
every 5,000 images, the first time after 20,000; "off" is the largest distance from the median, as a share of it.

The subjects of the first two take turns: each round times one call of each, and the order rotates from round to round,
so that whatever else the machine does hits all alike. Speed-ups are of medians, to the first subject of the same part.
"""

from __future__ import annotations

import argparse
import datetime
import io
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference import describe_machine, run_rounds, write_report

SIDE = 48  # px: FERPlus, and every image of the loading part
MAX_FACTOR = 8.0
CROP = 112  # px: Aff-Wild2's aligned crops
VIDEO = 800  # frames


@dataclass
class Subject:
    """Something to time.

    Attributes:
        name: for the table.
        images: in one call.
        call: what is timed.
        milliseconds: the durations seen so far.
        facts: further columns of its row.
    """

    name: str
    images: int
    call: Callable[[], Any]
    milliseconds: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    import torch

    from hf_fer import FerError

    before = torch.get_num_threads()
    try:
        loading, skipped = _measure_loading(options)  # first: what is wrong with the data shows at once
        degradation = _measure_degradation(options)
        memory = _measure_memory(options)
    except FerError as error:
        print(f"benchmarks/data.py: {error}", file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(before)
    report = {
        "benchmark": "data",
        "settings": {
            "repeats": options.repeats,
            "batch_sizes": {"48": options.batch_48, "224": options.batch_224},
            "max_factor": MAX_FACTOR,
            "dataset": options.dataset,
            "images": options.images,
            "frames": options.frames,
            "quick": options.quick,
        },
        "machine": describe_machine(),
        "degradation": degradation,
        "loading": loading,
        "loading_skipped": skipped,
        "memory": memory,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    print_tables(report)
    write_report(report, options.output)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--dataset", metavar="NAME", default="ferplus", help="of the loading part, or a prepared folder"
    )
    parser.add_argument("--root", metavar="FOLDER", type=Path, help="its raw download; FERPlus is left out without it")
    parser.add_argument("--images", metavar="N", type=_count, default=3000, help="images of the loading part")
    parser.add_argument("--threads", metavar="N,N", type=_counts, default=[1, 2], help="CPU threads to degrade with")
    parser.add_argument("--batch-48", metavar="N", type=_count, default=256, help="images in a batch at 48 px")
    parser.add_argument("--batch-224", metavar="N", type=_count, default=32, help="images in a batch at 224 px")
    parser.add_argument("--repeats", metavar="N", type=_count, default=15, help="rounds")
    parser.add_argument("--frames", metavar="N", type=_count, default=200_000, help="images of the memory part")
    parser.add_argument("--output", metavar="FILE", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="one thread, few images and rounds: does it run?")
    options = parser.parse_args(argv)
    if options.quick:
        options.threads, options.repeats, options.images = [1], 2, 40
        options.batch_48, options.batch_224, options.frames = 8, 3, 2000
    return options


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


# argparse names the type in its message
_count.__name__, _counts.__name__ = "number of at least 1", "list of numbers of at least 1"


# --- degradation ------------------------------------------------------------------------------------


def _measure_degradation(options: argparse.Namespace) -> list[dict[str, Any]]:
    import torch

    rows = []
    for side, channels, count in ((SIDE, 1, options.batch_48), (224, 3, options.batch_224)):
        for threads in options.threads:
            torch.set_num_threads(threads)
            subjects = _degradation_subjects(side, channels, count, threads)
            run_rounds(subjects, options.repeats)
            rows += summarize(subjects, {"side": side, "channels": channels, "threads": threads})
    return rows


def _degradation_subjects(side: int, channels: int, count: int, threads: int) -> list[Subject]:
    import torch
    from PIL import Image

    from hf_fer.data.resampling import BatchDegrader
    from hf_fer.data.resolution import RandomDownsample, degrade_to_side

    pixels = _pictures(count, side, channels)  # uint8
    generator = torch.Generator().manual_seed(0)
    sides = RandomDownsample(1, MAX_FACTOR).draw(torch.full((count,), side), generator)
    drawn = sides.tolist()
    pool = ThreadPoolExecutor(threads)

    def from_array(array: Any) -> Image.Image:
        return Image.fromarray(array[0] if channels == 1 else array.transpose(1, 2, 0))

    def one(array: Any, side: int) -> Any:
        return _to_array(degrade_to_side(from_array(array), side))

    def one_by_one() -> Any:
        return _to_batch([*map(one, pixels.numpy(), drawn)])

    def in_threads() -> Any:
        return _to_batch([*pool.map(one, pixels.numpy(), drawn)])

    images = [from_array(array) for array in pixels.numpy()]
    subjects = [
        Subject("Pillow, image by image", count, one_by_one),
        Subject("Pillow alone, PIL to PIL", count, lambda: [*map(degrade_to_side, images, drawn)]),
    ]
    if threads > 1:
        subjects.append(Subject(f"Pillow in {threads} threads", count, in_threads))
    default, floats = BatchDegrader(side), pixels.float()
    for degrader in (default, BatchDegrader(side, method="dense")):
        kept = " (CPU default)" if degrader is default else ""
        name = f"BatchDegrader, {degrader.method}{kept}"
        subjects.append(Subject(name, count, lambda d=degrader: d(pixels, sides)))
    subjects.append(Subject("BatchDegrader, from and to floats", count, lambda: default(floats, sides)))
    ordered = pixels.contiguous(memory_format=torch.channels_last)
    subjects.append(Subject("uint8 interpolate (not kept)", count, lambda: _interpolate(ordered, sides)))
    if torch.cuda.is_available():
        on_gpu, degrader_on_gpu = pixels.cuda(), BatchDegrader(side, "cuda")

        def on_the_gpu() -> Any:
            result = degrader_on_gpu(on_gpu, sides)
            torch.cuda.synchronize()
            return result

        subjects.append(Subject("BatchDegrader, CUDA", count, on_the_gpu))
    reference = one_by_one()
    for subject in subjects:
        result = subject.call()
        if isinstance(result, list):
            result = _to_batch([_to_array(image) for image in result])
        difference = (result.cpu().int() - reference.int()).abs()
        subject.facts = {
            "share_off": (difference > 0).double().mean().item(),
            "share_off_by_more_than_1": (difference > 1).double().mean().item(),
            "most_off": difference.max().item(),
        }
    return subjects


def _pictures(count: int, side: int, channels: int) -> Any:
    """(count, channels, side, side) uint8: soft shapes under a little noise, as a camera gives them."""
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(0)
    shapes = torch.rand(count, channels, side // 8, side // 8, generator=generator) * 255
    shapes = F.interpolate(shapes, size=(side, side), mode="bicubic", antialias=True)
    grain = torch.randn(count, channels, side, side, generator=generator) * 3
    return (shapes + grain).round().clamp(0, 255).to(torch.uint8)


def _to_array(image: Any) -> Any:
    """(C, H, W) uint8."""
    import numpy as np

    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _to_batch(arrays: list[Any]) -> Any:
    """(B, C, H, W) uint8, put together by numpy: torch would share so little work out to its threads."""
    import numpy as np
    import torch

    return torch.from_numpy(np.stack(arrays))


def _interpolate(images: Any, sides: Any) -> Any:
    """(B, C, S, S) uint8: as `BatchDegrader`, by torch's antialiased bicubic kernels for 8 bits."""
    import torch
    import torch.nn.functional as F

    size = images.shape[-1]
    out = torch.empty_like(images)
    for side in sides.unique().tolist():
        rows = (sides == side).nonzero()[:, 0]
        small = F.interpolate(images[rows], size=(side, side), mode="bicubic", antialias=True)
        out[rows] = F.interpolate(small, size=(size, size), mode="bicubic", antialias=True)
    return out


# --- loading ----------------------------------------------------------------------------------------


def _measure_loading(options: argparse.Namespace) -> tuple[list[dict[str, Any]], str | None]:
    """The rows, and if there are none, why."""
    import torch

    if options.dataset == "ferplus" and options.root is None:
        return [], "Loading was not measured: give FERPlus' raw download by --root."
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return [], "Loading was not measured: it is compared with torchvision, which is not installed."
    from hf_fer.data import load_fer_dataset

    split = load_fer_dataset(options.dataset, options.root)["train"]
    split = split.select(range(min(options.images, len(split))))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        subjects = _loading_subjects(split, Path(folder))
        run_rounds(subjects, options.repeats)
    return summarize(subjects, {"side": SIDE, "channels": 3, "threads": 1}), None


def _loading_subjects(split: Any, folder: Path) -> list[Subject]:
    import datasets
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    from hf_fer.training.batches import IMAGE_MEAN, IMAGE_STD, EpochBatches, FaceImages, epoch_loader, normalize

    files, labels = _write_pngs(split, folder), split["label"][:]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    encoded = [{"bytes": file.read_bytes(), "path": None} for file in files]
    arrow = datasets.Dataset.from_dict({"image": encoded, "label": labels}, features=features)
    targets, count = torch.tensor(labels), len(files)
    batch_size = min(128, count)
    used = count // batch_size * batch_size
    mean, std = [IMAGE_MEAN] * 3, [IMAGE_STD] * 3
    in_folder = ImageFolder(folder, transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)]))

    def from_folder() -> Any:
        # The last batch, so that nothing is left out as unused.
        for images, _ in DataLoader(in_folder, batch_size=batch_size, shuffle=True, drop_last=True):
            batch = images
        return batch

    def ours(images: FaceImages) -> Callable[[], Any]:
        def one_epoch() -> Any:
            for loaded in epoch_loader(images, EpochBatches(targets, batch_size, seed=0, epoch=0)):
                batch = normalize(loaded["images"].float())
            return batch

        return one_epoch

    in_memory, each_visit = (FaceImages(arrow, targets, SIDE, 3, in_memory=kept) for kept in (True, False))
    # The same numbers come out, or the comparison would be worth nothing.
    rows_of_folder = {Path(path).name: row for row, (path, _) in enumerate(in_folder.samples)}
    for row in range(0, count, max(1, count // 20)):
        theirs = in_folder[rows_of_folder[files[row].name]][0]
        for images in (in_memory, each_visit):
            torch.testing.assert_close(normalize(images[row]["images"].float()), theirs, rtol=0, atol=1e-5)
    return [
        Subject("torchvision ImageFolder", used, from_folder),
        Subject("hf-fer, decoded once", used, ours(in_memory)),
        Subject("hf-fer, decoded at each visit", used, ours(each_visit)),
    ]


def _write_pngs(split: Any, folder: Path) -> list[Path]:
    """One file an image, `SIDE` square and RGB, in a folder a class."""
    from PIL import Image

    from hf_fer.data.images import to_rgb

    files = []
    for row, example in enumerate(split):
        file = folder / f"{example['label']:02d}" / f"{row:06d}.png"
        file.parent.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        image = to_rgb(example["image"])
        if image.size != (SIDE, SIDE):
            image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image.save(buffer, "PNG")
        file.write_bytes(buffer.getvalue())
        files.append(file)
    return files


# --- memory -----------------------------------------------------------------------------------------


def _measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    warm_up, every = options.frames // 10, max(1, options.frames // 40)
    with tempfile.TemporaryDirectory() as folder:
        _write_frames(Path(folder), options.frames)
        # In a process of its own: what the other parts used stays out of the figure.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            seconds, sizes = pool.submit(_stream, folder, warm_up, every).result()
    megabytes = [size / 2**20 for size in sizes]
    median = statistics.median(megabytes)
    return {
        "images": options.frames,
        "first_after": warm_up,
        "every": every,
        "samples": len(megabytes),
        "min_mb": min(megabytes),
        "median_mb": median,
        "max_mb": max(megabytes),
        "most_off_median": max(abs(size - median) for size in megabytes) / median,
        "images_per_second": options.frames / seconds,
        "megabytes": megabytes,
    }


def _stream(root: str, warm_up: int, every: int) -> tuple[float, list[int]]:
    """Seconds, and the bytes that were resident, for one pass over all splits."""
    import psutil

    from hf_fer.data import load_fer_dataset

    process, sizes, seen = psutil.Process(), [], 0
    begin = time.perf_counter()
    for split in load_fer_dataset("affwild2", root, streaming=True).values():
        for example in split:
            example["image"].load()
            seen += 1
            if seen >= warm_up and seen % every == 0:
                sizes.append(process.memory_info().rss)
    return time.perf_counter() - begin, sizes


def _write_frames(root: Path, count: int) -> None:
    """`count` labelled frames in videos of `VIDEO`, one in five for validation; a video is one JPEG by many names."""
    from PIL import Image

    videos = max(2, -(-count // VIDEO))
    classes = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise"
    for video in range(videos):
        frames = range(1, count // videos + (video < count % videos) + 1)
        split = "Validation_Set" if video % 5 == 1 else "Training_Set"
        annotations = root / "annotations" / "EXPR_Set" / split / f"{video:04d}.txt"
        annotations.parent.mkdir(parents=True, exist_ok=True)
        annotations.write_text("\n".join([classes, *(str((video + frame) % 7) for frame in frames)]) + "\n")
        images = root / "cropped_aligned" / f"{video:04d}"
        images.mkdir(parents=True)
        noise = Image.effect_noise((CROP // 4, CROP // 4), 80)
        noise.resize((CROP, CROP), Image.Resampling.BICUBIC).convert("RGB").save(root / "frame.jpg")
        for frame in frames:
            _link(root / "frame.jpg", images / f"{frame:05d}.jpg")
        (root / "frame.jpg").unlink()


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


# --- what comes out ---------------------------------------------------------------------------------


def summarize(subjects: list[Subject], shared: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a subject; `speedup` is the first subject's median over its own."""
    reference = statistics.median(subjects[0].milliseconds)
    rows = []
    for subject in subjects:
        median = statistics.median(subject.milliseconds)
        rows.append(
            {
                "subject": subject.name,
                **shared,
                "images": subject.images,
                "repeats": len(subject.milliseconds),
                "min_ms": min(subject.milliseconds),
                "median_ms": median,
                "images_per_second": 1e3 * subject.images / median,
                "speedup": reference / median,
                **subject.facts,
            }
        )
    return rows


def print_tables(report: dict[str, Any]) -> None:
    machine = report["machine"]
    load = f", load average {machine['load_average'][0]:.1f}" if machine["load_average"] else ""
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    print(f"{machine['cpu']}, {machine['cores']} cores{load}{gpu}; torch {machine['torch']}")
    for title, rows in (("Degradation", report["degradation"]), ("Loading, per core", report["loading"])):
        if not rows:
            continue
        off = f" {'off':>8} {'off > 1':>8} {'most':>4}" if "most_off" in rows[0] else ""
        print(f"\n{title}\n{'side':>4} {'threads':>7} {'images':>6}  {'subject':<34}", end="")
        print(f" {'min ms':>9} {'median ms':>9} {'images/s':>9} {'speed-up':>8}{off}")
        for row in rows:
            print(
                f"{row['side']:>4} {row['threads']:>7} {row['images']:>6}  {row['subject']:<34} {row['min_ms']:>9.2f} "
                f"{row['median_ms']:>9.2f} {row['images_per_second']:>9.0f} {row['speedup']:>8.2f}",
                end="",
            )
            if off:
                print(f" {row['share_off']:>8.1e} {row['share_off_by_more_than_1']:>8.1e} {row['most_off']:>4}", end="")
            print()
    if report["loading_skipped"]:
        print(f"\n{report['loading_skipped']}")
    memory = report["memory"]
    print("\nMemory, streaming")
    print(f"{'images':>7} {'samples':>7} {'min MB':>9} {'median MB':>9} {'max MB':>9} {'off':>6} {'images/s':>9}")
    print(
        f"{memory['images']:>7} {memory['samples']:>7} {memory['min_mb']:>9.1f} {memory['median_mb']:>9.1f} "
        f"{memory['max_mb']:>9.1f} {memory['most_off_median']:>6.1%} {memory['images_per_second']:>9.0f}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
