"""What training costs: each method's step against a plain one, our loop against a bare one, two processes against one.

    python benchmarks/training.py --output results/training.json

**Methods.** A step is forward, backward and update (fused Adam) of a fixed batch that is on the device already; making
the further views is part of it. HSAC (3 views), MEK (2) and multi-resolution training (1) are held against a plain
cross-entropy step of the same backbone, batch and size: ratio = step ÷ (views × plain step). Neural Resizer and GReFEL
are held against cross-entropy on their own trunk, the resizer in front of the transformer included and GReFEL's
balancing and anchors left out: ratio = step ÷ plain step. The medians are those of the rounds' ratios, since both
steps of a round meet the same machine.

**Loop.** Images a second of an epoch as a recipe runs it (reading from memory, augmentation, monitoring) over those of
a bare loop of timm's network on one batch that never changes.

**Processes.** Images a second of two CPU processes with one thread each, over one process with one thread: whole runs
of `recipes/train_mek.py`, taking turns, of which the second epoch counts; once with the batch of the one process in
each of the two, and once with half of it (a smaller batch is slower in itself).

On a CUDA GPU the first two parts use it, in bfloat16 and channels last.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference import describe_machine, run_rounds, write_report

ROOT = Path(__file__).resolve().parents[1]
VIEWS = {"hsac": 3, "mek": 2, "multires": 1}
CLASSES = 7


@dataclass
class Subject:
    """Something to time: its name, one call, and the durations seen so far."""

    name: str
    call: Callable[[], Any]
    milliseconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Scale:
    """How large the networks are, by where they run.

    Attributes:
        backbone, side, batch: of the methods with a CNN, and of the loop.
        grefel_side, grefel_batch: of GReFEL.
        resizer: overrides of Neural Resizer's configuration.
        resizer_batch: its batch.
    """

    backbone: str
    side: int
    batch: int
    grefel_side: int
    grefel_batch: int
    resizer: dict[str, Any]
    resizer_batch: int


SCALES = {
    "cuda": Scale("resnet50", 224, 64, 224, 64, {}, 32),
    "cpu": Scale(
        "resnet18", 112, 16, 224, 4,
        {"upsampled_size": 192, "backbone": "swin_tiny_patch4_window7_224", "backbone_image_size": 112}, 4,
    ),
    "quick": Scale("resnet10t", 32, 4, 64, 2, {}, 2),
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    import torch

    cuda = torch.cuda.is_available()
    scale = SCALES["quick" if options.quick else "cuda" if cuda else "cpu"]
    torch.set_num_threads(options.threads)
    parts: dict[str, Any] = {}
    if "methods" in options.parts:
        parts["methods"] = measure_methods(scale, options, "cuda" if cuda else "cpu")
    if "loop" in options.parts:
        parts["loop"] = measure_loop(scale, options, "cuda" if cuda else "cpu")
    if "processes" in options.parts:
        parts["processes"] = measure_processes(options)
    report = {
        "benchmark": "training",
        "settings": {**vars(options), "output": None, "scale": vars(scale)},
        "machine": describe_machine(),
        **parts,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    print_tables(report)
    write_report(report, options.output)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    every = ("methods", "loop", "processes")
    parser.add_argument("--parts", nargs="+", choices=every, default=every, help="what to measure")
    parser.add_argument("--threads", metavar="N", type=_count, default=2, help="CPU threads of the first two parts")
    parser.add_argument("--repeats", metavar="N", type=_count, default=9, help="rounds of the first part")
    parser.add_argument("--runs", metavar="N", type=_count, default=5, help="rounds of the other two")
    parser.add_argument("--output", metavar="FILE", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="tiny networks and few rounds: does it run?")
    options = parser.parse_args(argv)
    if options.quick:
        options.threads, options.repeats, options.runs = 1, 2, 1
    return options


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


_count.__name__ = "number of at least 1"  # argparse names the type in its message


# --- methods ----------------------------------------------------------------------------------------


def measure_methods(scale: Scale, options: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    rows = []
    for method, config, plain in _pairs(scale, quick=options.quick):
        batch = {"grefel": scale.grefel_batch, "neural_resizer": scale.resizer_batch}.get(method, scale.batch)
        views = VIEWS.get(method, 1)
        subjects = [Subject("plain", _step(plain, batch, device)), Subject(method, _step(config, batch, device))]
        run_rounds(subjects, options.repeats)
        reference, own = (subject.milliseconds for subject in subjects)
        rows.append(
            {
                "method": method,
                "backbone": config.backbone,
                "side": config.image_size,
                "batch": batch,
                "views": views,
                "device": device,
                "threads": options.threads,
                "rounds": len(own),
                "plain_median_ms": statistics.median(reference),
                "median_ms": statistics.median(own),
                **_ratios([views * time for time in reference], own),
            }
        )
    return rows


def _pairs(scale: Scale, quick: bool) -> list[tuple[str, Any, Any]]:
    """Each method's name, its configuration at this scale, and that of the plain step."""
    from hf_fer import GReFELConfig, HSACConfig, MEKConfig, MultiResConfig, NeuralResizerConfig

    shared = {"backbone": scale.backbone, "image_size": scale.side, "num_labels": CLASSES}
    counts = {"class_counts": [900, 700, 500, 300, 200, 100, 50]}
    prior = [[0.7 if i == j else 0.05 for j in range(CLASSES)] for i in range(CLASSES)]
    plain = MEKConfig(**shared, **MEKConfig.ablations["Table 6: baseline"])
    resizer = {**(NeuralResizerConfig.tiny if quick else {"image_size": 48}), **scale.resizer, "num_labels": CLASSES}
    grefel = {**(GReFELConfig.tiny if quick else {}), "image_size": scale.grefel_side, "num_labels": CLASSES}
    return [
        ("hsac", HSACConfig(**shared), plain),
        ("mek", MEKConfig(**shared, **counts), plain),
        ("multires", MultiResConfig(**shared, **counts, resolution_probability=1.0), plain),
        (
            "neural_resizer",
            NeuralResizerConfig(**resizer, label_prior=prior),
            NeuralResizerConfig(**resizer, prior_alpha=1.0, focal_gamma=0.0),
        ),
        (
            "grefel",
            GReFELConfig(**grefel),
            GReFELConfig(**grefel, **GReFELConfig.ablations["Table 2: without reliability balancing"]),
        ),
    ]


