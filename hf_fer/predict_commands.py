"""`hf-fer predict`: the expressions of the faces in photos, folders of them, videos and from a webcam."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .cli_options import above_zero, add_shared, number, positive, refuse_overwrite
from .errors import FerError
from .predict_output import Answer, counted, write_csv, write_json, write_table

if TYPE_CHECKING:
    from PIL import Image

    from .inference.pipeline import FacialExpressionPipeline


def run(options: argparse.Namespace) -> int:
    """Runs `hf-fer predict`; returns the exit code.

    Raises:
        FerError: anything that the user can put right.
    """
    from .inference.images import IMAGE_SUFFIXES, iter_image_paths
    from .inference.video_files import VIDEO_SUFFIXES
    from .inference.webcam import webcam_number

    kind = _output_format(options)
    refuse_overwrite(options.output, options.force)
    cameras = [path for path in options.paths if webcam_number(path) is not None]
    files = [path for path in options.paths if path not in cameras]
    in_folders = IMAGE_SUFFIXES | VIDEO_SUFFIXES - {".ts"}  # which is TypeScript's ending, too
    found, unusable = iter_image_paths(files, in_folders)
    found += dict.fromkeys(cameras)
    videos = {path for path in found if path in cameras or Path(path).suffix.lower() in VIDEO_SUFFIXES}
    drawings = _plan_drawings(found, videos, options) if options.annotate is not None else {}
    failures: list[str] = []
    empty: list[str] = []
    with _open_output(options.output) as out:
        answers: Iterable[Answer] = (Answer(failed.path, error=failed.reason) for failed in unusable)
        classes: list[str] = []
        if found:  # else there is no need to load a model
            pipeline = _load(options)
            names = pipeline.model.config.id2label
            classes = [str(names[k]) for k in sorted(names)]
            # Lines that scroll by on the same terminal are progress enough; a bar would be drawn into them.
            scrolling = options.output is None and sys.stdout.isatty()
            progress = not scrolling and (len(found) > 32 or sys.stderr.isatty())
            answers = _chain(answers, _answers(found, videos, pipeline, drawings, options, progress, failures))
        every = counted(answers, failures, empty)
        if kind == "json":
            write_json(every, out, options.top)
        elif kind == "csv":
            write_csv(every, out, options.top, classes)
        else:
            width = min(max((len(path) for path in found), default=4), 60)
            write_table(every, out, options.top or 3, width)
    return _conclude(options, len(found), failures, empty)


def add_parser(commands: Any) -> None:
    """Adds `predict` to the subcommands of `hf-fer`."""
    parser = commands.add_parser(
        "predict",
        help="name the expressions in photos and videos",
        description="Find the faces in photos, folders, videos (or from a webcam) and name the expression that each"
        " appears to show. With --no-detect every picture is one face, cropped. Exit code 2 if something could not be"
        " answered; the rest is answered all the same.",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="photo or its http(s) address, video, folder (searched for both), pattern, or webcam, webcam:1 (until"
        " Ctrl-C)",
    )
    parser.add_argument(
        "--model",
        default="default",
        metavar="M",
        help="checkpoint folder, Hub id, default (the one in the package), or default-mek and so on",
    )
    finding = parser.add_mutually_exclusive_group()
    finding.add_argument(
        "--detector",
        metavar="D",
        help="yunet (default; weights from HF_FER_DETECTOR or the Hub) or an .onnx file of it",
    )
    finding.add_argument("--no-detect", action="store_true", help="every picture is the crop of one face")
    parser.add_argument(
        "--min-face", type=number, default=0, metavar="PX", help="leave out faces with a shorter side than this"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--json", action="store_true", help="a JSON array instead of a table")
    kind.add_argument("--csv", action="store_true", help="CSV, a row for each face, instead of a table")
    parser.add_argument(
        "--top", type=positive, metavar="K", help="only the K most probable classes (table: 3, else all)"
    )
    parser.add_argument(
        "--annotate", metavar="DIR", help="also write each photo and video there, with boxes and labels"
    )
    parser.add_argument(
        "--fps", type=above_zero, default=5.0, metavar="N", help="frames of a video looked at in a second; default: 5"
    )
    parser.add_argument("--max-seconds", type=above_zero, metavar="S", help="stop a video or webcam after this long")
    add_shared(parser, batch_size=32)


# --- the answers ------------------------------------------------------------------------------------------


def _load(options: argparse.Namespace) -> FacialExpressionPipeline:
    from .inference.pipeline import load_pipeline

    return load_pipeline(
        options.model,
        detector="none" if options.no_detect else options.detector or "yunet",
        device=options.device,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
        batch_size=options.batch_size,
        min_face=options.min_face,
    )


def _chain(*parts: Iterable[Answer]) -> Iterator[Answer]:
    for part in parts:
        yield from part


def _answers(
    found: list[str],
    videos: set[str],
    pipeline: FacialExpressionPipeline,
    drawings: dict[str, Path],
    options: argparse.Namespace,
    progress: bool,
    warnings: list[str],
) -> Iterator[Answer]:
    """Neighbouring pictures share batches; a video is answered frame by frame."""
    pictures: list[str] = []
    for path in found:
        if path not in videos:
            pictures.append(path)
            continue
        yield from _of_pictures(pictures, pipeline, drawings, options.force, progress)
        pictures = []
        yield from _of_video(path, pipeline, drawings.get(path), options, progress, warnings)
    yield from _of_pictures(pictures, pipeline, drawings, options.force, progress)


def _of_pictures(
    paths: list[str],
    pipeline: FacialExpressionPipeline,
    drawings: dict[str, Path],
    overwrite: bool,
    progress: bool,
) -> Iterator[Answer]:
    from .inference.annotate import draw_faces
    from .inference.images import FailedImage
    from .inference.pipeline import iter_faces

    if not paths:
        return
    for answer in iter_faces(paths, pipeline, progress=progress, keep_images=bool(drawings)):
        if isinstance(answer, FailedImage):
            yield Answer(answer.path, error=answer.reason)
            continue
        if answer.image is not None and answer.path in drawings:
            _save(draw_faces(answer.image, answer.faces), drawings[answer.path], overwrite)
        width, height = answer.size
        yield Answer(answer.path, answer.faces, width=width, height=height)


def _of_video(
    path: str,
    pipeline: FacialExpressionPipeline,
    drawing: Path | None,
    options: argparse.Namespace,
    progress: bool,
    warnings: list[str],
) -> Iterator[Answer]:
    from .inference.video import analyze_video, stop_on_interrupt
    from .inference.webcam import webcam_number

    # A webcam has no end but Ctrl-C, and what was written until then shall be whole.
    ending = contextlib.nullcontext() if webcam_number(path) is None else stop_on_interrupt()
    with ending as stop:
        try:
            frames = analyze_video(
                path,
                pipeline,
                fps=options.fps,
                max_seconds=options.max_seconds,
                annotated=drawing,
                overwrite=options.force,
                stop=stop,
                progress=progress,
            )
            with frames:
                for frame in frames:
                    yield Answer(path, frame.faces, frame=frame.frame, seconds=frame.seconds)
        except FerError as error:
            yield Answer(path, error=str(error))
            return
    report = frames.report
    if report.warning and report.ended in ("damaged", "end"):  # it was not whole, whatever ended it
        warnings.append(report.warning)
    elif report.warning:
        print(f"hf-fer: {report.warning}", file=sys.stderr)
    if report.sound_dropped:
        print(f"hf-fer: {report.source} is drawn without its sound", file=sys.stderr)
    if report.sampled and not report.faces:
        print(f"hf-fer: no face found in the {report.sampled} frames of {report.source}", file=sys.stderr)


def _conclude(options: argparse.Namespace, asked: int, failures: list[str], empty: list[str]) -> int:
    if empty:
        what = f"{len(empty)} of {asked}" if len(empty) > 1 else empty[0] if empty[0].isprintable() else repr(empty[0])
        hint = "" if options.no_detect else "; if such a picture is the crop of one face, add --no-detect"
        small = f" of at least {options.min_face:g} px" if options.min_face else ""
        print(f"hf-fer: no face{small} found in {what}{hint}", file=sys.stderr)
    if options.annotate and not failures:
        print(f"hf-fer: drawn into {options.annotate}", file=sys.stderr)
    if failures:
        print(f"hf-fer: {len(failures)} without an answer:", file=sys.stderr)
        for reason in failures:
            print(f"  {reason}", file=sys.stderr)
        return 2
    return 0


# --- files ------------------------------------------------------------------------------------------------


def _plan_drawings(found: list[str], videos: set[str], options: argparse.Namespace) -> dict[str, Path]:
    """Where each input is drawn to: its own name in the folder, with a number where two have the same.

    Raises:
        FerError: the folder is a file, or holds such a file already and --force was not given.
    """
    folder = Path(options.annotate)
    if not options.annotate:
        raise FerError("--annotate names no folder")
    if folder.exists() and not folder.is_dir():
        raise FerError(f"{folder}: a file; name a folder for --annotate")
    drawings: dict[str, Path] = {}
    inputs = {os.path.realpath(path) for path in found}
    taken: set[str] = set()
    for path in found:
        source = Path(path.replace(":", "-")) if path in videos else Path(path)  # webcam:1
        suffix = ".mp4" if path in videos else _picture_suffix(source)
        name, count = f"{source.stem}{suffix}", 1
        while name.lower() in taken:
            count += 1
            name = f"{source.stem}-{count}{suffix}"
        taken.add(name.lower())
        drawings[path] = folder / name
        if os.path.realpath(folder / name) in inputs:  # also another one, which may be read later
            raise FerError(f"{folder / name}: would be drawn over itself; name another folder for --annotate")
        refuse_overwrite(str(folder / name), options.force)
    folder.mkdir(parents=True, exist_ok=True)
    return drawings


def _picture_suffix(source: Path) -> str:
    """JPEG stays JPEG; all else becomes PNG, which loses nothing."""
    return source.suffix if source.suffix.lower() in (".jpg", ".jpeg") else ".png"


def _save(image: Image.Image, target: Path, overwrite: bool) -> None:
    from .evaluation.whole_files import write_whole

    kind = "PNG" if target.suffix == ".png" else "JPEG"
    write_whole(target, lambda file: image.save(file, format=kind, quality=95), overwrite)


def _output_format(options: argparse.Namespace) -> str:
    """ "json", "csv" or "table": by flag, else by the output file's ending.

    Raises:
        FerError: an ending that says neither.
    """
    if options.json or options.csv:
        return "json" if options.json else "csv"
    suffix = Path(options.output or "").suffix.lower()
    if suffix not in ("", ".txt", ".json", ".csv"):
        raise FerError(f"{options.output}: its ending says no format; use .json, .csv or .txt, or add --json or --csv")
    return {".json": "json", ".csv": "csv"}.get(suffix, "table")


@contextlib.contextmanager
def _open_output(path: str | None) -> Iterator[TextIO]:
    """Stdout, or a file that gets its name once it is complete."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()  # here, where a closed pipe is still caught
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
