"""`hf-fer evaluate`, `score` and `leaderboard`: from models and predictions to records, tables and plots."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from .cli_options import add_output, add_shared, factors, number, positive, refuse_overwrite
from .data_options import add_data, dataset_options, label_map
from .errors import FerError

_PROTOCOLS = ("standard", "multi_resolution", "imbalance", "label_noise", "cross_dataset")


def run(options: argparse.Namespace) -> int:
    """Runs one of these commands; returns the exit code.

    Raises:
        FerError: anything that the user can put right.
    """
    if options.command == "leaderboard":
        return _build(options) if options.action == "build" else _fill(options)
    if options.command == "score" and options.template:
        return _write_template(options)
    return _evaluate(options)


# --- evaluate and score -----------------------------------------------------------------------------------


def _evaluate(options: argparse.Namespace) -> int:
    output = Path(options.output or _default_record_path(options))
    if output.suffix.lower() != ".json":
        raise FerError(f"{output}: the record is a JSON file; give it a name that ends in .json")
    from_file = options.command == "score"
    predictions = None if from_file else options.predictions
    planned = [output, _beside(output, "confusion"), _beside(output, "resolution"), predictions]
    for path in planned:
        refuse_overwrite(path and str(path), options.force)
    protocol, arguments = _protocol(options)

    from .evaluation.protocols import PROTOCOLS, evaluate_model
    from .evaluation.records import write_record

    if not from_file:
        arguments |= {
            "batch_size": options.batch_size,
            "device": options.device,
            "revision": options.revision,
            "trust_remote_code": options.trust_remote_code,
            "predictions": predictions,
            "overwrite": options.force,
            "latency": options.latency,
        }
    record = (PROTOCOLS[protocol] if protocol else evaluate_model)(
        options.system,
        options.data,
        root=options.root,
        split=options.split,
        options=dataset_options(options),
        progress=True,
        model_name=options.name or _short_name(options.system),
        label_map=label_map(options.label_map),
        **arguments,
    )
    write_record(record, output, overwrite=options.force)
    _print_record(record)
    # The plots come last: the figures are kept even where matplotlib is missing.
    from .evaluation.plots import plot_confusion_matrix, plot_resolution_curve

    first = next(iter(record["resolutions"].values()))
    title = f"{record['model']} on {record['dataset']} ({record['split']})"
    plot_confusion_matrix(first["confusion_matrix"], list(first["per_class"]), planned[1], title)
    written = [output, planned[1]]
    if len(record["resolutions"]) > 1:
        plot_resolution_curve(record, planned[2])
        written.append(planned[2])
    print("written: " + ", ".join(map(str, [*written, *([predictions] if predictions else [])])))
    return 0


def _protocol(options: argparse.Namespace) -> tuple[str | None, dict[str, Any]]:
    """The protocol by name, None where the resolutions decide, and its own arguments."""
    protocol = options.protocol
    own = {
        "imbalance": {"imbalance_factor": options.imbalance_factor},
        "label_noise": {"label_noise": options.label_noise},
        "cross_dataset": {
            "trained_on": options.trained_on,
            "shared_classes_only": False if options.all_classes else None,
        },
    }
    for name, arguments in own.items():
        given = [key for key, value in arguments.items() if value is not None]
        if not given or protocol == name:
            continue
        if protocol is not None:
            flag = "all-classes" if given[0] == "shared_classes_only" else given[0].replace("_", "-")
            raise FerError(f"--{flag} belongs to --protocol {name}, not to {protocol}; leave it out")
        protocol = name
    arguments = {key: value for key, value in own.get(protocol, {}).items() if value is not None}
    if options.resolutions is not None:
        arguments["resolutions"] = options.resolutions
    if options.command == "evaluate" and options.reference_side is not None:
        arguments["reference_side"] = options.reference_side
    return protocol, arguments


def _short_name(path: str) -> str:
    """Of a folder or a file the last part says most, and the rest is nobody's business; a Hub id is whole."""
    if Path(path).is_dir():
        return Path(path).resolve().name
    return Path(path).stem if Path(path).is_file() else path


def _default_record_path(options: argparse.Namespace) -> Path:
    parts = [options.name or _short_name(options.system), _short_name(options.data), options.split]
    if options.protocol not in (None, "standard", "multi_resolution"):
        parts.append(options.protocol)
    name = "-".join(re.sub(r"[^\w.]+", "-", part).strip("-.") for part in parts)
    return Path("results") / f"{name}.json"


def _beside(output: Path, what: str) -> Path:
    return output.with_name(f"{output.stem}_{what}.png")


def _print_record(record: dict[str, Any]) -> None:
    columns = ("accuracy", "mean_class_accuracy", "f1_macro")
    labels = record["labels"]
    print(
        f"{record['model']} on {record['dataset']}, split {record['split']}, {record['n']} images, {_describe(record)}"
    )
    print(f"classes: {labels['note']}")
    if labels["left_out"]:
        left_out = ", ".join(f"{name} ({count})" for name, count in labels["left_out"].items())
        print(f"left out, for the model has no such class: {left_out} images")
    elif labels["missing_in_model"]:
        print(f"the model has no class {', '.join(labels['missing_in_model'])}: such images count as errors")
    if labels["missing_in_dataset"]:
        what = "taken away" if labels["restricted_to_dataset_classes"] else "errors"
        print(f"the data set has no class {', '.join(labels['missing_in_dataset'])}: such answers are {what}")
    print(f"{'resolution':<10}  " + "  ".join(f"{name:>19}" for name in columns))
    for factor, metrics in record["resolutions"].items():
        label = "full" if factor == "1" else f"1/{factor}"
        print(f"{label:<10}  " + "  ".join(f"{metrics[name]:>19.4f}" for name in columns))
    if record["latency"]:
        print(f"latency     {record['latency']['median_ms']:.2f} ms an image (median)")


