"""What became of a video, beside the faces in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class VideoReport:
    """Filled in while a video is read; final once its iterator has ended.

    Attributes:
        source: as given.
        width, height: px of the upright picture; 0 until the first one.
        frame_rate: frames a second, on average, by the file's header; None if unknown.
        stated_seconds: length by the file's header; None if unknown. Not to be trusted.
        sound: the source has a sound track.
        frames: pictures decoded so far.
        seconds: time of the last of them; the first one is at 0.
        sampled: pictures that were searched for faces.
        faces: faces found in them, added up.
        tracks: faces told apart by `Tracker`.
        ended: why reading ended: "end", "damaged", "max_seconds", "max_frames" or "stopped"; "" while it goes on.
        warning: one sentence where the video is not whole, or was not read to its end; else None.
        sound_dropped: that is not in the annotated video.
    """

    source: str
    width: int = 0
    height: int = 0
    frame_rate: float | None = None
    stated_seconds: float | None = None
    sound: bool = False
    frames: int = 0
    seconds: float = 0.0
    sampled: int = 0
    faces: int = 0
    tracks: int = 0
    ended: str = ""
    warning: str | None = None
    sound_dropped: bool = False
