"""Trains the cells of the tables, and keeps what came out as records."""

from __future__ import annotations

import concurrent.futures
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hf_fer._auto import config_class
from hf_fer.errors import FerError
from hf_fer.evaluation import read_record, write_record
from hf_fer.training.recipe import load_recipe
from hf_fer.training.sweep import execute_run
from hf_fer.training.sweep_plan import Run, flow

from .balancing import before_and_after
from .tables import Cell

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "benchmarks" / "records"
_SOURCES = ("hf_fer", "recipes", "benchmarks")  # what decides about the figures
_METRICS = ("accuracy", "mean_class_accuracy")


def source_commit() -> str:
    """The commit that the working tree is at.

    Raises:
        FerError: no repository, or sources that differ from what is committed.
    """

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        records = RECORDS.relative_to(ROOT).as_posix()
        changed = git("status", "--porcelain", "--", *_SOURCES, f":(exclude){records}")
        commit = git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError) as error:
        raise FerError("Records name the commit they were made at; run this in a clone of the repository.") from error
    if changed:
        name = changed.split()[1]
        raise FerError(f"Records name the commit they were made at, but {name} differs from it; commit first.")
    return commit


def command_of(cell: Cell) -> str:
    """The command that trains a cell, with RUNS for the folder of the runs and DIR for the data."""
    flags = [f"--{key}={flow(value)}" for key, value in cell.flags.items()]
    if cell.start is not None:
        flags.append(f"--backbone_weights=RUNS/{cell.start.path}/model.safetensors")
    words = ["hf-fer", "train", cell.config, f"--method={cell.method}", *flags, f"--seed={cell.seed}"]
    return shlex.join([*words, "--data_root=DIR", f"--output_dir=RUNS/{cell.path}"])


def record_path(cell: Cell, folder: Path = RECORDS) -> Path:
    return folder / f"{cell.path}.json"


def find_record(cell: Cell, folder: Path = RECORDS) -> dict[str, Any] | None:
    """The record of a cell, None where there is none yet.

    Raises:
        FerError: it is no record, or one of another recipe than the cell has now.
    """
    path = record_path(cell, folder)
    if not path.is_file():
        return None
    record = read_record(path)
    made_by = record.get("reproduction", {}).get("command")
    if made_by != command_of(cell):
        raise FerError(f"{path} was made by another command ({made_by}); delete it to have the cell trained anew.")
    return record


def run_cells(
    wanted: Iterable[Cell],
    runs: Path,
    data_root: Path | None,
    *,
    records: Path = RECORDS,
    jobs: int = 1,
    minutes: float | None = None,
    flags: Mapping[str, Any] | None = None,
) -> list[Cell]:
    """Trains the cells that have no record yet; what was interrupted is resumed.

    Args:
        wanted: starts before the rows that need them.
        runs: where the runs lie.
        data_root: of the data set.
        records: where the records go.
        jobs: runs at a time.
        minutes: no run is begun later than this; None: no limit.
        flags: recipe keys for every run that change no figure on one machine (`cpu_threads`).

    Returns:
        The cells that are still without a record.

    Raises:
        FerError: a run failed, or see `source_commit`, `find_record`.
    """
    left = [cell for cell in wanted if find_record(cell, records) is None]
    needed = [*{id(c): c for cell in left for c in (cell.start, cell) if c is not None}.values()]
    if not needed:
        return []
    commit, begun = source_commit(), time.monotonic()
    done: dict[str, concurrent.futures.Future[None]] = {}

    def work(cell: Cell) -> None:
        if cell.start is not None:
            done[cell.start.path].result()
        if minutes is not None and time.monotonic() - begun > 60 * minutes:
            return
        if cell.row == "start" and (runs / cell.path / "model.safetensors").is_file() and find_record(cell, records):
            return
        print(f"{time.strftime('%H:%M:%S')} {cell}", flush=True)
        run = train_cell(cell, runs, data_root, flags)
        if find_record(cell, records) is None:
            made = _record(cell, run, commit)
            if cell.method == "grefel" and cell.row != "start":
                made["reproduction"]["balancing"] = before_and_after(run.folder, _test_split(run, data_root))
            write_record(made, record_path(cell, records))

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for cell in needed:  # in order: whoever waits for a start waits for one that is at work already
            if cell.path not in done:
                done[cell.path] = pool.submit(work, cell)
        try:
            for future in concurrent.futures.as_completed(done.values()):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [cell for cell in left if find_record(cell, records) is None]


def _test_split(run: Run, data_root: Path | None) -> Any:
    from hf_fer import load_fer_dataset

    return load_fer_dataset(run.recipe.dataset, data_root, **run.recipe.dataset_options)[run.recipe.test_split]


def train_cell(cell: Cell, runs: Path, data_root: Path | None, flags: Mapping[str, Any] | None = None) -> Run:
    """Trains one cell, or takes the run that is there.

    Raises:
        FerError: it failed, or its start is not there.
    """
    folder = runs / cell.path
    words = {**cell.flags, **(flags or {}), "seed": cell.seed, "output_dir": str(folder)}
    if data_root is not None:
        words["data_root"] = str(data_root)
    if cell.start is not None:
        words["backbone_weights"] = str(runs / cell.start.path / "model.safetensors")
        if not Path(words["backbone_weights"]).is_file():
            raise FerError(f"The run that {cell} starts from is not in {runs}; train the whole table there.")
    config = str(ROOT / cell.config)
    arguments = [f"--{key}={flow(value)}" for key, value in words.items()]
    recipe = load_recipe(config_class(cell.method), config, arguments)
    run = Run({}, cell.seed, folder, arguments, recipe)
    folder.parent.mkdir(parents=True, exist_ok=True)
    execute_run(run, [sys.executable, "-m", "hf_fer.cli", "train", config, f"--method={cell.method}"])
    if run.report is None:
        raise FerError(f"{cell} failed: {run.error}")
    return run


def _record(cell: Cell, run: Run, commit: str) -> dict[str, Any]:
    """The record of the epoch that validation chose, with how it was made."""
    import yaml

    report = run.report or {}
    last = report["last"]
    made = {
        "table": cell.table,
        "condition": cell.condition,
        "row": cell.row,
        "scale": cell.scale,
        "commit": commit,
        "command": command_of(cell),
        "start": cell.start.path if cell.start else None,
        "recipe": yaml.safe_load(run.recipe.to_yaml()),
        "selected_by": report["selected_by"],
        "data": report["data"],
        "last": {
            "epoch": last["epoch"],
            "resolutions": {f: {m: row[m] for m in _METRICS} for f, row in last["resolutions"].items()},
        },
        "train_seconds": report["train_seconds"],
    }
    return {**report["selected"], "model": f"{cell.row}, seed {cell.seed}", "reproduction": made}
