"""The files of a folder that may go to the Hub, by the names they get there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import FerError
from ..evaluation.whole_files import shown

_NOT_ON_WINDOWS = re.compile(r'.*([\\<>:"|?*].*|[. ])|(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?', re.IGNORECASE)


@dataclass(frozen=True)
class FolderFiles:
    """What `folder_files` found.

    Args:
        files: local file by its name in a repository: relative, with `/` between the parts.
        left_out: files and folders that stay behind, relative to the folder.
    """

    files: dict[str, Path]
    left_out: tuple[str, ...] = ()


def folder_files(folder: str | os.PathLike[str]) -> FolderFiles:
    """The files in a folder and in those below it, without hidden ones and `__pycache__`.

    Raises:
        FerError: no such folder, or an empty one; a link that leads out of it, to a folder or to a hidden file,
            something that is no file, or a name that the Hub would not keep as it is.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FerError(f"There is no folder {shown(folder)} to push; name one.")
    root = folder.resolve()
    files: dict[str, Path] = {}
    left_out: list[str] = []

    def fail(error: OSError) -> None:
        raise FerError(f"{shown(folder)} cannot be read ({error.strerror or error}); put that right first.") from error

    for where, folders, names in os.walk(folder, onerror=fail):
        here = Path(where)
        for name in sorted(folders):
            if (here / name).is_symlink() and not is_left_out(name):
                raise FerError(f"{shown(here / name)} is a link to a folder; put the folder itself there.")
        left_out += [f"{(here / name).relative_to(folder).as_posix()}/" for name in folders if is_left_out(name)]
        folders[:] = sorted(name for name in folders if not is_left_out(name))
        for name in sorted(names):
            path = here / name
            relative = path.relative_to(folder).as_posix()
            if is_left_out(name):
                left_out.append(relative)
                continue
            if not is_repo_path(relative):
                raise FerError(f"{shown(path)} has a name that a repository cannot hold; rename the file.")
            check_link(path, root)
            if not path.is_file():
                raise FerError(f"{shown(path)} is no file, so it cannot be pushed; remove it.")
            files[relative] = path
    if not files:
        raise FerError(f"{shown(folder)} holds no file to push; name another folder.")
    return FolderFiles(files, tuple(sorted(left_out)))


def check_link(path: Path, root: Path) -> None:
    """Raises FerError if a path in the folder `root` (resolved) leads out of it, or to a file that stays behind."""
    target = path.resolve()
    if root not in target.parents:
        raise FerError(f"{shown(path)} is a link that leads out of its folder; put the file itself there.")
    if any(map(is_left_out, target.relative_to(root).parts)):
        raise FerError(f"{shown(path)} is a link to a file that stays on this machine; remove it.")


def is_left_out(name: str) -> bool:
    """Whether a file or folder of that name stays on this machine."""
    return name.startswith(".") or name == "__pycache__" or name.endswith(".pyc")


def is_repo_path(name: str) -> bool:
    """Whether it names a file in a repository: a relative path of printable parts, none of them hidden, that can be
    checked out on every system."""
    parts = name.split("/")
    return (
        0 < len(name.encode(errors="replace")) <= 1000
        and name.isprintable()
        and all(part and not part.startswith(".") and not _NOT_ON_WINDOWS.fullmatch(part) for part in parts)
    )
