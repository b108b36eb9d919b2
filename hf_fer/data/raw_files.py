"""What the loaders of raw downloads share: finding the folder, refusing odd paths, and lazy image columns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import FerError

if TYPE_CHECKING:
    from datasets import DatasetDict


def raw_folder(title: str, root: str | os.PathLike[str] | None, where_to_get: str) -> Path:
    """`root` as an absolute existing folder.

    Args:
        title: of the dataset, for people.
        root: as the user gave it.
        where_to_get: ends the sentence of every error: where the raw data come from, and what to put where.

    Raises:
        FerError: no root, no such folder, or one that cannot be read.
    """
    if root is None:
        raise FerError(f"{title} needs root=, the folder of its raw data: {where_to_get}.")
    try:
        folder = Path(root).expanduser().resolve()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError, ValueError):  # too long a name, no such home, a NUL
        is_folder = False
    if not is_folder:
        raise FerError(f"The {title} folder {short(str(root))} does not exist: {where_to_get}.")
    try:
        next(os.scandir(folder), None)
    except OSError as error:
        raise FerError(f"The {title} folder {str(folder)!r} cannot be read: {error}; make it readable.") from error
    return folder


def inside(folder: Path, name: str, where: str) -> Path:
    """`folder / name`, for a name that an annotation file gives.

    Args:
        folder: of the images.
        name: relative, with / or \\ between its parts.
        where: file and line, for the error.

    Raises:
        FerError: an absolute path, one that leaves the folder, or an empty one: annotation files come from outside.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in name:
        raise FerError(f"{where}: {short(name)} is no path inside {str(folder)!r}; get the file anew.")
    return folder.joinpath(*parts)


def check_counts(title: str, root: Path, what: str, found: Mapping[str, int], expected: Mapping[str, int]) -> None:
    """Raises FerError where `found` differs from the `expected` counts of the official release."""
    if dict(found) != dict(expected):
        raise FerError(
            f"{title} in {str(root)!r} is not the official release: {what} are "
            f"{' / '.join(f'{name} {count}' for name, count in found.items())}, official are "
            f"{' / '.join(f'{name} {count}' for name, count in expected.items())}; "
            "download it anew, or load it without check_counts."
        )


def build_splits(
    splits: Mapping[str, Mapping[str, Sequence[Any]]], names: Sequence[str], features: Mapping[str, Any] | None = None
) -> DatasetDict:
    """Columns of paths and facts as a `DatasetDict`; images stay where they are and are decoded when they are read.

    Args:
        splits: columns by name for each split: `image` paths, `label` ids, and others of equal length.
        names: canonical class names in id order.
        features: `datasets` features of the columns but `image` and `label`; text where not given.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

    result = {}
    for split, columns in splits.items():
        schema = {"image": Image(), "label": ClassLabel(names=[*names])}
        schema |= {name: (features or {}).get(name, Value("string")) for name in columns if name not in schema}
        plain = {**columns, "image": [str(path) for path in columns["image"]]}
        result[split] = Dataset.from_dict(plain, features=Features(schema))
    return DatasetDict(result)


def short(value: object) -> str:
    """`repr`, cut after 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
