"""`hf-fer data`: list the datasets there are, prepare, describe and check one, or enlarge its images.

Only what answers at once is imported here; the work is in `prepare`, `statistics` and `super_resolution`.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import FerError
from ..labels import LABEL_ORDERS, label_names
from . import _LOADERS, _WITH_ROOT, DATASETS, load_fer_dataset

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(|[kmg]i?)b?", re.IGNORECASE)
_SPLITS = re.compile(r"\b(?:train|validation|test)\b")
_PYTHON = {"True": True, "False": False, "None": None}


def parse_options(items: Iterable[str]) -> dict[str, Any]:
    """The values of `--option NAME=VALUE`, repeated: JSON or Python's True, False and None where they are, else text.

    Raises:
        FerError: an item without `=`.
    """
    chosen: dict[str, Any] = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign or not key:
            raise FerError(f"--option {item}: write it as NAME=VALUE")
        try:
            chosen[key] = json.loads(value)
        except ValueError:
            chosen[key] = _PYTHON.get(value, value)
    return chosen


def add_parser(commands: Any) -> None:
    """Add `data` and its actions to the subparsers of `hf-fer`."""
    data = commands.add_parser(
        "data",
        help="list, prepare, describe and check data sets",
        description="List the data sets hf-fer reads, and prepare, describe, check or enlarge one.",
    )
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser(
        "list",
        help="the data sets there are",
        description="List the data sets hf-fer reads; with NAME, tell where to get that one and what it takes.",
    )
    listing.add_argument("name", nargs="?", metavar="NAME", help=f"one of {', '.join(DATASETS)}")

    prepare = actions.add_parser(
        "prepare",
        help="write a data set as Parquet",
        description="Write a data set to a folder that `datasets.load_dataset`, `hf-fer` and the Hub read: Parquet"
        " files with the images as they are, and a card. It can be pushed to the Hub, in private where the owners"
        " of the images do not allow to pass them on.",
    )
    _add_source(prepare)
    _add_out(prepare)
    prepare.add_argument("--push", metavar="REPO", help="upload it to this data set repository, such as owner/name")
    prepare.add_argument("--private", action="store_true", help="with --push: in a private repository")
    card = prepare.add_mutually_exclusive_group()
    card.add_argument("--keep-card", action="store_true", help="with --push: keep a card that somebody edited there")
    card.add_argument("--overwrite-card", action="store_true", help="with --push: replace it")
    prepare.add_argument(
        "--overwrite", action="store_true", help="with --push: replace other files that somebody brought or edited"
    )

    stats = actions.add_parser(
        "stats",
        help="counts, image sizes, contact sheets",
        description="Count the images of every class, and measure them. With --output, plots and contact sheets too.",
    )
    _add_source(stats)
    stats.add_argument(
        "--output", metavar="DIR", help="write statistics.json, plots and a contact sheet for each class here"
    )
    stats.add_argument("--json", action="store_true", help="JSON instead of tables")

    check = actions.add_parser(
        "check",
        help="find broken images and leaks between splits",
        description="Decode every image, and look for images that stand in two splits. Exit code 2 if any image is"
        " broken or without a label, or the counts are not the official ones (where these are known, and"
        " `--option check_counts=false` does not say otherwise). Official releases have duplicates, so those are"
        " listed only; --strict makes them count.",
    )
    _add_source(check)
    check.add_argument("--fast", action="store_true", help="read only the headers; duplicates are equal files")
    check.add_argument("--strict", action="store_true", help="exit code 2 for duplicates between splits, too")

    enlarge = actions.add_parser(
        "super-resolve",
        help="enlarge the images by a Swin2SR model",
        description="Enlarge all images of a data set by a Swin2SR model, once, and write the result as `prepare`"
        " does: PNG images, grey ones in grey. Other columns stay.",
    )
    _add_source(enlarge)
    enlarge.add_argument("--model", required=True, metavar="M", help="Swin2SR checkpoint: folder or Hub id")
    enlarge.add_argument("--revision", metavar="R", help="branch, tag or commit of a model on the Hub")
    enlarge.add_argument(
        "--scale", type=int, metavar="N", help="times larger in each direction; default: as the model does it at once"
    )
    enlarge.add_argument("--batch-size", type=int, default=8, metavar="N", help="images in one forward pass")
    enlarge.add_argument("--device", metavar="D", help="torch device such as cpu or cuda:1; default: CUDA if any")
    _add_out(enlarge)


def run(options: argparse.Namespace) -> int:
    """Do what `hf-fer data` was asked for, and return the exit code."""
    if options.action != "list" and not getattr(options, "debug", False):
        _quieten()
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "list": _list,
        "prepare": _prepare,
        "stats": _stats,
        "check": _check,
        "super-resolve": _super_resolve,
    }
    with _ended_by_sigterm():
        return actions[options.action](options)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Makes SIGTERM, such as a time limit or a container's end, an exit after which nothing half-written is left."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only there can it be heeded
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- actions ------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    from .prepare import first_line

    if options.name is not None:
        return _describe(options.name)
    rows = [("name", "classes", "splits", "raw download", "what it is")]
    for name in DATASETS:
        rows.append((name, _classes(name), _splits(name), "yes" if name in _WITH_ROOT else "no", first_line(name)))
    _print_rows(rows)
    print("\n`hf-fer data list NAME` tells where to get one. Prepared folders and Hub ids work everywhere, too.")
    return 0


def _describe(name: str) -> int:
    from .prepare import dataset_title, loader_module

    if name not in _LOADERS:
        raise FerError(f"There is no data set {name!r} of ours; choose one of {', '.join(DATASETS)}.")
    module = loader_module(name)
    print(f"{dataset_title(name)} ({name})\n")
    print(inspect.cleandoc(module.__doc__ or "") + "\n")
    print(f"classes:  {_classes(name)}: {', '.join(LABEL_ORDERS.get(name, ('not known',)))}")
    print(f"splits:   {_splits(name)}")
    where = getattr(module, "WHERE_TO_GET", "the module's text above tells") if name in _WITH_ROOT else "no download"
    print(f"get it:   {where}")
    loader = getattr(module, _LOADERS[name][1])
    defaults = {p.name: p.default for p in inspect.signature(loader).parameters.values() if p.name != "root"}
    print("options:  " + ", ".join(f"{key}={json.dumps(value, default=str)}" for key, value in defaults.items()))
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from .prepare import check_push, prepare

    changes = ("keep_card", "overwrite_card", "overwrite")
    for flag in ("private", *changes):
        if getattr(options, flag) and options.push is None:
            raise FerError(f"--{flag.replace('_', '-')} goes with --push REPO; leave it out, nothing is pushed.")
    if options.push is not None:
        check_push(options.name, options.push, options.private)
        # Upwards, for this is a part of the command line. Now rather than after hours of writing:
        from ..hub.push import check_access, push_prepared
        from ..hub_commands import print_plan

        check_access(options.push, repo_type="dataset", private=options.private)
    summary = prepare(
        options.name,
        options.out,
        options.raw,
        options=parse_options(options.option),
        max_shard_bytes=_size(options.max_shard_size),
        force=options.force,
        progress=True,
    )
    _print_written(options.out, summary)
    if options.push is not None:
        chosen = {name: getattr(options, name) for name in changes} | {"show": print_plan}
        try:
            url = push_prepared(options.out, options.name, options.push, private=options.private, **chosen)
        except FerError as error:
            raise FerError(f"{error} {options.out} is written already: add --force to the command then.") from error
        print(f"pushed: {url}")
    return 0


def _stats(options: argparse.Namespace) -> int:
    from .prepare import check_outside, dataset_title, source_folder

    if options.output is not None:
        if Path(options.output).exists() and not Path(options.output).is_dir():
            raise FerError(f"{options.output}: a file; name the folder to write to.")
        check_outside(Path(options.output).resolve(), source_folder(options.name, options.raw))
    splits = load_fer_dataset(options.name, options.raw, **parse_options(options.option))

    from .statistics import dataset_statistics, save_contact_sheets, save_plots

    statistics = dataset_statistics(splits, progress=True)
    title = dataset_title(options.name)
    if options.json:
        print(json.dumps({"dataset": title, "splits": statistics}, indent=1))
    else:
        _print_statistics(statistics)
    if options.output is None:
        return 0
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"dataset": title, "splits": statistics}, indent=1) + "\n"
    (folder / "statistics.json").write_text(text, encoding="utf-8")
    sheets = save_contact_sheets(splits, folder / "contact_sheets")
    plots = save_plots(statistics, folder, title)  # last: the rest is kept even where matplotlib is missing
    written = [folder / "statistics.json", *plots, f"{folder / 'contact_sheets'}{os.sep} ({len(sheets)} images)"]
    print("written: " + ", ".join(map(str, written)), file=sys.stderr if options.json else sys.stdout)
    return 0


def _check(options: argparse.Namespace) -> int:
    chosen = parse_options(options.option)
    if options.name in _LOADERS:
        from .prepare import loader_module

        loader = getattr(loader_module(options.name), _LOADERS[options.name][1])
        if "check_counts" in inspect.signature(loader).parameters:
            chosen.setdefault("check_counts", True)
    splits = load_fer_dataset(options.name, options.raw, **chosen)

    from .statistics import check_images

    result = check_images(splits, fast=options.fast, progress=True)
    same = "same file" if options.fast else "same pixels"
    if chosen.get("check_counts"):
        print("counts: as in the official release")
    for split, images in result["images"].items():
        print(f"{split}: {images:,} images, {result['repeated'][split]:,} of them repeated within the split ({same})")
    for leak in result["leaks"]:
        first, second = leak["splits"]
        print(
            f"{second} has {leak['images']:,} images that are in {first}, too ({same}), "
            f"{leak['other_label']:,} of them with another label:"
        )
        for row, label, other_row, other_label in leak["first"]:
            print(f"  {second} row {row} ({label}) is {first} row {other_row} ({other_label})")
        _print_more(leak["images"] - len(leak["first"]))
    if not result["leaks"] and len(splits) > 1:
        print(f"no image is in two splits ({same})")
    print(f"broken: {result['broken']:,}")
    for split, row, reason in result["broken_first"]:
        print(f"  {split} row {row}: {reason}")
    _print_more(result["broken"] - len(result["broken_first"]))
    return 2 if result["broken"] or (options.strict and result["leaks"]) else 0


def _super_resolve(options: argparse.Namespace) -> int:
    from .prepare import check_out, source_card, source_folder, write_prepared

    size, chosen = _size(options.max_shard_size), parse_options(options.option)
    check_out(Path(options.out), options.force, source_folder(options.name, options.raw))
    splits = load_fer_dataset(options.name, options.raw, **chosen)

    from .super_resolution import load_super_resolution, super_resolve

    if not getattr(options, "debug", False):
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
    network = load_super_resolution(options.model, device=options.device, revision=options.revision)
    larger = super_resolve(splits, network, scale=options.scale, batch_size=options.batch_size)
    card = source_card(options.name, chosen)
    folder = Path(options.model).expanduser()
    model = folder.resolve().name if folder.is_dir() else options.model
    card["made"] = (
        f"Written by `hf-fer data super-resolve {card['source']} --model {model} --out OUT{card['flags']}`: the images "
        f"are {options.scale or network.upscale} times larger in each direction than the originals, and what was added "
        "is a guess of that model."
    )
    summary = write_prepared(larger, options.out, card, max_shard_bytes=size, force=options.force, progress=True)
    _print_written(options.out, summary)
    return 0


# --- arguments ----------------------------------------------------------------------------------------


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="data set: ours, a prepared folder or a Hub id")
    parser.add_argument("--raw", metavar="DIR", help="the raw download of a data set of ours")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the data set; may be repeated"
    )


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--force", action="store_true", help="overwrite a prepared data set that is there")
    parser.add_argument(
        "--max-shard-size", default="200MB", metavar="SIZE", help="of one Parquet file, at most; default: 200MB"
    )


def _size(text: str) -> int:
    """Bytes of "200MB", "1.5 GiB" or "5000000"."""
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if size < 1:
        raise FerError(f"--max-shard-size {text}: write it as a number of bytes, such as 200MB.")
    return size


def _quieten() -> None:
    """No advice of the libraries; their bars for reading and downloading stay."""
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()


# --- printing -----------------------------------------------------------------------------------------


def _classes(name: str) -> str:
    """The numbers of classes a dataset is used with, the usual one first."""
    if name not in LABEL_ORDERS:
        return "?"
    usual, counts = len(label_names(name)), []
    for count in range(2, len(LABEL_ORDERS[name]) + 1):
        try:
            counts.append(len(label_names(name, count)))
        except FerError:
            continue
    return " or ".join(map(str, sorted(counts, key=lambda count: (count != usual, count))))


def _splits(name: str) -> str:
    """The splits that a loader names in the first lines of its text (or those it has options for)."""
    from .prepare import loader_module

    loader = getattr(loader_module(name), _LOADERS[name][1])
    summary = (inspect.getdoc(loader) or "").split("\n\n")[0]
    found = _SPLITS.findall(summary) or _SPLITS.findall(" ".join(inspect.signature(loader).parameters))
    first, *others = dict.fromkeys(found or ["?"])
    if others and "one split" in summary:  # there is no official one; the loader makes it
        return f"{first} ({', '.join(others)} by an option)"
    return ", ".join([first, *others])


def _print_rows(rows: Sequence[Sequence[str]], right: bool = False) -> None:
    """Columns under each other; with `right`, all but the first flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if right and i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _print_written(out: str, summary: dict[str, Any]) -> None:
    parts = [
        f"{split} {figures['images']:,} images in {figures['files']} file{'s' if figures['files'] > 1 else ''}"
        for split, figures in summary.items()
    ]
    print(f"written: {out}: {'; '.join(parts)}")


