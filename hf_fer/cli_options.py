"""What several subcommands of `hf-fer` share: options, their types, and the care not to overwrite."""

from __future__ import annotations

import argparse
from pathlib import Path

from .errors import FerError


def add_shared(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """Options of the commands that run a model."""
    parser.add_argument(
        "--batch-size", type=positive, default=batch_size, metavar="N", help="images in one forward pass"
    )
    parser.add_argument("--device", metavar="D", help="torch device such as cpu or cuda:1; default: CUDA if any")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a model on the Hub")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that the model brings along")
    add_output(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Options of the commands that write a file."""
    parser.add_argument("--output", metavar="FILE", help="write here")
    parser.add_argument("--force", action="store_true", help="overwrite what is there")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def number(text: str) -> float:
    """Any finite number."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def above_zero(text: str) -> float:
    """Any finite number above 0."""
    value = number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return value


def factors(text: str) -> tuple[float, ...]:
    """Resolution factors, separated by commas."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(1 <= factor < float("inf") for factor in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of factors of at least 1, such as 1,2,4,8")
    return values


def refuse_overwrite(path: str | None, force: bool) -> None:
    """Raises FerError where a file exists, unless `force`, or a folder."""
    if path is None:
        return
    if Path(path).is_dir():
        raise FerError(f"{path}: a folder; name the file to write")
    if Path(path).exists() and not force:
        raise FerError(f"{path}: exists already; choose another file, or overwrite it with --force")