def _describe(record: dict[str, Any]) -> str:
    stated = ", ".join(
        f"{key.replace('_', ' ')} {', '.join(value) if isinstance(value, list) else format(value, 'g')}"
        for key, value in record["conditions"].items()
        if key != "stated_by"
    )
    return f"protocol {record['protocol']}" + (f" ({stated})" if stated else "")


def _write_template(options: argparse.Namespace) -> int:
    """A file of predictions to fill in."""
    refuse_overwrite(options.system, options.force)
    from .evaluation.predictions_file import image_ids, write_template
    from .evaluation.splits import load_split

    data, name, split, _ = load_split(options.data, None, options.root, options.split, dataset_options(options))
    path = write_template(options.system, image_ids(data, split), overwrite=options.force)
    print(f"written: {path}, with the ids of {len(data)} images of {name} ({split}); fill in label or p_<class>")
    return 0


# --- leaderboard ------------------------------------------------------------------------------------------


def _build(options: argparse.Namespace) -> int:
    from .evaluation.leaderboard_folder import write_leaderboard

    written = write_leaderboard(
        options.results, options.out, title=options.title, rank_by=options.rank_by, force=options.force
    )
    print("written: " + ", ".join(map(os.fspath, written)))
    return 0


def _fill(options: argparse.Namespace) -> int:
    from .evaluation.tables import fill_tables

    stale = [path for path in options.files if not fill_tables(path, check=options.check)]
    if options.check and stale:
        raise FerError(f"{', '.join(stale)}: tables differ from their records; run `hf-fer leaderboard fill` on them")
    return 0


# --- arguments --------------------------------------------------------------------------------------------


def add_parsers(commands: Any) -> None:
    """Adds the commands to the subparsers of `hf-fer`."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score a model on a data set",
        description="Score any transformers image classifier on a split of a data set; labels are matched by name."
        " Writes a JSON record and plots beside it (default: results/<model>-<data>-<split>.json).",
    )
    evaluate.add_argument("system", metavar="MODEL", help="checkpoint folder, Hub id, or `default`")
    _add_scoring(evaluate)
    evaluate.add_argument(
        "--reference-side", type=positive, metavar="PX", help="side that factors count from; default: each image's own"
    )
    evaluate.add_argument("--predictions", metavar="FILE", help="write every answer too (.csv, .parquet or .jsonl)")
    evaluate.add_argument("--latency", action="store_true", help="also time calls with one image each")
    add_shared(evaluate, batch_size=64)

    score = commands.add_parser(
        "score",
        help="score a file of predictions",
        description="Score the answers of any system: a table with the columns `id`, and `label` or one p_<class> for"
        " each class (docs/evaluation.md). Writes the same record and plots as `evaluate`.",
    )
    score.add_argument("system", metavar="FILE", help="predictions in .csv, .parquet or .jsonl")
    _add_scoring(score)
    score.add_argument(
        "--template", action="store_true", help="write FILE, with the ids of the images, to be filled in"
    )
    add_output(score)

    leaderboard = commands.add_parser("leaderboard", help="tables and plots from records")
    actions = leaderboard.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser(
        "build",
        help="rank records",
        description="Rank the records in a folder: JSON, Markdown, HTML and plots. What differs in data, split,"
        " protocol, voting rule, classes or number of images is never ranked together.",
    )
    build.add_argument("results", metavar="RESULTS", help="folder with records, searched")
    build.add_argument(
        "--out", required=True, metavar="DIR", help="write leaderboard.json, README.md, .html, plots here"
    )
    build.add_argument("--rank-by", metavar="KEY", help="a figure such as accuracy; default: by the protocol")
    build.add_argument("--title", metavar="TEXT")
    build.add_argument("--force", action="store_true", help="overwrite files that no earlier build wrote")
    fill = actions.add_parser(
        "fill",
        help="fill tables of Markdown files from records",
        description="Fill every `<!-- table: KIND RECORD -->` ... `<!-- /table -->` of Markdown files from its record.",
    )
    fill.add_argument("files", nargs="+", metavar="FILE")
    fill.add_argument("--check", action="store_true", help="change nothing; exit code 2 if a table is not up to date")


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    add_data(parser, split="test")
    parser.add_argument("--protocol", choices=_PROTOCOLS, help="default: by the resolutions, standard for 1 alone")
    parser.add_argument(
        "--resolutions",
        type=factors,
        metavar="1,2,4,8",
        help="factors by which the images are scaled down first; default: 1, of multi_resolution 1,2,4,8",
    )
    parser.add_argument("--imbalance-factor", type=number, metavar="F", help="of the training split (imbalance)")
    parser.add_argument("--label-noise", type=number, metavar="SHARE", help="of the training labels (label_noise)")
    parser.add_argument(
        "--trained-on", action="append", metavar="NAME", help="data set of the training (cross_dataset); repeatable"
    )
    parser.add_argument(
        "--all-classes",
        action="store_true",
        help="cross_dataset: classes that only the data set or only the model has count as errors, not left out",
    )
    parser.add_argument("--name", metavar="TEXT", help="name for the record; default: MODEL's or FILE's")