def _print_statistics(statistics: dict[str, dict[str, Any]]) -> None:
    names = list(next(iter(statistics.values()))["classes"])
    every = statistics.values()
    rows = [["class", *statistics]]
    rows += [[name, *(f"{figures['classes'][name]:,}" for figures in every)] for name in names]
    rows.append(["all", *(f"{figures['images']:,}" for figures in every)])
    if any(figures["unlabelled"] for figures in every):
        rows.append(["without a label", *(f"{figures['unlabelled']:,}" for figures in every)])
    factors = [figures["imbalance_factor"] for figures in every]
    rows.append(["largest / smallest", *("-" if factor is None else f"{factor:.2f}" for factor in factors)])
    if any(figures["votes"] is not None for figures in every):
        rows.append(["with votes", *(f"{figures['votes'] or 0:,}" for figures in every)])
    if any(figures["groups"] is not None for figures in every):
        groups = [figures["groups"] or {"images": 0, "groups": 0} for figures in every]
        rows.append(["with a group", *(f"{group['images']:,}" for group in groups)])
        rows.append(["groups", *(f"{group['groups']:,}" for group in groups)])
    _print_rows(rows, right=True)
    print()
    for split, figures in statistics.items():
        sizes, side = figures["sizes"], figures["sizes"]["shorter_side"]
        of = f"{sizes['measured']:,} of {figures['images']:,} images measured"
        unreadable = f", {sizes['unreadable']:,} unreadable" if sizes["unreadable"] else ""
        if side is None:
            print(f"{split}: {of}{unreadable}")
            continue
        common = ", ".join(f"{size} ({count:,})" for size, count in sizes["common"])
        print(
            f"{split}: shorter side {side['min']} to {side['max']} pixels, median {side['median']}; "
            f"most often {common}; {of}{unreadable}"
        )


def _print_more(count: int) -> None:
    if count > 0:
        print(f"  and {count:,} more")
