"""Whole runs, as a user starts them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import TINY, command, digest, environment, history, train


def test_a_run_folder_is_complete(whole_run: Path) -> None:
    names = {
        "config.json", "model.safetensors", "preprocessor_config.json", "modeling_mek.py", "README.md", "recipe.yaml",
        "metrics.jsonl", "report.json", "curves.png", "confusion_matrix.png", "resolution_curve.png",
        "embeddings.png", "losses.png", "diagnostics.png",
    }  # fmt: skip
    assert names <= {path.name for path in whole_run.iterdir()}
    assert list((whole_run / "logs").rglob("events.out.tfevents*"))
    assert not [p for p in whole_run.rglob("*") if p.name.startswith(".writing-")]
    assert not list(whole_run.rglob("*.pkl")) and not list(whole_run.rglob("*.bin"))  # ready to push
    rows = history(whole_run)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    report = json.loads((whole_run / "report.json").read_text())
    best = max(rows, key=lambda row: row["selection"])
    assert report["selected"]["epoch"] == best["epoch"] and report["last"]["epoch"] == 4
    assert report["selected"]["n"] == 48 and set(report["selected"]["resolutions"]) == {"1", "2"}


def test_the_saved_model_answers_as_reported(whole_run: Path) -> None:
    from hf_fer import evaluate_model

    report = json.loads((whole_run / "report.json").read_text())["selected"]
    again = evaluate_model(
        str(whole_run), "synthetic", options={"train": 256, "validation": 48, "test": 48, "size": 32},
        resolutions=[1, 2], progress=False,
    )  # fmt: skip
    for factor in ("1", "2"):
        assert again["resolutions"][factor]["confusion_matrix"] == report["resolutions"][factor]["confusion_matrix"]


def test_two_processes_train_and_evaluate_exactly(whole_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    # Accelerate's own launcher starts several CPU processes under MPI only; torchrun does without.
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2")
    done = subprocess.run(
        command(*TINY, f"--output_dir={folder}", "--batch_size=12", launcher=launcher),
        capture_output=True, text=True, env=environment(ACCELERATE_USE_CPU="true"), timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert [row["update"] for row in history(folder)] == [10, 20, 30, 40]
    assert json.loads((folder / "report.json").read_text())["selected"]["n"] == 48


def test_a_full_folder_is_not_overwritten_and_nothing_is_not_resumed(whole_run: Path, tmp_path: Path) -> None:
    before = digest(whole_run / "model.safetensors")
    assert "is not empty" in train(*TINY, f"--output_dir={whole_run}", expect=2).stderr
    assert digest(whole_run / "model.safetensors") == before
    assert "Nothing to resume" in train(*TINY, f"--output_dir={tmp_path / 'no'}", "--resume", expect=2).stderr


def test_a_finished_run_is_not_resumed(whole_run: Path) -> None:
    assert "is finished" in train(*TINY, f"--output_dir={whole_run}", "--resume", expect=2).stderr


def start_and_kill(folder: Path, *flags: str) -> list[str]:
    """Starts a run and kills it once it has a checkpoint; returns the flags it had."""
    flags = (*TINY, f"--output_dir={folder}", *flags)
    process = subprocess.Popen(command(*flags), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((folder / "checkpoints").glob("step-*")):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return list(flags)


def test_another_recipe_or_another_launch_is_not_resumed(tmp_path: Path) -> None:
    flags = start_and_kill(tmp_path / "run")
    assert "learning_rate changed" in train(*flags, "--resume", "--learning_rate=1e-2", expect=2).stderr
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2")
    done = subprocess.run(
        command(*flags, "--resume", launcher=launcher),
        capture_output=True, text=True, env=environment(ACCELERATE_USE_CPU="true"), timeout=600,
    )  # fmt: skip
    assert done.returncode != 0 and "launch it alike" in done.stderr


@pytest.mark.parametrize("flags", [["--mixed_precision=bf16", "--ema_decay=0"], ["--gradient_accumulation=2"]])
def test_other_ways_of_training_finish_and_report_the_same_model(tmp_path: Path, flags: list[str]) -> None:
    folder = tmp_path / "run"
    train(
        *TINY, f"--output_dir={folder}", *flags, "--epochs=1", "--batch_size=12", "--num_workers=1", "--in_memory=false"
    )
    report = json.loads((folder / "report.json").read_text())
    # One epoch is one model; measured under autocast the two would differ by more.
    selected, last = (report[which]["resolutions"]["1"]["nll"] for which in ("selected", "last"))
    assert selected == pytest.approx(last, rel=1e-6)


def test_a_loss_that_is_not_finite_stops_with_step_rows_and_parts(tmp_path: Path) -> None:
    done = train(*TINY, f"--output_dir={tmp_path / 'nan'}", "--learning_rate=1e30", "--schedule=constant", expect=2)
    message = done.stderr.strip().splitlines()[-1]
    assert "The loss is not finite in epoch 1 at step" in message
    assert "cross_entropy = nan" in message and "training rows [" in message


MISTAKES = {
    "--smoothing=2": "smoothing must be a number in [0, 1]",
    "--backbone=resnet19": "resnet19",
    "--class_counts=[1, 2]": "class_counts must be 8 integers",
    "--dataset=nothing": "nothing",
    "--dataset_options={colour: red}": "colour",
    "--test_split=exam": "no split 'exam'",
    "--validation_split=test": "must not choose the epoch",
    "--validation_split=train": "'train' of synthetic cannot be two of",
    "--batch_size=500": "lower batch_size",
    "--eval_resolutions=[2, 1]": "the first of them 1",
    "--tracker=carrier_pigeon": "carrier_pigeon",
}
_TRY_ALL = """
import contextlib, io, json, sys
from hf_fer.training.cli import main
said = {}
for name, flags in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stderr(io.StringIO()) as err:
        status = main("mek", flags)
    said[name] = [status, err.getvalue()]
json.dump(said, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[int, str]]]:
    """What each says, one after the other in a process of its own: torch's import is the dear part of a mistake."""
    folder = tmp_path_factory.mktemp("mistakes")
    runs = {flag: [*TINY, f"--output_dir={folder / str(k)}", flag] for k, flag in enumerate(MISTAKES)}
    call = [sys.executable, "-c", _TRY_ALL, json.dumps(runs), str(folder / "said.json")]
    done = subprocess.run(call, capture_output=True, text=True, env=environment(), timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads((folder / "said.json").read_text())


@pytest.mark.parametrize("flag", MISTAKES)
def test_mistakes_end_in_one_sentence_and_status_2(
    flag: str, mistakes: tuple[Path, dict[str, tuple[int, str]]]
) -> None:
    folder, said = mistakes
    status, err = said[flag]
    lines = [line for line in err.strip().splitlines() if line.startswith("train_mek: ")]
    assert status == 2 and len(lines) == 1 and MISTAKES[flag] in lines[0], err
    assert "Traceback" not in err
    assert {path.name for path in folder.iterdir()} == {"said.json"}  # or the corrected command would find it taken
