"""Resumable checkpoints: whole or not there at all, and rotated."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import FerError

_PREFIX = "step-"
_ZIP_WRITER = ("PytorchStreamWriter", "inline_container")  # how torch's own writer says that a disk is full
_FULL = 2**20  # bytes


def save_checkpoint(accelerator: Any, folder: Path, progress: dict[str, Any], keep: int) -> Path:
    """Writes `folder/step-00000123` under a temporary name, renames it, and drops the oldest beyond `keep`.

    Every process calls it, once for an update. `progress` (JSON) holds `update`, from which the name comes.

    Raises:
        FerError: it cannot be written, on a full disk for example; what was written of it is removed, and the
            checkpoints before it stay.
    """
    final = folder / f"{_PREFIX}{progress['update']:08d}"
    temporary = folder / f".writing-{final.name}"
    try:
        if accelerator.is_main_process:
            for cut_short in folder.glob(".writing-*"):
                shutil.rmtree(cut_short)
            temporary.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(temporary))
        accelerator.wait_for_everyone()  # save_state does not wait for the slowest
        if accelerator.is_main_process:
            (temporary / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
            _sync(temporary)
            if final.exists():  # of the same update, before its validation; or damaged
                final.rename(replaced := folder / f".writing-replaced-{final.name}")
                temporary.rename(final)
                shutil.rmtree(replaced)
            else:
                temporary.rename(final)
            for old in list_checkpoints(folder)[:-keep]:
                shutil.rmtree(old)
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not any(name in str(error) for name in _ZIP_WRITER):
            raise
        free = shutil.disk_usage(folder.parent).free  # before anything is removed: what the writer met
        # Where the disk ends in the middle of a record, torch says "unexpected pos 10880 vs 10776" and no more.
        full = isinstance(error, RuntimeError) and free < _FULL
        shutil.rmtree(temporary, ignore_errors=True)
        raise FerError(
            f"Checkpoint {final.name} cannot be written to {folder} "
            f"({os.strerror(errno.ENOSPC) if full else first_line(error)}; {free / 2**20:,.0f} MiB were free there); "
            "make room, and go on from the checkpoint before it with --resume."
        ) from error
    accelerator.wait_for_everyone()
    return final


def first_line(error: BaseException) -> str:
    """What an error says, without the rest of its story."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints, the oldest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if (path / "progress.json").is_file())


def load_checkpoint(accelerator: Any, folder: Path) -> dict[str, Any]:
    """Restores the newest whole checkpoint into everything the accelerator has prepared; returns its progress.

    Raises:
        FerError: there is none.
    """
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        raise FerError(f"Nothing to resume: {folder} holds no whole checkpoint; start without resume.")
    try:
        progress = json.loads((checkpoints[-1] / "progress.json").read_text(encoding="utf-8"))
        accelerator.load_state(str(checkpoints[-1]))
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise FerError(
            f"Checkpoint {checkpoints[-1]} is damaged ({first_line(error)}); remove that folder, and --resume goes on "
            "from the one before it."
        ) from error
    return progress


def _sync(folder: Path) -> None:
    # The rename must not reach the disk before the contents: a power cut would leave a hollow checkpoint.
    if os.name == "nt":  # where a folder cannot be opened
        return
    for path in (*(p for p in folder.rglob("*") if p.is_file()), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
