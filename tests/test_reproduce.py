"""The papers' tables: their cells can be trained, are resumed and never mixed up, and the page says what they gave."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from hf_fer._auto import METHODS, config_class
from hf_fer.errors import FerError
from hf_fer.evaluation import read_record
from hf_fer.training.recipe import load_recipe
from hf_fer.training.sweep import terminable
from hf_fer.training.sweep_plan import Run, _check_model, flow

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from reproduction import balancing, page, runs, summary  # noqa: E402
from reproduction.tables import SCALES, TABLES, Cell, Row, Table, cells, slug, start_cell  # noqa: E402

RECORD = ROOT / "leaderboard" / "records" / "small-ce.json"
# The claims that hold at the CPU scale, with every seed; a change here is a change of what we say.
_FACTORS = [f"factor {factor}" for factor in (50, 100, 150)]
HOLDING = (
    {
        ("B", better, worse, "", factor)
        for better, worse in (
            ("HSAC", "Cross-entropy"),
            ("HSAC", "EAC + L_a"),
            ("HSAC, λ_ca = 0.3", "Cross-entropy"),
            ("Multi-resolution training", "Cross-entropy"),
        )
        for factor in ("4", "8")
    }
    | {
        ("A", better, worse, condition, "1")
        for better, worse in (("MEK (RAC + RSL)", "EAC"), ("MEK, λ = 0.2", "EAC, λ = 0.5"))
        for condition in _FACTORS
    }
    | {("C", "d: SR / LTR, F-PDLS", "a: Bi / Bi, F-PDLS", "", "1")}
    | {
        ("D", better, "Without reliability balancing", condition, "1")
        for better, condition in (
            ("Anchors", "noise 10 %"),
            ("Attentive correction (MHSA)", "noise 10 %"),
            ("Both", "noise 10 %"),
            ("Attentive correction (MHSA)", "noise 20 %"),
            ("Anchors", "noise 30 %"),
        )
    }
    | {("F", "Both", "Without reliability balancing", "noise 30 %", "1")}
)
NOT_HOLDING = (
    {("B", "HSAC, λ_ca = 0.3", "EAC + L_a, λ = 0.5 and 0.3", "", factor) for factor in ("4", "8")}
    | {
        ("A", better, "Cross-entropy", condition, "1")
        for better in ("MEK (RAC + RSL)", "MEK, λ = 0.2")
        for condition in _FACTORS
    }
    | {
        ("C", better, worse, "", "1")
        for better, worse in (
            ("e: STN + SR / LTR, F-PDLS", "e, cross-entropy"),
            ("e: STN + SR / LTR, F-PDLS", "e, PDLS"),
            ("a: Bi / Bi, F-PDLS", "a, cross-entropy"),
        )
    }
    | {("D", "Both", "Without reliability balancing", "noise 0 %", "1")}
    | {("E", "GReFEL", "GReFEL without reliability balancing", "", "1")}
    | {("F", "Both", "Without reliability balancing", "noise 20 %", "1")}
)


ROWS = (Row("Plain, first", "mek", "Table 6: baseline", paper={"one": (80.0, 60.0)}), Row("MEK", "mek"))
SMALL = Table(
    "T",
    "A trial",
    "No paper",
    "nothing",
    {"one": {"imbalance_factor": 2}, "two": {"imbalance_factor": 4}},
    ROWS,
    start=Row("start", "mek", "Table 6: baseline"),
    start_epochs={"cpu": 1, "gpu": 4},
    check=("one", "MEK"),
)


# What the tables hold ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("letter", list(TABLES))
def test_every_cell_is_a_recipe_of_its_own_and_builds(letter: str, scale: str) -> None:
    table, seeds = TABLES[letter], 3
    every = list(cells(table, scale, seeds))
    starts = 0 if table.start is None else len(table.conditions)
    own = [row for row in table.rows if row.same_as is None]
    assert len(every) == seeds * (len(own) * len(table.conditions) + starts)
    assert len({cell.path for cell in every}) == len({runs.command_of(cell) for cell in every}) == len(every)
    recipes = set()
    for cell in every:
        if cell.seed:
            continue
        flags = [f"--{key}={flow(value)}" for key, value in cell.flags.items()]
        recipe = load_recipe(config_class(cell.method), ROOT / cell.config, [*flags, f"--output_dir={cell.path}"])
        assert recipe.dataset == "ferplus" and recipe.dataset_options["label_rule"] == "majority"
        assert recipe.test_split == "test" and recipe.validation_split == "validation"  # nothing is chosen on the test
        _check_model(cell.method, recipe)
        recipes.add(f"{cell.method}: {recipe.to_yaml()}")
    assert len(recipes) == len(every) / seeds


@pytest.mark.parametrize("letter", [letter for letter in TABLES if letter != "E"])  # E: each as it would be shipped
def test_the_rows_of_a_table_differ_in_nothing_but_the_method(letter: str) -> None:
    """Same data, start, budget and augmentation: else it would be no comparison."""
    table = TABLES[letter]
    for condition in table.conditions:
        alike = set()
        for cell in (c for c in cells(table, "cpu", 1) if c.condition == condition and c.row != "start"):
            flags = [f"--{key}={flow(value)}" for key, value in cell.flags.items()]
            recipe = load_recipe(config_class(cell.method), ROOT / cell.config, [*flags, "--output_dir=x"])
            network = {key: recipe.model.get(key) for key in ("backbone", "backbone_kwargs", "image_size", "dropout")}
            alike.add(json.dumps([{**vars(recipe), "model": network}, cell.start and cell.start.path], sort_keys=True))
        assert len(alike) == 1


@pytest.mark.parametrize("scale", SCALES)
def test_mek_in_table_e_is_trained_as_the_rows_of_table_b(scale: str) -> None:
    keys = (
        "epochs",
        "batch_size",
        "learning_rate",
        "weight_decay",
        "schedule",
        "select_by",
        "eval_resolutions",
        "erasing",
    )
    alike = set()
    for letter, name in (("B", "Cross-entropy"), ("E", "MEK")):
        cell = next(cell for cell in cells(TABLES[letter], scale, 1) if cell.row == name)
        flags = [f"--{key}={flow(value)}" for key, value in cell.flags.items()]
        recipe = load_recipe(config_class(cell.method), ROOT / cell.config, [*flags, "--output_dir=x"])
        alike.add(json.dumps([*(getattr(recipe, key) for key in keys), recipe.dataset_options], sort_keys=True))
    assert len(alike) == 1


def test_a_row_may_show_the_runs_of_another_table() -> None:
    for table in TABLES.values():
        for row in table.rows:
            if row.same_as is not None:
                letter, condition, name = row.same_as
                there = next(one for one in TABLES[letter].rows if one.name == name)
                assert condition in TABLES[letter].conditions and there.same_as is None and there.method == row.method


def test_starts_come_before_what_needs_them_and_seeds_one_after_the_other() -> None:
    every = list(cells(SMALL, "cpu", 2))
    seen: set[str] = set()
    for cell in every:
        assert cell.start is None or cell.start.path in seen
        seen.add(cell.path)
    assert [cell.seed for cell in every] == [0] * 6 + [1] * 6
    borrowed = {c.row: c.start and c.start.path for c in cells(TABLES["E"], "cpu", 1)}
    grefel = dict.fromkeys(("GReFEL", "GReFEL without reliability balancing"), "cpu/D/noise-0/start/seed-0")
    assert borrowed == {"MEK": "cpu/B/start/seed-0", **grefel}
    assert [(c.row, c.start and c.start.path) for c in cells(TABLES["F"], "cpu", 1) if c.condition == "noise 20 %"] == [
        (row, "cpu/D/noise-20/start/seed-0") for row in ("Without reliability balancing", "Both")
    ]
    assert every[1].path == "cpu/T/one/plain-first/seed-0"
    assert start_cell(SMALL, "cpu", "two", 1) == every[9]
    assert slug("MEK (RAC + RSL)") == "mek-rac-and-rsl" and slug("factor 50") == "factor-50"


# How cells are trained --------------------------------------------------------------------------------------


def made_up_report(accuracy: float, seed: int) -> dict[str, Any]:
    """A run's report: a real record with so many images of the first class right."""
    record = read_record(RECORD)
    return {
        "selected": {**record, "seed": seed, "epoch": 2},
        "last": {"epoch": 3, "resolutions": record["resolutions"]},
        "selected_by": "accuracy on the validation split",
        "data": {"train_images": 100 + round(100 * accuracy)},
        "train_seconds": 7,
    }


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Runs in place of trainings; each leaves the weights that others start from."""
    done: list[Run] = []

    def execute(run: Run, train: list[str], inherited: tuple[int, ...]) -> None:
        assert Path(train[4]).is_file()
        with pytest.raises(FerError, match="Another process is at work in"), runs._alone_in(run.folder):
            pass
        assert inherited  # the lock outlives this process where the training does
        done.append(run)
        run.report = made_up_report(0.5, run.seed)
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "report.json").write_text("{}")
        (run.folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(runs, "execute_run", execute)
    monkeypatch.setattr(runs, "source_commit", lambda: "0" * 40)
    return done


def test_cells_are_trained_once_and_their_records_kept(tmp_path: Path, trained: list[Run]) -> None:
    wanted = list(cells(SMALL, "cpu", 1))
    place, records = tmp_path / "runs", tmp_path / "records"
    left = runs.run_cells(wanted, place, tmp_path / "data", records=records, jobs=2, flags={"cpu_threads": 1})
    assert left == [] and len(trained) == 6
    starts = {run.folder for run in trained if run.folder.parent.name == "start"}
    for run in trained:
        weights = run.recipe.backbone_weights
        assert (weights is None) == (run.folder in starts)
        assert weights is None or Path(weights).parent in starts
        assert run.recipe.cpu_threads == 1 and run.recipe.data_root == str(tmp_path / "data")
    for cell in wanted:
        made = read_record(runs.record_path(cell, records))["reproduction"]
        assert (made["table"], made["row"], made["condition"]) == ("T", cell.row, cell.condition)
        assert made["commit"] == "0" * 40
        assert made["recipe"]["imbalance_factor"] == {"one": 2, "two": 4}[cell.condition]
        assert str(tmp_path) not in json.dumps(made)  # what was done, not where
        assert made["last"]["resolutions"]["1"].keys() == {"accuracy", "mean_class_accuracy"}
    assert runs.run_cells(wanted, place, tmp_path / "data", records=records) == [] and len(trained) == 6


def test_a_missing_record_is_made_from_its_start_alone(tmp_path: Path, trained: list[Run]) -> None:
    wanted = list(cells(SMALL, "cpu", 1))
    runs.run_cells(wanted, tmp_path / "runs", None, records=tmp_path / "records")
    runs.record_path(wanted[2], tmp_path / "records").unlink()
    trained.clear()
    runs.run_cells(wanted, tmp_path / "elsewhere", None, records=tmp_path / "records")
    assert [run.folder.parent.name for run in trained] == ["start", "mek"]


def test_a_record_of_another_recipe_is_not_taken_for_this_one(tmp_path: Path, trained: list[Run]) -> None:
    wanted = list(cells(SMALL, "cpu", 1))
    runs.run_cells(wanted, tmp_path / "runs", None, records=tmp_path / "records")
    other = Cell(**{**vars(wanted[1]), "flags": {**wanted[1].flags, "epochs": 9}})
    with pytest.raises(FerError, match=r"seed-0\.json was made by another command .* delete it to have the cell"):
        runs.find_record(other, tmp_path / "records")


def test_a_record_from_before_a_change_of_the_recipe_file_is_not_taken(tmp_path: Path, trained: list[Run]) -> None:
    (cell,) = (cell for cell in cells(SMALL, "cpu", 1) if cell.row == "start" and cell.condition == "one")
    runs.run_cells([cell], tmp_path / "runs", None, records=tmp_path / "records", flags={"cpu_threads": 1})
    path = runs.record_path(cell, tmp_path / "records")
    made = json.loads(path.read_text())
    made["reproduction"]["recipe"]["batch_size"] += 1
    path.write_text(json.dumps(made))
    with pytest.raises(FerError, match=r"mek_ferplus_cpu\.yaml had other values \(batch_size\); delete it to have"):
        runs.find_record(cell, tmp_path / "records")


def test_no_run_is_begun_when_time_is_up(tmp_path: Path, trained: list[Run]) -> None:
    wanted = list(cells(SMALL, "cpu", 1))
    left = runs.run_cells(wanted, tmp_path / "runs", None, records=tmp_path / "records", minutes=1e-9)
    assert left == wanted and trained == []


def test_a_failed_run_is_an_error_that_names_the_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "source_commit", lambda: "0" * 40)
    monkeypatch.setattr(runs, "execute_run", lambda run, *_: setattr(run, "error", "the loss is not finite"))
    with pytest.raises(FerError, match="T, one, start, seed 0 failed: the loss is not finite"):
        runs.run_cells(cells(SMALL, "cpu", 1), tmp_path / "runs", None, records=tmp_path / "records")


def test_no_run_is_begun_after_one_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def execute(run: Run, *_: object) -> None:
        begun.append(run.folder.parent.name)
        run.error = "the loss is not finite"

    monkeypatch.setattr(runs, "source_commit", lambda: "0" * 40)
    monkeypatch.setattr(runs, "execute_run", execute)
    alone = [Cell(**{**vars(cell), "start": None}) for cell in cells(SMALL, "cpu", 3)]
    with pytest.raises(FerError, match="T, one, start, seed 0 failed"):
        runs.run_cells(alone, tmp_path / "runs", None, records=tmp_path / "records")
    assert begun == ["start"]


def test_a_start_that_was_killed_while_it_was_written_is_not_taken(tmp_path: Path, trained: list[Run]) -> None:
    wanted = list(cells(SMALL, "cpu", 1))
    runs.run_cells(wanted, tmp_path / "runs", None, records=tmp_path / "records")
    runs.record_path(wanted[1], tmp_path / "records").unlink()
    (tmp_path / "runs" / wanted[0].path / "report.json").unlink()  # its record is there, and its weights half
    trained.clear()
    runs.run_cells(wanted, tmp_path / "runs", None, records=tmp_path / "records")
    assert [run.folder.parent.name for run in trained] == ["start", "plain-first"]


def test_a_finished_run_without_a_record_names_the_commit_it_was_made_at(
    tmp_path: Path, trained: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = list(cells(SMALL, "cpu", 1))
    runs.run_cells(wanted, tmp_path / "runs", None, records=tmp_path / "records")
    killed = runs.record_path(wanted[1], tmp_path / "records")  # between the training and the record
    killed.unlink()
    monkeypatch.setattr(runs, "source_commit", lambda: "1" * 40)
    runs.run_cells(wanted, tmp_path / "runs", None, records=tmp_path / "records")
    assert read_record(killed)["reproduction"]["commit"] == "0" * 40
    killed.unlink()
    runs.run_cells(wanted, tmp_path / "elsewhere", None, records=tmp_path / "records")
    assert read_record(killed)["reproduction"]["commit"] == "1" * 40


def test_every_run_names_the_commit_of_its_own_begin(
    tmp_path: Path, trained: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table takes hours, in which somebody may commit, or edit."""
    monkeypatch.setattr(runs, "source_commit", lambda: str(len(trained)) * 40)
    wanted = list(cells(SMALL, "cpu", 1))
    runs.run_cells(wanted, tmp_path / "runs", None, records=tmp_path / "records")
    made = [read_record(runs.record_path(cell, tmp_path / "records"))["reproduction"]["commit"] for cell in wanted]
    assert made == [str(k) * 40 for k in range(6)]


