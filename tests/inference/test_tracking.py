"""Faces keep their numbers, and their probabilities are smoothed by time, not by frames."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from hf_fer import FerError
from hf_fer.inference.smoothing import ProbabilitySmoother
from hf_fer.inference.tracking import Tracker, iou


def box(x: float, y: float = 0, side: float = 40) -> tuple[float, float, float, float]:
    return x, y, x + side, y + side


def loop_iou(a, b) -> float:
    """Plain float64, by counting what is shared."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def test_iou_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 10, (30, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.1, 8, (30, 2))], 1)
    expected = [[loop_iou(a, b) for b in boxes[10:]] for a in boxes[:20]]
    np.testing.assert_allclose(iou(boxes[:20], boxes[10:]), expected, atol=1e-12)
    assert iou(np.array([[1.0, 1, 1, 1]]), np.array([[1.0, 1, 1, 1]])).tolist() == [[0.0]], "no area"


def test_a_moving_face_keeps_its_number_and_a_new_one_gets_the_next():
    tracker = Tracker()
    for step in range(20):
        seconds = step / 5
        numbers = tracker.update([box(10 * step), *([box(500)] if step >= 10 else [])], seconds)
        assert numbers == ([1, 2] if step >= 10 else [1])
    assert tracker.count == 2 and tracker.live == {1, 2}


def test_the_order_of_the_boxes_does_not_matter():
    rng = random.Random(0)
    tracker = Tracker()
    faces = {1: 0.0, 2: 100.0, 3: 200.0, 4: 300.0}
    assert tracker.update([box(x) for x in faces.values()], 0.0) == [1, 2, 3, 4]
    for step in range(1, 30):
        names = rng.sample(sorted(faces), rng.randint(1, 4))
        faces = {name: x + rng.uniform(-5, 5) for name, x in faces.items()}
        assert tracker.update([box(faces[name]) for name in names], step * 0.1) == names


def test_a_face_at_speed_is_found_where_it_would_be():
    """A step of 20 of 40 px has an overlap of 1/3; one of 36 px hardly any, but the speed is known by then."""
    tracker = Tracker()
    places = [0, 20, 45, 75, 108, 144, 180, 216]
    assert [tracker.update([box(x)], k / 5) for k, x in enumerate(places)] == [[1]] * len(places)
    tracker = Tracker()
    tracker.update([box(0)], 0.0)
    assert tracker.update([box(36)], 0.2) == [2], "out of nowhere it is another face"


def test_two_faces_that_pass_each_other_keep_their_numbers():
    tracker = Tracker()
    for step in range(21):
        assert tracker.update([box(10.0 * step, 0), box(200 - 10.0 * step, 12)], step / 10) == [1, 2]


def test_the_best_overlap_wins_and_numbers_are_never_shared():
    tracker = Tracker()
    tracker.update([box(0)], 0.0)
    assert tracker.update([box(12), box(2)], 0.1) == [2, 1]


def test_a_gap_is_bridged_up_to_the_limit():
    for gap, number in ((0.9, 1), (1.1, 2)):
        tracker = Tracker(max_gap=1.0)
        tracker.update([box(0)], 0.0)
        tracker.update([], gap / 2)
        assert tracker.update([box(0)], gap) == [number]


def test_memory_is_bounded_and_every_face_still_has_a_number():
    tracker = Tracker(max_tracks=10, max_gap=1e6)
    seen = []
    for step in range(50):
        numbers = tracker.update([box(100 * k, 100 * step) for k in range(30)], float(step))
        assert len(set(numbers)) == 30
        seen += numbers
        assert len(tracker.live) <= 10
    assert len(set(seen)) == len(seen) == 1500, "all are new, no number comes twice"
    tracker = Tracker(max_tracks=2)
    assert tracker.update([box(0), box(100), box(200)], 0.0) == [1, 2, 3]
    assert tracker.update([box(0), box(100), box(200)], 0.1) == [1, 2, 4], "the largest are remembered"


def test_boxes_without_area_are_new_each_time():
    tracker = Tracker()
    assert tracker.update([(5, 5, 5, 5), (5, 5, 5, 5)], 0.0) == [1, 2]
    assert tracker.update([(5, 5, 5, 5)], 0.1) == [3]


@pytest.mark.parametrize(
    "wrong", [{"min_iou": 0}, {"min_iou": 1.1}, {"max_gap": -1}, {"max_gap": math.nan}, {"max_tracks": 0}]
)
def test_arguments_out_of_range_are_one_sentence(wrong):
    with pytest.raises(FerError, match=next(iter(wrong))):
        Tracker(**wrong)


def test_smoothing_is_the_plain_loop():
    rng = random.Random(1)
    smoother = ProbabilitySmoother(0.5)
    labels = ["anger", "fear", "neutral"]
    times = {1: 0.0, 2: 0.0}
    oracle: dict[int, list[float]] = {}
    last: dict[int, float] = {}
    for _ in range(100):
        track = rng.choice([1, 2])
        times[track] += rng.choice([0.02, 0.2, 1.3])
        p = [rng.random() for _ in labels]
        p = [x / sum(p) for x in p]
        if track in oracle:
            decay = math.exp(-(times[track] - last[track]) / 0.5)
            oracle[track] = [decay * old + (1 - decay) * new for old, new in zip(oracle[track], p, strict=True)]
        else:
            oracle[track] = p
        last[track] = times[track]
        answer = smoother.update(track, times[track], dict(zip(labels, p, strict=True)))
        assert list(answer.values()) == sorted(answer.values(), reverse=True)
        assert sum(answer.values()) == pytest.approx(1, abs=1e-12)
        for name, value in zip(labels, oracle[track], strict=True):
            assert answer[name] == pytest.approx(value, abs=1e-12)


def test_smoothing_does_not_depend_on_the_sampling():
    """The same step from anger to fear, seen at 5 and at 50 frames a second."""
    results = []
    for rate in (5, 50):
        smoother = ProbabilitySmoother(0.5)
        smoother.update(1, 0.0, {"anger": 1.0, "fear": 0.0})
        for k in range(1, rate + 1):
            answer = smoother.update(1, k / rate, {"anger": 0.0, "fear": 1.0})
        results.append(answer["fear"])
    assert results[0] == pytest.approx(results[1], abs=1e-9) == pytest.approx(1 - math.exp(-2), abs=1e-9)


def test_no_smoothing_gives_the_answers_themselves():
    smoother = ProbabilitySmoother(0)
    smoother.update(1, 0.0, {"anger": 1.0, "fear": 0.0})
    assert smoother.update(1, 0.1, {"anger": 0.25, "fear": 0.75}) == {"fear": 0.75, "anger": 0.25}


def test_forgotten_faces_start_anew_and_labels_may_come_and_go():
    smoother = ProbabilitySmoother(1.0)
    smoother.update(1, 0.0, {"anger": 1.0})
    smoother.keep_only({2})
    assert smoother.update(1, 0.1, {"fear": 1.0}) == {"fear": 1.0}
    share = 1 - math.exp(-0.1)
    assert smoother.update(1, 0.2, {"anger": 1.0}) == pytest.approx({"fear": 1 - share, "anger": share})


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf])
def test_a_smoothing_that_is_no_time_is_one_sentence(seconds):
    with pytest.raises(FerError, match="smoothing"):
        ProbabilitySmoother(seconds)
