"""Speed of the embedded model on CPU, beside two usual backbones at their usual 224 px.

    python benchmarks/inference.py --output results/inference.json

Subjects: the checkpoint inside the package (or `--model`); timm's EfficientNet-B0 and ResNet-18 with a classifier of
as many classes and random weights (speed does not depend on them); and the package's whole path from a PIL image to
probabilities (image processor, model, softmax). All in float32, eval mode, `torch.inference_mode`.

The subjects take turns: each round times one call of each, and the order rotates from round to round, so that
whatever else the machine does hits all alike. The minimum says what the code can do, the median and the 90th
percentile what a user of this machine got. Ratios are of medians, to the default's.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEERS = {"timm EfficientNet-B0": "efficientnet_b0", "timm ResNet-18": "resnet18"}
PEER_SIDE = 224  # px
PHOTO_SIDE = 96  # px: a face as a detector cuts it out of a photograph


@dataclass
class Subject:
    """Something to time.

    Attributes:
        name: for the table.
        side: of its square input in px.
        parameters: how many it has.
        batch: images in one call.
        call: one forward pass over such a batch.
        milliseconds: the durations seen so far.
    """

    name: str
    side: int
    parameters: int
    batch: int
    call: Callable[[], Any]
    milliseconds: list[float]


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)

    from hf_fer import FerError

    try:
        results, model = _measure(options)
    except FerError as error:
        print(f"benchmarks/inference.py: {error}", file=sys.stderr)
        return 2
    report = {
        "benchmark": "inference",
        "model": model,
        "settings": {
            "dtype": "float32",
            "repeats": options.repeats,
            "batch_size": options.batch_size,
            "batch_repeats": options.batch_repeats,
            "photo_side": PHOTO_SIDE,
            "quick": options.quick,
        },
        "machine": describe_machine(),
        "results": results,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    print_table(report)
    write_report(report, options.output)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", metavar="PATH", default="default", help="checkpoint folder")
    parser.add_argument("--threads", metavar="N,N", type=_counts, default=[1, 2], help="CPU threads to try")
    parser.add_argument("--repeats", metavar="N", type=_count, default=200, help="rounds of one image")
    parser.add_argument("--batch-repeats", metavar="N", type=_count, default=10, help="rounds of one batch")
    parser.add_argument("--batch-size", metavar="N", type=_count, default=64, help="images in a batch")
    parser.add_argument("--output", metavar="FILE", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="few rounds, 1 thread, batches of 4: does it run?")
    options = parser.parse_args(argv)
    if options.quick:
        options.threads, options.repeats, options.batch_repeats, options.batch_size = [1], 3, 2, 4
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


# --- what is timed --------------------------------------------------------------------------------


def _measure(options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """All rows of the table, and the name of the model they are compared with."""
    import torch

    from hf_fer import load_classifier

    ours, processor = load_classifier(options.model, "cpu")
    classes = ours.config.num_labels
    peers = {name: _build_peer(timm_name, classes) for name, timm_name in PEERS.items()}
    before = torch.get_num_threads()
    rows: list[dict[str, Any]] = []
    try:
        with torch.inference_mode():
            for threads in options.threads:
                torch.set_num_threads(threads)
                for batch, repeats in ((1, options.repeats), (options.batch_size, options.batch_repeats)):
                    subjects = _build_subjects(ours, processor, peers, batch)
                    run_rounds(subjects, repeats)
                    rows += summarize(subjects, threads)
    finally:
        torch.set_num_threads(before)
    return rows, "embedded default" if options.model == "default" else Path(options.model).name


def _build_peer(name: str, classes: int) -> Any:
    import timm
    import torch

    # In the layout load_classifier gives our own model.
    model = timm.create_model(name, pretrained=False, num_classes=classes).eval()
    return model.to(memory_format=torch.channels_last)


def _build_subjects(ours: Any, processor: Any, peers: dict[str, Any], batch: int) -> list[Subject]:
    """The subjects for one batch size, the default first."""
    import torch

    def subject(name: str, model: Any, side: int, forward: Callable[[Any], Any]) -> Subject:
        pixels = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
        return Subject(name, side, count_parameters(model), batch, lambda: forward(pixels), [])

    photo = _photo()
    side = processor(images=photo, return_tensors="pt")["pixel_values"].shape[-1]
    subjects = [subject("default", ours, side, lambda pixels: ours(pixel_values=pixels).logits)]
    subjects += [subject(name, peer, PEER_SIDE, peer) for name, peer in peers.items()]
    if batch == 1:

        def whole_path() -> list[float]:
            pixels = processor(images=photo, return_tensors="pt")["pixel_values"]
            return ours(pixel_values=pixels).logits.float().softmax(1)[0].tolist()

        subjects.append(Subject("default, PIL to probabilities", PHOTO_SIDE, count_parameters(ours), 1, whole_path, []))
    return subjects


def _photo() -> Any:
    """A picture of noise, `PHOTO_SIDE` square, RGB: what it shows does not change the time."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (PHOTO_SIDE, PHOTO_SIDE, 3), np.uint8))


