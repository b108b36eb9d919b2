"""What the loaders of folder trees share: folders named after expressions, image files, groups and counts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import FerError
from ..labels import canonical_expression
from .raw_files import check_counts, short

#: Endings, in any case, of the files that count as images; every other file in a folder of images is left alone.
IMAGE_SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

Columns = dict[str, list[Any]]


@contextmanager
def readable(title: str) -> Iterator[None]:
    """Makes a file or folder of `title` that cannot be looked at meanwhile a FerError that names it."""
    try:
        yield
    except OSError as error:
        raise FerError(
            f"{title}: {str(error.filename)!r} cannot be read ({error.strerror}); make it readable, or get it anew."
        ) from error


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder` by name, without hidden ones and what unpacking on a Mac leaves behind."""
    return [path for path in _entries(folder) if path.name != "__MACOSX" and path.is_dir()]


def image_files(title: str, folder: Path, where_to_get: str) -> list[Path]:
    """The image files in `folder` by name.

    Raises:
        FerError: no image, an empty file (what an unfinished download leaves), or a name that is not UTF-8.
    """
    files = []
    for path in _entries(folder):
        if not path.name.lower().endswith(IMAGE_SUFFIXES):
            continue
        try:
            path.name.encode()
        except UnicodeEncodeError as error:
            raise FerError(f"{title}: {short(str(path))} is not a name in UTF-8; rename or remove the file.") from error
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            continue
        if status.st_size == 0:
            raise FerError(f"{title}: the image {str(path)!r} is empty, so the download is not finished; get it anew.")
        files.append(path)
    if not files:
        raise FerError(f"{title}: there is no image in {str(folder)!r}; {where_to_get}.")
    return files


def expression_folders(
    title: str, folder: Path, names: Sequence[str], official: Sequence[str], where_to_get: str, prefix: str = ""
) -> dict[str, Path]:
    """The folder of each expression in `folder`, by canonical name in the order of `names`.

    Args:
        title: of the dataset, for people.
        folder: that holds one folder for each expression and no other; "Happy", "joy" and "happiness" are one.
        names: canonical names in id order.
        official: what the release calls the folders, without `prefix`; for people.
        where_to_get: ends the sentence of every error.
        prefix: of every folder's name ("aia_" of "aia_joy").

    Raises:
        FerError: an expression without a folder or with two, a folder that is none of `names`.
    """
    found: dict[str, Path] = {}
    others = []
    for path in subfolders(folder):
        name = _expression(path.name, prefix)
        if name not in names:
            others.append(path.name)
        elif name in found:
            raise FerError(
                f"{title}: {found[name].name!r} and {path.name!r} in {str(folder)!r} are both {name}; keep one."
            )
        else:
            found[name] = path
    missing = [name for name in names if name not in found]
    if missing or others:
        held = ", ".join(path.name for path in found.values()) or "none of them"
        besides = f" and besides {short(', '.join(others))}" if others else ""
        raise FerError(
            f"{title}: {str(folder)!r} must hold the folders {', '.join(prefix + name for name in official)}, "
            f"but has {held}{besides}; {where_to_get}."
        )
    return {name: found[name] for name in names}


def labelled_images(
    title: str,
    root: Path,
    folder: Path,
    names: Sequence[str],
    official: Sequence[str],
    where_to_get: str,
    prefix: str = "",
) -> Columns:
    """Columns `image` (paths), `label` (ids) and `image_name` (path below `root`) of a folder of expression folders.

    Rows are ordered by id, then by file name. Arguments and errors are those of `expression_folders`, errors also those
    of `image_files`.
    """
    columns: Columns = {"image": [], "label": [], "image_name": []}
    folders = expression_folders(title, folder, names, official, where_to_get, prefix)
    for label, path in enumerate(folders.values()):
        files = image_files(title, path, where_to_get)
        below = path.relative_to(root).as_posix()
        columns["image"] += files
        columns["label"] += [label] * len(files)
        columns["image_name"] += [f"{below}/{file.name}" for file in files]
    return columns


def split_by_group(title: str, columns: Columns, option: str, test_groups: Sequence[str] | None) -> dict[str, Columns]:
    """One split `train`; or `train` and `test`, which shares no value of the column `group` with it.

    Args:
        title: of the dataset, for people.
        columns: of all images, `group` among them.
        option: name of the loader's option, for people.
        test_groups: groups of the test split; None makes no test split.

    Raises:
        FerError: not a list of groups there are, or all of them.
    """
    if test_groups is None:
        return {"train": columns}
    groups = sorted(set(columns["group"]))
    wanted = [*test_groups] if isinstance(test_groups, Iterable) and not isinstance(test_groups, str) else []
    wrong = [group for group in wanted if group not in groups]
    if not wanted or wrong:
        raise FerError(f"{title}: {option}={short(test_groups)} must be a list of some of {', '.join(groups)}.")
    if set(wanted) == set(groups):
        raise FerError(f"{title}: {option} names all of {', '.join(groups)}, which leaves nothing to train on.")
    in_test = [group in wanted for group in columns["group"]]
    return {
        split: {
            name: [value for value, is_test in zip(column, in_test, strict=True) if is_test == (split == "test")]
            for name, column in columns.items()
        }
        for split in ("train", "test")
    }


def split_sizes(splits: Mapping[str, Columns]) -> dict[str, int]:
    """Images in each split."""
    return {split: len(columns["label"]) for split, columns in splits.items()}


def check_class_counts(
    title: str, root: Path, what: str, labels: Iterable[int], names: Sequence[str], expected: Sequence[int]
) -> None:
    """Raises FerError where `labels` has not `expected[i]` images of class `names[i]`; `what` as "train images"."""
    counts = [0] * len(names)
    for label in labels:
        counts[label] += 1
    found = dict(zip(names, counts, strict=True))
    check_counts(title, root, f"{what} by class", found, dict(zip(names, expected, strict=True)))


def check_one_of_counts(
    title: str, root: Path, what: str, found: Mapping[str, int], published: Sequence[Mapping[str, int]]
) -> None:
    """Raises FerError where `found` is none of the `published` counts, for releases on which sources differ."""
    if all(dict(found) != dict(counts) for counts in published):
        listed = ", or ".join(" / ".join(f"{name} {count}" for name, count in counts.items()) for counts in published)
        raise FerError(
            f"{title} in {str(root)!r} is not a known release: {what} are "
            f"{' / '.join(f'{name} {count}' for name, count in found.items())}, published are {listed}; "
            "download it anew, or load it without check_counts."
        )


def _entries(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [folder / name for name in sorted(entry.name for entry in entries) if not name.startswith(".")]


def _expression(name: str, prefix: str) -> str | None:
    if not name.startswith(prefix):
        return None
    try:
        return canonical_expression(name.removeprefix(prefix))
    except FerError:
        return None
