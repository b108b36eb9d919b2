"""The `hf-fer` command: every subcommand is defined in a module of its own.

Everything that takes time to import is imported inside the function that needs it, so that `--help` and a
mistyped option answer at once. Exit codes: 0 done, 1 a bug of ours, 2 something the user can put right
(one sentence on stderr; the traceback under `--debug`), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import NoReturn

from . import __version__, hub_commands, model_commands, predict_commands, score_commands
from .cli_options import positive
from .data import command as data_command
from .errors import FerError

_EXTRA_OF = {  # import name -> the extra of ours that installs it
    **dict.fromkeys(("accelerate", "datasets", "evaluate", "matplotlib", "yaml", "sklearn", "tensorboard"), "train"),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "onnx"),
    "gradio": "demo",
    "cv2": "detect",
    "av": "video",
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
    if options.command in hub_commands.COMMANDS:
        return hub_commands.run(options)
    if options.command in model_commands.COMMANDS:
        return model_commands.run(options)
    return (predict_commands if options.command == "predict" else score_commands).run(options)


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

    predict_commands.add_parser(commands)
    model_commands.add_parsers(commands)
    score_commands.add_parsers(commands)

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
    sweep.add_argument("--seeds", type=positive, default=3, metavar="N", help="how many: 0 to N-1; default: 3")
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
    hub_commands.add_parsers(commands)
    return parser


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
