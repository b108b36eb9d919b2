"""From a video or a camera to expressions over time: sampled frames, tracked faces, smoothed probabilities.

Everything is a stream: a frame, the tracks that are alive and the encoder's queue are in memory, however long it is.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import FerError
from ..evaluation.whole_files import shown
from .annotate import draw_faces
from .smoothing import ProbabilitySmoother
from .timeline import write_timeline
from .tracking import Tracker
from .video_files import MAX_FRAME_PIXELS, VIDEO_SUFFIXES, Picture, VideoInfo, file_pictures, probe_video
from .video_report import VideoReport
from .video_writer import VideoWriter, check_annotated
from .webcam import webcam_number, webcam_pictures

if TYPE_CHECKING:
    from types import FrameType

    from PIL import Image

__all__ = [
    "MAX_FRAME_PIXELS",
    "VIDEO_SUFFIXES",
    "FrameFaces",
    "VideoAnalysis",
    "VideoInfo",
    "VideoReport",
    "analyze_video",
    "probe_video",
    "read_frames",
    "stop_on_interrupt",
    "write_timeline",
]

_TOLERANCE = 0.001  # s; containers round times to their own clock, Matroska to milliseconds


@dataclass(frozen=True)
class FrameFaces:
    """The faces of one sampled frame.

    Attributes:
        frame: number of the frame in the video, from 0.
        seconds: time of presentation after the first frame.
        faces: as from `FacialExpressionPipeline`, largest first, with three keys more: "track", the number of the face
            in this video, and "raw_label" and "raw_probabilities", the answer for this frame alone. "label", "score"
            and "probabilities" are smoothed over time; "reliability" is that of the answer for this frame alone.
    """

    frame: int
    seconds: float
    faces: list[dict[str, Any]]


class VideoAnalysis(Iterator[FrameFaces]):
    """What `analyze_video` returns: iterate over it, or use it as a context, and read `report` at any time.

    Ending the iteration early (leaving the context, `close()`) closes the file or camera at once, and leaves no
    annotated video; to keep one, end by `stop`.
    """

    def __init__(self, frames: Iterator[FrameFaces], report: VideoReport) -> None:
        self._frames = frames
        self.report = report

    def __next__(self) -> FrameFaces:
        return next(self._frames)

    def __enter__(self) -> VideoAnalysis:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file or camera."""
        self._frames.close()  # type: ignore[attr-defined]


def read_frames(
    source: str | os.PathLike[str],
    fps: float | None = 5.0,
    *,
    max_seconds: float | None = None,
    max_frames: int | None = None,
    max_pixels: int = MAX_FRAME_PIXELS,
    stop: Callable[[], bool] | None = None,
    report: VideoReport | None = None,
) -> Iterator[tuple[int, float, Image.Image]]:
    """Pictures of a video or a camera, `fps` a second.

    Args:
        source: a video file; or "webcam", "webcam:1".
        fps: the first frame at or after every 1 / fps seconds is taken, all of them where there are fewer; None: all.
        max_seconds: frames before this time only.
        max_frames: this many frames are decoded at most, sampled or not.
        max_pixels: larger frames are refused from the header, before anything is decoded.
        stop: asked before every frame; true ends the reading as if the video ended there.
        report: a new one, which gets filled in.

    Yields:
        Number of the frame in the video from 0; seconds after the first frame, by the file's presentation times
        (so with variable frame rates, too); the RGB picture, upright, in square pixels.

    Raises:
        FerError: an argument out of its range (at once); a file or camera that gives nothing (when iterated over). A
            file that breaks off later ends the iteration, and `report.warning` says so.
    """
    limits = _Limits(fps, max_seconds, max_frames, max_pixels, stop)
    report = VideoReport(shown(source)) if report is None else report
    return _read_frames(_pictures(source, report, limits), limits, report)


def _read_frames(
    pictures: Iterator[Picture], limits: _Limits, report: VideoReport
) -> Iterator[tuple[int, float, Image.Image]]:
    with contextlib.closing(pictures):  # type: ignore[type-var]
        sampler = _Sampler(limits.fps)
        for picture in pictures:
            if sampler.take(picture.seconds):
                report.sampled += 1
                yield picture.index, picture.seconds, picture.image()


def analyze_video(
    source: str | os.PathLike[str],
    pipeline: Callable[..., list[dict[str, Any]]],
    *,
    fps: float | None = 5.0,
    smoothing: float = 0.5,
    max_seconds: float | None = None,
    max_frames: int | None = None,
    max_pixels: int = MAX_FRAME_PIXELS,
    annotated: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    tracker: Tracker | None = None,
    stop: Callable[[], bool] | None = None,
    progress: bool = False,
) -> VideoAnalysis:
    """The faces of a video or a camera over time.

    Args:
        source, fps, max_seconds, max_frames, max_pixels, stop: as for `read_frames`.
        pipeline: a `FacialExpressionPipeline`, or anything else that turns a PIL image into its list of faces.
        smoothing: time constant in seconds of the moving average over a face's probabilities (`ProbabilitySmoother`); 0
            for none.
        annotated: an .mp4 file to write: every frame of the source at its own time, with the faces of the last sampled
            frame drawn (H.264 that browsers play, 3840 px wide or high at most; the sound is left out). It appears
            when the last frame has been read, also where the source is damaged at its end or `stop` ended it.
        overwrite: replace `annotated` if it exists.
        tracker: default `Tracker()`, with at least two sampling steps as its `max_gap`.
        progress: draw a tqdm bar on stderr.

    Returns:
        An iterator over the sampled frames, those without a face too. Nothing is opened before the first is asked
        for. Its `report` has, in the end, the counts and at most one warning sentence: what of the source was read
        counts, even if the rest is damaged.

    Raises:
        FerError: an argument out of its range, or `annotated` exists (at once); a file or camera that gives nothing,
            or an annotated video that cannot be written (when iterated over).
    """
    limits = _Limits(fps, max_seconds, max_frames, max_pixels, stop)
    smoother = ProbabilitySmoother(smoothing)
    if annotated is not None:
        check_annotated(annotated, overwrite)
    if tracker is None:
        tracker = Tracker(max_gap=max(1.0, 2.5 / fps if fps else 0.0))
    report = VideoReport(shown(source))
    pictures = _pictures(source, report, limits)
    output = None if annotated is None else (annotated, overwrite)
    return VideoAnalysis(_analyze(pictures, pipeline, limits, smoother, tracker, report, output, progress), report)


