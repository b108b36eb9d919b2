"""FERPlus: FER2013's 48x48 faces with ten votes per image (Barsoum et al. 2016, arXiv:1608.01041).

Three forms of the raw data are read, whichever lies in the folder:

- `parquet`: `train-*.parquet`, `validation-*.parquet`, `test-*.parquet` with `image` and `votes`;
- `folders`: `FER2013Train|FER2013Valid|FER2013Test/` with images and `label.csv`, as the official
  script writes them (name, optionally a face box, ten votes; no header);
- `csv`: Kaggle's `fer2013.csv` and the official `fer2013new.csv`, which go together row by row.

Known blemishes of the release, kept so that counts stay comparable: three training names stand twice,
and two test rows share the name `fer0033120.png`. The second of the two is an error icon (ten NF votes,
dropped by every rule); in the folder tree it overwrote the image of the first, so there, and in anything
made from that tree, the icon carries the votes of the first, while the CSV pair still has the face.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FerError
from ..labels import label_names
from .fer2013_csv import KAGGLE, USAGE, cached_rows, check_usage, csv_rows, encode_pixels, file_stamp, find_columns
from .raw_files import check_counts as check_official_counts
from .raw_files import raw_folder, short

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

#: Columns of the vote table, in the order of every release.
VOTE_COLUMNS: tuple[str, ...] = (*label_names("ferplus"), "unknown", "NF")
LABEL_RULES: tuple[str, ...] = ("majority", "argmax", "argmax_emotions", "distribution")
FORMS: tuple[str, ...] = ("parquet", "folders", "csv")

#: Named rows of the official release; the CSV pair has one test row more (see the module's text).
OFFICIAL_ROWS: dict[str, int] = {"train": 28_561, "validation": 3_579, "test": 3_573}
#: Rows kept of the official release, (train, validation, test) by (rule, classes).
OFFICIAL_COUNTS: dict[tuple[str, int], tuple[int, int, int]] = {
    ("majority", 8): (25_060, 3_199, 3_153),
    ("majority", 7): (24_941, 3_186, 3_137),
    ("argmax", 8): (28_389, 3_553, 3_546),
    ("argmax", 7): (28_224, 3_529, 3_519),
    ("argmax_emotions", 8): (28_559, 3_579, 3_573),
    ("argmax_emotions", 7): (28_557, 3_579, 3_573),
    ("distribution", 8): (28_559, 3_579, 3_573),
    ("distribution", 7): (28_557, 3_579, 3_573),
}

WHERE_TO_GET = (
    f"get fer2013new.csv from https://github.com/microsoft/FERPlus and {KAGGLE}, and put both into one folder"
)

_FOLDERS = {"train": "FER2013Train", "validation": "FER2013Valid", "test": "FER2013Test"}
_MAX_VOTE = np.iinfo(np.int16).max
# Part of the cache key: raise it when the rows that are built from the same files change.
_CACHE_VERSION = 1
_DIGITS = frozenset("0123456789")
_SHARD = re.compile(r"-\d+-of-(\d{1,9})\.parquet$")

Row = dict[str, Any]


# --- label rules --------------------------------------------------------------------------------


def apply_label_rule(votes: np.ndarray, rule: str = "majority", classes: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Turn votes into one label per image, and say which images have one.

    Rules (METHODS, "Undisclosed voting rule": they keep 3,153 / 3,546 / 3,573 test images):

    - `majority` (Barsoum et al. 2016; default): votes of 1 are dropped, over all ten columns; an image is
      kept if its top column holds strictly more than half of what is left and is one of the `classes`.
      No tie is possible.
    - `argmax`: the column with most of all ten; kept if it is one of the `classes`.
    - `argmax_emotions`: the expression with most votes among the `classes`; kept if any has a vote.
    - `distribution`: labels as `argmax_emotions`.

    A tie goes to the column that comes first in `VOTE_COLUMNS` (so an expression beats unknown and NF).
    A row without any vote is never kept.

    Args:
        votes: (N, 10) integers ≥ 0, columns as `VOTE_COLUMNS`.
        rule: one of `LABEL_RULES`.
        classes: 8, or 7 without contempt.

    Returns:
        keep: (N,) bool.
        labels: (N,) int64 in 0..classes-1, and -1 where `keep` is False.

    Raises:
        FerError: unknown rule or class count; votes of another shape, type or sign.
    """
    _check_rule(rule)
    names = label_names("ferplus", classes)
    votes = _check_votes(votes)
    if rule == "majority":
        left = np.where(votes == 1, 0, votes)
        top = left.argmax(axis=1)
        keep = (2 * left.max(axis=1) > left.sum(axis=1)) & (top < len(names))
    elif rule == "argmax":
        top = votes.argmax(axis=1)
        keep = (votes.max(axis=1) > 0) & (top < len(names))
    else:
        expressions = votes[:, : len(names)]
        top = expressions.argmax(axis=1)
        keep = expressions.max(axis=1) > 0
    return keep, np.where(keep, top, -1).astype(np.int64)