def test_a_place_that_cannot_be_written_to_is_one_sentence(tmp_path: Path, trained: list[Run]) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(FerError, match=r"cannot be written to .* choose another folder with --runs"):
        runs.run_cells(cells(SMALL, "cpu", 1), tmp_path / "runs", None, records=tmp_path / "records")


def test_sources_that_differ_from_the_commit_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setattr(runs, "RECORDS", tmp_path / "benchmarks" / "records")
    with pytest.raises(FerError, match="run this in a clone"):
        runs.source_commit()
    git("init", "-q")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "one.yaml").write_text("epochs: 1\n")
    git("add", "-A")
    git("commit", "-qm", "one")
    (tmp_path / "benchmarks" / "records").mkdir(parents=True)
    (tmp_path / "benchmarks" / "records" / "new.json").write_text("{}")  # what this writes itself
    with pytest.raises(FerError, match="hf_fer is imported from"):  # the commit says nothing about that one
        runs.source_commit()
    monkeypatch.setattr(runs, "PACKAGE", tmp_path / "hf_fer")
    assert len(runs.source_commit()) == 40
    (tmp_path / "recipes" / "one.yaml").write_text("epochs: 2\n")
    with pytest.raises(FerError, match=r"recipes/one\.yaml differs from it; commit first"):
        runs.source_commit()


