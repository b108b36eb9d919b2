"""Speed of the embedded model on CPU, beside its ONNX exports and two usual backbones at their usual 224 px.

    python benchmarks/inference.py --output results/inference.json
    python benchmarks/inference.py --data ferplus --root data/ferplus     # and the accuracy of the exports

Subjects: the checkpoint inside the package (or `--model`); timm's EfficientNet-B0 and ResNet-18 with a classifier of
as many classes and random weights (speed does not depend on them); the package's whole path from a PIL image to
probabilities (image processor, model, softmax); and the same model exported by `export_onnx`, float32 and int8, in
onnxruntime with as many threads. What is PyTorch is in float32, eval mode, `torch.inference_mode`.

The subjects take turns: each round times one call of each, and the order rotates from round to round, so that
whatever else the machine does hits all alike. The minimum says what the code can do, the median and the 90th
percentile what a user of this machine got. Ratios are of medians, to the default's.

With `--data`, PyTorch and both exports, each with its own preprocessing, answer the split's images at resolutions x1,
x2, x4 and x8. int8's ranges come from drawn faces, whatever the data.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PEERS = {"timm EfficientNet-B0": "efficientnet_b0", "timm ResNet-18": "resnet18"}
PEER_SIDE = 224  # px
PHOTO_SIDE = 96  # px: a face as a detector cuts it out of a photograph
FACTORS = (1, 2, 4, 8)
NO_ONNX = 'ONNX was not measured: install it with pip install "hf-fer[onnx]".'


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
        with tempfile.TemporaryDirectory() as scratch:
            exports = export(options.model, Path(scratch)) if has_onnx() else {}
            accuracy = measure_accuracy(options, exports) if options.data else []  # first: data may be missing
            results, model = _measure(options, exports)
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
        "onnx": [{**dataclasses.asdict(report), "path": None} for _, report in exports.values()],
        "onnx_skipped": None if exports else NO_ONNX,
        "accuracy": accuracy,
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
    parser.add_argument("--data", metavar="NAME", help="also score PyTorch and the exports on this data set")
    parser.add_argument("--root", metavar="DIR", help="folder of its raw download")
    parser.add_argument("--split", metavar="NAME", default="test", help="of the data set")
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


def has_onnx() -> bool:
    return all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))


def export(model: str, folder: Path) -> dict[str, tuple[Path, Any]]:
    """The model's two ONNX files, each with the report of its export."""
    from hf_fer.inference.onnx_export import export_onnx

    files = {"float32": folder / "float32.onnx", "int8": folder / "int8.onnx"}
    return {name: (path, export_onnx(model, path, int8=name == "int8")) for name, path in files.items()}


def _measure(options: argparse.Namespace, exports: dict[str, tuple[Path, Any]]) -> tuple[list[dict[str, Any]], str]:
    """All rows of the table, and the name of the model they are compared with."""
    import torch

    from hf_fer import load_classifier
    from hf_fer.inference.onnx_runtime import OnnxClassifier

    ours, processor = load_classifier(options.model, "cpu")
    classes = ours.config.num_labels
    peers = {name: _build_peer(timm_name, classes) for name, timm_name in PEERS.items()}
    before = torch.get_num_threads()
    rows: list[dict[str, Any]] = []
    try:
        with torch.inference_mode():
            for threads in options.threads:
                torch.set_num_threads(threads)
                # Opened anew: onnxruntime fixes the number of threads at the beginning.
                classifiers = {name: OnnxClassifier(path, threads=threads) for name, (path, _) in exports.items()}
                for batch, repeats in ((1, options.repeats), (options.batch_size, options.batch_repeats)):
                    subjects = _build_subjects(ours, processor, peers, classifiers, batch)
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


def _build_subjects(
    ours: Any, processor: Any, peers: dict[str, Any], classifiers: dict[str, Any], batch: int
) -> list[Subject]:
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
    pixels = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0)).numpy()
    for name, classifier in classifiers.items():

        def exported(classifier: Any = classifier) -> Any:
            return classifier.run(pixels)

        def exported_whole(classifier: Any = classifier) -> Any:
            return classifier.predict([photo])

        subjects.append(Subject(f"default, ONNX {name}", side, count_parameters(ours), batch, exported, []))
        if batch == 1:
            whole = f"default, ONNX {name}, from PIL"
            subjects.append(Subject(whole, PHOTO_SIDE, count_parameters(ours), 1, exported_whole, []))
    return subjects


def _photo() -> Any:
    """A picture of noise, `PHOTO_SIDE` square, RGB: what it shows does not change the time."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (PHOTO_SIDE, PHOTO_SIDE, 3), np.uint8))


def count_parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# --- accuracy ---------------------------------------------------------------------------------------


def measure_accuracy(options: argparse.Namespace, exports: dict[str, tuple[Path, Any]]) -> list[dict[str, Any]]:
    """Accuracy of PyTorch and of each export in percent, by resolution factor, and how often the answers are equal."""
    import numpy as np

    from hf_fer import FerError, load_fer_dataset
    from hf_fer.evaluation.matching import label_mapping, model_classes
    from hf_fer.evaluation.systems import open_system, probabilities_by_factor
    from hf_fer.inference.onnx_runtime import OnnxClassifier

    splits = load_fer_dataset(options.data, root=options.root)
    if options.split not in splits:
        raise FerError(f"{options.data} has no split {options.split!r}; it has {', '.join(splits)}")
    data = splits[options.split]
    system = open_system(options.model, device="cpu")
    mapping = label_mapping(system.network, data)
    ids = np.array([mapping[name] for name in model_classes(system.network)])  # the data set's, of the model's classes
    references = np.array(data["label"])
    subjects = {"PyTorch float32": system.answer}
    for name, (path, _) in exports.items():
        subjects[f"ONNX {name}"] = OnnxClassifier(path).probabilities
    rows: list[dict[str, Any]] = []
    first: list[Any] = []
    for name, answer in subjects.items():
        tables = probabilities_by_factor(answer, data["image"], factors=FACTORS, progress=False, network=system.network)
        top = [table.argmax(axis=1) for table in tables]
        first = first or top
        right = {str(f): 100 * float((ids[t] == references).mean()) for f, t in zip(FACTORS, top, strict=True)}
        same = {str(f): 100 * float((t == own).mean()) for f, t, own in zip(FACTORS, top, first, strict=True)}
        about = {"dataset": options.data, "split": options.split, "images": len(references)}
        rows.append({"subject": name, **about, "accuracy": right, "same_as_first": same})
    return rows


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
    for export in report["onnx"]:
        print(
            f"\nONNX {export['precision']}: {export['size_bytes'] / 1e6:.1f} MB, at most "
            f"{export['max_probability_difference']:.1e} from PyTorch's probabilities on drawn faces",
            end="",
        )
    print(f"\n{report['onnx_skipped'] or ''}")
    if report["accuracy"]:
        row = report["accuracy"][0]
        print(f"Accuracy in % on {row['dataset']} {row['split']}, {row['images']:,} images (answers as PyTorch's, %)\n")
        print(f"{'subject':<20}" + "".join(f"{'x' + factor:>16}" for factor in row["accuracy"]))
    for row in report["accuracy"]:
        cells = (f"{row['accuracy'][f]:>8.2f} ({row['same_as_first'][f]:>5.1f})" for f in row["accuracy"])
        print(f"{row['subject']:<20}" + "".join(cells))


if __name__ == "__main__":
    raise SystemExit(main())