def _analyze(
    pictures: Iterator[Picture],
    pipeline: Callable[..., list[dict[str, Any]]],
    limits: _Limits,
    smoother: ProbabilitySmoother,
    tracker: Tracker,
    report: VideoReport,
    output: tuple[str | os.PathLike[str], bool] | None,
    progress: bool,
) -> Iterator[FrameFaces]:
    from tqdm import tqdm

    sampler = _Sampler(limits.fps)
    faces: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(pictures))  # type: ignore[type-var]
        bar = stack.enter_context(tqdm(unit="frame", disable=not progress, dynamic_ncols=True))
        writer: VideoWriter | None = None
        for picture in pictures:
            sampled = sampler.take(picture.seconds)
            image = picture.image() if sampled or output else None
            if sampled:
                faces = _follow(pipeline(image), picture.seconds, smoother, tracker)
                report.sampled += 1
                report.faces += len(faces)
                report.tracks = tracker.count
            if output is not None:
                if writer is None:  # now the frame rate is known
                    writer = stack.enter_context(VideoWriter(output[0], report.frame_rate, overwrite=output[1]))
                    report.sound_dropped = report.sound
                writer.write(draw_faces(image, faces), picture.seconds)
            bar.update()
            if sampled:
                # A copy each: what the consumer does to its dicts must not be drawn into later frames.
                yield FrameFaces(picture.index, picture.seconds, copy.deepcopy(faces))


def _follow(
    found: list[dict[str, Any]], seconds: float, smoother: ProbabilitySmoother, tracker: Tracker
) -> list[dict[str, Any]]:
    """The faces of a frame with their tracks, and probabilities smoothed along these."""
    boxes = [tuple(float(face["box"][key]) for key in ("xmin", "ymin", "xmax", "ymax")) for face in found]
    faces = []
    for face, track in zip(found, tracker.update(boxes, seconds), strict=True):
        raw = dict(face["probabilities"])
        smooth = smoother.update(track, seconds, raw)
        label = next(iter(smooth))
        answer = {"label": label, "score": smooth[label], "probabilities": smooth}
        faces.append({**face, "track": track, **answer, "raw_label": face["label"], "raw_probabilities": raw})
    smoother.keep_only(tracker.live)
    return faces


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """A context in which the first Ctrl-C only makes its value, a function for `stop`, return true; the second one
    interrupts as usual. Files that are being written become whole that way.

    Outside the main thread, where Python takes no signals, nothing changes.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def interrupted(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield event.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class _Limits:
    fps: float | None
    max_seconds: float | None
    max_frames: int | None
    max_pixels: int
    stop: Callable[[], bool] | None

    def __post_init__(self) -> None:
        for name, value in (("fps", self.fps), ("max_seconds", self.max_seconds), ("max_frames", self.max_frames)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise FerError(f"{name}={value!r} leaves nothing to read; use a number above 0, or None for no limit")
        if self.max_pixels < 1:
            raise FerError(f"max_pixels={self.max_pixels!r} leaves nothing to read; use a number above 0")


def _pictures(source: str | os.PathLike[str], report: VideoReport, limits: _Limits) -> Iterator[Picture]:
    """Pictures of a file or camera within the limits; says in the report which of them ended it."""
    number = webcam_number(source)
    return _limited(number, source, report, limits)


def _limited(
    number: int | None, source: str | os.PathLike[str], report: VideoReport, limits: _Limits
) -> Iterator[Picture]:
    if number is None:
        every = file_pictures(source, report, limits.max_pixels)
    else:
        every = webcam_pictures(number, report, limits.max_pixels)
    with contextlib.closing(every):  # type: ignore[type-var]
        for picture in every:
            if limits.stop is not None and limits.stop():
                report.ended = "stopped"
                return
            if limits.max_seconds is not None and picture.seconds >= limits.max_seconds:
                report.ended = "max_seconds"
                if number is None:
                    report.warning = (
                        f"{report.source}: only the first {limits.max_seconds:g} s were looked at, as asked"
                    )
                return
            if limits.max_frames is not None and picture.index >= limits.max_frames:
                report.ended = "max_frames"
                report.warning = f"{report.source}: only the first {limits.max_frames} frames were looked at, as asked"
                return
            yield picture


class _Sampler:
    """Takes the first frame at or after every multiple of 1 / fps seconds."""

    def __init__(self, fps: float | None) -> None:
        self._fps = fps
        self._next = 0.0

    def take(self, seconds: float) -> bool:
        if self._fps is None:
            return True
        step = (seconds + _TOLERANCE) * self._fps // 1  # a float: of a huge rate it has no end
        if step < self._next:
            return False
        self._next = step + 1
        return True
