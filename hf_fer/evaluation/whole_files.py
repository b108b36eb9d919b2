"""Files that are written whole or not at all, and that replace nothing unless told to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from hf_fer.errors import FerError


def write_whole(path: Path, write: Callable[[BinaryIO], object], overwrite: bool) -> None:
    """Lets `write` fill a temporary file in the same folder (made if missing), which then gets its name.

    Raises:
        FerError: the file exists and `overwrite` is false, or it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        refuse_existing(path, overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                temporary.replace(path)
            else:
                _link_new(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FerError(
            f"{shown(path)} cannot be written ({error.strerror or error}); choose another place, or make room."
        ) from error


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raises FerError where a file is and may not be overwritten."""
    if not overwrite and path.exists():
        raise FerError(
            f"{shown(path)} exists already; choose another file name, or overwrite it on purpose with overwrite=True."
        )


def shown(path: str | os.PathLike[str]) -> str:
    """A path as it can stand in a message."""
    text = os.fspath(path)
    return text if text.isprintable() and len(text) <= 300 else repr(text[:300])


def _link_new(temporary: Path, path: Path) -> None:
    # A hard link fails where the name was taken in the meantime; a rename would silently replace that file.
    try:
        os.link(temporary, path)
    except FileExistsError:
        refuse_existing(path, overwrite=False)
        raise
    except OSError:  # file systems without hard links
        temporary.replace(path)
