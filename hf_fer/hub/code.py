"""What code lies in a model's folder: the SHA-256 of every Python file. Pure standard library."""

from __future__ import annotations

from pathlib import Path

from ..digests import sha256
from ..errors import FerError


def code_hashes(folder: str | Path) -> dict[str, str]:
    """SHA-256, in lower-case hex, of each `*.py` right in `folder`, by file name and in its order.

    Folders below it do not count: transformers copies and loads the code of one flat folder. Links are followed, as
    the snapshots of the Hub's cache are made of them.

    Raises:
        FerError: there is no such folder, or something called `*.py` in it is no file or cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FerError(f"There is no folder {folder} whose code could be hashed; name the folder of a model.")
    return {path.name: _sha256(path) for path in sorted(folder.glob("*.py"))}


def _sha256(path: Path) -> str:
    if not path.is_file():  # a folder, a device that never ends, a link that leads nowhere
        raise FerError(f"{path} is not a file, so its code cannot be hashed; remove it, or put the file there.")
    try:
        return sha256(path)
    except OSError as error:
        raise FerError(f"{path} cannot be read ({error}), so its code cannot be hashed.") from error
