"""Digests of files, which are read piece by piece."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


def sha256(path: Path) -> str:
    """Of a file's content, in lower-case hex."""
    return _digest(path, hashlib.sha256())


def git_sha1(path: Path) -> str:
    """What git calls a file's content, in lower-case hex."""
    return _digest(path, hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False))


def _digest(path: Path, digest: Any) -> str:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return str(digest.hexdigest())
