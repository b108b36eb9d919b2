"""What may go wrong with a long run: kills, signals, full disks, bad files, dying workers. Nothing whole is lost."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image
from runs import TINY, command, digest, environment, history, train

libc = ctypes.CDLL(None, use_errno=True)


def start(flags: list[str], **values: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*flags), env=environment(**values), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool], pause: float = 0.002) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(pause)


def newest(folder: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in (folder / "checkpoints").glob("step-*")), default=-1)


def test_a_run_that_is_killed_five_times_and_terminated_once_ends_in_the_same_bits(
    whole_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    flags, checkpoints = [*TINY, f"--output_dir={folder}"], folder / "checkpoints"
    resume: list[str] = []
    # 40 updates, a checkpoint every 3 and at each epoch's end. Odd moments: in the middle of a write.
    for moment, wait_for in enumerate((3, 9, 15, 20, 27)):
        process = start([*flags, *resume])
        wait_until(process, lambda least=wait_for: newest(folder) >= least)
        if moment % 2:
            wait_until(process, lambda: any(checkpoints.glob(".writing-*/*")), pause=0)
        else:
            time.sleep(random.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        whole = [path for path in checkpoints.iterdir() if not path.name.startswith(".writing-")]
        assert whole and all(json.loads((path / "progress.json").read_text())["update"] >= 0 for path in whole)
        assert not (folder / "model.safetensors").exists()
        resume = ["--resume"]
    process = start([*flags, *resume])
    before = newest(folder)
    wait_until(process, lambda: newest(folder) > before)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    said = process.stderr.read().strip().splitlines()[-1]
    assert f"stopped by SIGTERM after update {newest(folder)}, which is saved" in said
    train(*flags, "--resume")
    assert not list(folder.rglob(".writing-*"))
    assert digest(folder / "model.safetensors") == digest(whole_run / "model.safetensors")
    assert history(folder) == history(whole_run)


def test_a_signal_to_the_process_group_spares_the_loaders(folder_of_images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = [*FILES, f"--dataset={folder_of_images}", f"--output_dir={folder}", "--epochs=500", "--in_memory=false"]
    process = subprocess.Popen(
        command(*flags, "--num_workers=1"), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    wait_until(process, lambda: newest(folder) >= 3, pause=0.01)
    wait_until(process, lambda: any(psutil.Process(process.pid).children()), pause=0)  # in the middle of an epoch
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    said = process.stderr.read()
    # A loader that has only just been started is still in the group, and ends.
    assert f"after update {newest(folder)}, which is saved" in said or "ended a loader process too" in said
    assert "Traceback" not in said


def test_all_processes_stop_together_on_sigterm(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    flags = [*TINY, f"--output_dir={folder}", "--batch_size=12", "--log_every=2", "--epochs=40"]
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2")
    process = subprocess.Popen(
        command(*flags, launcher=launcher), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=environment(ACCELERATE_USE_CPU="true"),
    )  # fmt: skip
    wait_until(process, lambda: newest(folder) >= 3, pause=0.05)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on
    errors = process.communicate(timeout=120)[1]
    assert process.returncode != 0 and "stopped by SIGTERM after update" in errors
    assert f"update {newest(folder)}," in errors
    assert not list(folder.rglob(".writing-*"))


def test_the_recipe_in_a_run_folder_reproduces_the_run(whole_run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    train("--config", str(whole_run / "recipe.yaml"), f"--output_dir={again}")
    assert digest(again / "model.safetensors") == digest(whole_run / "model.safetensors")
    assert history(again) == history(whole_run)
    reports = [json.loads((folder / "report.json").read_text()) for folder in (whole_run, again)]
    for which in ("selected", "last"):
        assert reports[0][which]["resolutions"] == reports[1][which]["resolutions"]


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a tmpfs with these options; needs root."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        if libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, options.encode()) != 0:
            pytest.skip(f"a small disk needs the right to mount one: {os.strerror(ctypes.get_errno())}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        libc.umount2(str(place).encode(), 2)


def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_survives(
    whole_run: Path, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=3m")
    folder, ballast = disk / "run", disk / "ballast"
    process = start([*TINY, f"--output_dir={folder}"])
    wait_until(process, lambda: newest(folder) >= 9)
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # somebody else's data
        while True:
            file.write(bytes(4096))
    assert process.wait(timeout=120) == 2
    errors = process.stderr.read()
    assert "Traceback" not in errors, errors[-3000:]
    assert "No space left" in errors and "--resume" in errors.strip().splitlines()[-1]
    assert newest(folder) >= 9 and not list(folder.rglob(".writing-*"))
    ballast.unlink()
    libc.mount(b"tmpfs", str(disk).encode(), b"tmpfs", 32, b"size=64m")  # 32: MS_REMOUNT
    train(*TINY, f"--output_dir={folder}", "--resume")
    assert digest(folder / "model.safetensors") == digest(whole_run / "model.safetensors")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("size=1m,ro")
    said = last_line(train(*TINY, f"--output_dir={disk / 'run'}", expect=2))
    assert "Read-only file system" in said and str(disk / "run") in said and "output_dir" in said


@pytest.fixture
def folder_of_images(tmp_path: Path) -> Path:
    """A prepared data set of 2 x 40 files, with a validation and a test split."""
    for split, count in (("train", 40), ("validation", 4), ("test", 4)):
        for shade, name in ((60, "neutral"), (200, "happiness")):
            (tmp_path / "faces" / split / name).mkdir(parents=True)
            for number in range(count):
                file = tmp_path / "faces" / split / name / f"{name}_{number:03d}.png"
                Image.new("L", (32, 32), shade + number % 20).save(file)
    return tmp_path / "faces"


FILES = [flag for flag in TINY if not flag.startswith(("--dataset", "--epochs"))]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_corrupt_training_image_is_named(folder_of_images: Path, tmp_path: Path, in_memory: bool) -> None:
    bad = folder_of_images / "train" / "happiness" / "happiness_017.png"
    bad.write_bytes(bad.read_bytes()[:60])
    flags = [*FILES, f"--dataset={folder_of_images}", f"--output_dir={tmp_path / 'run'}", "--epochs=2"]
    flags += [f"--in_memory={in_memory}", *([] if in_memory else ["--num_workers=1"])]
    said = last_line(train(*flags, expect=2))
    assert "happiness_017.png" in said and "cannot be decoded" in said and "repair or drop" in said
    assert (tmp_path / "run").exists() == (not in_memory)  # what can be seen at once is said at once
    if not in_memory:
        assert newest(tmp_path / "run") >= 0
        # What may be pushed one day does not say where the data lay.
        recipe = (tmp_path / "run" / "recipe.yaml").read_text()
        assert "dataset: ./faces\n" in recipe and str(tmp_path) not in recipe


def test_a_dying_loader_process_is_one_sentence_and_the_run_goes_on(folder_of_images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = [*FILES, f"--dataset={folder_of_images}", f"--output_dir={folder}", "--epochs=200", "--in_memory=false"]
    process = start([*flags, "--num_workers=1"])
    wait_until(process, lambda: newest(folder) >= 3, pause=0.01)
    parent = psutil.Process(process.pid)

    def killed() -> bool:
        try:
            workers = [child for child in parent.children() if "python" in child.name()]
            for worker in workers:
                worker.kill()
        except psutil.Error:
            return False
        return bool(workers)

    wait_until(process, killed)
    assert process.wait(timeout=120) == 2
    errors = process.stderr.read()
    assert "Traceback" not in errors, errors[-3000:]
    assert "A loader process died" in errors and "num_workers" in errors
    assert newest(folder) >= 3


def test_an_exploding_loss_stops_with_step_rows_and_parts_and_leaves_good_weights(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # A warm-up that takes the rate from nothing far too high: it goes well for some epochs.
    flags = [*TINY, f"--output_dir={folder}", "--optimizer=sgd", "--learning_rate=1e9", "--warmup_epochs=1000"]
    said = last_line(train(*flags, "--epochs=1001", "--loss_limit=50", "--ema_decay=0", expect=2))
    assert "in epoch" in said and "training rows [" in said and "cross_entropy = " in said
    assert "loss_limit (50)" in said or "not finite" in said
    import torch
    from safetensors.torch import load_file

    kept = sorted((folder / "checkpoints").glob("step-*"))[-1]
    weights = load_file(kept / "model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())


def test_early_stopping_and_splits_made_from_the_training_split(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = [
        *TINY, f"--output_dir={folder}", "--learning_rate=1e-9", "--ema_decay=0", "--epochs=30", "--patience=2",
        "--validation_share=0.25", "--test_share=0.25", "--imbalance_factor=4", "--label_noise=0.25",
        "--sampling=class_balanced", "--batch_size=8",
    ]  # fmt: skip
    train(*flags)
    rows = history(folder)
    report = json.loads((folder / "report.json").read_text())
    assert len(rows) < 30 and report["last"]["epoch"] == len(rows)
    assert len(rows) == report["selected"]["epoch"] + 2  # nothing better twice
    data = report["data"]
    assert data["validation_images"] == data["test_images"] == 64 == report["selected"]["n"]
    assert data["imbalance_factor"] == 4 and data["label_noise"] == 0.25 and data["train_images"] < 128
    assert "held out" in report["selected_by"] and report["selected"]["split"] == "train (held out)"


def test_a_run_starts_from_the_weights_it_is_told_to(whole_run: Path, tmp_path: Path) -> None:
    processor = json.loads((whole_run / "preprocessor_config.json").read_text())
    source = tmp_path / "source"
    source.mkdir()
    for name in ("config.json", "model.safetensors"):
        (source / name).write_bytes((whole_run / name).read_bytes())
    mean = [0.4, 0.45, 0.5]
    (source / "preprocessor_config.json").write_text(json.dumps({**processor, "image_mean": mean}))
    folder = tmp_path / "run"
    flags = [*TINY, f"--output_dir={folder}", "--learning_rate=1e-12", "--ema_decay=0", "--weight_decay=0"]
    train(*flags, f"--backbone_weights={source}", "--epochs=1")
    from safetensors.torch import load_file

    before, after = (load_file(path / "model.safetensors") for path in (source, folder))
    name = next(name for name in after if name.startswith("backbone.") and name.endswith("conv1.0.weight"))
    assert (before[name] - after[name]).abs().max() < 1e-6
    assert json.loads((folder / "preprocessor_config.json").read_text())["image_mean"] == pytest.approx(mean)
    assert json.loads((folder / "report.json").read_text())["started_from"] == {"backbone_weights": "source"}
    assert "backbone_weights: source\n" in (folder / "recipe.yaml").read_text()
    said = last_line(train(*flags, "--backbone_weights=/nowhere/x.pth", expect=2))
    assert "no such file" in said or "is not empty" in said


def test_a_signal_during_the_last_validation_is_not_lost(whole_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = [*TINY, f"--output_dir={folder}"]
    process = start(flags)
    wait_until(process, lambda: (folder / "metrics.jsonl").is_file() and len(history(folder)) == 3)
    wait_until(process, lambda: newest(folder) >= 39)  # the last update but one
    process.send_signal(signal.SIGTERM)
    if process.wait(timeout=60) == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 143
    train(*flags, "--resume")
    assert digest(folder / "model.safetensors") == digest(whole_run / "model.safetensors")
    assert history(folder) == history(whole_run)
