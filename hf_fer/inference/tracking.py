"""Which face of this frame is which face of the frame before: tracking by overlap.

The matching of SORT (Bewley et al. 2016) without its Kalman filter: between sampled frames, boxes are paired by their
intersection over union, the best pair first. A face that moves is also looked for where it would be at its speed so
far. Greedy pairing differs from the optimal assignment only where faces overlap each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import FerError

Box = tuple[float, float, float, float]


@dataclass
class _Track:
    number: int
    box: np.ndarray  # (4,)
    seconds: float
    velocity: np.ndarray  # (4,) px/s of every corner; the box may also grow


class Tracker:
    """Gives the faces of one frame after another numbers: the same number for the same face.

    Memory is bounded: a track ends when its face has not been seen for `max_gap`, and of more than `max_tracks` those
    that were seen longest ago end first.
    """

    def __init__(self, min_iou: float = 0.3, max_gap: float = 1.0, max_tracks: int = 256) -> None:
        """
        Args:
            min_iou: two boxes that overlap less are not the same face; above 0, at most 1.
            max_gap: seconds that a face may be hidden, or not be detected, and keep its number.
            max_tracks: tracks that are remembered.

        Raises:
            FerError: a value out of its range.
        """
        if not 0 < min_iou <= 1:
            raise FerError(f"min_iou={min_iou!r} is no overlap; use a number above 0, at most 1")
        if not (max_gap >= 0 and math.isfinite(max_gap)):
            raise FerError(f"max_gap={max_gap!r} is no time; use seconds, 0 or more")
        if max_tracks < 1:
            raise FerError(f"max_tracks={max_tracks!r} leaves no track; use 1 or more")
        self.min_iou, self.max_gap, self.max_tracks = min_iou, max_gap, max_tracks
        self._tracks: list[_Track] = []
        self._count = 0

    @property
    def count(self) -> int:
        """Tracks begun so far."""
        return self._count

    @property
    def live(self) -> frozenset[int]:
        """Numbers that a later face may still get."""
        return frozenset(track.number for track in self._tracks)

    def update(self, boxes: Sequence[Box], seconds: float) -> list[int]:
        """The numbers of the faces of the next frame.

        Args:
            boxes: (x0, y0, x1, y1) of every face, the most important first (it gets the lower number if it is new).
            seconds: time of the frame, not before that of the last one.

        Returns:
            A number for each box, each once, from 1; numbers of ended tracks are not used again.
        """
        self._tracks = [track for track in self._tracks if seconds - track.seconds <= self.max_gap]
        numbers: list[int | None] = [None] * len(boxes)
        for track, face in self._pairs(boxes, seconds):
            numbers[face] = track.number
            self._move(track, np.asarray(boxes[face], dtype=np.float64), seconds)
        for face, box in enumerate(boxes):
            if numbers[face] is None:
                self._count += 1
                numbers[face] = self._count
                self._tracks.append(_Track(self._count, np.asarray(box, dtype=np.float64), seconds, np.zeros(4)))
        if len(self._tracks) > self.max_tracks:
            self._tracks.sort(key=lambda track: (-track.seconds, track.number))
            del self._tracks[self.max_tracks :]
        return [number for number in numbers if number is not None]

    def _pairs(self, boxes: Sequence[Box], seconds: float) -> Iterable[tuple[_Track, int]]:
        """Tracks and boxes that belong together, the best overlap first, each in one pair at most."""
        if not self._tracks or not boxes:
            return []
        last = np.stack([track.box for track in self._tracks])
        ahead = np.stack([t.box + t.velocity * (seconds - t.seconds) for t in self._tracks])
        now = np.asarray(boxes, dtype=np.float64)
        overlap = np.maximum(iou(last, now), iou(ahead, now))  # (tracks, boxes)
        candidates = np.argwhere(overlap >= self.min_iou)
        # Stable: of equal overlaps the older track and the larger face come first.
        order = np.argsort(-overlap[tuple(candidates.T)], kind="stable")
        pairs, used_tracks, used_boxes = [], set(), set()
        for row, column in candidates[order].tolist():
            if row not in used_tracks and column not in used_boxes:
                used_tracks.add(row)
                used_boxes.add(column)
                pairs.append((self._tracks[row], column))
        return pairs

    @staticmethod
    def _move(track: _Track, box: np.ndarray, seconds: float) -> None:
        passed = seconds - track.seconds
        track.velocity = (box - track.box) / passed if passed > 0 else np.zeros(4)
        track.box, track.seconds = box, seconds


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of boxes: (N,4) and (M,4) of x0, y0, x1, y1 to (N,M) in 0..1.

    A box without area overlaps nothing.
    """
    corner = np.maximum(one[:, None, :2], other[None, :, :2])
    opposite = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(opposite - corner, 0, None).prod(-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