def test_one_cell_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start and a row through `hf-fer train`, on drawn faces."""
    tiny = {
        "dataset": "synthetic",
        "dataset_options": {"train": 64, "validation": 32, "test": 32, "size": 32},
        "backbone_kwargs": {"layers": [1, 1], "channels": [8, 16], "stem_type": "", "stem_width": 8},
        "image_size": 32,
        "mixed_precision": "no",
        "batch_size": 32,
        "epochs": 1,
    }
    start = Cell("T", "", "start", 3, "cpu", "mek", {**tiny, "consistency_weight": 0})
    cell = Cell("T", "", "MEK", 3, "cpu", "mek", tiny, start)
    for one in (start, cell):
        run = runs.train_cell(one, tmp_path, None, {"cpu_threads": 1})
        assert run.report is not None and run.report["selected"]["seed"] == 3
    made = runs._record(cell, run, "0" * 40)
    assert made["reproduction"]["start"] == "cpu/T/start/seed-3"
    monkeypatch.setattr(page, "TABLES", {"T": SMALL})
    shown = {**made, "options": {"classes": 8, "label_rule": "majority"}}  # else as a run leaves it
    table = Table(**{**vars(SMALL), "conditions": {"": {}}})
    assert "rule majority: 64 training images, 32 test images." in page._settings(table, [shown], "cpu")
    assert run.report["started_from"]["backbone_weights"].endswith("model.safetensors")
    assert "diagnostics" not in run.report and not (run.folder / "embeddings.png").exists()
    again = runs.train_cell(cell, tmp_path, None, {"cpu_threads": 1})  # what is finished is taken as it is
    assert again.report == run.report


def test_balancing_is_measured_on_one_models_two_answers(tmp_path: Path) -> None:
    import torch
    from datasets import ClassLabel

    from hf_fer import GReFELConfig, GReFELForImageClassification, load_fer_dataset
    from hf_fer.training.export import build_processor

    data = load_fer_dataset("synthetic", train=8, validation=8, test=24, size=64)["test"]
    names = data.features["label"].names
    torch.manual_seed(0)
    config = GReFELConfig(
        id2label=dict(enumerate(names)), label2id={n: k for k, n in enumerate(names)}, **GReFELConfig.tiny
    )
    model = GReFELForImageClassification(config).eval()
    with torch.no_grad():
        model.classifier[-1].weight.mul_(30)  # a head that is surer than it may be
    processor = build_processor(64, None, [0.5] * 3, [0.25] * 3)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = balancing.before_and_after(tmp_path, data, batch_size=7)
    bins: dict[str, list[list[tuple[float, bool]]]] = {
        "before": [[] for _ in range(15)],
        "after": [[] for _ in range(15)],
    }
    for row in data:
        with torch.no_grad():
            output = model(**processor(images=row["image"].convert("RGB"), return_tensors="pt"))
        for when, name in (("before", "primary_distribution"), ("after", "final_distribution")):
            p = output[name][0].double()
            sure = p.max().item()
            bins[when][min(14, math.ceil(sure * 15) - 1)].append((sure, p.argmax().item() == row["label"]))
    for when, each in bins.items():
        gaps = [abs(sum(s for s, _ in b) - sum(right for _, right in b)) for b in each]
        assert found[when]["ece"] == pytest.approx(sum(gaps) / len(data), abs=1e-5)
        right = sum(right for b in each for _, right in b)
        assert found[when]["accuracy"] == pytest.approx(right / len(data))
    assert found["before"]["ece"] != pytest.approx(found["after"]["ece"], abs=1e-3)
    with pytest.raises(FerError, match="are not those of the data set, in its order"):
        balancing.before_and_after(tmp_path, data.cast_column("label", ClassLabel(names=names[::-1])))


# What comes out ---------------------------------------------------------------------------------------------


def with_figures(path: Path, accuracies: dict[str, float]) -> None:
    """Changes a record's headline figures where it lies; for what reads figures alone."""
    record = json.loads(path.read_text())
    for factor, accuracy in accuracies.items():
        record["resolutions"][factor].update(accuracy=accuracy, mean_class_accuracy=accuracy / 2)
    path.write_text(json.dumps(record))


