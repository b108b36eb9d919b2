"""Sweeps, as a user starts them; what needs no training is asked in this process."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hf_fer import cli
from hf_fer._auto import METHODS, config_class
from hf_fer.errors import FerError
from hf_fer.training import sweep as sweep_module
from hf_fer.training.sweep_plan import plan

ROOT = Path(__file__).parents[2]
# Half a second of training: the rest of a run is imports.
TINY = """\
dataset: synthetic
dataset_options: {train: 240, validation: 48, test: 48, size: 32}
backbone_kwargs: {layers: [1, 1], channels: [8, 16], stem_type: deep, stem_width: 8}
stem_pool: false
image_size: 32
epochs: 3
batch_size: 24
optimizer: adamw
eval_resolutions: [1, 2]
checkpoint_every: 3
cpu_threads: 1
tracker: none
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    return write_config(tmp_path)


def write_config(folder: Path, more: str = "") -> str:
    path = folder / "mek_tiny.yaml"
    path.write_text(TINY + more)
    return str(path)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hf_fer.cli", "sweep", *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(*arguments: str, expect: int = 0) -> tuple[str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=600)
    assert process.returncode == expect, err[-3000:]
    return out, err


def summary(folder: Path) -> dict:
    return json.loads((folder / "sweep.json").read_text())


def rows(folder: Path) -> list[list[str]]:
    """The cells of sweep.md's first table, without its head."""
    table = (folder / "sweep.md").read_text().split("\n\n")[2]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, str, str]:
    """A sweep that was ended in its first run, and called again: its arguments, folder, stdout and stderr."""
    place = tmp_path_factory.mktemp("sweeps")
    folder = place / "out"
    arguments = [write_config(place), "--seeds", "2", "--grid", "learning_rate=1e-3,2e-2", f"--output_dir={folder}"]
    process = start(*arguments)
    first = folder / "learning_rate=0.001" / "seed-0"
    deadline = time.monotonic() + 300
    while not list((first / "checkpoints").glob("step-*")):
        assert process.poll() is None and time.monotonic() < deadline, "ended before it could be ended"
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert [run["status"] for run in summary(folder)["runs"]] == ["unfinished", "pending", "pending", "pending"]
    assert not (first / "report.json").exists()
    out, err = finish(*arguments)  # would be refused, were the first run still at work
    return arguments, folder, out, err


def test_a_sweep_that_was_ended_goes_on(swept: tuple[list[str], Path, str, str]) -> None:
    _, folder, out, err = swept
    runs = summary(folder)["runs"]
    assert [run["status"] for run in runs] == ["finished"] * 4
    assert [run["folder"] for run in runs] == [
        f"learning_rate={rate}/seed-{seed}" for seed in (0, 1) for rate in ("0.001", "0.02")
    ]
    for run in runs:
        metrics = (folder / run["folder"] / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in metrics] == [1, 2, 3]
        recipe = (folder / run["folder"] / "recipe.yaml").read_text()
        assert f"seed: {run['seed']}\n" in recipe
        assert f"learning_rate: {run['overrides']['learning_rate']}\n" in recipe
    assert "step/s" in err and "train loss" in out  # bar and rows of the runs came through


