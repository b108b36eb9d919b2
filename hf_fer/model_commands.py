"""`hf-fer explain`, `export`, `calibrate` and `demo`: what else one does with a trained model."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_options import add_output, factors, positive, refuse_overwrite
from .data_options import add_data, dataset_options, label_map
from .errors import FerError

if TYPE_CHECKING:
    from PIL import Image

COMMANDS = ("explain", "export", "calibrate", "demo")

_CALIBRATION_FACES = 512
_RANGES_SPLIT = "validation"


def run(options: argparse.Namespace) -> int:
    """Runs one of `COMMANDS`; returns the exit code.

    Raises:
        FerError: anything that the user can put right.
    """
    return {"explain": _explain, "export": _export, "calibrate": _calibrate, "demo": _demo}[options.command](options)


def add_parsers(commands: Any) -> None:
    """Adds `COMMANDS` to the subcommands of `hf-fer`."""
    explain = commands.add_parser(
        "explain",
        help="draw where a model looks",
        description="Draw the evidence for each expression over a face, at several resolutions side by side (class"
        " activation maps; attention rollout for transformers).",
    )
    explain.add_argument("image", metavar="IMAGE", help="a photo; with --no-detect the crop of one face")
    _add_model(explain)
    finding = explain.add_mutually_exclusive_group()
    finding.add_argument("--detector", metavar="D", help="see `hf-fer predict`")
    finding.add_argument("--no-detect", action="store_true", help="the picture is the crop of one face")
    explain.add_argument("--face", type=positive, default=1, metavar="N", help="which one; default: 1, the largest")
    explain.add_argument("--resolutions", type=factors, default=(1.0, 2.0, 4.0, 8.0), metavar="1,2,4,8")
    explain.add_argument(
        "--top", type=positive, default=3, metavar="K", help="expressions with a row of maps; default: 3"
    )
    explain.add_argument(
        "--method", metavar="M", help="cam, gradient_rollout, rollout or gradcam; default: by the model"
    )
    explain.add_argument("--device", metavar="D", help="torch device; default: CUDA if any")
    add_output(explain)

    export = commands.add_parser(
        "export",
        help="write a model for other runtimes",
        description="Write a model as one file for onnxruntime, its preprocessing and labels in the metadata, after"
        " comparing its answers with PyTorch's.",
    )
    export.add_argument("model", metavar="MODEL", help="checkpoint folder, Hub id, or `default`")
    export.add_argument("--to", choices=("onnx",), default="onnx", help="format; default: onnx")
    export.add_argument("--int8", action="store_true", help="8-bit integers: smaller, a little less exact")
    add_data(export, split=_RANGES_SPLIT, required=False, matching=False)
    _add_trust(export)
    add_output(export)

    calibrate = commands.add_parser(
        "calibrate",
        help="fit how far a model's probabilities can be trusted",
        description="Fit a temperature for each resolution on a validation split and write calibration.json beside the"
        " checkpoint, from which `hf-fer predict` takes the reliability of an answer.",
    )
    calibrate.add_argument("model", metavar="MODEL", help="checkpoint folder, or `default`")
    add_data(calibrate, split="validation")
    calibrate.add_argument("--resolutions", type=factors, default=(1.0, 2.0, 4.0, 8.0), metavar="1,2,4,8")
    calibrate.add_argument("--batch-size", type=positive, default=64, metavar="N", help="images in one forward pass")
    calibrate.add_argument("--device", metavar="D", help="torch device; default: CUDA if any")
    _add_trust(calibrate, revision=False)
    calibrate.add_argument("--force", action="store_true", help="overwrite what is there")

    demo = commands.add_parser(
        "demo",
        help="start the demo in a browser",
        description="Start the Gradio demo on this machine: photos, resolutions, attention, videos, leaderboard.",
    )
    demo.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="checkpoint folders or Hub ids to choose from; default: the package's",
    )
    demo.add_argument(
        "--detector", default="auto", metavar="D", help="auto (yunet if to be had), yunet, none, or an .onnx file"
    )
    demo.add_argument("--records", metavar="DIR", help="result records for the leaderboard; default: the package's")
    demo.add_argument("--host", metavar="H", help="address to listen at; default: this machine alone")
    demo.add_argument("--port", type=positive, metavar="P", help="default: a free one from 7860")
    demo.add_argument("--share", action="store_true", help="a public link, over Gradio's servers")
    demo.add_argument("--open", action="store_true", help="open it in the browser")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="default",
        metavar="M",
        help="checkpoint folder, Hub id, default (the one in the package), or default-mek and so on",
    )
    _add_trust(parser)


def _add_trust(parser: argparse.ArgumentParser, revision: bool = True) -> None:
    if revision:
        parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a model on the Hub")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that the model brings along")


def _explain(options: argparse.Namespace) -> int:
    output = Path(options.output or f"{Path(options.image).stem}.explained.png")
    refuse_overwrite(str(output), options.force)

    from .inference.alignment import crop_face, face_template
    from .inference.explain import METHODS, explain_resolutions
    from .inference.explain_plot import plot_explanation
    from .inference.found_faces import find_faces
    from .inference.images import open_image
    from .inference.pipeline import load_pipeline

    picture = open_image(options.image)
    pipeline = load_pipeline(
        options.model,
        detector="none" if options.no_detect else options.detector or "yunet",
        device=options.device,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
    )
    faces = find_faces(pipeline.detector, picture, options.image)  # in the order of `hf-fer predict`
    if len(faces) < options.face:
        found = "no face was found" if not faces else f"only {len(faces)} found" if len(faces) > 1 else "only one found"
        raise FerError(f"{options.image}: {found}; for the crop of one face add --no-detect")
    crop = crop_face(picture, faces[options.face - 1], face_template(pipeline.model.config))
    explained = explain_resolutions(
        pipeline.model, pipeline.image_processor, crop, options.resolutions, method=options.method
    )
    plot_explanation(explained, output, top=options.top)
    explanation = explained.explanation
    for factor, row in zip(explained.factors, explanation.probabilities.tolist(), strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        print(f"x{factor:g}  {explanation.labels[best]}  {row[best]:.3f}")
    print(f"written: {output} ({METHODS[explanation.method]})")
    return 0


def _export(options: argparse.Namespace) -> int:
    if options.output is None:
        raise FerError("--output is missing; name the file to write, such as model.onnx")
    refuse_overwrite(options.output, options.force)
    if options.data is not None and not options.int8:
        raise FerError("--data gives the faces that int8's ranges are read from; add --int8, or leave it out")
    if options.data is not None and options.split == "test":
        raise FerError("ranges read from the split test would flatter the file where it is tested; use another split")
    of_data = ("root", "label_rule", "classes", "option")
    alone = [name for name in of_data if getattr(options, name)] + ["split"] * (options.split != _RANGES_SPLIT)
    if options.data is None and alone:
        flag = f"--{alone[0].replace('_', '-')}"
        raise FerError(f"{flag} belongs to --data; add it, or leave {flag} out")

    from .inference.onnx_export import export_onnx

    report = export_onnx(
        options.model,
        options.output,
        int8=options.int8,
        calibration_images=_faces(options) if options.data is not None else None,
        overwrite=options.force,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
    )
    print(
        f"{report.images_checked} faces answered by both: largest difference {report.max_logit_difference:.1e}"
        f" (logits), {report.max_probability_difference:.1e} (probabilities); {report.same_label:.1%} the same"
        " expression"
    )
    print(f"written: {report.path} ({report.precision}, opset {report.opset}, {report.size_bytes / 1e6:.1f} MB)")
    return 0


def _faces(options: argparse.Namespace) -> Iterator[Image.Image]:
    """Faces of a split, evenly spread over it, at resolutions x1, x2, x4 and x8 in turn."""
    from .data.resolution import degrade_image
    from .evaluation.splits import load_split

    data, _, _, _ = load_split(options.data, None, options.root, options.split, dataset_options(options))
    count = min(_CALIBRATION_FACES, len(data))
    for k in range(count):
        yield degrade_image(data[k * len(data) // count]["image"].convert("RGB"), 2 ** (k % 4))


def _calibrate(options: argparse.Namespace) -> int:
    from .checkpoints.loading import resolve_model
    from .inference.calibration import CALIBRATION, calibrate_model, write_calibration

    folder, local = resolve_model(options.model)
    if local:
        refuse_overwrite(str(Path(folder) / CALIBRATION), options.force)
    found = calibrate_model(
        options.model,
        options.data,
        root=options.root,
        split=options.split,
        options=dataset_options(options),
        factors=options.resolutions,
        label_map=label_map(options.label_map),
        batch_size=options.batch_size,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
        command=_as_called(),
    )
    path = write_calibration(found, options.model, overwrite=options.force)
    print(f"{found['dataset']}, split {found['split']}, {found['n']} images")
    print(f"{'face':<6} {'temperature':>11} {'ECE':>7} {'after':>7} {'NLL':>7} {'after':>7}")
    for factor, scores in found["scores"].items():
        figures = [scores[name] for name in ("ece_before", "ece", "nll_before", "nll")]
        print(f"x{factor:<5} {found['temperatures'][factor]:>11.3f} " + " ".join(f"{value:>7.4f}" for value in figures))
    print(f"written: {path}")
    return 0


def _as_called() -> str:
    """The command, without the places of this machine."""
    words = [_without_place(word) for word in sys.argv[1:]]
    words = ["DIR" if k and words[k - 1] == "--root" else word for k, word in enumerate(words)]
    return shlex.join(["hf-fer", *words])


def _without_place(word: str) -> str:
    """Of a folder the last part, also behind the `=` of `--data=FOLDER` or `NAME=VALUE`."""
    name, equals, value = word.rpartition("=")
    if name == "--root":
        return "--root=DIR"
    return name + equals + (Path(value).name if Path(value).is_absolute() or ".." in Path(value).parts else value)


def _demo(options: argparse.Namespace) -> int:
    from .demo import launch_demo

    launch_demo(
        options.models or None,
        options.detector,
        options.records,
        host=options.host,
        port=options.port,
        share=options.share,
        inbrowser=options.open,
    )
    return 0