def votes_to_distribution(votes: np.ndarray, classes: int = 8, *, drop_single_votes: bool = False) -> np.ndarray:
    """Share of each expression in an image's expression votes (unknown and NF do not count).

    Args:
        votes: (N, 10) integers ≥ 0, columns as `VOTE_COLUMNS`.
        classes: 8, or 7 without contempt.
        drop_single_votes: treat a single vote as an outlier, as the majority rule does.

    Returns:
        (N, K) float32, K = `classes`; every row sums to 1.

    Raises:
        FerError: a row with no vote for any of the expressions (after the dropping), or wrong votes.
    """
    names = label_names("ferplus", classes)
    counts = _check_votes(votes)[:, : len(names)]
    if drop_single_votes:
        counts = np.where(counts == 1, 0, counts)
    total = counts.sum(axis=1, keepdims=True)
    empty = np.flatnonzero(total[:, 0] == 0)
    if empty.size:
        dropped = " once single votes are dropped" if drop_single_votes else ""
        raise FerError(
            f"{empty.size} of {len(counts)} rows have no vote for any of the {len(names)} expressions"
            f"{dropped} (first: row {empty[0]}); keep only rows that have one, e.g. by "
            "apply_label_rule(votes, 'argmax_emotions')."
        )
    return (counts / total).astype(np.float32)


def _check_rule(rule: str) -> None:
    if rule not in LABEL_RULES:
        raise FerError(f"label_rule={rule!r} is not a FERPlus label rule; choose one of {', '.join(LABEL_RULES)}.")


def _check_votes(votes: np.ndarray) -> np.ndarray:
    """`votes` as (N, 10) int64, or the error that says what is wrong with them."""
    array = np.asarray(votes)
    if array.ndim != 2 or array.shape[1] != len(VOTE_COLUMNS):
        raise FerError(f"FERPlus votes must have shape (N, {len(VOTE_COLUMNS)}), not {array.shape}.")
    if array.dtype.kind not in "iu":
        raise FerError(f"FERPlus votes must be integers, not {array.dtype}; pass counts, not shares.")
    if array.size and array.min() < 0:
        row = int(np.flatnonzero((array < 0).any(axis=1))[0])
        raise FerError(f"FERPlus votes must not be negative, but row {row} is {array[row].tolist()}.")
    return array.astype(np.int64)


# --- loading ------------------------------------------------------------------------------------


