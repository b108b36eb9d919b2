"""`hf-fer sweep`: a recipe over grids of values and seeds, each run in a process of its own, and the table of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .._auto import config_class
from ..errors import FerError
from .checkpoints import list_checkpoints
from .recipe import _parse_flags, load_recipe
from .run import _BEST, _FREE_ON_RESUME
from .sweep_plan import ABLATION, Run, flow, plan
from .sweep_table import markdown, write_summary

_LEFT_BY_A_KILL = {"recipe.yaml", "metrics.jsonl", "logs", "checkpoints", _BEST}  # in a run before its first checkpoint


def sweep(
    method: str, config: str, grids: Sequence[str], seeds: int, flags: Sequence[str] = (), debug: bool = False
) -> int:
    """Runs the product of `grids` with the seeds 0 … seeds - 1; writes sweep.json and sweep.md, and prints the latter.

    Every combination is checked before the first run starts. What is finished is skipped and what was interrupted is
    resumed, so the same call goes on where the last one ended.

    Args:
        method: one of `METHODS`.
        config: the recipe file.
        grids: `key=a,b,…`, the values in YAML; the key `ablation` takes names of rows of the method's tables.
        seeds: how many.
        flags: `--key value`, as for `hf-fer train`.
        debug: show the runs' tracebacks.

    Returns:
        0, 2 if a run failed, 130 after Ctrl-C; SIGTERM raises SystemExit(143). Both signals are passed on to the run.

    Raises:
        FerError: anything wrong with the recipe, the grids or the folders.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise FerError("A sweep is one process that starts its runs one by one; start it without a launcher.")
    runs = plan(method, config, grids, seeds, flags)
    folder = Path(load_recipe(config_class(method), config, [*flags]).output_dir)
    command = _command(method, config, runs, seeds, flags)
    with (
        _only_sweep_in(folder) as inherited,
        terminable(),
        tempfile.TemporaryDirectory(prefix="hf-fer-sweep-") as copy,
    ):
        _check_summary(folder, runs)
        for run in runs:
            if run_state(run) == "finished":
                _take_report(run)
        # A sweep takes hours, and a recipe is soon edited: every run gets the recipe that has been checked.
        recipe_file = Path(copy) / Path(config).name
        recipe_file.write_bytes(Path(config).read_bytes())
        train = [sys.executable, "-m", "hf_fer.cli", *(["--debug"] if debug else []), "train", str(recipe_file)]
        train.append(f"--method={method}")
        try:
            for number, run in enumerate(runs, start=1):
                done = run.status == "finished"
                print(f"[{number}/{len(runs)}] {run}{': finished already' if done else ''}", flush=True)
                if not done:
                    write_summary(folder, runs, command)
                    execute_run(run, train, inherited)
        except KeyboardInterrupt:
            print("hf-fer: interrupted; the same command goes on from here", file=sys.stderr)
            return 130
        finally:
            write_summary(folder, runs, command)
    print("\n" + markdown(runs, command), end="")
    print(f"\nwritten: {folder / 'sweep.json'}, {folder / 'sweep.md'}")
    return 2 if any(run.status == "failed" for run in runs) else 0


def _command(method: str, config: str, runs: list[Run], seeds: int, flags: Sequence[str]) -> str:
    """What was called, without the places and secrets that a recipe.yaml leaves out too."""
    import yaml

    public = yaml.safe_load(runs[0].recipe.to_yaml())  # the flags are those of every run
    words = ["hf-fer", "sweep", Path(config).name if Path(config).is_absolute() else str(config)]
    words += [f"--method={method}", f"--seeds={seeds}"]
    for key in runs[0].overrides:
        values = [*{flow(run.overrides[key]): run.overrides[key] for run in runs}.values()]
        words.append(f"--grid={key}={', '.join(values) if key == ABLATION else flow(values)[1:-1]}")
    words += [f"--{key}={flow(public[key])}" for key in _parse_flags([*flags]) if key in public]
    return shlex.join(words)


