"""Pictures of a camera, through OpenCV."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import FerError
from .messages import brief
from .video_files import Picture
from .video_report import VideoReport

if TYPE_CHECKING:
    from PIL import Image

_MISSES = 30  # pictures in a row that a camera may fail to give, as many do while they start
_PATIENCE = 15.0  # s that they may take: some drivers wait 10 s for each


def webcam_number(source: object) -> int | None:
    """0 for "webcam", 1 for "webcam:1"; None for anything else (a file of that name is "./webcam").

    Raises:
        FerError: "webcam:" with something that is no number of a camera.
    """
    if not isinstance(source, str) or not re.match(r"webcam(:|$)", source):
        return None
    found = re.fullmatch(r"webcam(?::([0-9]{1,2}))?", source)
    if not found:
        raise FerError(f'{source[:100]!r} names no camera; use "webcam", or "webcam:1" for the second one')
    return int(found[1] or 0)


def webcam_pictures(
    number: int, report: VideoReport, max_pixels: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[Picture]:
    """Pictures of a camera as they come; times are those of their arrival. Those that nobody converts cost little, so
    that the next one is never an old one out of the driver's queue.

    Raises:
        FerError: OpenCV is missing, there is no such camera, it gives no picture, or one over `max_pixels`.
    """
    try:
        import cv2
    except ImportError as error:
        raise FerError(f'a camera needs OpenCV ({brief(error)}): pip install "hf-fer[detect]"') from error
    camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise FerError(f"camera {number} cannot be opened; is it there, allowed, and not used by another program?")
        rate = camera.get(cv2.CAP_PROP_FPS)
        report.frame_rate = float(rate) if 0.01 <= rate <= 1000 else None
        started: float | None = None
        misses, last = 0, clock()
        while misses < _MISSES and clock() - last < _PATIENCE:
            if not camera.grab() or (started is None and not camera.retrieve()[0]):
                misses += 1
                continue
            misses, last = 0, clock()
            started = last if started is None else started
            if not report.frames:
                picture = _retrieve(camera, cv2, number)
                report.width, report.height = picture.size
                if picture.width * picture.height > max_pixels:
                    raise FerError(f"camera {number}: {picture.size} is over the limit of {max_pixels:,} pixels")
            report.frames += 1
            report.seconds = last - started
            yield Picture(report.frames - 1, report.seconds, lambda: _retrieve(camera, cv2, number))
        if not report.frames:
            raise FerError(f"camera {number} gives no picture; is it used by another program?")
        report.ended = "damaged"
        report.warning = f"camera {number} gave no more pictures after {report.seconds:.1f} s"
    finally:
        camera.release()


def _retrieve(camera: Any, cv2: Any, number: int) -> Image.Image:
    """The picture that was grabbed last, RGB."""
    from PIL import Image

    good, pixels = camera.retrieve()
    if not good or pixels is None:
        raise FerError(f"camera {number} gave a picture that cannot be decoded")
    return Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
