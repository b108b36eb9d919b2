"""The `hf-fer` command: predict, evaluate, train, sweep, data.

Everything that takes time to import is imported inside the function that needs it, so that `--help` and a
mistyped option answer at once. Exit codes: 0 done, 1 a bug of ours, 2 something the user can put right
(one sentence on stderr; the traceback under `--debug`), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from . import __version__
from .data import command as data_command
from .errors import FerError

if TYPE_CHECKING:
    from .inference.images import FailedImage
    from .inference.predict import Prediction

_EXTRA_OF = {  # import name -> the extra of ours that installs it
    **dict.fromkeys(("accelerate", "datasets", "evaluate", "matplotlib", "yaml", "sklearn", "tensorboard"), "train"),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "onnx"),
    "gradio": "demo",
    "cv2": "detect",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code; nothing but the code leaves this function.

    Args:
        argv: the arguments after the command's name; None takes them from `sys.argv`.
    """
    arguments, debug = _take_debug(sys.argv[1:] if argv is None else list(argv))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name need not be valid text
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")  # Pillow's, about files we answer with a sentence
            return _run(arguments, debug)
    except SystemExit as stop:  # argparse, after --help and --version
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except KeyboardInterrupt:
        print("hf-fer: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `hf-fer predict ... | head`: whoever read has had enough
        with contextlib.suppress(Exception):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug:
            traceback.print_exc()
        expected = isinstance(error, (ValueError, OSError, ModuleNotFoundError))
        print(f"hf-fer: {_sentence(error, expected)}", file=sys.stderr)
        return 2 if expected else 1


def _run(arguments: list[str], debug: bool) -> int:
    # The flags of `train` and `sweep` are the keys of the configuration, which only the training knows.
    options, flags = _parser().parse_known_args(arguments)
    if options.command == "train":
        return _train(options, flags, debug)
    if options.command == "sweep":
        return _sweep(options, flags, debug)
    if flags:
        raise FerError(f"unrecognized arguments: {' '.join(flags)}; see `hf-fer {options.command} --help`")
    if options.command == "data":
        options.debug = debug
        return data_command.run(options)
    if not debug:
        _quieten()
    return _predict(options) if options.command == "predict" else _evaluate(options)


# --- predict ----------------------------------------------------------------------------------------------


def _predict(options: argparse.Namespace) -> int:
    from .inference.images import iter_image_paths

    kind = _output_format(options)
    _refuse_overwrite(options.output, options.force)
    found, failures = iter_image_paths(options.paths)
    with _open_output(options.output) as out:
        answers: Iterator[Prediction | FailedImage] = iter(())
        classes: list[str] = []
        if found:  # else there is no need to load a model
            from .inference.predict import load_classifier, predict_images

            model, processor = load_classifier(
                options.model,
                options.device,
                revision=options.revision,
                trust_remote_code=options.trust_remote_code,
            )
            names = model.config.id2label
            classes = [str(names[k]) for k in sorted(names)]
            # Lines that scroll by on the same terminal are progress enough; a bar would be drawn into them.
            scrolling = options.output is None and sys.stdout.isatty()
            progress = not scrolling and (len(found) > 32 or sys.stderr.isatty())
            answers = predict_images(found, model, processor, options.batch_size, progress)
        every = _with_failures(failures, answers)
        if kind == "json":
            _write_json(every, out, options.top)
        elif kind == "csv":
            _write_csv(every, out, options.top, classes)
        else:
            width = min(max((len(path) for path in found), default=4), 60)
            _write_table(every, out, options.top or 3, width)
    if failures:
        print(f"hf-fer: {len(failures)} without an answer:", file=sys.stderr)
        for failure in failures:
            print(f"  {failure.reason}", file=sys.stderr)
        return 2
    return 0


def _with_failures(
    failures: list[FailedImage], answers: Iterator[Prediction | FailedImage]
) -> Iterator[Prediction | FailedImage]:
    """The failures known so far, then the answers; new failures are added to the list as they come by."""
    from .inference.images import FailedImage

    yield from list(failures)
    for answer in answers:
        if isinstance(answer, FailedImage):
            failures.append(answer)
        yield answer


def _top(answer: Prediction, top: int | None) -> dict[str, float]:
    """The `top` most probable classes (all for None), most probable first, rounded for reading."""
    return {name: round(p, 6) for name, p in list(answer.probabilities.items())[:top]}


def _write_json(answers: Iterable[Any], out: TextIO, top: int | None) -> None:
    """One JSON array with an object for each image, written as the answers come."""
    separator = "[\n"
    for answer in answers:
        if hasattr(answer, "reason"):
            entry = {"path": answer.path, "error": answer.reason}
        else:
            entry = {
                "path": answer.path,
                "label": answer.label,
                "score": round(answer.score, 6),
                "probabilities": _top(answer, top),
            }
        out.write(separator + json.dumps(entry))
        separator = ",\n"
    out.write("[]\n" if separator == "[\n" else "\n]\n")


def _write_csv(answers: Iterable[Any], out: TextIO, top: int | None, classes: list[str]) -> None:
    """Columns path, label, score, error and p_<class> for each class; outside the `top` they stay empty."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "label", "score", "error", *(f"p_{name}" for name in classes)])
    for answer in answers:
        if hasattr(answer, "reason"):
            writer.writerow([answer.path, "", "", answer.reason, *("" for _ in classes)])
        else:
            p = _top(answer, top)
            score = round(answer.score, 6)
            writer.writerow([answer.path, answer.label, score, "", *(p.get(name, "") for name in classes)])


def _write_table(answers: Iterable[Any], out: TextIO, top: int, width: int) -> None:
    """One line for each answered image; the others are listed on stderr at the end."""
    header = f"{'image':<{width}}  {'expression':<12} {'score':>6}  most probable"
    for answer in answers:
        if hasattr(answer, "reason"):
            continue
        if header:
            print(header, file=out)
            header = ""
        likely = ", ".join(f"{name} {p:.3f}" for name, p in _top(answer, top).items())
        path = answer.path if answer.path.isprintable() else repr(answer.path)
        print(f"{path:<{width}}  {answer.label:<12} {answer.score:>6.3f}  {likely}", file=out, flush=True)


def _output_format(options: argparse.Namespace) -> str:
    """ "json", "csv" or "table": by flag, else by the output file's ending."""
    if options.json or options.csv:
        return "json" if options.json else "csv"
    suffix = Path(options.output or "").suffix.lower()
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


def _refuse_overwrite(path: str | None, force: bool) -> None:
    if path is None:
        return
    if Path(path).is_dir():
        raise FerError(f"{path}: a folder; name the file to write")
    if Path(path).exists() and not force:
        raise FerError(f"{path}: exists already; choose another file, or overwrite it with --force")


# --- evaluate ---------------------------------------------------------------------------------------------


def _evaluate(options: argparse.Namespace) -> int:
    output = Path(options.output or _default_record_path(options))
    if output.suffix.lower() != ".json":
        raise FerError(f"{output}: the record is a JSON file; give it a name that ends in .json")
    matrix_png = output.with_name(f"{output.stem}_confusion.png")
    curve_png = output.with_name(f"{output.stem}_resolution.png")
    several = len(options.resolutions) > 1
    for path in (output, matrix_png, *([curve_png] if several else [])):
        _refuse_overwrite(str(path), options.force)

    from .evaluation.protocols import evaluate_model
    from .evaluation.records import write_record
    from .inference.predict import load_classifier

    model, processor = load_classifier(
        options.model, options.device, revision=options.revision, trust_remote_code=options.trust_remote_code
    )
    record = evaluate_model(
        model,
        options.data,
        root=options.root,
        split=options.split,
        resolutions=options.resolutions,
        options=_dataset_options(options),
        batch_size=options.batch_size,
        revision=options.revision,
        progress=True,
        model_name=os.fspath(options.model),
        processor=processor,
    )
    write_record(record, output, overwrite=options.force)
    _print_record(record)
    # The plots come last: the figures are kept even where matplotlib is missing.
    written = [output, matrix_png]
    from .evaluation.plots import plot_confusion_matrix, plot_resolution_curve

    first = next(iter(record["resolutions"].values()))
    title = f"{options.model} on {options.data} ({options.split})"
    plot_confusion_matrix(first["confusion_matrix"], list(first["per_class"]), matrix_png, title)
    if several:
        plot_resolution_curve(record, curve_png)
        written.append(curve_png)
    print("written: " + ", ".join(map(str, written)))
    return 0


def _dataset_options(options: argparse.Namespace) -> dict[str, Any]:
    """Only what was asked for: each data set has options and defaults of its own."""
    chosen = data_command.parse_options(options.option)
    if options.label_rule is not None:
        chosen["label_rule"] = options.label_rule
    if options.classes is not None:
        chosen["classes"] = options.classes
    return chosen


def _default_record_path(options: argparse.Namespace) -> Path:
    # Of a folder the last part says most; of a Hub id the owner belongs to the name.
    model = Path(options.model).resolve().name if Path(options.model).is_dir() else options.model
    data = Path(options.data).resolve().name if Path(options.data).is_dir() else options.data
    name = "-".join(re.sub(r"[^\w.]+", "-", part).strip("-.") for part in (model, data, options.split))
    return Path("results") / f"{name}.json"


def _print_record(record: dict[str, Any]) -> None:
    columns = ("accuracy", "mean_class_accuracy", "f1_macro")
    print(f"{record['model']} on {record['dataset']}, split {record['split']}, {record['n']} images")
    print(f"{'resolution':<10}  " + "  ".join(f"{name:>19}" for name in columns))
    for factor, metrics in record["resolutions"].items():
        label = "full" if factor == "1" else f"1/{factor}"
        print(f"{label:<10}  " + "  ".join(f"{metrics[name]:>19.4f}" for name in columns))


# --- train and sweep --------------------------------------------------------------------------------------


def _train(options: argparse.Namespace, flags: list[str], debug: bool) -> int:
    method = _method_of(options)

    from .training.cli import main as train

    return train(method, ["--config", options.config, *flags, *(["--debug"] if debug else [])])


def _sweep(options: argparse.Namespace, flags: list[str], debug: bool) -> int:
    method = _method_of(options)
    if not debug:
        _quieten()

    from .training.sweep import sweep

    return sweep(method, options.config, options.grid, options.seeds, flags, debug)


def _method_of(options: argparse.Namespace) -> str:
    """The method to train: by `--method`, else by the configuration's name, <method>_<dataset>.yaml."""
    from ._auto import METHODS

    method = options.method
    if method is None:
        stem = Path(options.config).stem
        method = next((name for name in METHODS if stem == name or stem.startswith(f"{name}_")), None)
        if method is None and len(METHODS) == 1:
            (method,) = METHODS
    if method not in METHODS:
        what = "which method to train is not clear" if method is None else f"there is no method {method!r}"
        raise FerError(f"{what}; add --method with one of {', '.join(METHODS)}")
    if not Path(options.config).is_file():
        raise FerError(f"{options.config}: no such configuration file")
    return method


# --- arguments and messages -------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise FerError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hf-fer",
        description="Facial expression recognition for small images and unbalanced classes.",
    )
    parser.add_argument("--version", action="version", version=f"hf-fer {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and the libraries' own messages")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    predict = commands.add_parser(
        "predict",
        help="name the expression in images",
        description="Name the expression in images that show one face each, cropped to the face. Exit code 2"
        " if any image could not be answered; the others are answered all the same.",
    )
    predict.add_argument("paths", nargs="+", metavar="PATH", help="image file, folder (searched), or pattern")
    predict.add_argument(
        "--model",
        default="default",
        metavar="M",
        help="checkpoint folder or Hub id; default: the one in the package",
    )
    kind = predict.add_mutually_exclusive_group()
    kind.add_argument("--json", action="store_true", help="a JSON array instead of a table")
    kind.add_argument("--csv", action="store_true", help="CSV instead of a table")
    predict.add_argument(
        "--top", type=_positive, metavar="K", help="only the K most probable classes (table: 3, else all)"
    )
    _add_shared(predict, batch_size=32)

    evaluate = commands.add_parser(
        "evaluate",
        help="score a model on a data set",
        description="Score a model on a split of a data set, at one or several resolutions; writes a JSON"
        " record and plots beside it (default: results/<model>-<data>-<split>.json).",
    )
    evaluate.add_argument("model", metavar="MODEL", help="checkpoint folder, Hub id, or `default`")
    evaluate.add_argument("--data", required=True, metavar="NAME", help="data set: ours, a Hub id or a folder")
    evaluate.add_argument("--root", metavar="DIR", help="the raw download of a data set of ours")
    evaluate.add_argument("--split", default="test", metavar="S", help="default: test")
    evaluate.add_argument(
        "--resolutions",
        type=_factors,
        default=(1,),
        metavar="1,2,4,8",
        help="factors by which the images are scaled down first; default: 1",
    )
    evaluate.add_argument("--label-rule", metavar="RULE", help="how votes become labels, such as majority")
    evaluate.add_argument("--classes", type=_positive, metavar="N", help="number of expressions, 7 or 8")
    evaluate.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="any other option of the data set"
    )
    _add_shared(evaluate, batch_size=64)

    train = commands.add_parser(
        "train",
        usage="hf-fer train CONFIG [--method M] [--key value ...]",
        help="train a model",
        description="Train a model from a YAML configuration; every key of it is a flag of the same name."
        " For several processes: accelerate launch -m hf_fer.cli train CONFIG ...",
        allow_abbrev=False,  # `--meth` may be a key
    )
    train.add_argument("config", metavar="CONFIG", help="the recipe, such as recipes/configs/mek_ferplus.yaml")
    train.add_argument("--method", metavar="M", help="default: the beginning of CONFIG's name")

    sweep = commands.add_parser(
        "sweep",
        usage="hf-fer sweep CONFIG [--method M] [--seeds N] [--grid KEY=A,B ...] [--key value ...]",
        help="train over several seeds and values, and tabulate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Train a recipe once for every combination of the grids' values, each with the seeds 0 to N-1, one run after the
other and each in a process of its own. All combinations are checked before the first run starts. As for `train`,
every key of CONFIG is a flag of the same name; `output_dir` is the folder of the whole sweep:

  <output_dir>/<key=value,...>/seed-<n>/   a run folder, as `train` makes it
  <output_dir>/sweep.md                    mean and sample standard deviation of the test figures, also printed
  <output_dir>/sweep.json                  the same and the figures of every run

The same command again goes on where it was interrupted: finished runs are skipped, the others resumed, failed ones
tried again. More seeds or values may be added. Nothing is overwritten. Exit code 2 if a run failed; the others
are done all the same.""",
        epilog="""\
examples:
  hf-fer sweep recipes/configs/mek_synthetic.yaml --grid learning_rate=1e-3,5e-3 --grid ema_decay=0,0.99
  hf-fer sweep recipes/configs/mek_synthetic.yaml --grid "backbone_kwargs={layers: [1,1]},{layers: [2,2]}"
  hf-fer sweep recipes/configs/mek_synthetic.yaml --seeds 5 --grid "ablation=Table 6: baseline,Table 6: RAC + RSL\"""",
        allow_abbrev=False,
    )
    sweep.add_argument("config", metavar="CONFIG", help="the recipe, without a `seed`")
    sweep.add_argument("--method", metavar="M", help="default: the beginning of CONFIG's name")
    sweep.add_argument("--seeds", type=_positive, default=3, metavar="N", help="how many: 0 to N-1; default: 3")
    sweep.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=A,B",
        help="values of a key, in YAML; or ablation=ROW,ROW with names of rows of the method's tables (its"
        " configuration's `ablations`), which change the keys in which the row differs. May be given several times;"
        " without it, the seeds alone differ",
    )

    data_command.add_parser(commands)
    return parser


