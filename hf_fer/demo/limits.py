"""How much one visitor may ask of the demo."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds that keep a public demo answering.

    Attributes:
        file_mb: size of an uploaded file.
        pixels: width times height of a picture; larger ones are refused from their header.
        faces: faces of a picture that are listed, largest first; all of them are drawn.
        video_seconds: length of a video.
        video_fps: frames a second that are looked at.
        queue: requests that wait; who comes then is told that the queue is full.
        at_once: requests that are answered at the same time.
        kept_seconds: age at which uploads and answers are deleted from the disk, looked at every minute.
        models: models kept in memory; the one not asked for longest makes room. The tab Resolution asks all.
    """

    file_mb: int = 20
    pixels: int = 40_000_000
    faces: int = 12
    video_seconds: float = 60.0
    video_fps: float = 5.0
    queue: int = 32
    at_once: int = 2
    kept_seconds: int = 600
    models: int = 6
