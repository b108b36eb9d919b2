"""Opening image files that come from anywhere, and finding them.

`open_image` always answers with an 8-bit RGB picture the right way up, or with one `FerError`
sentence. It differs from `transformers.image_utils.load_image` where that one loses the picture:

- 16-bit, 32-bit and float greys are scaled to 8 bits; `Image.convert("RGB")` clips them, and a 16-bit
  PNG comes out almost entirely white;
- transparent pixels are composited over white, as `transformers.image_transforms.convert_to_rgb` does
  and as most viewers show them; `load_image` drops the alpha channel and uncovers whatever colour the
  editor left underneath.

Everything else (CMYK, palettes, 1-bit, grey, EXIF orientation, first frame of an animation) gives
the same pixels as `load_image`.
"""

from __future__ import annotations

import glob
import io
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..data.images import to_rgb
from ..errors import FerError
from .download import is_address
from .messages import brief

MAX_PIXELS = 64_000_000
"""Default limit on width times height: a 64-megapixel photo is 192 MB once decoded."""

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2",
))
# fmt: on
"""File name endings that are taken for images inside a folder (a file named directly is always tried)."""

# The formats we let Pillow try. Not all it knows: EPS, for one, runs Ghostscript on the file.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "MPO", "AVIF", "JPEG2000")

_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class FailedImage:
    """A path without an answer, and one sentence why."""

    path: str
    reason: str


def open_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image file to RGB.

    Args:
        path: a local file: JPEG, PNG, GIF, BMP, WebP, TIFF, PNM, JPEG 2000 or AVIF, whatever its name.
        max_pixels: larger images are refused from their header, before anything is decoded.

    Returns:
        A PIL image, mode "RGB" (uint8, 0..255), upright according to its EXIF orientation, first frame
        if there are several, transparency composited over white.

    Raises:
        FerError: missing, not a regular file, unreadable, empty, not an image, damaged, or too large.
    """
    _check_regular_file(path)
    return _decode(path, _printable(path), max_pixels)


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """`open_image` of a file that is in memory.

    Args:
        data: what the file holds.
        name: what messages call it.
        max_pixels: see `open_image`.

    Raises:
        FerError: empty, not an image, damaged, or too large.
    """
    if not data:
        raise FerError(f"{name}: the file is empty")
    return _decode(io.BytesIO(data), name, max_pixels)


def refuse_size(width: int, height: int, name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Raises FerError where a picture has more than `max_pixels` pixels, or none."""
    if width * height > max_pixels:
        raise FerError(f"{name}: refused, {width} x {height} is over the limit of {max_pixels:,} pixels")
    if width < 1 or height < 1:
        raise FerError(f"{name}: the image has no pixels ({width} x {height})")