def test_the_table_is_mean_and_sample_deviation_of_the_reports(swept: tuple[list[str], Path, str, str]) -> None:
    _, folder, out, _ = swept
    text = (folder / "sweep.md").read_text()
    assert text in out
    assert (
        "split test of synthetic, 48 images, trained from scratch" in text
        and "accuracy on the validation split" in text
    )
    assert str(folder) not in text + (folder / "sweep.json").read_text()  # what was done, not where
    selected, last = (text.split("\n\n")[k] for k in (2, 4))
    figures = summary(folder)
    for which, table in (("selected", selected), ("last", last)):
        for line, point, rate in zip(table.splitlines()[2:], figures["points"], ("0.001", "0.02"), strict=True):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            reports = [
                json.loads((folder / f"learning_rate={rate}" / f"seed-{seed}" / "report.json").read_text())[which]
                for seed in (0, 1)
            ]
            wanted = []
            for factor in ("1", "2"):
                for metric in ("accuracy", "mean_class_accuracy"):
                    a, b = (report["resolutions"][factor][metric] for report in reports)
                    wanted.append(f"{50 * (a + b):.2f} ± {100 * abs(a - b) / 2**0.5:.2f}")
                    spread = point[which][factor][metric]
                    assert spread["mean"] == pytest.approx((a + b) / 2)
                    assert spread["std"] == pytest.approx(statistics.stdev([a, b]))
            assert cells == [rate, "2", *wanted]
            epochs = [r[which]["epoch"] for r in figures["runs"] if str(r["overrides"]["learning_rate"]) == rate]
            assert epochs == [report["epoch"] for report in reports]
    assert len({cell for line in selected.splitlines()[2:] for cell in line.split("|")[3:-1]}) > 1  # no constant


