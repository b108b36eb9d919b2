"""Videos: right times, the right way up, whole answers for broken files, memory that does not grow."""

from __future__ import annotations

import csv
import gc
import io
import itertools
import json
import math
import os
import signal
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from hf_fer import EXPRESSIONS, FerError
from hf_fer.inference.annotate import EXPRESSION_COLORS
from hf_fer.inference.mp4_index import check_samples
from hf_fer.inference.video import (
    FrameFaces,
    VideoReport,
    analyze_video,
    probe_video,
    read_frames,
    stop_on_interrupt,
    write_timeline,
)
from hf_fer.inference.webcam import webcam_pictures

av = pytest.importorskip("av", reason='videos need PyAV: pip install "hf-fer[video]"')

WIDTH, HEIGHT, SIDE = 160, 120, 40


def scene(seconds: float, size=(WIDTH, HEIGHT)) -> np.ndarray:
    """A white square on dark grey that moves right by 30 px/s, with a red patch in the picture's top left corner."""
    pixels = np.full((size[1], size[0], 3), 40, np.uint8)
    pixels[:16, :32] = 200, 20, 20
    x = 10 + round(30 * seconds)
    pixels[40 : 40 + SIDE, x : x + SIDE] = 240
    return pixels


def write_video(
    path: Path,
    times=None,
    size=(WIDTH, HEIGHT),
    picture=scene,
    codec="libx264",
    rotation=0,
    skew=None,
    sound=False,
    **options,
) -> Path:
    times = [k / 25 for k in range(50)] if times is None else times
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "0", **options})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000) if codec != "mpeg4" else Fraction(1, 25)
        if rotation:
            stream.set_display_rotation(rotation)
        if skew:
            stream.codec_context.sample_aspect_ratio = skew
        if sound:
            raw = sound == "pcm_s16le"
            tone = container.add_stream("pcm_s16le" if raw else "aac", rate=16000, layout="mono")
            for k in range(30 if sound is True or raw else sound):
                silence = np.zeros((1, 1024), np.int16 if raw else np.float32)
                frame = av.AudioFrame.from_ndarray(silence, "s16" if raw else "fltp", "mono")
                frame.sample_rate, frame.pts = 16000, 1024 * k
                container.mux(tone.encode(frame))
            container.mux(tone.encode(None))
        for seconds in times:
            frame = av.VideoFrame.from_ndarray(picture(seconds, size), "rgb24")
            frame.time_base, frame.pts = Fraction(1, 1000), round(seconds * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def noise(seconds: float, size) -> np.ndarray:
    """Pictures that make packets large, so that a cut falls into the middle of one."""
    return np.random.default_rng(round(seconds * 1000)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)


def find_square(image: Image.Image) -> list[dict]:
    """A stand-in for the pipeline: the white square is a face, happier the further right it is."""
    bright = np.argwhere((np.asarray(image.convert("RGB")) > 180).all(-1))
    if len(bright) < 100:
        return []
    (y0, x0), (y1, x1) = bright.min(0).tolist(), (bright.max(0) + 1).tolist()
    happy = min(0.9, max(0.1, x0 / WIDTH))
    probabilities = dict.fromkeys(EXPRESSIONS, 0.0) | {"happiness": happy, "neutral": 1 - happy}
    probabilities = dict(sorted(probabilities.items(), key=lambda item: -item[1]))
    label = next(iter(probabilities))
    return [
        {
            "box": {"xmin": x0, "ymin": y0, "xmax": x1, "ymax": y1},
            "detection_score": 0.9,
            "landmarks": None,
            "label": label,
            "score": probabilities[label],
            "probabilities": probabilities,
            "reliability": 0.5,
        }
    ]


def no_face(image: Image.Image) -> list[dict]:
    return []


@pytest.fixture(scope="module")
def movie(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "movie.mp4", sound=True)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("noisy")
    times = [k / 25 for k in range(100)]
    codecs = {".mp4": "libx264", ".mkv": "libx264", ".avi": "mpeg4"}
    return {
        suffix: write_video(folder / f"n{suffix}", times, (96, 64), noise, codec).read_bytes()
        for suffix, codec in codecs.items()
    }


# Reading


def test_frames_are_sampled_at_their_times(movie):
    frames = list(read_frames(movie, fps=5))
    assert [index for index, _, _ in frames] == list(range(0, 50, 5))
    assert [seconds for _, seconds, _ in frames] == pytest.approx([k / 5 for k in range(10)])
    for _, seconds, image in frames:
        assert image.mode == "RGB" and image.size == (WIDTH, HEIGHT)
        assert np.abs(np.asarray(image).astype(int) - scene(seconds)).mean() < 4
    assert [index for index, _, _ in read_frames(movie, fps=None)] == list(range(50))
    for many in (1000, 1e308):
        assert [index for index, _, _ in read_frames(movie, fps=many)] == list(range(50))
    assert [index for index, _, _ in read_frames(movie, fps=0.6)] == [0, 42]  # 1/0.6 s = 1.667 s, the next frame is 42


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rates_keep_their_times(tmp_path, suffix):
    times = [0, 0.1, 0.15, 0.5, 0.51, 0.52, 1.0, 1.39, 1.41, 3.0]
    path = write_video(tmp_path / f"vfr{suffix}", times)
    frames = list(read_frames(path, fps=None))
    assert [seconds for _, seconds, _ in frames] == pytest.approx(times, abs=0.002)
    for _, seconds, image in frames:  # the picture that belongs to the time
        assert np.abs(np.asarray(image).astype(int) - scene(seconds)).mean() < 4
    # The first at or after 0, 0.2 (0.5), 0.6 (1.0), 1.2 (1.39), 1.4 (1.41), 1.6 (3.0) s.
    assert [index for index, _, _ in read_frames(path, fps=5)] == [0, 3, 6, 7, 8, 9]
    annotated = tmp_path / "out.mp4"
    list(analyze_video(path, find_square, annotated=annotated))
    assert [s for _, s, _ in read_frames(annotated, fps=None)] == pytest.approx(times, abs=0.002)
    assert probe_video(annotated).seconds >= 3.0, "a player goes by the stated length"


def test_the_sampling_does_not_drift_on_odd_rates(tmp_path):
    """At 29.97 frames a second, 5 a second are the first at or after every 0.2 s, for a minute."""
    times = [k * 1001 / 30000 for k in range(600)]
    path = write_video(tmp_path / "ntsc.mp4", times, (32, 32), lambda s, size: np.zeros((32, 32, 3), np.uint8))
    expected = [next(k for k, t in enumerate(times) if t >= step / 5 - 1e-3) for step in range(100)]
    assert [index for index, _, _ in read_frames(path, fps=5)] == expected


def test_times_that_a_container_rounds_are_sampled_evenly(tmp_path):
    """Matroska's 133 ms is the frame that was due after 2/15 s."""
    path = write_video(tmp_path / "ms.mkv", [round(k / 30, 3) for k in range(60)])
    assert [index for index, _, _ in read_frames(path, fps=15)] == list(range(0, 60, 2))


@pytest.mark.skipif(
    not hasattr(av.video.stream.VideoStream, "set_display_rotation"), reason="this PyAV cannot write rotated videos"
)
@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotated_videos_are_turned_upright(tmp_path, rotation):
    """A phone stores the sensor's picture and how to turn it: the red patch of the top left goes with it."""
    path = write_video(tmp_path / "r.mp4", [0, 0.04], rotation=rotation)
    (_, _, image), *_ = read_frames(path, fps=None)
    expected = Image.fromarray(scene(0)).rotate(rotation, expand=True)  # counterclockwise, as FFmpeg's
    assert image.size == expected.size
    assert np.abs(np.asarray(image).astype(int) - np.asarray(expected)).mean() < 4


def test_pixels_that_are_not_square_become_square(tmp_path):
    path = write_video(tmp_path / "wide.mp4", [0, 0.04], skew=Fraction(4, 3))
    (_, _, image), *_ = read_frames(path, fps=None)
    assert image.size == (213, HEIGHT)


def test_limits_end_the_reading_and_say_so(movie):
    report = VideoReport("m")
    assert len(list(read_frames(movie, fps=None, max_seconds=1.0, report=report))) == 25
    assert report.ended == "max_seconds" and "first 1 s" in report.warning
    report = VideoReport("m")
    assert len(list(read_frames(movie, fps=None, max_frames=7, report=report))) == 7
    assert report.ended == "max_frames" and "first 7 frames" in report.warning
    seen = []
    report = VideoReport("m")
    for frame in read_frames(movie, fps=None, stop=lambda: len(seen) >= 3, report=report):
        seen.append(frame)
    assert len(seen) == 3 and report.ended == "stopped" and report.warning is None


def test_the_header_is_read_without_decoding(movie):
    info = probe_video(movie)
    assert (info.width, info.height, info.sound) == (WIDTH, HEIGHT, True)
    assert info.seconds == pytest.approx(2) and info.frame_rate == pytest.approx(25)
    with pytest.raises(FerError, match="over the limit of 1,000 pixels"):
        probe_video(movie, max_pixels=1000)


@pytest.mark.parametrize(
    "options", [{"fps": 0}, {"fps": math.nan}, {"fps": -1}, {"max_seconds": 0}, {"max_frames": 0}, {"max_pixels": 0}]
)
def test_arguments_out_of_range_fail_at_once(movie, options):
    for function in (lambda: read_frames(movie, **options), lambda: analyze_video(movie, no_face, **options)):
        with pytest.raises(FerError, match=next(iter(options))):
            function()


# Files that are no videos, or no whole ones


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        tone = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(tone.encode(frame))
        container.mux(tone.encode(None))


def subtitles_only(path: Path) -> None:
    source = path.with_suffix(".srt")
    source.write_text("1\n00:00:00,000 --> 00:00:02,000\nNothing to see\n")
    with av.open(str(source)) as words, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(words.streams.subtitles[0])
        for packet in words.demux():
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.mp4", None, "no such file"),
        ("empty.mp4", b"", "empty"),
        ("page.mp4", b"\n<!DOCTYPE html><html>not found</html>", "web page"),
        ("text.mp4", b"hello " * 100, "not a video"),
        ("pointer.mp4", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:2,\nmovie.mp4\n", "playlist"),
        ("list.mp4", b"ffconcat version 1.0\nfile movie.mp4\n", "playlist"),
        ("zeros.mp4", bytes(5000), "not a video"),
        ("picture.mp4", "PNG", "not a video"),
        ("sound.mp4", sound_only, "no moving pictures.*audio"),
        ("words.mkv", subtitles_only, "no moving pictures.*subtitle"),
        (".", None, "folder"),
        ("http://example.org/a.mp4", None, "address"),
        ("nul\0.mp4", None, "cannot be read"),
    ],
)
def test_what_is_no_video_is_one_sentence(tmp_path, movie, name, content, sentence):
    path = name if name.startswith("http") or "\0" in name else tmp_path / name
    if callable(content):
        content(path)
    elif content == "PNG":
        Image.new("RGB", (64, 64)).save(path, format="PNG")
    elif content is not None:
        path.write_bytes(content)
    (tmp_path / "movie.mp4").write_bytes(movie.read_bytes())  # what a playlist must not reach
    with pytest.raises(FerError, match=f"(?s){sentence}") as caught:
        next(iter(analyze_video(path, no_face, annotated=tmp_path / "out.mp4")))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert not (tmp_path / "out.mp4").exists()


