"""Trains the cells of the tables, and keeps what came out as records."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

import hf_fer
from hf_fer._auto import config_class
from hf_fer.errors import FerError
from hf_fer.evaluation import read_record, write_record
from hf_fer.training.recipe import load_recipe
from hf_fer.training.run import _BEST, _FREE_ON_RESUME
from hf_fer.training.sweep import execute_run
from hf_fer.training.sweep_plan import Run, flow

from .balancing import before_and_after
from .tables import Cell

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "benchmarks" / "records"
PACKAGE = Path(hf_fer.__file__).resolve().parent
_SOURCES = ("hf_fer", "recipes", "benchmarks")  # what decides about the figures
_METRICS = ("accuracy", "mean_class_accuracy")
_FREE = _FREE_ON_RESUME | {"cpu_threads", "backbone_weights"}  # how it ran, and what the command names already


def source_commit() -> str:
    """The commit that the working tree is at.

    Raises:
        FerError: no repository, sources that differ from what is committed, or an hf_fer from elsewhere.
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
    if ROOT not in PACKAGE.parents:
        raise FerError(
            f"Records name the commit they were made at, but hf_fer is imported from {PACKAGE.parent}; install this "
            f"clone with `pip install -e {shlex.quote(str(ROOT))}`."
        )
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
    before, now = record["reproduction"]["recipe"], _recipe_of(cell)
    changed = sorted(k for k in before.keys() & now.keys() - _FREE - {"seed"} if before[k] != now[k])
    if changed:
        raise FerError(
            f"{path} was made when {cell.config} had other values ({', '.join(changed)}); delete it to have the cell "
            "trained anew."
        )
    return record


@functools.cache
def _recipe(method: str, config: str, flags: tuple[str, ...]) -> dict[str, Any]:
    import yaml

    recipe = load_recipe(config_class(method), ROOT / config, [*flags, "--output_dir=RUN"])
    return yaml.safe_load(recipe.to_yaml())


def _recipe_of(cell: Cell) -> dict[str, Any]:
    """The recipe of a cell as its record tells it, but for the seed and what `_FREE` names."""
    return _recipe(cell.method, cell.config, tuple(f"--{key}={flow(value)}" for key, value in cell.flags.items()))


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
        FerError: a run failed, another process is at work on it, or see `source_commit`, `find_record`.
    """
    left = [cell for cell in wanted if find_record(cell, records) is None]
    needed = [*{id(c): c for cell in left for c in (cell.start, cell) if c is not None}.values()]
    if not needed:
        return []
    source_commit()
    begun, stopped = time.monotonic(), threading.Event()
    done: dict[str, concurrent.futures.Future[None]] = {}

    def work(cell: Cell) -> None:
        try:
            run_one(cell)
        except BaseException:
            stopped.set()  # at once: this thread would take the next cell before the main one hears of it
            raise

    def run_one(cell: Cell) -> None:
        if cell.start is not None:
            done[cell.start.path].result()
        if stopped.is_set():
            return
        if minutes is not None and time.monotonic() - begun > 60 * minutes:
            return
        if cell.row == "start" and _is_finished(runs / cell.path) and find_record(cell, records):
            return
        commit, note = source_commit(), runs / f"{cell.path}.commit"
        print(f"{time.strftime('%H:%M:%S')} {cell}", flush=True)
        run = train_cell(cell, runs, data_root, flags, commit)
        if find_record(cell, records) is None:
            # A run that ended without leaving a record was not made by what is checked out now.
            made = _record(cell, run, note.read_text(encoding="utf-8") if note.is_file() else commit)
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
        except BaseException as stop:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(stop, SystemExit):  # SIGTERM, which unlike Ctrl-C has reached this process alone
                for child in psutil.Process().children():
                    with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                        child.terminate()
            raise
    return [cell for cell in left if find_record(cell, records) is None]


def _test_split(run: Run, data_root: Path | None) -> Any:
    from hf_fer import load_fer_dataset

    return load_fer_dataset(run.recipe.dataset, data_root, **run.recipe.dataset_options)[run.recipe.test_split]


def _is_finished(folder: Path) -> bool:
    """Whether a training has come to its end there; before, its weights may be half written."""
    return (folder / "report.json").is_file() and not (folder / _BEST).is_file()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[tuple[int, ...]]:
    """Locks a run; yields the descriptors that hold the lock, for the training to hold it too.

    So neither a second command nor the one after a kill touches a run that is still at work. The system drops the
    lock when the last holder is gone; the file beside the folder stays.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        reason = error.strerror or error
        raise FerError(
            f"{folder.parent} cannot be written to ({reason}); choose another folder with --runs."
        ) from error
    try:
        if os.name != "nt":  # no locks of this kind
            import fcntl

            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FerError(f"Another process is at work in {folder}; wait for its end, or stop it.") from None
            except OSError:  # a file system without locks
                pass
        yield (descriptor,)
    finally:
        os.close(descriptor)


def train_cell(
    cell: Cell,
    runs: Path,
    data_root: Path | None,
    flags: Mapping[str, Any] | None = None,
    commit: str | None = None,
) -> Run:
    """Trains one cell, or takes the run that is there.

    Args:
        cell: what to train.
        runs: where the runs lie.
        data_root: of the data set.
        flags: as for `run_cells`.
        commit: noted beside the run as what it is trained at, unless it is finished; None notes nothing.

    Raises:
        FerError: it failed, its start is not there, or another process is at work on it.
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
    with _alone_in(folder) as inherited:
        if commit is not None and not _is_finished(folder):
            folder.with_name(f"{folder.name}.commit").write_text(commit, encoding="utf-8")
        execute_run(run, [sys.executable, "-m", "hf_fer.cli", "train", config, f"--method={cell.method}"], inherited)
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
