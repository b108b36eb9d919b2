"""Pictures out of video files that come from anywhere, through FFmpeg's libraries (PyAV).

A file is hostile until decoded: it is opened here and handed over as bytes, only container formats that hold their
pictures themselves are tried (a playlist could name other files and addresses), and the decoder refuses pictures over
a limit before it makes room for them; `mp4_index` does the same for the samples that an index claims.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import FerError
from ..evaluation.whole_files import shown
from .messages import brief
from .mp4_index import check_samples
from .video_report import VideoReport

if TYPE_CHECKING:
    import av
    from PIL import Image

MAX_FRAME_PIXELS = 7680 * 4320
"""Default limit on width times height of a frame: 8K television."""

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".flv", ".wmv", ".asf",
    ".ogv", ".3gp", ".3g2",
))
# fmt: on
"""File name endings that mean a video; a GIF is a photo unless it is given to the functions for videos."""

# Demuxers by FFmpeg's names. None of them opens a second file or an address.
_FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,h264,hevc,m4v,ivf"
_MAX_SKEW = 4  # a pixel may be this much wider than high, or the reverse
_LONGEST_GAP = 3600.0  # s between two frames; more is a broken clock
_MAX_DAMAGED = 500  # packets that cannot be decoded, in a row: then the rest is given up


@dataclass
class Picture:
    """One decoded frame; `image()` converts it, and works until the next one is taken.

    Attributes:
        index: number of the frame in the order of presentation, from 0.
        seconds: time of presentation after the first frame; increases.
        image: makes the RGB picture the right way up.
    """

    index: int
    seconds: float
    image: Callable[[], Image.Image]


@dataclass(frozen=True)
class VideoInfo:
    """What a file's header says, true or not, so that a length can be refused before anything is decoded.

    Attributes:
        seconds: length; None if it is not stated (as in what browsers record).
        frame_rate: frames a second; None if not stated.
        width, height: px, as stored.
        sound: there is a sound track.
    """

    seconds: float | None
    frame_rate: float | None
    width: int
    height: int
    sound: bool


def probe_video(path: str | os.PathLike[str], *, max_pixels: int = MAX_FRAME_PIXELS) -> VideoInfo:
    """Read a video's header.

    Raises:
        FerError: as for `file_pictures`; whether pictures can be decoded is not looked at.
    """
    with _opened(path, max_pixels) as (container, stream, _):
        rate = _rate(stream)
        return VideoInfo(
            _stated_seconds(container, stream), rate, stream.width, stream.height, bool(container.streams.audio)
        )


def file_pictures(path: str | os.PathLike[str], report: VideoReport, max_pixels: int) -> Iterator[Picture]:
    """All frames of the first video track of a file, in the order of presentation.

    Frames that the decoder calls damaged, or cannot decode, are left out, and `report` gets a warning; so it does where
    the file ends before the time it states. Times come from the file (variable frame rates keep theirs); where they are
    missing or jump back, the frame rate stands in. Rotation and pixels that are not square are undone.

    Raises:
        FerError: PyAV is missing; or the file is, is empty, is no video, has no video track or no decoder for it, is
            cut off before its index or has one that claims more than it can hold, has frames over `max_pixels`, or not
            one that can be decoded.
    """
    with _opened(path, max_pixels) as (container, stream, name):
        report.frame_rate = _rate(stream)
        report.stated_seconds = _stated_seconds(container, stream)
        report.sound = bool(container.streams.audio)
        clock = _Clock(1 / report.frame_rate if report.frame_rate else 1 / 25)
        damage = _Damage()
        end = 0.0
        skew = _skew(stream)
        for frame in _frames(container, stream, damage):
            size = _upright_size(frame, skew)
            if size[0] * size[1] > max_pixels:
                damage.fatal = f"a frame of {size[0]} x {size[1]} is over the limit of {max_pixels:,} pixels"
                break
            seconds = clock.tick(None if frame.time is None else float(frame.time))
            if not report.frames:
                report.width, report.height = size
            report.seconds = seconds
            report.frames += 1
            end = seconds + max(_shown_for(frame), clock.step)
            canvas = report.width, report.height

            def image(frame: av.VideoFrame = frame, canvas: tuple[int, int] = canvas) -> Image.Image:
                return _image(frame, skew, canvas)

            yield Picture(report.frames - 1, seconds, image)
        if not report.frames:
            reason = damage.fatal or damage.first or "it holds none"
            raise FerError(
                f"{name}: not one picture of this video can be decoded ({reason}); "
                f"it is damaged, or its frames are over the limit of {max_pixels:,} pixels"
            )
        report.ended = "damaged" if damage.fatal or damage.first else "end"
        # Where the whole file's length is all that is stated, its sound may be what lasts that long.
        report.warning = _warning(name, report, damage, max(end, damage.sound_end))


@dataclass
class _Damage:
    """What went wrong in the decoder, and how far the sound goes that nobody decodes."""

    sound_end: float = 0.0  # s
    count: int = 0  # packets and frames
    since: int = 0  # of them, since the last good frame
    first: str | None = None
    fatal: str | None = None

    def add(self, reason: str) -> None:
        self.count += 1
        self.since += 1
        self.first = self.first or reason


class _Clock:
    """Times that increase from 0, whatever the file says."""

    def __init__(self, step: float) -> None:
        self.step = step
        self._shift: float | None = None
        self._last = 0.0

    def tick(self, stated: float | None) -> float:
        if stated is None or not math.isfinite(stated):
            seconds = 0.0 if self._shift is None else self._last + self.step
            self._shift = self._shift or 0.0
        elif self._shift is None:
            self._shift, seconds = -stated, 0.0
        else:
            seconds = stated + self._shift
            if not self._last < seconds <= self._last + _LONGEST_GAP:  # joined recordings start over
                seconds = self._last + self.step
                self._shift = seconds - stated
        self._last = seconds
        return seconds


@contextlib.contextmanager
def _opened(
    path: str | os.PathLike[str], max_pixels: int
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream, str]]:
    """A container and its first real video track, ready to be decoded, and the name for messages."""
    av = import_av()
    name = shown(path)
    with _open_bytes(path, name) as file:
        options = {"format_whitelist": _FORMATS, "max_pixels": str(max_pixels)}
        try:
            check_samples(file, name)
            container = av.open(file, options=options, metadata_errors="replace", io_open=_refuse)
        except FerError:
            raise
        except Exception as error:  # demuxers raise whatever a damaged file makes them raise
            raise FerError(f"{name}: {_why_not_opened(path, error)}") from error
        with container:
            stream = _video_stream(container, name)
            context = stream.codec_context
            width, height = context.width, context.height
            if width * height > max_pixels:
                raise FerError(f"{name}: refused, {width} x {height} is over the limit of {max_pixels:,} pixels")
            context.options = {"max_pixels": str(max_pixels)}
            yield container, stream, name


def _open_bytes(path: str | os.PathLike[str], name: str) -> BinaryIO:
    """The file, open for reading; never a pipe or a device, on which reading would not end."""
    text = os.fspath(path)
    if text.startswith(("http://", "https://", "rtsp://", "data:")):
        raise FerError(f"{name[:200]}: this is an address, not a local file; download it first")
    try:
        status = Path(text).stat()
        if stat.S_ISDIR(status.st_mode):
            raise FerError(f"{name}: this is a folder, not a video file")
        if not stat.S_ISREG(status.st_mode):
            raise FerError(f"{name}: this is not a regular file")
        if status.st_size == 0:
            raise FerError(f"{name}: the file is empty")
        return Path(text).open("rb")
    except FileNotFoundError as error:
        raise FerError(f"{name}: no such file") from error
    except FerError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise FerError(f"{name}: cannot be read ({brief(error)})") from error


def _why_not_opened(path: str | os.PathLike[str], error: Exception) -> str:
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        start = file.read(4096)
        text = start.lstrip().lower()
        if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<script")):
            return "not a video, it holds a web page; download it again"
        if text.startswith((b"#extm3u", b"ffconcat")):
            return "a playlist that names other files, which are not opened; give it the video itself"
        if text.startswith(b"version https://git-lfs"):
            return "not a video, it is a Git LFS pointer; run `git lfs pull`"
        if start[4:8] == b"ftyp":
            return "damaged or cut short: the index of this MP4 file cannot be found, and nothing can be read without"
    return f"not a video file that can be read ({brief(error)})"


def _video_stream(container: av.container.InputContainer, name: str) -> av.VideoStream:
    import av

    cover = getattr(av.stream, "Disposition", None)
    streams = list(container.streams.video)
    if cover is not None:  # the picture of a song's album
        streams = [s for s in streams if not s.disposition & cover.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams if stream.type})) or "nothing"
        raise FerError(f"{name}: there are no moving pictures in this file, only {kinds}")
    if streams[0].codec_context is None:
        raise FerError(
            f"{name}: its pictures are in a format that this FFmpeg cannot decode; convert it to MP4 (H.264)"
        )
    return streams[0]


def _frames(container: av.container.InputContainer, stream: av.VideoStream, damage: _Damage) -> Iterator[av.VideoFrame]:
    """Whole frames; what is not is noted in `damage`."""
    packets = container.demux(stream, *container.streams.audio)
    while damage.since < _MAX_DAMAGED:
        try:
            packet = next(packets, None)
        except Exception as error:  # the container itself is damaged here: there is no way on
            damage.add(brief(error))
            return
        if packet is None:
            return
        if packet.stream is not stream:
            if packet.pts is not None and packet.time_base:
                damage.sound_end = max(
                    damage.sound_end, float((packet.pts + (packet.duration or 0)) * packet.time_base)
                )
            continue
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except Exception as error:
            damage.add(brief(error))
            continue
        if packet.is_corrupt:  # or only out of sequence, as where recordings were joined: the picture may be good
            damage.add("data lost")
        for frame in frames:
            if frame.is_corrupt:
                damage.add("data lost")
                continue
            damage.since = 0
            yield frame


def _warning(name: str, report: VideoReport, damage: _Damage, end: float) -> str | None:
    """One sentence on what is missing, or None."""
    read = f"the {report.frames} frames up to {report.seconds:.2f} s were read"
    if damage.fatal:
        return f"{name}: {damage.fatal}; {read}, not the rest"
    stated = report.stated_seconds or 0.0
    short = stated - end > max(1.0, 0.02 * end)  # sound may be a little longer
    if damage.first and (short or damage.since):
        return f"{name}: damaged or cut short after {report.seconds:.2f} s ({damage.first}); {read}"
    if damage.first:
        return f"{name}: damaged in {damage.count} of its packets ({damage.first}); {read}"
    if short:
        return f"{name}: its pictures end at {end:.2f} s, though it says {stated:.2f} s; it may be cut short"
    return None


def _rate(stream: av.VideoStream) -> float | None:
    """Frames a second, of sane size."""
    for rate in (stream.average_rate, stream.base_rate):
        if rate and 0.01 <= rate <= 1000:
            return float(rate)
    return None


def _stated_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        seconds = container.duration / 1_000_000
    else:
        return None
    return seconds if seconds > 0 else None


def _shown_for(frame: av.VideoFrame) -> float:
    """Seconds that a frame is shown, 0 if unknown."""
    duration = getattr(frame, "duration", None)  # of newer PyAV
    return max(0.0, float(duration * frame.time_base)) if duration and frame.time_base else 0.0


def _turns(frame: av.VideoFrame) -> int:
    """Quarter turns counterclockwise that put a frame upright."""
    return round(frame.rotation / 90) % 4


def _skew(stream: av.VideoStream) -> Fraction:
    """Width of a pixel by its height; 1 where a header says nothing sane."""
    skew = stream.sample_aspect_ratio or Fraction(1)
    return skew if Fraction(1, _MAX_SKEW) <= skew <= _MAX_SKEW else Fraction(1)


def _upright_size(frame: av.VideoFrame, skew: Fraction) -> tuple[int, int]:
    """Size in square pixels, turned."""
    width, height = max(1, round(frame.width * skew)), frame.height
    return (height, width) if _turns(frame) % 2 else (width, height)


def _image(frame: av.VideoFrame, skew: Fraction, canvas: tuple[int, int]) -> Image.Image:
    """RGB, upright. All frames of a video get the size of its first one, so that boxes share their coordinates."""
    from PIL import Image

    picture = frame.to_image(width=max(1, round(frame.width * skew)), height=frame.height)
    turns = _turns(frame)
    if turns:
        turn = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)[turns - 1]
        picture = picture.transpose(turn)
    return picture if picture.size == canvas else picture.resize(canvas, Image.Resampling.BICUBIC)


def _refuse(url: str, flags: int, options: dict[str, Any]) -> BinaryIO:
    raise PermissionError("a video that names another file; it is not opened")


def import_av() -> Any:
    """PyAV 14.1 or newer, or a sentence on how to get it."""
    try:
        import av
    except ImportError as error:
        raise FerError(f'videos need PyAV ({brief(error)}): pip install "hf-fer[video]"') from error
    if not hasattr(av.VideoFrame, "rotation"):  # before 14.1: videos of phones would lie on their side
        raise FerError(f"PyAV {av.__version__} is too old for videos: pip install --upgrade av")
    return av