def test_an_index_that_is_cut_off_is_one_sentence(tmp_path):
    path = tmp_path / "tail.mov"  # its index is at the end
    write_video(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(FerError, match="index of this MP4"):
        list(read_frames(path))


def test_an_index_that_claims_memory_is_refused(tmp_path, movie, monkeypatch):
    """FFmpeg would make room for 50 million pictures, 3.5 GB, for some kB; sound in raw samples is another matter."""
    content = bytearray(movie.read_bytes())
    place = content.index(b"stsz") + 8
    content[place : place + 8] = struct.pack(">II", 1, 50_000_000)
    (tmp_path / "bomb.mp4").write_bytes(content)
    with pytest.raises(FerError, match=r"claims 50,000,000 pictures"):
        probe_video(tmp_path / "bomb.mp4")

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), kind) + content

    runs = box(b"moof", box(b"traf", box(b"trun", struct.pack(">III", 0, 30_000_000, 0))))
    long = b"\0\0\0\1moof" + struct.pack(">Q", 16 + len(runs)) + runs  # a length of 64 bits
    for hostile in (runs, box(b"free", bytes(9)) + runs, box(b"mdat", b"") + long):
        with pytest.raises(FerError, match=r"claims 30,000,000 pictures"):
            check_samples(io.BytesIO(hostile), "a.mp4")
    with pytest.raises(FerError, match="compressed"):
        check_samples(io.BytesIO(box(b"free", box(b"cmov", b""))), "a.mp4")
    file = io.BytesIO(box(b"mdat", runs))  # in which anything may stand
    check_samples(file, "a.mp4")
    assert file.tell() == 0

    path = write_video(tmp_path / "raw.mov", sound="pcm_s16le")
    monkeypatch.setattr("hf_fer.inference.mp4_index.MOST_SAMPLES", 60)
    assert probe_video(path).sound, "50 pictures, and thousands of samples"
    monkeypatch.setattr("hf_fer.inference.mp4_index.MOST_SAMPLES", 49)
    with pytest.raises(FerError, match="claims 50 pictures"):
        probe_video(path)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(FerError, match="not a regular file"):
        list(read_frames(tmp_path / "pipe.mp4"))