def _step(config: Any, batch: int, device: str) -> Callable[[], None]:
    """One training step of the method that a configuration belongs to."""
    import torch

    from hf_fer._auto import model_class

    torch.manual_seed(0)
    model = model_class(config.model_type)(config).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    images = torch.randn(batch, 3, config.image_size, config.image_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % config.num_labels
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        views = {k: v.to(device, non_blocking=True) for k, v in model.draw_views(batch, generator).items()}
        with _precision(device):
            loss = model(pixel_values=images, labels=labels, **views).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def _precision(device: str) -> contextlib.AbstractContextManager[Any]:
    import torch

    return torch.autocast(device, torch.bfloat16) if device == "cuda" else contextlib.nullcontext()


# --- loop -------------------------------------------------------------------------------------------


def measure_loop(scale: Scale, options: argparse.Namespace, device: str) -> dict[str, Any]:
    steps = 4 if options.quick else 100 if device == "cuda" else 12
    bare, ours = [], []
    for _ in range(options.runs):  # taking turns
        bare.append(steps * scale.batch / _bare_epoch(scale, steps, device))
        ours.append(steps * scale.batch / _our_epoch(scale, steps, device, options.threads))
    return {
        "backbone": scale.backbone,
        "side": scale.side,
        "batch": scale.batch,
        "steps": steps,
        "device": device,
        "bare_images_per_second": statistics.median(bare),
        "our_images_per_second": statistics.median(ours),
        **_ratios(bare, ours),
    }


def _bare_epoch(scale: Scale, steps: int, device: str) -> float:
    """Seconds of `steps` steps of timm's network as timm's own benchmark takes them, after two to warm up."""
    import timm
    import torch

    model = timm.create_model(scale.backbone, num_classes=CLASSES)
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    images = torch.randn(scale.batch, 3, scale.side, scale.side, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(scale.batch, device=device) % CLASSES
    for step in range(-2, steps):
        if step == 0:
            if device == "cuda":
                torch.cuda.synchronize()
            begin = time.perf_counter()
        with _precision(device):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _our_epoch(scale: Scale, steps: int, device: str, threads: int) -> float:
    """Seconds of an epoch of so many steps, the second of a run, as the run itself notes them."""
    # Drawn small, which is soon done; they are enlarged to `scale.side` once, before the first epoch.
    flags = [
        f"--backbone={scale.backbone}", f"--image_size={scale.side}", f"--batch_size={scale.batch}",
        f"--dataset_options={{train: {scale.batch * steps}, validation: 8, test: 8, size: {min(scale.side, 48)}}}",
        "--consistency_weight=0", "--smoothing=0", "--classify_transformed=false", f"--cpu_threads={threads}",
    ]  # fmt: skip
    rows = _run([*flags, "--mixed_precision=bf16"] if device == "cuda" else flags)
    return rows[1]["seconds"]


# --- processes --------------------------------------------------------------------------------------


def measure_processes(options: argparse.Namespace) -> list[dict[str, Any]]:
    images = 128 if options.quick else 1600
    flags = [
        f"--dataset_options={{train: {images}, validation: 8, test: 8, size: 48}}", "--image_size=48",
        "--backbone_kwargs={layers: [1, 1, 1, 1], channels: [32, 64, 128, 256]}", "--stem_pool=false",
        "--cpu_threads=1",
    ]  # fmt: skip
    environment = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    subjects = {"one": (1, 32), "two, batches of 32 each": (2, 32), "two, the same global batch": (2, 16)}
    speeds: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(options.runs):  # taking turns
        for name, (processes, batch) in subjects.items():
            rows = _run([*flags, f"--batch_size={batch}"], processes, environment)
            speeds[name].append(images / rows[1]["seconds"])
    return [
        {
            "subject": name,
            "processes": subjects[name][0],
            "batch": subjects[name][1],
            "images": images,
            "one_images_per_second": statistics.median(speeds["one"]),
            "images_per_second": statistics.median(speeds[name]),
            **_ratios(speeds["one"], speeds[name]),
        }
        for name in (*subjects,)[1:]
    ]


def _run(flags: list[str], processes: int = 1, environment: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` of two epochs of MEK on drawn faces."""
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        shared = [f"--output_dir={folder}/run", "--dataset=synthetic", "--epochs=2", "--tracker=none"]
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        done = subprocess.run(
            [sys.executable, *launcher, str(ROOT / "recipes" / "train_mek.py"), *shared, *flags],
            env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(f"benchmarks/training.py: a run failed:\n{done.stderr[-2000:]}")
        return [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]


def _ratios(reference: list[float], own: list[float]) -> dict[str, float]:
    """Of what was measured in the same round."""
    ratios = sorted(b / a for a, b in zip(reference, own, strict=True))
    return {"ratio_min": ratios[0], "ratio_median": statistics.median(ratios), "ratio_max": ratios[-1]}


# --- what comes out ---------------------------------------------------------------------------------


def print_tables(report: dict[str, Any]) -> None:
    machine = report["machine"]
    load = f", load average {machine['load_average'][0]:.1f}" if machine["load_average"] else ""
    print(f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores{load}; torch {machine['torch']}")
    if "methods" in report:
        print("\nMethods: step / (views * plain step)")
        print(f"{'method':<15} {'backbone':<30} {'side':>4} {'batch':>5} {'views':>5} {'plain ms':>9} {'ms':>9} ratio")
        for row in report["methods"]:
            print(
                f"{row['method']:<15} {row['backbone']:<30} {row['side']:>4} {row['batch']:>5} {row['views']:>5} "
                f"{row['plain_median_ms']:>9.1f} {row['median_ms']:>9.1f} {_spread(row)}"
            )
    if "loop" in report:
        row = report["loop"]
        print(
            f"\nLoop: {row['our_images_per_second']:.1f} images/s, bare loop {row['bare_images_per_second']:.1f} "
            f"({row['backbone']}, {row['side']} px, batch {row['batch']}): {_spread(row)}"
        )
    if "processes" in report:
        print(f"\nProcesses: {report['processes'][0]['one_images_per_second']:.1f} images/s in one")
        for row in report["processes"]:
            print(f"{row['subject']:<28} {row['images_per_second']:>6.1f} images/s: {_spread(row)}")


def _spread(row: dict[str, Any]) -> str:
    return f"{row['ratio_median']:.3f} ({row['ratio_min']:.3f} to {row['ratio_max']:.3f})"


if __name__ == "__main__":
    raise SystemExit(main())