def count_parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# --- timing -----------------------------------------------------------------------------------------


def run_rounds(subjects: list[Subject], rounds: int) -> None:
    """Times one call of every subject in each round; the one that begins moves on by one each time."""
    for subject in subjects:
        for _ in range(2):  # warm-up: memory, kernels chosen at the first call
            subject.call()
    gc.collect()
    gc.disable()
    try:
        for round_ in range(rounds):
            start = round_ % len(subjects)
            for subject in (*subjects[start:], *subjects[:start]):
                begin = time.perf_counter()
                subject.call()
                subject.milliseconds.append(1e3 * (time.perf_counter() - begin))
    finally:
        gc.enable()


def summarize(subjects: list[Subject], threads: int) -> list[dict[str, Any]]:
    """One row a subject; `ratio` is its median over that of the first subject."""
    reference = statistics.median(subjects[0].milliseconds)
    rows = []
    for subject in subjects:
        times = sorted(subject.milliseconds)
        median = statistics.median(times)
        rows.append(
            {
                "subject": subject.name,
                "side": subject.side,
                "parameters": subject.parameters,
                "threads": threads,
                "batch_size": subject.batch,
                "repeats": len(times),
                "min_ms": times[0],
                "median_ms": median,
                "p90_ms": times[min(len(times) - 1, int(0.9 * len(times)))],
                "images_per_second": 1e3 * subject.batch / median,
                "ratio": median / reference,
            }
        )
    return rows


# --- what comes out -----------------------------------------------------------------------------


def describe_machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    from hf_fer.evaluation.latency import processor_name

    return {
        "cpu": processor_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        # What else was running: timings from a busy machine are worth their ratios only.
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def write_report(report: dict[str, Any], path: Path | None) -> None:
    """Writes the report as JSON, if there is a path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def print_table(report: dict[str, Any]) -> None:
    machine = report["machine"]
    load = f", load average {machine['load_average'][0]:.1f}" if machine["load_average"] else ""
    print(f"{machine['cpu']}, {machine['cores']} cores{load}; torch {machine['torch']}, float32")
    print(f"default = {report['model']}; times in ms a call; ratio = median over the default's\n")
    columns = f"{'threads':>7} {'batch':>5}  {'subject':<30} {'side':>4} {'parameters':>10}"
    print(f"{columns} {'min':>9} {'median':>9} {'p90':>9} {'images/s':>9} {'ratio':>6}")
    for row in report["results"]:
        print(
            f"{row['threads']:>7} {row['batch_size']:>5}  {row['subject']:<30} {row['side']:>4} "
            f"{row['parameters']:>10,} {row['min_ms']:>9.2f} {row['median_ms']:>9.2f} {row['p90_ms']:>9.2f} "
            f"{row['images_per_second']:>9.1f} {row['ratio']:>6.2f}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
