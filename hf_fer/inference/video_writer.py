"""MP4 files that any browser plays: H.264, 4:2:0, index first."""

from __future__ import annotations

import contextlib
import os
import threading
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FerError
from ..evaluation.whole_files import refuse_existing, shown
from .messages import brief
from .video_files import import_av

if TYPE_CHECKING:
    from types import TracebackType

    from PIL import Image

MAX_SIDE = 3840
"""Longer side in px of what is written: 4K, which phones can decode, too. Larger pictures are scaled down to it."""

_TICKS = 90_000  # a second; MPEG's clock, which all usual frame rates divide


class VideoWriter:
    """A context that writes pictures, each with its time, so that variable frame rates stay what they are.

    The file gets its name when the context ends without an error; otherwise nothing is left. There is no sound.
    """

    def __init__(self, path: str | os.PathLike[str], rate: float | None = None, overwrite: bool = False) -> None:
        """
        Args:
            path: ends in .mp4; its folder is made.
            rate: frames a second on average, if known, for the header.
            overwrite: replace a file of that name.

        Raises:
            FerError: another ending, the file exists, or PyAV is missing or lacks an H.264 encoder.
        """
        self.path = check_annotated(path, overwrite)
        self._overwrite = overwrite
        self._rate = Fraction(rate or 25).limit_denominator(1001)
        name = f".{self.path.name}.{os.getpid()}.{threading.get_ident()}.tmp"
        self._temporary = self.path.with_name(name)
        self._container: Any = None
        self._stream: Any = None
        self._size = (0, 0)
        self._last = -1

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, picture: Image.Image, seconds: float) -> None:
        """Append a picture ("RGB"). All get the size of the first, which is scaled down to `MAX_SIDE` where it is over;
        an odd last row or column is repeated once, since 4:2:0 knows even sizes only.

        Raises:
            FerError: the file cannot be written, or the encoder refuses the size.
        """
        import av

        try:
            if self._container is None:
                self._open(av, picture)
            if picture.size != self._size:
                picture = picture.resize(self._size)
            frame = av.VideoFrame.from_image(_even(picture))
            frame = frame.reformat(format="yuv420p", dst_colorspace=av.video.reformatter.Colorspace.ITU709)
            # Two frames within one tick: the later one still comes later.
            self._last = max(self._last + 1, round(seconds * _TICKS))
            frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
            self._container.mux(self._stream.encode(frame))
        except (OSError, ValueError, RuntimeError, av.FFmpegError) as error:
            raise self._failed(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._container is not None:
                if kind is None:
                    self._finish()
                else:
                    with contextlib.suppress(Exception):
                        self._container.close()
        finally:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)

    def _open(self, av: Any, picture: Image.Image) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Absolute, or a name with a colon would be taken for an address.
        where = str(self._temporary.absolute())
        self._container = av.open(where, "w", format="mp4", options={"movflags": "+faststart"})
        try:
            stream = self._container.add_stream("libx264", rate=self._rate)
        except Exception as error:
            raise FerError(f"this PyAV has no H.264 encoder ({brief(error)}); install av from PyPI") from error
        scale = min(1.0, MAX_SIDE / max(picture.size))
        self._size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        stream.width, stream.height = (side + side % 2 for side in self._size)
        stream.pix_fmt = "yuv420p"
        # No B-frames: with uneven times, the length that the muxer states would be short by their delay.
        stream.options = {"preset": "veryfast", "crf": "20", "bf": "0"}
        context = stream.codec_context
        context.time_base = Fraction(1, _TICKS)
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # 16..235
        self._stream = stream

    def _finish(self) -> None:
        import av

        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            refuse_existing(self.path, self._overwrite)
            self._temporary.replace(self.path)
        except (OSError, ValueError, RuntimeError, av.FFmpegError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> FerError:
        if isinstance(error, FerError):
            return error
        return FerError(f"{shown(self.path)} cannot be written ({brief(error)}); choose another place, or make room")


def check_annotated(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """The path, if a video may be written there, before hours of work go into it.

    Raises:
        FerError: it does not end in .mp4, or exists and is not to be overwritten, or PyAV is missing.
    """
    where = Path(path)
    if where.suffix.lower() != ".mp4":
        raise FerError(f"{shown(where)}: an annotated video is an MP4 file; use a name that ends in .mp4")
    refuse_existing(where, overwrite)
    import_av()
    return where


def _even(picture: Image.Image) -> Image.Image:
    """The picture with its last row or column repeated where their number is odd."""
    import numpy as np
    from PIL import Image

    width, height = picture.size
    if width % 2 == 0 and height % 2 == 0:
        return picture
    return Image.fromarray(np.pad(np.asarray(picture), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
