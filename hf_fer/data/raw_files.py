"""What the loaders of raw downloads share: finding the folder, refusing odd paths, and lazy image columns."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import FerError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

#: Rows of a split one by one and, as the return value, what was counted on the way; "rows" is how many came.
Rows = Generator[dict[str, Any], None, dict[str, int]]

# What a generator of `cached_split` counted, until it lies beside the rows in the cache.
_COUNTED: dict[str, dict[str, int]] = {}


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
        raise FerError(f"The {title} folder {short(str(root), 1000)} does not exist: {where_to_get}.")
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


def cached_split(
    rows: Callable[..., Rows],
    arguments: Mapping[str, Any],
    features: Features,
    split: str,
    stamp: str,
    empty: str,
    cache_dir: str | os.PathLike[str] | None,
) -> tuple[Dataset, dict[str, int], bool]:
    """The rows of a generator, written once into the cache of `datasets` and memory-mapped from there.

    Args:
        rows: a function of a module; its generator returns what it counted.
        arguments: of `rows`: plain values, and tuples rather than lists.
        features: of the rows.
        split: name of the split.
        stamp: what the rows depend on beside the arguments, see `files_stamp`.
        empty: the sentence to raise where there is no row.
        cache_dir: cache folder of `datasets`; None is its default.

    Returns:
        dataset: the rows.
        counts: what the generator returned when they were built.
        built: whether that was now.

    Raises:
        FerError: as `rows` raises it, or `empty`.
    """
    from datasets import Dataset, NamedSplit
    from datasets.exceptions import DatasetGenerationError

    key = f"{stamp} {split}"
    _COUNTED.pop(key, None)
    try:
        dataset = Dataset.from_generator(
            _counted_rows,
            features=features,
            cache_dir=None if cache_dir is None else str(cache_dir),
            gen_kwargs={"rows": rows, "arguments": dict(arguments), "key": key, "empty": empty},
            split=NamedSplit(split),
        )
    except DatasetGenerationError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, FerError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None
    if not isinstance(dataset, Dataset):
        raise TypeError(f"expected a Dataset, not {type(dataset).__name__}")
    file = Path(dataset.cache_files[0]["filename"]).with_suffix(".counts.json")
    built = key in _COUNTED
    if not built:
        try:
            return dataset, json.loads(file.read_text(encoding="utf-8")), False
        except (OSError, ValueError):  # a kill came between the rows and the counts
            for _ in _counted_rows(rows, dict(arguments), key, empty):
                pass
    counts = _COUNTED.pop(key)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):  # a cache that others may only read: they count again
        temporary.write_text(json.dumps(counts), encoding="utf-8")
        temporary.replace(file)
    return dataset, counts, built


def _counted_rows(
    rows: Callable[..., Rows], arguments: dict[str, Any], key: str, empty: str
) -> Generator[dict[str, Any], None, None]:
    counts = yield from rows(**arguments)
    if not counts["rows"]:
        raise FerError(empty)
    _COUNTED[key] = counts


def files_stamp(files: Iterable[os.PathLike[str] | str], *facts: object) -> str:
    """Hash of `facts` and of the files' paths, sizes and times, in any order: the key of what is built from them.

    A `DirEntry` of `os.scandir` is cheapest; a folder stands for the names in it.
    """
    total = count = 0
    for file in files:
        stat = (file if isinstance(file, os.DirEntry) else Path(file)).stat()
        count += 1
        line = f"{os.fspath(file)}\0{stat.st_size}\0{stat.st_mtime_ns}".encode("utf-8", "surrogateescape")
        total += int.from_bytes(hashlib.blake2b(line, digest_size=16).digest(), "little")
    text = "\0".join(map(str, (*facts, count, total)))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def contents(folder: Path) -> str:
    """The first names in `folder`, for the error that says what lies there instead of what should."""
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in os.scandir(folder))
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"{', '.join(names[:6])}{more}" if names else "nothing"


def short(value: object, limit: int = 80) -> str:
    """`repr`, cut after `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