# --- folders ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _only_sweep_in(folder: Path) -> Iterator[tuple[int, ...]]:
    """Makes the folder and locks it; yields the descriptors that hold the lock, for the runs to hold it too.

    So a run that outlives a killed sweep is not resumed while it is still at work. The system drops the lock when
    the last holder is gone.
    """
    if (folder / "recipe.yaml").exists():
        raise FerError(f"{folder} is the folder of a single run; choose another one for the sweep with --output_dir.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise FerError(f"{folder} cannot be written to ({reason}); choose another folder with --output_dir.") from error
    if os.name == "nt":  # no locks of this kind
        yield ()
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FerError(
                f"Another sweep, or a run that it left behind, is at work in {folder}; wait for its end, or stop it."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield (descriptor,)
    finally:
        os.close(descriptor)


def _check_summary(folder: Path, runs: list[Run]) -> None:
    """Refuses to replace the figures of runs that this sweep does not have."""
    path = folder / "sweep.json"
    if not path.exists():
        return
    try:
        before = {run["folder"] for run in json.loads(path.read_text(encoding="utf-8"))["runs"]}
    except (ValueError, KeyError, TypeError) as error:
        raise FerError(f"{path} is no summary of a sweep; move it away, or choose another --output_dir.") from error
    others = sorted(before - {run.folder.relative_to(folder).as_posix() for run in runs})
    if others:
        raise FerError(
            f"{folder} holds a sweep with other runs, such as {others[0]}; choose another --output_dir, or delete "
            f"{path} (the runs stay)."
        )


def run_state(run: Run) -> str:
    """ "new", "finished", "resumable", or "blank": begun, and killed or failed before the first checkpoint.

    Raises:
        FerError: the folder holds something that is not this run.
    """
    import yaml

    folder = run.folder
    way_out = "choose another --output_dir, or move that folder away"
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return "new"
    try:
        before = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        before = None
    if not isinstance(before, dict):
        raise FerError(f"{folder} holds something, but no run with a recipe.yaml; {way_out}.")
    finished = (folder / "report.json").is_file() and not (folder / _BEST).is_file()
    free = _FREE_ON_RESUME - ({"half_precision_export"} if finished else set())
    now = yaml.safe_load(run.recipe.to_yaml())
    changed = sorted(key for key in {*before, *now} - free if before.get(key) != now.get(key))
    if finished and now["diagnose"] and before.get("diagnose") is False:  # a report without what is asked for
        changed.append("diagnose")
    if changed:
        raise FerError(f"{folder} holds a run of another recipe ({', '.join(changed)} changed); {way_out}.")
    if finished:
        return "finished"
    if list_checkpoints(folder / "checkpoints"):
        return "resumable"
    foreign = [p.name for p in folder.iterdir() if p.name not in _LEFT_BY_A_KILL and not p.name.startswith(".writing-")]
    if foreign:
        raise FerError(f"{folder} holds files that are not of an unfinished run, such as {foreign[0]}; {way_out}.")
    return "blank"


def _take_report(run: Run) -> None:
    try:
        run.report = json.loads((run.folder / "report.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise FerError(f"{run.folder / 'report.json'} is no JSON; delete that folder to have the run again.") from error
    run.status = "finished"


# --- one run ----------------------------------------------------------------------------------------------


def execute_run(run: Run, train: list[str], inherited: tuple[int, ...] = ()) -> None:
    """Trains in a process of its own, anew or from where it stopped, and sets the run's status, error and report.

    Args:
        run: what to train; `run.status` is "finished" or "failed" afterwards.
        train: the command before the run's flags.
        inherited: descriptors that the process keeps open.

    Raises:
        FerError: the run's folder holds something else.
    """
    state = run_state(run)
    if state == "finished":
        _take_report(run)
        return
    if state == "blank":
        shutil.rmtree(run.folder)
    command = [*train, *run.flags, f"--resume={flow(state == 'resumable')}"]
    run.status = "unfinished"
    code, said = _stream(command, inherited)
    if code in (130, -signal.SIGINT):  # Ctrl-C, and the run was the first to notice
        raise KeyboardInterrupt
    if code == 0 and run_state(run) == "finished":
        _take_report(run)
        return
    run.status, run.error = "failed", _reason(code, said)
    print(f"failed: {run}: {run.error}", file=sys.stderr)


def _stream(command: list[str], inherited: tuple[int, ...]) -> tuple[int, str]:
    """Runs a command, shows all it says, and returns its exit code and the end of what it said on stderr."""
    environment = dict(os.environ)
    if sys.stderr.isatty():  # the progress bar cannot ask a pipe for its width
        environment.setdefault("COLUMNS", str(shutil.get_terminal_size().columns))
    sys.stdout.flush()
    sys.stderr.flush()
    options: dict[str, Any] = {} if os.name == "nt" else {"pass_fds": inherited}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, **options)
    end = bytearray()

    def pass_on() -> None:
        while chunk := os.read(process.stderr.fileno(), 65536):
            with contextlib.suppress(OSError, ValueError):  # nobody reads ours: the run goes on all the same
                sys.stderr.buffer.write(chunk)
                sys.stderr.buffer.flush()
            end.extend(chunk)
            del end[:-65536]

    reader = threading.Thread(target=pass_on, daemon=True)
    try:
        reader.start()
        code = process.wait()
    except BaseException as stop:
        _end(process, stop)
        raise
    finally:
        reader.join(timeout=5)  # not for ever: a tracker's helper may hold the pipe open
    return code, end.decode(errors="replace")


def _end(process: subprocess.Popen[bytes], stop: BaseException) -> None:
    """Passes Ctrl-C or SIGTERM on, and waits for the run to end, by force at last."""
    number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) and os.name != "nt" else signal.SIGTERM
    try:
        if number == signal.SIGINT:  # from a terminal it has reached the run too, and a second would cut it short
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
        if process.poll() is None:
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)  # it may have a checkpoint to write
    finally:  # also if the user cannot wait
        process.kill()
        process.wait()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Lets SIGTERM unwind the stack as SystemExit(143), so that what runs is ended and what is known written."""

    def stop(number: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _reason(code: int, said: str) -> str:
    lines = [line.strip() for line in re.split(r"[\r\n]+", said) if line.strip()]
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    # Behind whatever the progress bar left on the line.
    ours = [found[1] for line in lines if (found := re.search(r"\b(?:hf-fer(?: train)?|train_\w+): (.+)", line))]
    if ours:
        return ours[-1]
    return lines[-1] if lines else f"ended with exit code {code} and without a report"