@pytest.fixture
def published(tmp_path: Path, trained: list[Run], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of a table: MEK is above its baseline by 3, 2 and 4 points under `one`, by 1, -2 and 0 under `two`."""
    monkeypatch.setattr(summary, "TABLES", {"T": SMALL})
    monkeypatch.setattr(page, "TABLES", {"T": SMALL})
    monkeypatch.setattr(runs, "read_record", lambda path: json.loads(Path(path).read_text()))
    folder = tmp_path / "records"
    wanted = list(cells(SMALL, "cpu", 3))
    runs.run_cells(wanted, tmp_path / "runs", None, records=folder)
    for cell in wanted:
        ahead = {"one": (3, 2, 4), "two": (1, -2, 0)}[cell.condition][cell.seed] * (cell.row == "MEK")
        with_figures(runs.record_path(cell, folder), {"1": 0.7 + 0.01 * cell.seed + ahead / 100})
    return folder


def test_spreads_and_verdicts_against_plain_arithmetic(published: Path) -> None:
    records = summary.records_of(SMALL, "MEK", "one", folder=published)
    value = summary.spread(records, "accuracy")
    figures = [0.73, 0.73, 0.76]
    mean = sum(figures) / 3
    assert value.n == 3 and value.mean == pytest.approx(mean)
    assert value.deviation == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in figures) / 2))
    sign = summary.Sign("T", "MEK", "Plain, first", "accuracy")
    ahead = summary.differences(sign, "one", folder=published)
    assert ahead == pytest.approx([0.03, 0.02, 0.04])
    assert summary.verdict(ahead) == "holds"
    assert summary.verdict(summary.differences(sign, "two", folder=published)) == "does not hold"
    assert summary.verdict([0.02, -0.01, 0.02]) == "unclear" and summary.verdict([]) == "not run"
    assert summary.verdict([0.02]) == summary.verdict([-0.02]) == "one seed"
    assert summary.Spread.of([0.5]).deviation is None


def test_a_repeated_run_fits_within_two_deviations() -> None:
    figures = [0.70, 0.72, 0.77]
    published = summary.Spread.of(figures)
    assert all(summary.is_within(value, published) for value in figures)
    mean, deviation = statistics.fmean(figures), statistics.stdev(figures)
    assert summary.is_within(mean + 1.99 * deviation, published)
    assert not summary.is_within(mean - 2.01 * deviation, published)


def test_the_page_shows_ours_beside_the_papers(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "SIGNS", (summary.Sign("T", "MEK", "Plain, first", "mean_class_accuracy"),))
    text = page.render(published)
    lines = text.splitlines()
    mek = next(line for line in lines if line.startswith("| MEK | 74.00 ± 1.73 |"))
    assert "37.00 ± 0.87" in mek
    paper = next(line for line in lines if "the paper |" in line)
    assert "*80.00*" in paper and "*60.00*" in paper
    claim = next(line for line in lines if line.startswith("| MEK above Plain, first, mean class | one |"))
    assert "+1.50, +1.00, +2.00" in claim and claim.endswith("| holds |")
    assert "all from the same start: 1 epochs of cross-entropy" in text.replace("1 epoch ", "1 epochs ")
    runs.record_path(next(c for c in cells(SMALL, "cpu", 1) if c.row == "MEK"), published).unlink()
    assert "(n = 2)" in page.render(published)  # what is missing shows


def test_a_table_of_other_tables_rows_says_how_they_differ(
    tmp_path: Path, trained: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    balanced = {"before": {"accuracy": 0.5, "ece": 0.25}, "after": {"accuracy": 0.5, "ece": 0.125}}
    monkeypatch.setattr(runs, "before_and_after", lambda *a: balanced)
    monkeypatch.setattr(runs, "_test_split", lambda *a: None)
    shown = {("D", "noise 0 %", "Both"), *(row.same_as or ("E", "", row.name) for row in TABLES["E"].rows)}
    every = (cell for letter in "BCDE" for cell in cells(TABLES[letter], "cpu", 1))
    wanted = [cell for cell in every if (cell.table, cell.condition, cell.row) in shown]
    runs.run_cells(wanted, tmp_path / "runs", None, records=tmp_path / "records")
    text = page.render(tmp_path / "records")
    reliability, all_five = text.split("## D. ")[1].split("## E. ")
    assert "| Both | 25.00 (n = 1) to 12.50 (n = 1) |" in reliability
    assert "all from the same start: 3 epochs" in reliability
    assert "after balancing" not in all_five  # only one of its rows has that
    assert "at 48 or 64 px" in all_five and "2 or 3 or 5 epochs of 64 images" in all_five
    assert "several tables: 6 (B), 6 (C), 3 (D) epochs of cross-entropy" in all_five
    assert "all from the same start" not in all_five
    assert "--table B C E --scale" in all_five and "--table D --scale" in reliability


def test_what_has_been_run_at_the_gpu_scale_has_a_section_of_its_own(
    published: Path, tmp_path: Path, trained: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "SIGNS", (summary.Sign("T", "MEK", "Plain, first", "accuracy"),))
    before = page.render(published)
    assert "GPU scale" not in before
    two = [cell for cell in cells(SMALL, "gpu", 2) if cell.condition == "two"]
    for rows, shown in (({"Plain, first"}, False), ({"Plain, first", "MEK"}, True)):
        runs.run_cells([c for c in two if c.row in rows], tmp_path / "runs", None, records=published)
        for cell in two:
            if runs.record_path(cell, published).is_file():
                with_figures(runs.record_path(cell, published), {"1": 0.25 if cell.row == "MEK" else 0.5})
        text = page.render(published)
        assert text.startswith(before.rstrip())  # the section comes after what there was, and changes nothing of it
        section = text.split("### T at the GPU scale")[1]
        assert "two, accuracy" in section and "one, accuracy" not in section and "| 50.00 ± 0.00 (n = 2) |" in section
        assert ("| MEK | 25.00 ± 0.00 (n = 2) |" in section) is shown
        assert ("-25.00, -25.00 | does not hold |" in section) is shown
        assert ("The papers' claims" in section) is shown
        assert "the same start: 4 epochs" in section
        assert ("--row 'Plain, first' --condition two" in section) is not shown
        assert ("--row 'Plain, first' MEK --condition two" in section) is shown


def test_the_page_has_its_pictures(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setattr(page, "SIGNS", ())
    written = page.write_page(tmp_path / "docs" / "page.md", published)
    for cell in cells(SMALL, "cpu", 3):
        if cell.row == "MEK":
            runs.record_path(cell, published).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the first row alone has nothing to be compared with
        page.write_page(tmp_path / "alone" / "page.md", published)
    (picture,) = re.findall(r"!\[.+\]\((.+)\)", written.read_text())
    with Image.open(written.with_name(picture)) as image:
        assert image.size[0] > 800 and len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_the_committed_page_is_what_the_records_give() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.render()


def test_what_the_five_cost_is_told_by_models_that_are_runs_of_their_rows() -> None:
    costs = page.PAGE.read_text(encoding="utf-8").split("What they cost")[1]
    shipped = [row for row in TABLES["E"].rows if row.shipped]
    assert {row.method for row in shipped} == set(METHODS)
    for row in shipped:
        record = read_record(page.SHIPPED / f"{row.shipped}.json")
        made = [*summary.records_of(TABLES["E"], row.name, "").values()]
        alike = [
            one
            for one in made
            if all(
                # fp16 weights may decide an image or two otherwise
                abs(summary.figure(one, "accuracy", factor) - summary.figure(record, "accuracy", factor)) < 0.002
                for factor in ("1", "2", "4", "8")
            )
        ]
        assert alike and {one["parameters"] for one in made} == {record["parameters"]}
        line = f"| {row.name} | {record['parameters']:,} | `{row.shipped}` | {record['latency']['median_ms']:.2f} |"
        assert line in costs


def test_an_embedded_model_without_a_latency_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "read_record", lambda path: {"latency": None})
    with pytest.raises(
        FerError, match=r"default-hsac\.json has no latency; .*hf-fer evaluate default-hsac .* --latency "
    ):
        page.render()


def test_every_committed_record_is_of_a_cell_and_whole() -> None:
    known = {
        runs.record_path(cell): cell for table in TABLES.values() for scale in SCALES for cell in cells(table, scale, 3)
    }
    files = sorted(runs.RECORDS.rglob("*.json"))
    assert {*files} <= {*known}
    for file in files:
        cell = known[file]
        record = runs.find_record(cell)  # reads it as a record, and compares the command
        assert record is not None
        made = record["reproduction"]
        assert record["dataset"] == "ferplus" and record["split"] == "test" and record["seed"] == cell.seed
        assert record["label_rule"] == "majority"
        assert len(made["commit"]) == 40 and "validation split" in made["selected_by"]


def test_the_papers_claims_that_hold_and_those_that_do_not() -> None:
    verdicts = {
        (sign.table, sign.better, sign.worse, condition, sign.factor): summary.verdict(
            summary.differences(sign, condition)
        )
        for sign in summary.SIGNS
        for condition in TABLES[sign.table].conditions
    }
    run = {key: verdict for key, verdict in verdicts.items() if verdict != "not run"}
    assert {key for key, verdict in run.items() if verdict == "holds"} == HOLDING
    assert {key for key, verdict in run.items() if verdict == "does not hold"} == NOT_HOLDING


def reproduce(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "benchmarks" / "reproduce.py")
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)


def test_the_command_says_what_it_wants() -> None:
    done = reproduce("--table", "Q")
    assert done.returncode == 2 and "invalid choice: 'Q'" in done.stderr
    done = reproduce("--table", "B", "--row", "HSAC", "hsac")
    assert done.returncode == 2 and "No such row as 'hsac'; there are Cross-entropy; " in done.stderr
    done = reproduce("--table", "A", "--condition", "factor 7")
    assert done.returncode == 2 and "No such condition as 'factor 7'; there are factor 50; factor 100; " in done.stderr
    done = reproduce("--table", "A", "--check", "--condition", "factor 100")
    assert done.returncode == 2 and "--check repeats the cell that its table names" in done.stderr


def test_conditions_and_rows_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import reproduce as script

    chosen: list[str] = []
    monkeypatch.setattr(script, "run_cells", lambda wanted, *_, **__: chosen.extend(cell.path for cell in wanted))
    words = ["--scale", "gpu", "--row", "EAC", "start", "--condition", "factor 50", "--seeds", "2"]
    assert script.main(["--table", "A", *words]) == 2  # a start comes by itself
    words.remove("start")
    assert script.main(["--table", "A", *words]) == 0
    assert chosen == ["gpu/A/factor-50/eac/seed-0", "gpu/A/factor-50/eac/seed-1"]


def test_a_seed_that_the_table_has_not_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    import reproduce as script

    assert script.main(["--table", "A", "--seed", "3"]) == 2
    assert "no seed 3 among 0 ... 2" in capsys.readouterr().err


def test_sigterm_ends_the_trainings_too(tmp_path: Path, trained: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    def sleep(run: Run, *_: object) -> None:
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"]) as process:
            begun.append(process)
        run.error = "ended"

    def terminate() -> None:
        until = time.monotonic() + 60
        while len(begun) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(runs, "execute_run", sleep)
    killer = threading.Thread(target=terminate)
    killer.start()
    starts = [cell for cell in cells(SMALL, "cpu", 2) if cell.row == "start"]
    with pytest.raises(SystemExit) as stopped, terminable():
        runs.run_cells(starts, tmp_path / "runs", None, records=tmp_path / "records", jobs=2)
    killer.join()
    assert stopped.value.code == 143
    assert [process.wait() for process in begun] == [-signal.SIGTERM] * 2
    assert len(begun) == 2 < len(starts)  # the others were not begun


def test_an_interrupted_check_leaves_nothing_to_go_on_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import reproduce as script

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "check", interrupt)
    monkeypatch.setattr(script, "run_cells", interrupt)
    assert script.main(["--table", "A", "--check"]) == script.main(["--table", "A"]) == 130
    first, second = capsys.readouterr().err.splitlines()
    assert "begins anew" in first and "goes on from here" in second


@pytest.mark.parametrize("page", ["README.md", "docs/reproduction.md", "benchmarks/reproduce.py"])
def test_the_printed_commands_are_ones(page: str) -> None:
    import reproduce as script

    printed = re.findall(r"python benchmarks/reproduce\.py ([^`\n]+)", (ROOT / page).read_text("utf-8"))
    assert printed
    for words in printed:
        options = script._parse(shlex.split(words))
        assert options.page or options.table
        tables = [TABLES[letter] for letter in options.table]
        assert {*(options.row or ())} <= {row.name for table in tables for row in table.rows}
        assert {*(options.condition or ())} <= {condition for table in tables for condition in table.conditions}


def test_check_compares_with_the_published_spread(
    published: Path, trained: list[Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import reproduce as script

    monkeypatch.setattr(script, "records_of", lambda *a: summary.records_of(*a, folder=published))
    trained.clear()
    # The repeated run gives the record's own figures, 0.779 and 0.499; published are 74.00 ± 1.73 and 37.00 ± 0.87.
    assert script.check(SMALL, "cpu", None, {}) is False
    assert [run.folder.parent.name for run in trained] == ["start", "mek"]
    assert "published 74.00 ± 1.73 over 3 seeds: outside two deviations" in capsys.readouterr().out
    real = json.loads(RECORD.read_text())["resolutions"]["1"]
    monkeypatch.setattr(
        script, "figure", lambda record, metric: {"accuracy": 0.75, "mean_class_accuracy": 0.36}[metric]
    )
    assert script.check(SMALL, "cpu", None, {}) is True and real["accuracy"] > 0.77
    monkeypatch.setattr(script, "records_of", lambda *a: {})
    with pytest.raises(FerError, match="has no record of MEK at the scale cpu, and a spread needs two; run the table"):
        script.check(SMALL, "cpu", None, {})