def _add_shared(parser: argparse.ArgumentParser, batch_size: int) -> None:
    parser.add_argument(
        "--batch-size", type=_positive, default=batch_size, metavar="N", help="images in one forward pass"
    )
    parser.add_argument("--device", metavar="D", help="torch device such as cpu or cuda:1; default: CUDA if any")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a model on the Hub")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that the model brings along")
    parser.add_argument("--output", metavar="FILE", help="write here")
    parser.add_argument("--force", action="store_true", help="overwrite what is there")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _factors(text: str) -> tuple[float, ...]:
    try:
        factors = tuple(float(part) for part in text.split(","))
    except ValueError:
        factors = ()
    if not factors or not all(1 <= factor < float("inf") for factor in factors):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of factors of at least 1, such as 1,2,4,8")
    return factors


def _take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """Take `--debug` out, wherever it stands before a `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--debug"]
    return options + arguments[end:], len(options) < end


def _quieten() -> None:
    """Only our own lines: no advice and no loading bars of the libraries; downloads still show theirs."""
    from huggingface_hub.utils import enable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    with contextlib.suppress(Exception):
        enable_progress_bars()


def _sentence(error: Exception, expected: bool) -> str:
    """One line for any exception."""
    if isinstance(error, FerError):
        return " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        extra = _EXTRA_OF.get(package)
        wanted = f"hf-fer[{extra}]" if extra else package
        return f"this needs {package or 'a package'}, which is not installed; run `pip install {wanted}`"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split())[:400] or type(error).__name__
    if expected:
        return text
    return f"unexpected {type(error).__name__}: {text} (run again with --debug for the traceback)"


if __name__ == "__main__":
    raise SystemExit(main())