def load_ferplus(
    root: str | os.PathLike[str] | None = None,
    *,
    label_rule: str = "majority",
    classes: int = 8,
    form: str | None = None,
    check_counts: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> DatasetDict:
    """FERPlus as a `DatasetDict` with splits train, validation (PublicTest) and test (PrivateTest).

    The rows are built once into the cache of `datasets` (keyed by the files' paths, sizes and times) and
    decoded when they are read; nothing is written into `root`. Images are kept as they came, losslessly: the
    pixels agree between the forms, their mode need not ("L", or grey as "RGB" from WebP), so convert.

    Columns: `image` (`datasets.Image`, the release's 48x48 grey face), `label` (`ClassLabel`), `votes` (ten
    int16 counts, columns as `VOTE_COLUMNS`), `image_name` (str), and with `label_rule="distribution"`
    `label_distribution` (K float32, sum 1).

    Args:
        root: folder with one of the three forms, directly or in `data/`.
        label_rule: one of `LABEL_RULES`, see `apply_label_rule`.
        classes: 8, or 7 without contempt.
        form: one of `FORMS`, or None to take the first that is complete.
        check_counts: refuse anything but the whole official release (rows per split, and rows kept).
        cache_dir: cache folder of `datasets`; None is its default.

    Raises:
        FerError: data missing, half-downloaded or malformed (the sentence names file and line); wrong option.
    """
    _check_rule(label_rule)
    names = label_names("ferplus", classes)
    if form is not None and form not in FORMS:
        raise FerError(f"form={form!r} is not a form of FERPlus; choose one of {', '.join(FORMS)}.")
    root = raw_folder("FERPlus", root, WHERE_TO_GET)
    try:
        form, files = _find_files(root, form)
        stamps = {split: _stamp(form, paths) for split, paths in files.items()}
    except OSError as error:
        raise FerError(f"The FERPlus folder {str(root)!r} cannot be read: {error}; make it readable.") from error

    from datasets import DatasetDict

    raw = {split: _build_split(form, files[split], split, stamps[split], cache_dir) for split in _FOLDERS}
    if check_counts:
        rows = {split: len(dataset) for split, dataset in raw.items()}
        expected = OFFICIAL_ROWS | ({"test": OFFICIAL_ROWS["test"] + 1} if form == "csv" else {})
        check_official_counts("FERPlus", root, "rows", rows, expected)
    result = DatasetDict({split: _label_split(dataset, label_rule, names) for split, dataset in raw.items()})
    if check_counts:
        kept = {split: len(dataset) for split, dataset in result.items()}
        expected = dict(zip(_FOLDERS, OFFICIAL_COUNTS[label_rule, len(names)], strict=True))
        check_official_counts(
            "FERPlus", root, f"rows kept by label_rule={label_rule!r}, classes={len(names)}", kept, expected
        )
    return result


def _label_split(dataset: Dataset, rule: str, names: tuple[str, ...]) -> Dataset:
    """Add the label columns and keep the rows that have a label; copies no image."""
    from datasets import ClassLabel, List, Value

    votes = dataset.data.column("votes").combine_chunks().flatten().to_numpy().reshape(-1, len(VOTE_COLUMNS))
    keep, labels = apply_label_rule(votes, rule, len(names))
    columns = ["image", "label", "votes", "image_name"]
    # Before the selection: adding a column to a selection would copy the images.
    dataset = dataset.add_column("label", labels, feature=ClassLabel(names=list(names)))
    if rule == "distribution":
        shares = np.zeros((len(votes), len(names)), dtype=np.float32)
        shares[keep] = votes_to_distribution(votes[keep], len(names))
        feature = List(Value("float32"), length=len(names))
        dataset = dataset.add_column("label_distribution", list(shares), feature=feature)
        columns.append("label_distribution")
    return dataset.select_columns(columns).select(np.flatnonzero(keep))


def _build_split(
    form: str,
    files: tuple[str, ...],
    split: str,
    stamp: tuple[Any, ...],
    cache_dir: str | os.PathLike[str] | None,
) -> Dataset:
    """All named rows of a split: `image`, `votes`, `image_name`; built once, then read from the cache."""
    from datasets import Features, Image, List, Value

    features = Features(
        {
            "image": Image(),
            "votes": List(Value("int16"), length=len(VOTE_COLUMNS)),
            "image_name": Value("string"),
        }
    )
    arguments = {"form": form, "files": files, "split": split, "stamp": stamp}
    return cached_rows(_rows, arguments, features, cache_dir)


def _stamp(form: str, files: tuple[str, ...]) -> tuple[Any, ...]:
    """What identifies the files' contents for the cache: sizes and times, of the images too."""
    paths = [Path(file) for file in files]
    if form == "folders":
        with os.scandir(paths[0].parent) as entries:
            paths += sorted(Path(entry.path) for entry in entries if entry.is_file())
    # A digest, or the key of a folder tree would be megabytes.
    return (_CACHE_VERSION, file_stamp(paths))


def _rows(form: str, files: tuple[str, ...], split: str, stamp: tuple[Any, ...]) -> Iterator[Row]:
    """The generator behind a split; `stamp` is only there to be hashed."""
    empty = True
    for row in _READERS[form](files, split):
        empty = False
        yield row
    if empty:
        raise FerError(f"{files[0]} has no row of the {split} split; download it anew: {WHERE_TO_GET}.")


# --- finding the files --------------------------------------------------------------------------


def _find_files(root: Path, form: str | None) -> tuple[str, dict[str, tuple[str, ...]]]:
    """The first complete form below `root` and its files by split."""
    problems = []
    for candidate in FORMS if form is None else (form,):
        for folder in (root, root / "data", *((root / "fer2013",) if candidate == "csv" else ())):
            files, problem = _FINDERS[candidate](folder, root)
            if problem is None:
                return candidate, files
            if folder == root or folder.is_dir():
                problems.append(problem)
    raise FerError(f"No complete FERPlus in {str(root)!r}: {'; '.join(problems)}; {WHERE_TO_GET}.")


Found = tuple[dict[str, tuple[str, ...]], "str | None"]


def _find_parquet(folder: Path, root: Path) -> Found:
    files = {split: tuple(sorted(str(path) for path in folder.glob(f"{split}-*.parquet"))) for split in _FOLDERS}
    missing = []
    for split, paths in files.items():
        if not paths:
            missing.append(f"{split}-*.parquet")
        for path in paths:
            # The names of shards say how many there are: all of them, or the download is not finished.
            shard = _SHARD.search(path)
            if shard and len(paths) != int(shard[1]):
                missing.append(f"{int(shard[1])} files {split}-*-of-{shard[1]}.parquet (found {len(paths)})")
                break
    return files, _missing("parquet", missing, folder, root)


def _find_folders(folder: Path, root: Path) -> Found:
    files, missing = {}, []
    for split, name in _FOLDERS.items():
        labels = folder / name / "label.csv"
        files[split] = (str(labels),)
        if not labels.is_file():
            missing.append(f"{name}/label.csv")
        # A clone of the official repository has the label.csv, but no images yet.
        elif not any(path.name != "label.csv" and path.is_file() for path in labels.parent.iterdir()):
            missing.append(f"images in {name}/ (write them with FERPlus' generate_training_data.py)")
    return files, _missing("folders", missing, folder, root)


def _find_csv(folder: Path, root: Path) -> Found:
    # The votes lie at the top of the official repository, Kaggle's archive unpacks into fer2013/.
    pixels = folder / "fer2013.csv"
    votes = folder / "fer2013new.csv"
    if not votes.is_file():
        votes = root / "fer2013new.csv"
    missing = [path.name for path in (pixels, votes) if not path.is_file()]
    return dict.fromkeys(_FOLDERS, (str(pixels), str(votes))), _missing("csv", missing, folder, root)


def _missing(form: str, missing: list[str], folder: Path, root: Path) -> str | None:
    if not missing:
        return None
    place = "" if folder == root else f" (in {folder.relative_to(root)}/)"
    return f"as {form}{place} it lacks {', '.join(missing)}"


_FINDERS: dict[str, Callable[[Path, Path], Found]] = {
    "parquet": _find_parquet,
    "folders": _find_folders,
    "csv": _find_csv,
}


# --- reading the forms --------------------------------------------------------------------------


def _read_csv_pair(files: tuple[str, ...], split: str) -> Iterator[Row]:
    """Rows of `split` from fer2013.csv and fer2013new.csv, joined by position.

    fer2013.csv has no image names, so position is the only key; that is why every row's `Usage` is compared
    and both files must end together. A row without a name is an image that FERPlus dropped as no face.
    """
    pixel_file, vote_file = files
    pixel_rows = csv_rows(pixel_file, header=True, where_to_get=WHERE_TO_GET)
    vote_rows = csv_rows(vote_file, header=True, where_to_get=WHERE_TO_GET)
    _, pixel_header = next(pixel_rows, (0, []))
    _, vote_header = next(vote_rows, (0, []))
    pixel_column, usage_column = find_columns(pixel_file, pixel_header, ("pixels", "usage"), WHERE_TO_GET)
    # The votes' order is part of the format.
    expected = ["usage", "image name", *(name.lower() for name in VOTE_COLUMNS)]
    if [name.lower() for name in vote_header] != expected:
        raise FerError(
            f"{vote_file}: the header must be Usage,Image name,{','.join(VOTE_COLUMNS)}, "
            f"not {short(','.join(vote_header))}; {WHERE_TO_GET}."
        )
    rows = 0
    while True:
        pixel_line, pixel_row = next(pixel_rows, (0, None))
        vote_line, vote_row = next(vote_rows, (0, None))
        if pixel_row is None and vote_row is None:
            return
        if pixel_row is None or vote_row is None:
            fewer, more = (pixel_file, vote_file) if pixel_row is None else (vote_file, pixel_file)
            longer = rows + 1 + sum(1 for _ in (vote_rows if pixel_row is None else pixel_rows))
            raise FerError(
                f"{fewer} has {rows} rows but {more} has {longer}, and the two go together row by row: "
                f"one is truncated or from another release; {WHERE_TO_GET}."
            )
        rows += 1
        if len(pixel_row) != len(pixel_header):
            raise FerError(f"{pixel_file}, line {pixel_line}: {len(pixel_row)} columns, not {len(pixel_header)}.")
        if len(vote_row) != len(vote_header):
            raise FerError(f"{vote_file}, line {vote_line}: {len(vote_row)} columns, not {len(vote_header)}.")
        usage = pixel_row[usage_column]
        check_usage(pixel_file, pixel_line, usage)
        if vote_row[0] != usage:
            raise FerError(
                f"{vote_file}, line {vote_line}: Usage is {short(vote_row[0])}, but {usage!r} in the same "
                f"row of {pixel_file}, so the two files are not row-aligned; {WHERE_TO_GET}."
            )
        if usage != USAGE[split] or not vote_row[1]:
            continue
        yield {
            "image": {
                "bytes": encode_pixels(pixel_row[pixel_column], pixel_file, pixel_line, WHERE_TO_GET),
                "path": vote_row[1],
            },
            "votes": _parse_votes(vote_row[2:], vote_file, vote_line),
            "image_name": vote_row[1],
        }


def _read_folder(files: tuple[str, ...], split: str) -> Iterator[Row]:
    """Rows of one label.csv with the bytes of the images beside it."""
    (label_file,) = files
    folder = Path(label_file).parent
    votes = len(VOTE_COLUMNS)
    for line, row in csv_rows(label_file, header=False, where_to_get=WHERE_TO_GET):
        # The official script writes name and votes; the official repository's files have a face box between.
        if len(row) not in (1 + votes, 2 + votes):
            raise FerError(
                f"{label_file}, line {line}: {len(row)} columns, not {2 + votes} (image name, face box, ten votes)."
            )
        name = row[0]
        # The name must not lead out of the folder.
        if not name or name in (".", "..") or any(char in name for char in "/\\\0"):
            raise FerError(f"{label_file}, line {line}: {short(name)} is not a plain image file name.")
        path = folder / name
        if not path.is_file():
            raise FerError(
                f"{label_file}, line {line}: the image {str(path)!r} is not there; "
                "write the images anew with FERPlus' generate_training_data.py."
            )
        yield {
            "image": {"bytes": _checked_image(path.read_bytes(), str(path)), "path": name},
            "votes": _parse_votes(row[-votes:], label_file, line),
            "image_name": name,
        }


def _read_parquet(files: tuple[str, ...], split: str) -> Iterator[Row]:
    """Rows of a split's Parquet files, in file-name order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        row = 0
        try:
            with pq.ParquetFile(file) as parquet:
                names = parquet.schema_arrow.names
                for column in ("image", "votes"):
                    if column not in names:
                        raise FerError(f"{file}: column {column!r} is missing (found: {short(', '.join(names))}).")
                columns = [name for name in ("image", "votes", "image_name") if name in names]
                for batch in parquet.iter_batches(batch_size=1024, columns=columns):
                    for record in batch.to_pylist():
                        row += 1
                        yield _parquet_row(record, f"{file}, row {row}", split, row)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise FerError(
                f"{file} cannot be read as Parquet after row {row} ({short(str(error))}); download it anew."
            ) from error


def _parquet_row(record: Row, where: str, split: str, row: int) -> Row:
    image = record["image"]
    data = image.get("bytes") if isinstance(image, dict) else None
    # Never a bare path: `datasets` would open whatever file of this machine it names.
    if not isinstance(data, bytes):
        raise FerError(f"{where}: the image has no embedded bytes; embed the image files, paths are not followed.")
    votes = record["votes"]
    size = len(VOTE_COLUMNS)
    if not isinstance(votes, list) or len(votes) != size or any(type(vote) is not int for vote in votes):
        raise FerError(f"{where}: votes must be {size} integers, not {short(votes)}.")
    if min(votes) < 0 or max(votes) > _MAX_VOTE:
        raise FerError(f"{where}: votes must lie in 0..{_MAX_VOTE}, not {short(votes)}.")
    path = image.get("path") if isinstance(image.get("path"), str) else None
    name = record.get("image_name") or path or f"{split}-{row:07d}"
    if not isinstance(name, str):
        raise FerError(f"{where}: image_name must be text, not {short(name)}.")
    return {"image": {"bytes": _checked_image(data, where), "path": name}, "votes": votes, "image_name": name}


_READERS: dict[str, Callable[[tuple[str, ...], str], Iterator[Row]]] = {
    "parquet": _read_parquet,
    "folders": _read_folder,
    "csv": _read_csv_pair,
}


def _parse_votes(fields: list[str], file: str, line: int) -> list[int]:
    # Digits only and short: int() would also take signs, underscores and other scripts' digits.
    if any(not field or len(field) > 5 or not _DIGITS.issuperset(field) for field in fields):
        raise FerError(f"{file}, line {line}: votes must be ten integers ≥ 0, not {short(','.join(fields))}.")
    votes = [int(field) for field in fields]
    if max(votes) > _MAX_VOTE:
        raise FerError(f"{file}, line {line}: votes must lie in 0..{_MAX_VOTE}, not {short(votes)}.")
    return votes


def _checked_image(data: bytes, where: str) -> bytes:
    """`data` unchanged if it decodes as an image: found now, not in the middle of an epoch."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception as error:  # Pillow's decoders raise anything from OSError to struct.error on damaged files
        raise FerError(f"{where}: the image cannot be decoded ({short(str(error))}); get it anew.") from error
    return data