def _decode(source: str | os.PathLike[str] | io.BytesIO, name: str, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(source, formats=_known_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # from the header, too
        raise FerError(f"{name}: refused, its size is far over the limit of {max_pixels:,} pixels") from error
    except Image.UnidentifiedImageError as error:
        raise FerError(f"{name}: not an image file that can be read{_guess_content(source)}") from error
    except Exception as error:  # decoders raise whatever a damaged file makes them raise
        raise FerError(f"{name}: cannot be opened as an image ({brief(error)})") from error
    with image:
        refuse_size(*image.size, name, max_pixels)
        try:
            image.load()
            return upright_rgb(image)
        except FerError as error:
            raise FerError(f"{name}: {error}") from error
        except Exception as error:
            raise FerError(f"{name}: damaged or cut short, cannot be decoded ({brief(error)})") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """A decoded picture as 8-bit RGB, turned and mirrored as its EXIF orientation says.

    Raises:
        FerError: a mode that Pillow cannot convert.
    """
    orientation = _read_orientation(image)
    rgb = to_rgb(image)
    return rgb.transpose(_ORIENTATIONS[orientation]) if orientation in _ORIENTATIONS else rgb


def iter_image_paths(
    paths: Iterable[str | os.PathLike[str]], suffixes: frozenset[str] = IMAGE_SUFFIXES
) -> tuple[list[str], list[FailedImage]]:
    """List the image files that some paths mean.

    Args:
        paths: files and addresses (taken as they are), folders (searched recursively, following links once, for
            `suffixes`, in sorted order, hidden files and folders skipped), or patterns such as
            `photos/**/*.jpg` that the shell did not expand. A path that exists is never a pattern.
        suffixes: file name endings, in small letters, that count inside a folder.

    Returns:
        The files in order, each once, and the paths that led to none, each with a reason. Nothing is
        opened here, so a listed file can still fail later.
    """
    found: dict[str, str] = {}
    failures: list[FailedImage] = []
    for given in paths:
        path = os.fspath(given)
        files, reason = _expand(path, suffixes, failures)
        if reason:
            failures.append(FailedImage(path, reason))
        for file in files:
            # Absolute, but links unresolved: two names of one file are two answers the user asked for.
            found.setdefault(os.path.abspath(file), file)  # noqa: PTH100
    return list(found.values()), failures


def _expand(path: str, suffixes: frozenset[str], failures: list[FailedImage]) -> tuple[list[str], str | None]:
    """The files one argument means, or the reason why there are none."""
    if is_address(path):  # a ? in it is no pattern
        return [path], None
    try:
        mode = os.stat(path).st_mode if path else None  # noqa: PTH116 (Path("") is ".")
    except (OSError, ValueError):
        mode = None
    if mode is None and any(c in path for c in "*?["):
        matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 (absolute patterns, sorted names)
        files = [f for m in matches for f in (_walk(m, suffixes, failures) if Path(m).is_dir() else [m])]
        return files, None if files else f"{_printable(path)}: no file matches this pattern"
    if mode is not None and stat.S_ISDIR(mode):
        files = _walk(path, suffixes, failures)
        return files, None if files else f"{_printable(path)}: no image file in this folder"
    return [path], None  # a missing file is reported when it is opened, in its place among the others


def _walk(folder: str, suffixes: frozenset[str], failures: list[FailedImage]) -> list[str]:
    """Image files below a folder, sorted; every real folder is entered once, so link loops end."""

    def unreadable(error: OSError) -> None:
        name = str(error.filename)
        failures.append(FailedImage(name, f"{_printable(name)}: the folder cannot be read ({error.strerror})"))

    files: list[str] = []
    entered: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(parent)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += (
            os.path.join(parent, name)  # noqa: PTH118 (millions of frames: strings are lighter)
            for name in sorted(names)
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122
        )
    return files


def _check_regular_file(path: str | os.PathLike[str]) -> None:
    """Refuse what must not be opened at all: reading a pipe or a device would never end."""
    name, shown = os.fspath(path), _printable(path)
    if name.startswith(("http://", "https://", "data:")):
        raise FerError(f"{shown[:200]}: this is an address, not a local file; download it first")
    if not name:
        raise FerError("'': an empty path names no image")
    try:
        status = Path(name).stat()
    except FileNotFoundError as error:
        raise FerError(f"{shown}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise FerError(f"{shown}: cannot be read ({brief(error)})") from error
    if stat.S_ISDIR(status.st_mode):
        raise FerError(f"{shown}: this is a folder, not an image file")
    if not stat.S_ISREG(status.st_mode):
        raise FerError(f"{shown}: this is not a regular file")
    if status.st_size == 0:
        raise FerError(f"{shown}: the file is empty")
    if not os.access(name, os.R_OK):
        raise FerError(f"{shown}: cannot be read, permission denied")


def _known_formats() -> list[str]:
    """Of `_FORMATS`, those this Pillow has (AVIF is newer than our oldest Pillow)."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _read_orientation(image: Image.Image) -> int:
    """EXIF orientation, 1..8; 1 where there is none, or its block is damaged: the picture is still good."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _guess_content(source: str | os.PathLike[str] | io.BytesIO) -> str:
    """A hint for the commonest impostor: a download that saved an error page."""
    try:
        if isinstance(source, io.BytesIO):
            start = source.getvalue()[:256]
        else:
            with Path(source).open("rb") as file:
                start = file.read(256)
    except OSError:
        return ""
    start = start.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<script")):
        return ", it holds a web page; download it again"
    if start.startswith(b"version https://git-lfs"):
        return ", it is a Git LFS pointer; run `git lfs pull`"
    return ""


def _printable(path: str | os.PathLike[str]) -> str:
    """A path as it can stand in a one-line message: quoted where it is empty or holds control characters."""
    name = os.fspath(path)
    return name if name and name.isprintable() else repr(name)
