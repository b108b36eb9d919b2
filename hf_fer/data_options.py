"""Options of the commands that read a data set."""

from __future__ import annotations

import argparse
from typing import Any

from .cli_options import positive
from .data import command as data_command
from .errors import FerError


def add_data(parser: argparse.ArgumentParser, split: str, required: bool = True, matching: bool = True) -> None:
    """Which data set, which split, which labels, and where `matching` what the model calls them."""
    parser.add_argument("--data", required=required, metavar="NAME", help="data set: ours, a Hub id or a folder")
    parser.add_argument("--root", metavar="DIR", help="the raw download of a data set of ours")
    parser.add_argument("--split", default=split, metavar="S", help=f"default: {split}")
    if matching:
        parser.add_argument(
            "--label-map",
            action="append",
            default=[],
            metavar="NAME=EXPRESSION",
            help="what a label of the model means; NAME= for none; repeatable",
        )
    parser.add_argument("--label-rule", metavar="RULE", help="how votes become labels, such as majority")
    parser.add_argument("--classes", type=positive, metavar="N", help="number of expressions, 7 or 8")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="any other option of the data set"
    )


def dataset_options(options: argparse.Namespace) -> dict[str, Any]:
    """Only what was asked for: each data set has options and defaults of its own."""
    chosen = data_command.parse_options(options.option)
    if options.label_rule is not None:
        chosen["label_rule"] = options.label_rule
    if options.classes is not None:
        chosen["classes"] = options.classes
    return chosen


def label_map(given: list[str]) -> dict[str, str | None] | None:
    """What `--label-map` says, None where it says nothing."""
    meanings: dict[str, str | None] = {}
    for item in given:
        name, equals, meaning = item.rpartition("=")
        if not equals or not name:
            raise FerError(f"--label-map {item}: write NAME=EXPRESSION, or NAME= for a label that is no expression")
        if name in meanings:
            raise FerError(f"--label-map says twice what {name} means; say it once")
        meanings[name] = meaning.strip() or None
    return meanings or None