def test_a_finished_sweep_trains_nothing(
    swept: tuple[list[str], Path, str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, folder, *_ = swept
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*/seed-*/*")}
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something was started"))
    assert cli.main(["sweep", *arguments, "--num_workers=1"]) == 0  # nothing a result depends on
    assert capfd.readouterr().out.count("finished already") == 4
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*/seed-*/*")} == before
    assert cli.main(["sweep", *arguments]) == 0


def test_a_finished_run_without_the_diagnosis_asked_for_is_another_one(config: str, tmp_path: Path) -> None:
    def state(made: str, asked: str) -> str:
        run, again = (
            plan("mek", config, [], 1, [f"--diagnose={which}", f"--output_dir={tmp_path / made}"])[0]
            for which in (made, asked)
        )
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "recipe.yaml").write_text(run.recipe.to_yaml())
        (run.folder / "report.json").write_text("{}")
        return sweep_module.run_state(again)

    assert state("true", "true") == state("true", "false") == state("false", "false") == "finished"
    with pytest.raises(FerError, match=r"another recipe \(diagnose changed\)"):
        state("false", "true")


def test_a_failing_point_is_reported_and_the_others_stay(
    swept: tuple[list[str], Path, str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    """A point more than before, which diverges; runs of the others follow it in the queue."""
    (config, *_), folder, *_ = swept
    before = rows(folder)
    arguments = ["sweep", config, "--seeds=2", "--grid=learning_rate=1e-3,1e30,2e-2", f"--output_dir={folder}"]
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    assert "failed: learning_rate=1.0e+30, seed 0: The loss is not finite" in err
    assert rows(folder) == [before[0], ["1.0e+30", "0 of 2", "-", "-", "-", "-"], before[1]]
    failed = [run for run in summary(folder)["runs"] if run["status"] == "failed"]
    assert [run["seed"] for run in failed] == [0, 1]
    for run in failed:
        assert run["error"].startswith("The loss is not finite in epoch 1") and "\n" not in run["error"]
        assert run["error"] in out


def test_an_earlier_sweep_or_run_is_not_overwritten(
    swept: tuple[list[str], Path, str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (config, *_), folder, *_ = swept
    here = ("--seeds=2", f"--output_dir={folder}")
    said = sentence(capfd, config, "--grid=learning_rate=1e-3", *here)
    assert "holds a sweep with other runs" in said and "sweep.json" in said
    kept = (folder / "sweep.json").read_text()
    (folder / "sweep.json").unlink()
    grid = "--grid=learning_rate=1e-3,2e-2"
    assert "(epochs changed)" in sentence(capfd, config, grid, *here, "--epochs=4")
    (folder / "sweep.json").write_text("[]")
    assert "no summary of a sweep" in sentence(capfd, config, grid, *here)
    (folder / "sweep.json").write_text(kept)
    run = folder / "learning_rate=0.001" / "seed-0"
    assert "folder of a single run" in sentence(capfd, config, grid, f"--output_dir={run}")
    with sweep_module._only_sweep_in(folder):
        assert "is at work" in sentence(capfd, config, "--grid=learning_rate=1e-3,1e30,2e-2", *here)
    foreign = tmp_path / "out" / "learning_rate=0.02" / "seed-1"
    foreign.mkdir(parents=True)
    (foreign / "thesis.tex").touch()
    elsewhere = f"--output_dir={tmp_path / 'out'}"
    assert "no run with a recipe.yaml" in sentence(capfd, config, grid, "--seeds=2", elsewhere)
    (foreign / "recipe.yaml").write_text((folder / "learning_rate=0.02" / "seed-1" / "recipe.yaml").read_text())
    assert "such as thesis.tex" in sentence(capfd, config, grid, "--seeds=2", elsewhere)
    assert [path.name for path in foreign.parents[1].iterdir()] == ["learning_rate=0.02"]


# --- the run as a process ------------------------------------------------------------------------------


def test_ctrl_c_reaches_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = f"""
import pathlib, sys, time
try:
    pathlib.Path({str(tmp_path / "ready")!r}).touch()
    time.sleep(60)
except KeyboardInterrupt:
    print("farewell", file=sys.stderr)
"""
    waiting = threading.Thread(target=interrupt_when_there, args=(tmp_path / "ready",))
    waiting.start()
    with pytest.raises(KeyboardInterrupt):
        sweep_module._stream([sys.executable, "-c", code], ())
    waiting.join()
    assert "farewell" in capfd.readouterr().err


def interrupt_when_there(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def test_interrupted_means_130_and_called_again(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep_module, "_stream", lambda *_: (130, ""))  # the run noticed first
    assert cli.main(["sweep", config, f"--output_dir={tmp_path / 'out'}"]) == 130
    assert "the same command goes on from here" in capfd.readouterr().err
    assert [run["status"] for run in summary(tmp_path / "out")["runs"]] == ["unfinished", "pending", "pending"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_every_run_gets_the_recipe_that_was_checked(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def stream(command: list[str], _: object) -> tuple[int, str]:
        Path(config).write_text("epochs: none of your business")
        copy, chosen = command[command.index("train") + 1 :][:2]
        assert chosen == "--method=mek"  # the name of the file may not tell
        seen.append((command[: command.index("train")], Path(copy).read_text(), command[-4:]))
        return 0, ""

    monkeypatch.setattr(sweep_module, "_stream", stream)
    out = tmp_path / "out"
    config = str(Path(config).rename(tmp_path / "mine.yaml"))
    grid = "--grid=backbone_kwargs={layers: [1, 1]},{layers: [2, 2]}"
    assert (
        cli.main(
            ["--debug", "sweep", config, "--seeds=1", f"--output_dir={out}", "--method=mek", "--epochs", "2", grid]
        )
        == 2
    )
    assert [start for start, *_ in seen] == [[sys.executable, "-m", "hf_fer.cli", "--debug"]] * 2
    assert [text for _, text, _ in seen] == [TINY] * 2
    assert [flags[0] for *_, flags in seen] == [f"--backbone_kwargs={{layers: [{n}, {n}]}}" for n in (1, 2)]
    assert [flags[1] for *_, flags in seen] == ["--seed=0"] * 2
    assert summary(out)["runs"][0]["error"] == "ended with exit code 0 and without a report"


@pytest.mark.parametrize(
    ("code", "said", "reason"),
    [
        (2, "warning: x\ntrain_mek: No data; get some.\n", "No data; get some."),
        (2, "epoch 1/2: 0%|   | 0/4 [00:00<?]train_mek: The loss.\n\r      ", "The loss."),
        (1, "hf-fer: unexpected RuntimeError: out of memory\n", "unexpected RuntimeError: out of memory"),
        (1, "Traceback\n  File x\nKeyError: 'a'\n", "KeyError: 'a'"),
        (-9, "epoch 1", "ended by SIGKILL, perhaps for want of memory"),
        (3, "", "ended with exit code 3 and without a report"),
    ],
)
def test_a_failure_is_one_sentence(code: int, said: str, reason: str) -> None:
    assert sweep_module._reason(code, said) == reason


# --- grids and mistakes -----------------------------------------------------------------------------------


def test_grids_are_yaml_and_folders_tell_them_apart(config: str, tmp_path: Path) -> None:
    grids = ["backbone_kwargs={layers: [1, 1]},{layers: [2, 2]}", "mixed-precision=no,null", "ema_decay=0,9e-1"]
    runs = plan("mek", config, grids, 2, ["--output_dir=out"])
    assert len(runs) == 16
    assert [run.seed for run in runs] == [0] * 8 + [1] * 8
    assert [run.recipe.model["backbone_kwargs"]["layers"] for run in runs[:8]] == [[1, 1]] * 4 + [[2, 2]] * 4
    assert [run.recipe.mixed_precision for run in runs[:4]] == ["no", "no", None, None]
    assert [run.overrides["ema_decay"] for run in runs[:2]] == [0.0, 0.9]
    folders = [run.folder.as_posix() for run in runs]
    assert len({name.casefold() for name in folders}) == 16
    assert re.fullmatch(
        r"out/backbone_kwargs=_layers_1_1_-[0-9a-f]{8},mixed_precision=no,ema_decay=0.0/seed-0", folders[0]
    )
    assert all(re.fullmatch(r"[\w./=,+-]+", name) for name in folders)
    # Values that differ in case only, or far behind.
    rates = plan("mek", config, [f"dataset=a,A,{'x' * 300}1,{'x' * 300}2"], 1, ["--output_dir=out"])
    names = [run.folder.parent.name for run in rates]
    assert len({name.casefold() for name in names}) == 4 and max(map(len, names)) < 200


def test_the_command_is_told_without_places_and_secrets(config: str, tmp_path: Path) -> None:
    flags = [
        "--data_root",
        str(tmp_path),
        "--dataset_options={token: secret, size: 32}",
        "--soft-targets",
        "--epochs=2",
    ]
    weights = [tmp_path / "a,b.safetensors", tmp_path / "c.safetensors"]
    for path in weights:
        path.touch()
    grids = [f"backbone_weights='{weights[0]}',{weights[1]}", "ablation=Table 6: RAC, Table 6: RSL"]
    runs = plan("mek", config, grids, 1, [*flags, f"--output_dir={tmp_path / 'out'}"])
    assert [run.overrides["backbone_weights"] for run in runs] == ["a,b.safetensors"] * 2 + ["c.safetensors"] * 2
    told = shlex.split(sweep_module._command("mek", config, runs, 1, flags))
    assert told == [
        "hf-fer", "sweep", "mek_tiny.yaml", "--method=mek", "--seeds=1",
        "--grid=backbone_weights='a,b.safetensors', c.safetensors",
        "--grid=ablation=Table 6: RAC, Table 6: RSL",
        "--dataset_options={size: 32}", "--soft_targets=true", "--epochs=2",
    ]  # fmt: skip
    again = plan("mek", config, ["ablation=Table 6: RAC, Table 6: RSL"], 1, ["--output_dir=out", *told[-3:]])
    assert [run.overrides for run in again] == [{"ablation": "Table 6: RAC"}, {"ablation": "Table 6: RSL"}]


def test_seeds_alone_are_a_sweep(config: str) -> None:
    runs = plan("mek", config, [], 3, ["--output_dir=out"])
    assert [run.folder.as_posix() for run in runs] == ["out/seed-0", "out/seed-1", "out/seed-2"]


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_the_tables_are_named(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_fer.training.sweep_plan._check_model", lambda *_: None)  # seconds, for the large ones
    rows = config_class(method).ablations
    different = {json.dumps(row, sort_keys=True): name for name, row in rows.items()}.values()
    path = tmp_path / "recipe.yaml"
    path.write_text("dataset: synthetic\noutput_dir: out\nimage_size: 32\n")
    runs = plan(method, str(path), [f"ablation={', '.join(different)}"], 1)
    assert [run.overrides["ablation"] for run in runs] == [*different]
    for run in runs:
        assert {k: v for k, v in run.recipe.model.items() if k != "image_size"} == rows[run.overrides["ablation"]]


def sentence(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a mistaken sweep says: one line on stderr, nothing on stdout, exit code 2."""
    capfd.readouterr()
    assert cli.main(["sweep", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.startswith("hf-fer: "), err
    return err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--grid=learnin_rate=1e-3"], "did you mean learning_rate"),
        (["--learnin_rate=1e-3"], "did you mean learning_rate"),
        (["--grid=learning_rate="], "no values"),
        (["--grid=learning_rate"], "write it as key=a,b"),
        (["--grid==1"], "write it as key=a,b"),
        (["--grid=learning_rate=1,2", "--grid=learning-rate=3"], "there twice"),
        (["--grid=learning_rate=1e-3,0.001"], "asks twice for the same run"),
        (["--grid=seed=0,1"], "--seeds N"),
        (["--seed=1"], "--seeds N"),
        (["--grid=output_dir=a,b"], "folder of its own"),
        (["--grid=learning_rate=1e-3,2e-3,fast"], "learning_rate must be a number"),
        (["--grid=learning_rate=1e-3,-1"], "learning_rate must be positive"),
        (["--grid=smoothing=0,2"], "smoothing must be a number in [0, 1]"),
        (["--grid=backbone=resnet18,resnet19", "--backbone_kwargs=null"], "resnet19"),
        (["--grid=backbone_kwargs={layers: [1,1},{}"], "no YAML list"),
        (["--grid=epochs=1,2", "--epochs=3"], "contradict"),
        (["--grid=ablation=Table 6: RAC,Table 6: basline"], "the nearest are Table 6: baseline"),
        (["--grid=ablation=zzz"], "there are Table 5"),
        (["--grid=ablation="], "no values"),
        (["--grid=ablation=Table 6: RAC", "--grid=smoothing=0"], "set smoothing, and so do you"),
        (["--grid=ablation=Table 6: RAC,Table 6: RSL", "--consistency_weight=3"], "set consistency_weight"),
        (["--seeds=0"], "--seeds"),
        (["--seeds=1,2"], "--seeds"),
        (["--method=none"], "one of hsac, mek"),
    ],
)
def test_mistakes_cost_nothing(
    config: str, tmp_path: Path, arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert said in sentence(capfd, config, f"--output_dir={tmp_path / 'out'}", *arguments)
    assert not (tmp_path / "out").exists()


def test_mistakes_in_the_recipe(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = f"--output_dir={tmp_path / 'out'}"
    assert "leave it out, and use --seeds N" in sentence(capfd, write_config(tmp_path, "seed: 1\n"), out)
    contradiction = sentence(
        capfd, write_config(tmp_path, "smoothing: 0.3\n"), "--grid=ablation=Table 6: RAC,Table 6: RAC + RSL", out
    )
    assert "'Table 6: RAC + RSL' stands for smoothing 0.1, but the recipe sets it to 0.3" in contradiction
    (tmp_path / "out").touch()
    assert "cannot be written to" in sentence(capfd, write_config(tmp_path), out)
    assert "cannot be written to" in sentence(capfd, write_config(tmp_path), f"--output_dir={tmp_path / 'out' / 'x'}")
    assert "no such configuration" in sentence(capfd, str(tmp_path / "mek_none.yaml"), out)


def test_help_is_complete(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sweep", "--help"]) == 0
    out = capfd.readouterr().out
    for word in ("CONFIG", "--method", "--seeds N", "--grid", "ablation=", "sweep.json", "sweep.md", "goes on"):
        assert word in out