def test_frames_over_the_limit_are_refused_before_they_are_decoded(movie, tmp_path):
    with pytest.raises(FerError, match=r"160 x 120 is over the limit of 10,000 pixels"):
        list(read_frames(movie, max_pixels=10_000))
    # The header lies: the pictures are larger than it says.
    content = bytearray(movie.read_bytes())
    place = content.index(b"avc1", content.index(b"stsd")) + 28
    assert content[place : place + 4] == WIDTH.to_bytes(2, "big") + HEIGHT.to_bytes(2, "big")
    content[place : place + 4] = (16).to_bytes(2, "big") * 2
    (tmp_path / "liar.mp4").write_bytes(content)
    with pytest.raises(FerError):
        list(read_frames(tmp_path / "liar.mp4", max_pixels=10_000))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_of_a_broken_tail_what_can_be_read_counts(tmp_path, noisy, suffix):
    whole = noisy[suffix]
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    out = tmp_path / "out.mp4"
    analysis = analyze_video(path, no_face, annotated=out)
    frames = list(analysis)
    report = analysis.report
    assert 50 <= report.frames <= 62 and [f.frame for f in frames] == list(range(0, report.frames, 5))
    assert not report.sound_dropped, "there was none"
    assert report.warning.count("\n") == 0 and "cut short" in report.warning and "cut" + suffix in report.warning
    assert probe_video(out).seconds == pytest.approx(report.frames / 25, abs=0.1), "and it is written"


