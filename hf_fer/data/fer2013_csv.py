"""FER2013's table of pixels, on which FERPlus voted: its rows, built once into the cache of `datasets`."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FerError
from .raw_files import short

if TYPE_CHECKING:
    from datasets import Dataset, Features

#: Value of the column `Usage` for each split.
USAGE: dict[str, str] = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}
#: Where the table comes from, for the sentences of errors.
KAGGLE = (
    "fer2013.csv from Kaggle's "
    '"Challenges in Representation Learning: Facial Expression Recognition Challenge" (fer2013.tar.gz)'
)

_SIDE = 48
# "0".."255" only: rejects signs, leading zeros, underscores and everything else int() would take.
_PIXEL = {str(value): value for value in range(256)}


def csv_rows(file: str, header: bool, where_to_get: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, stripped fields) of each row that is not blank, the header included."""
    line = 0
    try:
        with Path(file).open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            for row in reader:
                line = reader.line_num
                if row:
                    yield line, [field.strip() for field in row]
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise FerError(f"{file} cannot be read as CSV after line {line} ({short(str(error))}).") from error
    if header and line == 0:
        raise FerError(f"{file} is empty; {where_to_get}.")


def find_columns(file: str, header: Sequence[str], wanted: Sequence[str], where_to_get: str) -> list[int]:
    """Places of the columns `wanted` (lower case) in `header`: Kaggle has the same table with other column orders."""
    lowered = [name.lower() for name in header]
    if any(lowered.count(name) != 1 for name in wanted):
        raise FerError(
            f"{file}: the header must be emotion,pixels,Usage, not {short(','.join(header))}; {where_to_get}."
        )
    return [lowered.index(name) for name in wanted]


def check_usage(file: str, line: int, usage: str) -> None:
    """Raises FerError unless `usage` is one of `USAGE`'s values."""
    if usage not in USAGE.values():
        raise FerError(f"{file}, line {line}: Usage is {short(usage)}, not one of {', '.join(USAGE.values())}.")


def encode_pixels(text: str, file: str, line: int, where_to_get: str) -> bytes:
    """A pixels field (2,304 grey values, row by row) as a lossless 48x48 PNG."""
    from PIL import Image

    values = text.split()
    if len(values) != _SIDE * _SIDE:
        raise FerError(
            f"{file}, line {line}: {len(values)} pixels, not {_SIDE * _SIDE}; the file is damaged: {where_to_get}."
        )
    try:
        data = bytes(_PIXEL[value] for value in values)
    except KeyError as error:
        raise FerError(
            f"{file}, line {line}: pixel {short(error.args[0])} is not an integer in 0..255; "
            f"the file is damaged: {where_to_get}."
        ) from None
    buffer = io.BytesIO()
    Image.frombytes("L", (_SIDE, _SIDE), data).save(buffer, format="PNG")
    return buffer.getvalue()


def file_stamp(paths: Iterable[Path]) -> str:
    """What identifies the files' contents for the cache: a digest of their names, sizes and times."""
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def cached_rows(
    rows: Callable[..., Iterator[dict[str, Any]]],
    arguments: Mapping[str, Any],
    features: Features,
    cache_dir: str | os.PathLike[str] | None,
) -> Dataset:
    """The rows of the generator `rows(**arguments)`: built once, then read from the cache of `datasets`.

    Args:
        rows: a module's own function; a `FerError` that it raises comes through as it is.
        arguments: hashed into the cache key, so they must name what the rows depend on; no lists, which
            `datasets` would split into shards. `arguments["split"]` names the split.
        features: of the rows.
        cache_dir: cache folder of `datasets`; None is its default.
    """
    from datasets import Dataset, NamedSplit
    from datasets.exceptions import DatasetGenerationError

    try:
        dataset = Dataset.from_generator(
            rows,
            features=features,
            cache_dir=None if cache_dir is None else str(cache_dir),
            gen_kwargs=dict(arguments),
            split=NamedSplit(arguments["split"]),
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
    return dataset
