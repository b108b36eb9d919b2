"""Result records: one JSON file for each evaluation, written whole or not at all."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_fer.errors import FerError

REQUIRED_KEYS = (
    "model",
    "revision",
    "dataset",
    "split",
    "protocol",
    "n",
    "metrics",
    "resolutions",
    "seed",
    "versions",
    "date",
)


def write_record(record: Mapping[str, Any], path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a result record as JSON: to a temporary file in the same folder, then renamed.

    Args:
        record: a record as returned by `evaluate_model`; numpy scalars and arrays become numbers and lists.
        path: target file; missing parent folders are made.
        overwrite: replace an existing file instead of refusing.

    Returns:
        The path written.

    Raises:
        FerError: the file exists and `overwrite` is false, a required key is missing, or a value is NaN,
            infinite or not JSON.
    """
    path = Path(path)
    _check_keys(record, str(path))
    if path.exists() and not overwrite:
        raise FerError(
            f"{path} exists already; choose another file name, or overwrite it on purpose with overwrite=True."
        )
    try:
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise FerError(
            f"The record for {path} cannot be written as JSON ({error}); remove or convert that value."
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            _link_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a result record and check that it has every required key.

    Raises:
        FerError: the file is missing, is not JSON, is not an object, or lacks one of `REQUIRED_KEYS`.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FerError(
            f"The record {path} cannot be read ({error.strerror}); pass a file written by `hf-fer evaluate`."
        ) from error
    except ValueError as error:
        raise FerError(f"{path} is not JSON ({error}); pass a file written by `hf-fer evaluate`.") from error
    if not isinstance(record, dict):
        raise FerError(
            f"{path} holds a JSON {type(record).__name__}, not an object; pass a file written by `hf-fer evaluate`."
        )
    _check_keys(record, str(path))
    return record


def _check_keys(record: Mapping[str, Any], where: str) -> None:
    missing = [key for key in REQUIRED_KEYS if key not in record]
    if missing:
        raise FerError(
            f"The record {where} lacks {', '.join(missing)}; a record has the keys {', '.join(REQUIRED_KEYS)}."
        )


def _link_new(temporary: Path, path: Path) -> None:
    # A hard link fails where the name was taken in the meantime; a rename would silently replace that file.
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise FerError(
            f"{path} exists already; choose another file name, or overwrite it on purpose with overwrite=True."
        ) from None
    except OSError:  # file systems without hard links
        temporary.replace(path)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