def test_sound_that_lasts_longer_than_the_pictures_is_no_damage(tmp_path: Path) -> None:
    """Matroska states one length, that of the longest track."""
    path = write_video(tmp_path / "talk.mkv", sound=80)  # 5 s, beside 2 s of pictures
    report = VideoReport("talk.mkv")
    assert len(list(read_frames(path, None, report=report))) == 50
    assert report.stated_seconds > 4.5 and report.ended == "end" and report.warning is None


@pytest.mark.parametrize("filling", [0, None])
def test_damage_in_the_middle_is_left_out(tmp_path, noisy, filling):
    content = bytearray(noisy[".mp4"])
    size = len(content)
    junk = np.random.default_rng(0).integers(0, 256, size // 10, dtype=np.uint8).tobytes()
    content[size // 2 : size // 2 + size // 10] = bytes(size // 10) if filling == 0 else junk
    (tmp_path / "hole.mp4").write_bytes(content)
    report = VideoReport("hole.mp4")
    times = [seconds for _, seconds, _ in read_frames(tmp_path / "hole.mp4", fps=None, report=report)]
    assert 80 <= len(times) < 100 and times == sorted(times) and times[-1] == pytest.approx(3.96)
    assert report.ended == "damaged" and "damaged in" in report.warning


def test_any_damage_is_a_warning_or_a_sentence(tmp_path, noisy):
    """Bytes changed at random: never a crash, another exception, or times that go back."""
    rng = np.random.default_rng(0)
    answers = 0
    for trial in range(24):
        suffix = list(noisy)[trial % 3]
        content = np.frombuffer(noisy[suffix], np.uint8).copy()
        places = rng.integers(0, [400, 4000, len(content)][trial % 4 % 3], 20)
        content[places] = rng.integers(0, 256, 20)
        path = tmp_path / f"fuzz{suffix}"
        path.write_bytes(content.tobytes())
        try:
            times = [seconds for _, seconds, _ in read_frames(path, fps=None, max_frames=200)]
        except FerError as error:
            assert "\n" not in str(error)
        else:
            answers += 1
            assert all(a < b for a, b in itertools.pairwise(times))
    assert answers > 5


def test_missing_times_and_jumps_are_bridged():
    from hf_fer.inference.video_files import _Clock

    clock = _Clock(0.04)
    stated = [5.0, 5.04, 5.5, 0.0, 0.04, None, 1e9, 1e9 + 64, -3.0, math.nan]
    expected = [0, 0.04, 0.5, 0.54, 0.58, 0.62, 0.66, 64.66, 64.7, 64.74]
    assert [clock.tick(time) for time in stated] == pytest.approx(expected)
    clock = _Clock(0.04)
    assert [clock.tick(None) for _ in range(3)] == pytest.approx([0, 0.04, 0.08])


def test_a_stream_without_times_gets_them_from_its_rate(tmp_path):
    path = write_video(tmp_path / "raw.h264", [k / 25 for k in range(25)])
    assert [seconds for _, seconds, _ in read_frames(path, fps=None)] == pytest.approx(
        [k / 25 for k in range(25)], abs=0.01
    )


def test_an_animated_gif_is_a_video_too(tmp_path):
    frames = [Image.fromarray(scene(k / 2)) for k in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=500)
    assert [s for _, s, _ in read_frames(tmp_path / "a.gif", fps=None)] == pytest.approx([0, 0.5, 1.0, 1.5])


def test_a_change_of_size_keeps_one_system_of_coordinates(tmp_path, movie):
    """Two recordings joined, the second in half the size: boxes and pictures are those of the first."""
    small = write_video(tmp_path / "s.ts", [0, 0.04], (80, 60), lambda s, size: scene(0)[::2, ::2])
    large = write_video(tmp_path / "l.ts", [0, 0.04])
    (tmp_path / "joined.ts").write_bytes(large.read_bytes() + small.read_bytes())
    analysis = analyze_video(tmp_path / "joined.ts", find_square, fps=None, annotated=tmp_path / "out.mp4")
    boxes = [frame.faces[0]["box"] for frame in analysis]
    assert len(boxes) == 4
    for box in boxes:
        assert list(box.values()) == pytest.approx([10, 40, 50, 80], abs=3)


def test_frames_that_grow_over_the_limit_are_refused_too(tmp_path):
    small = write_video(tmp_path / "s.ts", [0, 0.04], (80, 60), lambda s, size: scene(0)[::2, ::2])
    large = write_video(tmp_path / "l.ts", [0, 0.04])
    (tmp_path / "joined.ts").write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(FerError, match="over the limit of 5,000 pixels"):
        list(read_frames(tmp_path / "joined.ts", None, max_pixels=5000))


# Analysing


def test_one_face_is_one_track_and_its_probabilities_are_smoothed(movie):
    frames = list(analyze_video(movie, find_square, fps=5, smoothing=0.5))
    assert [frame.frame for frame in frames] == list(range(0, 50, 5))
    smooth = None
    for frame in frames:
        (face,) = frame.faces
        assert face["track"] == 1 and face["detection_score"] == 0.9 and face["reliability"] == 0.5
        raw = face["raw_probabilities"]["happiness"]
        assert raw == pytest.approx(max(0.1, (10 + 30 * frame.seconds) / WIDTH), abs=0.02)
        smooth = raw if smooth is None else smooth + (1 - math.exp(-0.2 / 0.5)) * (raw - smooth)
        assert face["probabilities"]["happiness"] == pytest.approx(smooth, abs=1e-9)
        assert face["label"] == max(face["probabilities"], key=face["probabilities"].get)
        assert face["score"] == face["probabilities"][face["label"]] == max(face["probabilities"].values())
    for frame in analyze_video(movie, find_square, smoothing=0):
        assert frame.faces[0]["probabilities"] == frame.faces[0]["raw_probabilities"]


def test_faces_that_cross_keep_their_tracks(tmp_path):
    def crossing(image: Image.Image) -> list[dict]:
        (face,) = find_square(image)
        box = face["box"]
        mirrored = {**box, "xmin": WIDTH - box["xmax"], "xmax": WIDTH - box["xmin"], "ymin": 60, "ymax": 100}
        return [face, {**face, "box": mirrored}]

    path = write_video(tmp_path / "cross.mp4", [k / 25 for k in range(75)])
    frames = list(analyze_video(path, crossing, fps=10))
    assert {tuple(face["track"] for face in frame.faces) for frame in frames} == {(1, 2)}
    first, last = frames[0].faces[0]["box"], frames[-1].faces[0]["box"]
    assert first["xmin"] < 20 and last["xmin"] > 85


def test_frames_without_a_face_are_answered(movie):
    analysis = analyze_video(movie, no_face)
    assert [frame.faces for frame in analysis] == [[]] * 10
    assert (analysis.report.sampled, analysis.report.faces, analysis.report.tracks) == (10, 0, 0)
    assert analysis.report.ended == "end" and analysis.report.warning is None


def test_slow_sampling_still_tracks(tmp_path):
    path = write_video(tmp_path / "slow.mp4", [0, 2, 4, 6], picture=lambda s, size: scene(0))
    assert [f.faces[0]["track"] for f in analyze_video(path, find_square, fps=0.5)] == [1, 1, 1, 1]


def test_memory_is_flat_in_the_length(tmp_path):
    """Peak of Python's memory (pictures, faces, tracks) and of the process (decoder, encoder), of 3 and 12 seconds."""
    import tracemalloc

    psutil = pytest.importorskip("psutil")
    process = psutil.Process()

    def many_tracks(image: Image.Image) -> list[dict]:
        (face,) = find_square(image)
        many_tracks.calls += 1
        x = 200 * many_tracks.calls  # never overlaps the last one: a new track each time
        labels = {f"{x} {k}": 0.001 for k in range(500)}
        return [face, {**face, "box": {**face["box"], "xmin": x, "xmax": x + 50}, "probabilities": labels}]

    peaks, grown = [], []
    for seconds in (3, 12):
        many_tracks.calls = 0
        size = (320, 240)
        path = write_video(
            tmp_path / f"{seconds}.mp4", [k / 10 for k in range(10 * seconds)], size, lambda s, z: scene(1, z)
        )
        gc.collect()
        before = process.memory_info().rss
        tracemalloc.start()
        highest = before
        with analyze_video(path, many_tracks, fps=10, annotated=tmp_path / f"{seconds}.out.mp4") as analysis:
            for frame in analysis:
                highest = max(highest, process.memory_info().rss) if frame.frame % 10 == 0 else highest
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        grown.append(highest - before)
        assert analysis.report.tracks == 1 + 10 * seconds
    assert peaks[1] < peaks[0] + 500_000
    # 90 frames more of 230 kB each would be 21 MB.
    assert grown[1] < grown[0] + 12_000_000


def test_what_the_consumer_does_to_its_faces_is_not_drawn(movie, tmp_path):
    for frame in analyze_video(movie, find_square, annotated=tmp_path / "out.mp4"):
        frame.faces[0]["box"].clear()
        frame.faces[0].clear()
    assert probe_video(tmp_path / "out.mp4").seconds == pytest.approx(2)


def test_everything_is_closed_when_the_consumer_stops(movie, tmp_path):
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to count open files")
    before = open_files()
    with analyze_video(movie, find_square, annotated=tmp_path / "a" / "out.mp4") as analysis:
        next(analysis)
        assert open_files() > before
    assert open_files() == before
    assert list((tmp_path / "a").iterdir()) == [], "no half a video, no temporary file"
    for _ in analyze_video(movie, find_square, annotated=tmp_path / "a" / "out.mp4"):
        break
    gc.collect()
    assert open_files() == before and list((tmp_path / "a").iterdir()) == []

    def fails(image):
        raise FerError("the model broke")

    with pytest.raises(FerError, match="the model broke"):
        list(analyze_video(movie, fails, annotated=tmp_path / "a" / "out.mp4"))
    frames = read_frames(movie)
    next(frames)
    frames.close()
    assert open_files() == before and list((tmp_path / "a").iterdir()) == []


# The annotated video


def test_the_annotated_video_plays_in_browsers(movie, tmp_path):
    path = tmp_path / "new" / "out.mp4"
    analysis = analyze_video(movie, find_square, annotated=path)
    frames = list(analysis)
    assert analysis.report.sound_dropped and len(frames) == 10
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "the index comes first"
    with av.open(str(path)) as container:
        (stream,) = container.streams
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.frames) == ("h264", "yuv420p", 50)
        assert float(stream.average_rate) == pytest.approx(25)
    yellow = np.array(tuple(bytes.fromhex(EXPRESSION_COLORS["neutral"][1:])), int)
    shown = 0
    for index, seconds, image in read_frames(path, fps=None):
        assert seconds == pytest.approx(index / 25, abs=1e-3)
        pixels = np.asarray(image).astype(int)
        source = scene(seconds)
        assert np.abs(pixels[90:, :] - source[90:, :]).mean() < 4, "colours stay what they are"
        x0 = 10 + round(30 * (index // 5 * 5) / 25)  # the box of the last sampled frame
        edge = pixels[50:75, x0 - 2 : x0 + 2]
        shown += bool(np.abs(edge - yellow).sum(-1).min() < 100)
        assert np.abs(pixels[45:75, x0 - 3 : x0 + 3] - source[45:75, x0 - 3 : x0 + 3]).max() > 40
    assert shown > 40


@pytest.mark.skipif(int(av.__version__.split(".")[0]) < 17, reason="PyAV before 17 reads HD colours as SD, 10 % off")
def test_colours_survive(tmp_path):
    colours = [(200, 20, 20), (20, 200, 20), (20, 20, 200), (240, 228, 66), (0, 0, 0), (255, 255, 255)]

    def stripes(seconds, size):
        return np.repeat(np.array(colours, np.uint8), 16, 0)[None].repeat(size[1], 0)

    path = write_video(tmp_path / "c.mkv", [0, 0.04], (96, 64), stripes, crf="1")
    list(analyze_video(path, no_face, annotated=tmp_path / "out.mp4"))
    (_, _, before), *_ = read_frames(path, fps=None)
    (_, _, after), *_ = read_frames(tmp_path / "out.mp4", fps=None)
    for k, colour in enumerate(colours):
        for image in (before, after):
            assert np.abs(np.array(image.getpixel((16 * k + 8, 32))) - colour).max() < 16, colour


@pytest.mark.parametrize("size", [(161, 121), (3, 2), (17, 64)])
def test_odd_sizes_are_padded_by_one_pixel(tmp_path, size):
    frames = [Image.new("RGB", size, (50 * k, 0, 0)) for k in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    list(analyze_video(tmp_path / "a.gif", no_face, annotated=tmp_path / "out.mp4"))
    info = probe_video(tmp_path / "out.mp4")
    assert (info.width, info.height) == (size[0] + size[0] % 2, size[1] + size[1] % 2)


def test_what_no_decoder_takes_is_scaled_down(tmp_path):
    frames = [Image.new("RGB", (20_000, 40), (50 * k, 0, 0)) for k in range(2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    list(analyze_video(tmp_path / "a.gif", no_face, annotated=tmp_path / "out.mp4"))
    info = probe_video(tmp_path / "out.mp4")
    assert (info.width, info.height) == (3840, 8)


def test_nothing_is_overwritten_unless_asked(movie, tmp_path):
    path = tmp_path / "out.mp4"
    path.write_text("mine")
    with pytest.raises(FerError, match="exists already"):
        analyze_video(movie, no_face, annotated=path)
    with pytest.raises(FerError, match=r"\.mp4"):
        analyze_video(movie, no_face, annotated=tmp_path / "out.avi")
    assert path.read_text() == "mine"
    list(analyze_video(movie, no_face, annotated=path, overwrite=True))
    assert probe_video(path).seconds == pytest.approx(2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mp4"]


def test_a_place_that_cannot_be_written_is_one_sentence(movie, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FerError, match="cannot be written"):
        list(analyze_video(movie, no_face, annotated=tmp_path / "file" / "out.mp4"))


# Timelines


def test_a_table_has_a_row_for_every_face(movie, tmp_path):
    count = write_timeline(analyze_video(movie, find_square), tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert count == len(rows) == 10
    assert list(rows[0])[-8:] == [f"p_{name}" for name in EXPRESSIONS]
    for row, frame in zip(rows, analyze_video(movie, find_square), strict=True):
        (face,) = frame.faces
        assert (int(row["frame"]), float(row["seconds"])) == (frame.frame, pytest.approx(frame.seconds))
        assert (row["label"], int(row["track"])) == (face["label"], 1)
        assert float(row["p_happiness"]) == pytest.approx(face["probabilities"]["happiness"], abs=1e-6)
        assert float(row["raw_score"]) == pytest.approx(face["raw_probabilities"][row["raw_label"]], abs=1e-6)
        assert [int(row[key]) for key in ("xmin", "ymin", "xmax", "ymax")] == list(face["box"].values())


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_has_every_frame(movie, tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    assert write_timeline(analyze_video(movie, find_square), path) == 10
    text = path.read_text()
    read = json.loads(text) if suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    for entry, frame in zip(read, analyze_video(movie, find_square), strict=True):
        assert entry["frame"] == frame.frame and entry["seconds"] == pytest.approx(frame.seconds, abs=1e-6)
        assert entry["faces"][0]["probabilities"] == pytest.approx(frame.faces[0]["probabilities"], abs=1e-6)
        assert entry["faces"][0]["track"] == 1 and "raw_probabilities" in entry["faces"][0]


def test_timelines_without_a_face(movie, tmp_path):
    write_timeline(analyze_video(movie, no_face), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines()[0].startswith("frame,seconds,track,label")
    write_timeline(iter(()), tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text()) == []
    write_timeline(iter([FrameFaces(0, 0.0, [])]), tmp_path / "u.json")
    assert json.loads((tmp_path / "u.json").read_text()) == [{"frame": 0, "seconds": 0.0, "faces": []}]


def test_a_timeline_appears_whole_or_not_at_all(movie, tmp_path):
    def breaks():
        yield from list(analyze_video(movie, find_square))[:3]
        raise FerError("it broke")

    with pytest.raises(FerError, match="it broke"):
        write_timeline(breaks(), tmp_path / "t.csv")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "t.csv").write_text("mine")
    with pytest.raises(FerError, match="exists already"):
        write_timeline(iter(()), tmp_path / "t.csv")
    with pytest.raises(FerError, match="ending"):
        write_timeline(iter(()), tmp_path / "t.txt")
    assert (tmp_path / "t.csv").read_text() == "mine"


def test_labels_of_any_kind_stay_in_their_columns(tmp_path):
    def face(**p):
        label = max(p, key=p.get)
        return {
            "box": dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), 1),
            "label": label,
            "score": 1,
            "probabilities": p,
        }

    hostile = {'a,"b\n': 0.6, "Happy": 0.3, "Zorn": 0.1}
    write_timeline([FrameFaces(0, 0.0, [face(**hostile)])], tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert [key for key in row if key.startswith("p_")] == ["p_Happy", "p_Zorn", 'p_a,"b\n']
    assert row['p_a,"b\n'] == "0.6" and row["label"] == 'a,"b\n' and row["reliability"] == ""
    frames = [FrameFaces(0, 0.0, [face(a=1.0)]), FrameFaces(1, 0.2, [face(b=1.0)])]
    with pytest.raises(FerError, match="top_k"):
        write_timeline(frames, tmp_path / "u.csv")


# Cameras


class Camera:
    """cv2.VideoCapture's place: pictures at 30 a second of a clock that it moves itself."""

    opened: ClassVar[list[Camera]] = []
    pictures = 10_000
    spoilt = 0  # pictures at the start that cannot be decoded
    present = True

    def __init__(self, number: int) -> None:
        self.number, self.grabbed, self.retrieved, self.released = number, 0, 0, False
        Camera.opened.append(self)

    def isOpened(self) -> bool:
        return self.present

    def get(self, what: int) -> float:
        return 30.0

    def grab(self) -> bool:
        self.grabbed += 1
        return self.grabbed <= self.pictures

    def retrieve(self):
        self.retrieved += 1
        if self.grabbed <= self.spoilt:
            return False, None
        return True, scene(min(2.0, self.grabbed / 30))[..., ::-1]

    def release(self) -> None:
        self.released = True


@pytest.fixture
def camera(monkeypatch):
    from hf_fer.inference import webcam

    fake = SimpleNamespace(
        VideoCapture=Camera, CAP_PROP_FPS=5, COLOR_BGR2RGB=4, cvtColor=lambda pixels, code: pixels[..., ::-1].copy()
    )
    monkeypatch.setitem(sys.modules, "cv2", fake)
    monkeypatch.setattr(Camera, "opened", [])
    real = webcam.webcam_pictures
    monkeypatch.setattr(
        "hf_fer.inference.video.webcam_pictures",
        lambda *arguments: real(*arguments, clock=lambda: 100 + Camera.opened[-1].grabbed / 30),
    )
    return Camera


def test_a_camera_is_sampled_in_real_time_and_released(camera, tmp_path):
    analysis = analyze_video("webcam:1", find_square, fps=5, max_seconds=2)
    frames = list(analysis)
    (used,) = camera.opened
    assert used.number == 1 and used.released
    assert [frame.seconds for frame in frames] == pytest.approx([k / 5 for k in range(10)], abs=0.034)
    assert used.retrieved <= 12, "the others are dropped undecoded, so the next picture is a fresh one"
    assert frames[-1].faces[0]["track"] == 1
    assert analysis.report.ended == "max_seconds" and analysis.report.warning is None
    with analyze_video("webcam", find_square) as endless:
        next(endless)
    assert camera.opened[-1].number == 0 and camera.opened[-1].released


def test_a_camera_that_goes_away_is_a_warning(camera, monkeypatch):
    monkeypatch.setattr(Camera, "pictures", 60)
    analysis = analyze_video("webcam", find_square)
    assert len(list(analysis)) == 10
    assert "no more pictures" in analysis.report.warning and camera.opened[0].released


def test_a_camera_may_take_time_to_start_but_not_for_ever(camera, monkeypatch):
    monkeypatch.setattr(Camera, "spoilt", 3)
    with analyze_video("webcam", find_square) as analysis:
        assert next(analysis).frame == 0 and camera.opened[-1].grabbed == 4
    monkeypatch.setattr(Camera, "pictures", 0)
    pictures = webcam_pictures(0, VideoReport("webcam"), 10**6, clock=lambda: 10.0 * camera.opened[-1].grabbed)
    with pytest.raises(FerError, match="gives no picture"):
        next(pictures)
    assert camera.opened[-1].grabbed == 2, "each of which took 10 s"


def test_a_camera_that_is_not_there_is_one_sentence(camera, monkeypatch):
    monkeypatch.setattr(Camera, "present", False)
    with pytest.raises(FerError, match="camera 0 cannot be opened"):
        list(analyze_video("webcam", no_face))
    assert camera.opened[0].released
    monkeypatch.setattr(Camera, "present", True)
    monkeypatch.setattr(Camera, "pictures", 0)
    with pytest.raises(FerError, match="gives no picture"):
        list(analyze_video("webcam", no_face))
    with pytest.raises(FerError, match="names no camera"):
        analyze_video("webcam:x", no_face)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(FerError, match=r"hf-fer\[detect\]"):
        list(analyze_video("webcam", no_face))


def test_an_interrupt_ends_a_recording_and_keeps_it(camera, tmp_path):
    """Ctrl-C while a camera is watched: the timeline and the video become whole."""
    handler = signal.getsignal(signal.SIGINT)
    lines = []

    def pressed(frames):
        for frame in frames:
            lines.append(frame)
            if len(lines) == 4:
                os.kill(os.getpid(), signal.SIGINT)
            yield frame

    with stop_on_interrupt() as stop:
        analysis = analyze_video("webcam", find_square, annotated=tmp_path / "out.mp4", stop=stop)
        count = write_timeline(pressed(analysis), tmp_path / "t.csv")
    assert analysis.report.ended == "stopped" and count == 4
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 5
    assert probe_video(tmp_path / "out.mp4").seconds == pytest.approx(0.6, abs=0.2)
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


# Without extras


def test_nothing_heavy_is_imported_and_missing_pyav_is_one_sentence(tmp_path):
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from hf_fer.inference import video\n"
        "assert not {'torch', 'cv2', 'transformers', 'scipy'} & set(sys.modules), set(sys.modules)\n"
        "try:\n    list(video.read_frames('a.mp4'))\nexcept video.FerError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert 'pip install "hf-fer[video]"' in done.stdout, done.stderr
