"""Probabilities of a face smoothed over time, by an exponential moving average that knows uneven steps.

A frame that comes `dt` seconds after the last one counts 1 - exp(-dt / time constant), what was before it the rest: the
discrete form of a first-order low-pass filter. It looks back only, so it also serves live pictures, and it does
not depend on how many frames are sampled a second.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from ..errors import FerError


class ProbabilitySmoother:
    """The running averages of all faces that are tracked; one dict of probabilities for each in memory."""

    def __init__(self, seconds: float) -> None:
        """
        Args:
            seconds: time constant; after it, a change of expression has come through to 63 %. 0 smoothes nothing.

        Raises:
            FerError: negative or not finite.
        """
        if not (seconds >= 0 and math.isfinite(seconds)):
            raise FerError(f"smoothing={seconds!r} is no time; use seconds, 0 for none")
        self.seconds = seconds
        self._averages: dict[int, tuple[float, dict[str, float]]] = {}

    def update(self, track: int, seconds: float, probabilities: Mapping[str, float]) -> dict[str, float]:
        """The average of a face after its answer at a time.

        Args:
            track: number of the face.
            seconds: time of the frame; not before the face's last one.
            probabilities: label to probability. A label that was there before and is not now counts as 0.

        Returns:
            Label to probability, most probable first (of equals, in the order of `probabilities`).
        """
        average = {label: float(p) for label, p in probabilities.items()}
        before = self._averages.get(track)
        if before is not None and self.seconds > 0:
            then, old = before
            new_share = -math.expm1(-max(0.0, seconds - then) / self.seconds)
            labels = dict.fromkeys([*average, *old])
            average = {k: old.get(k, 0.0) + new_share * (average.get(k, 0.0) - old.get(k, 0.0)) for k in labels}
        self._averages[track] = seconds, average
        return dict(sorted(average.items(), key=lambda item: -item[1]))

    def keep_only(self, tracks: Collection[int]) -> None:
        """Forget every face but these."""
        for track in self._averages.keys() - set(tracks):
            del self._averages[track]
