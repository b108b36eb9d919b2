"""The tab Video: every face of a clip over time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..errors import FerError
from . import charts, markup
from .examples import clip_example
from .guard import for_api, sentence, without_path
from .inputs import VideoInput
from .limits import Limits
from .models import ModelPool
from .photo import needed

if TYPE_CHECKING:
    from ..inference.video import FrameFaces, VideoAnalysis

LINES = 5  # expressions drawn
FACES = 20  # tracks to choose from
EMPTY = "Add a clip and press Analyse: the expressions of every face are drawn over time."
MOST_FPS = 60  # frames a second that are decoded; a file can state any number of them
_REFRESH = 1.0  # seconds between two looks at what is there so far


@dataclass
class Timeline:
    """What is kept of a video: for each face the probabilities at each time. No picture."""

    tracks: dict[int, list[tuple[float, dict[str, float]]]] = field(default_factory=dict)
    seconds: float = 0.0
    frames: int = 0

    def add(self, frame: FrameFaces) -> None:
        self.frames, self.seconds = self.frames + 1, frame.seconds
        for face in frame.faces:
            track = self.tracks.setdefault(face["track"], [])
            track.append((frame.seconds, face["probabilities"]))

    def longest(self) -> list[int]:
        """The faces seen longest, first."""
        return sorted(self.tracks, key=lambda track: -len(self.tracks[track]))[:FACES]


def video_tab(pool: ModelPool, limits: Limits, model: gr.Dropdown) -> None:
    """Builds the tab's content."""

    @contextmanager
    def opened(path: str, name: str, annotated: str | None = None) -> Iterator[VideoAnalysis]:
        from ..inference.video import analyze_video

        try:
            check_length(path, limits.video_seconds)
            with analyze_video(
                path,
                pool.pipeline(name),
                fps=limits.video_fps,
                max_seconds=limits.video_seconds,
                max_frames=round(limits.video_seconds * MOST_FPS),
                annotated=annotated,
            ) as frames:
                yield frames
        except FerError as error:
            raise FerError(without_path(str(error), path)) from error

    def forget() -> tuple[Any, ...]:
        nothing = gr.Dropdown(visible=False), gr.Plot(visible=False), gr.Video(value=None, visible=False)
        return None, markup.hint(EMPTY), *nothing

    def analyse(path: str | None, name: str, draw: bool) -> Iterator[tuple[Any, ...]]:
        nothing = forget()[2:]
        if path is None:
            yield None, markup.alert("Add a clip first."), *nothing
            return
        timeline, seen = Timeline(), time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            output = str(Path(folder) / "annotated.mp4") if draw else None
            try:
                with opened(path, name, output) as frames:
                    for frame in frames:
                        timeline.add(frame)
                        if time.monotonic() - seen >= _REFRESH:
                            seen = time.monotonic()
                            yield None, markup.status(f"{timeline.seconds:.0f} s looked at …"), *nothing
                    warning = frames.report.warning
            except Exception as error:
                yield None, markup.alert(sentence(error)), *nothing
                return
            if not timeline.tracks:
                yield None, markup.alert("No face was found in this video."), *nothing
                return
            tracks = timeline.longest()
            done = f"{timeline.frames} frames of {timeline.seconds:.1f} s looked at, {_count(len(timeline.tracks))}."
            more = "" if warning is None else markup.alert(without_path(warning, path))
            shown = output is not None and Path(output).is_file()
            yield (
                timeline,
                markup.status(done) + more,
                gr.Dropdown([(f"Face {t}", t) for t in tracks], value=tracks[0], visible=len(tracks) > 1),
                _plot(timeline, tracks[0]),
                gr.Video(value=output, visible=True) if shown else gr.Video(value=None, visible=False),
            )

    def show(timeline: Timeline | None, track: int | None) -> gr.Plot:
        if timeline is None or track not in timeline.tracks:
            return gr.Plot(visible=False)
        return _plot(timeline, track)

    @for_api
    def data(path: str | None, name: str) -> list[dict[str, Any]]:
        with opened(needed(path), name) as frames:
            return [{"frame": frame.frame, "seconds": frame.seconds, "faces": frame.faces} for frame in frames]

    gr.Markdown(
        f"{limits.video_fps:g} frames a second are looked at; faces are followed from one to the next, and their "
        f"answers smoothed. Up to {limits.video_seconds:g}\u00a0seconds and {limits.file_mb}\u00a0MB.",
        elem_classes="hf-lead",
    )
    with gr.Row():
        with gr.Column(scale=5):
            video = VideoInput(label="Your clip", sources=["upload"], height=300, buttons=[], elem_id="hf-video")
            clip_example(video)
            draw = gr.Checkbox(label="Also draw the answers into the clip (takes longer)", value=False)
            start = gr.Button("Analyse", variant="primary", elem_id="hf-analyse")
        with gr.Column(scale=7):
            said = gr.HTML(markup.hint(EMPTY), elem_id="hf-video-said")
            face = gr.Dropdown([], label="Face", visible=False, elem_id="hf-video-face")
            plot = charts.empty_chart("Expression over time", elem_id="hf-timeline")
            drawn = gr.Video(
                label="With the answers", visible=False, interactive=False, height=360, elem_id="hf-video-drawn"
            )
    timeline = gr.State(time_to_live=limits.kept_seconds)

    shared = {"concurrency_id": "video", "concurrency_limit": 1}
    analysis = start.click(
        analyse,
        [video, model, draw],
        [timeline, said, face, plot, drawn],
        api_visibility="private",
        show_progress="minimal",
        show_progress_on=said,
        **shared,
    )
    # Another clip, none or another model: what is on its way is stopped, what is shown would be of the one before.
    quick: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
    stopped = gr.on([video.change, model.change], lambda: None, cancels=[analysis], **quick)
    stopped.then(forget, None, [timeline, said, face, plot, drawn], **quick)
    face.input(show, [timeline, face], plot, **quick)
    gr.Button(visible=False).click(
        data,
        [video, model],
        gr.JSON(visible=False, label="frames"),
        api_name="video",
        api_description="The faces of a clip over time: frame, seconds, and for each face its track and probabilities.",
        **shared,
    )


def check_length(path: str, most: float) -> None:
    """Refuses a clip whose header says that it is too long; one that says nothing is looked at up to that length.

    Raises:
        FerError: it is too long, or cannot be opened.
    """
    from ..inference.video import probe_video

    seconds = probe_video(path).seconds
    if seconds is not None and seconds > most:
        raise FerError(
            f"{Path(path).name}: it lasts {seconds:.0f} s, and up to {most:g} s are accepted here; cut it shorter"
        )


def _plot(timeline: Timeline, track: int) -> gr.Plot:
    """The expressions of one face that are likely at some time."""
    points = timeline.tracks[track]
    labels: Sequence[str] = list(points[0][1])
    peak = {label: max(p.get(label, 0.0) for _, p in points) for label in labels}
    chosen = sorted(peak, key=lambda label: -peak[label])[:LINES]
    times = [seconds for seconds, _ in points]
    lines = [(label, times, [p.get(label, 0.0) for _, p in points]) for label in chosen]
    words = f"The probabilities of {', '.join(chosen)} over {times[-1]:.0f} seconds"
    return charts.chart(lines, charts.expression_lines(chosen), charts.Axes("Expression over time", "seconds"), words)


def _count(faces: int) -> str:
    return "1 face" if faces == 1 else f"{faces} faces"
