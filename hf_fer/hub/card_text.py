"""What `card_template.md` shows: every piece safe Markdown, every number the report's, recipe's or config's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._auto import METHODS, config_class
from ..errors import FerError
from ..evaluation.markdown import NONE, TIMES, TO, code, escape, fenced, figure, finite, one_line, percent, table
from .card_metadata import DATASET_TITLES, dataset_name, last_part, license_of
from .method_name import describe_method
from .run_files import RunFiles

#: Classes with fewer test images than this are named as uncertain.
FEW_IMAGES = 100

_ABSOLUTE = re.compile(r"[/\\~]|[A-Za-z]:[/\\]")
_WEIGHT_SUFFIXES = {".pth", ".pt", ".pkl", ".bin", ".tar", ".safetensors"}
_SECRET_KEYS = {"token", "cache_dir"}


def card_text(title: str, run: RunFiles, hashes: Mapping[str, str]) -> dict[str, Any]:
    """The template's variables, all but the plots.

    Args:
        title: of the card, on one line.
        run: see `read_run_files`; without a report only what is known of the model itself is there.
        hashes: see `code_hashes`.
    """
    about = _about_model(title, run.config, hashes)
    if run.report is None or run.recipe is None:
        return about
    selected, last = run.report["selected"], run.report["last"]
    if next(iter(selected["resolutions"])) != "1":
        raise KeyError("the results at factor 1")
    return {
        **about,
        "known": True,
        **_about_data(run.config, run.recipe, run.report),
        **_about_training(run.config, run.recipe, run.report),
        **_about_results(selected, last),
    }


def _about_model(title: str, config: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, Any]:
    method = str(config["model_type"])
    objective, detail = describe_method(config)
    size = config.get("image_size")
    return {
        "title": escape(title),
        "name": code(title),
        "classes": ", ".join(map(escape, _class_names(config))),
        "backbone": code(config.get("backbone", "own architecture")),
        "backbone_changed": bool(config.get("backbone_kwargs")),
        "image_size": None if size is None else _whole(size, "image_size"),
        "grayscale": bool(config.get("grayscale")),
        "objective": objective,
        "objective_detail": detail,
        "citation": config_class(method).citation if method in METHODS else "",
        "uses_eac": objective == "EAC",
        "usage": fenced(_usage(title), "python"),
        "hashes": fenced("\n".join(f"{digest}  {one_line(name, 255)}" for name, digest in hashes.items()), "text")
        if hashes
        else None,
    }


def _class_names(config: Mapping[str, Any]) -> list[Any]:
    return [config["id2label"][key] for key in sorted(config["id2label"], key=int)]


def _about_data(config: Mapping[str, Any], recipe: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    dataset = dataset_name(recipe)[0]
    record = report["selected"]
    counts = config.get("class_counts") or []
    n_train = (report.get("data") or {}).get("train_images") or sum(counts)
    side = record.get("reference_side")
    return {
        "kind": dataset if recipe["dataset"] in DATASET_TITLES else None,
        "dataset_title": escape(DATASET_TITLES.get(dataset, dataset)),
        "label_rule": record.get("label_rule"),
        "label_rule_code": code(record.get("label_rule")),
        "soft_targets": bool(recipe.get("soft_targets")),
        "n": _whole(record["n"], "n"),
        "n_train": _whole(n_train, "train_images") if n_train else None,
        "data_notes": _data_notes(report.get("data") or {}, recipe),
        "reference_side": None if side is None else _whole(side, "reference_side"),
        "class_counts": ", ".join(
            f"{escape(name)} {_whole(count, 'class_counts')}"
            for name, count in zip(_class_names(config), counts, strict=False)
        ),
        "test_split": code(record["split"]),
        "conditions": ", ".join(
            code(f"{key}: {json.dumps(value, ensure_ascii=False)}")
            for key, value in (record.get("conditions") or {}).items()
        ),
        "protocol": code(record.get("protocol")),
    }


def _about_training(config: Mapping[str, Any], recipe: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    record, last = report["selected"], report["last"]
    starts = [key for key in recipe if "pretrained" in key or key.endswith("_weights")]
    precision = report.get("mixed_precision") or recipe.get("mixed_precision")
    processes, resize = report.get("num_processes"), recipe.get("resize_size")
    return {
        "start": ", ".join(f"{code(key)}: {code(recipe[key])}" for key in starts if recipe[key]),
        "command": fenced(_command(str(config["model_type"]), recipe), "bash"),
        "recipe": fenced(_public(recipe), "yaml"),
        "resize_size": None if resize is None else _whole(resize, "resize_size"),
        "degrade": _general(recipe.get("degrade") or 0, "degrade") if recipe.get("degrade") else None,
        "degrade_max": _general(recipe.get("degrade_max") or 1, "degrade_max"),
        "epoch": _whole(record["epoch"], "epoch"),
        "last_epoch": _whole(last["epoch"], "epoch"),
        "selected_by": escape(report["selected_by"]),
        "selection": percent(report["validation"], "selection"),
        "hardware": _hardware(last.get("hardware") or record.get("hardware") or {}),
        "processes": None if processes is None else _whole(processes, "num_processes"),
        "precision": code(precision) if precision not in (None, "no") else None,
        "versions": ", ".join(f"{escape(k)} {code(v)}" for k, v in record["versions"].items() if v),
        "duration": _duration(report["train_seconds"]),
        "seed": "not recorded" if record["seed"] is None else _whole(record["seed"], "seed"),
        "license": license_of(recipe),
        "half_precision": bool(recipe.get("half_precision_export")),
        "date": escape(record["date"][:10]),
    }


def _about_results(record: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, Any]:
    resolutions = record["resolutions"]
    first = resolutions["1"]
    factors, ci95 = list(resolutions), first["ci95"]
    labels = record.get("labels") or {}
    return {
        "parameters": _whole(record["parameters"], "parameters"),
        "results": _results_table(resolutions),
        "with_brier": _any_has(resolutions, "brier"),
        "with_top2": _any_has(resolutions, "top2_accuracy"),
        "several_factors": len(factors) > 1,
        "low_factors": ", ".join(map(_times, factors[1:])),
        "average_low": percent(record, "average_low_resolution") if len(factors) > 1 else None,
        "last_line": ", ".join(
            f"{_times(factor)}: {percent(metrics, 'accuracy')} ({percent(metrics, 'mean_class_accuracy')})"
            for factor, metrics in last["resolutions"].items()
        ),
        "ci_method": f"{escape(ci95['method'])}, {_whole(ci95['resamples'], 'resamples')} resamples",
        "per_class": _per_class_table(first["per_class"]),
        "absent": ", ".join(map(escape, first.get("classes_absent", []))),
        "left_out": ", ".join(
            f"{escape(name)} ({_whole(count, 'left_out')})" for name, count in (labels.get("left_out") or {}).items()
        ),
        "few": ", ".join(
            f"{escape(name)} ({_whole(row['support'], 'support')})"
            for name, row in first["per_class"].items()
            if 0 < row["support"] < FEW_IMAGES
        ),
        "latency": _latency(record["latency"]) if record.get("latency") else None,
    }


def _data_notes(data: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """What was done to the data set's own splits, and how an epoch was drawn: a sentence each."""
    notes = []
    for part in ("validation", "test"):
        if aside := data.get(f"{part}_set_aside"):
            what = "whole groups" if aside["by"] == "group" else "the same share of every class"
            share, seed = _general(aside["share"], "share", 100), _whole(aside["seed"], "seed")
            notes.append(f"The {part} images were set aside from the training split ({share} %, {what}, seed {seed}).")
    if factor := data.get("imbalance_factor"):
        notes.append(
            f"The training split was thinned out to an imbalance factor of {_general(factor, 'imbalance_factor')}."
        )
    if noise := data.get("label_noise"):
        share = _general(noise, "label_noise", 100)
        notes.append(f"{share} % of the training labels were moved to another class on purpose.")
    if recipe.get("sampling") == "class_balanced":
        notes.append("Every class was drawn equally often.")
    elif recipe.get("sampling") == "group_balanced":
        notes.append(
            f"An epoch is up to {_whole(recipe['images_per_group'], 'images_per_group')} images of each group (video, "
            f"subject, character), and of those {_whole(recipe['images_per_class'], 'images_per_class')} of each class."
        )
    return notes


def _usage(title: str) -> str:
    return f"""\
import hf_fer  # registers the model; without hf-fer: pipeline(..., trust_remote_code=True)
from transformers import pipeline

repo = {json.dumps(title, ensure_ascii=False)}  # the id of this repository, or a folder with its files
classify = pipeline("image-classification", model=repo)
print(classify("face.jpg"))  # one face, cropped"""


def _command(method: str, recipe: Mapping[str, Any]) -> str:
    from ..data import DATASETS

    needed = " --data_root DIR" if recipe["dataset"] in DATASETS and recipe["dataset"] != "synthetic" else ""
    if one_line(recipe["dataset"]).startswith("."):
        needed += " --dataset FOLDER"
    # Of files the recipe keeps the name; a timm name has no ending, and a Hub repository an owner.
    needed += "".join(
        f" --{key} FILE"
        for key in ("backbone_weights", "landmark_weights")
        if recipe.get(key) and "/" not in str(recipe[key]) and Path(str(recipe[key])).suffix in _WEIGHT_SUFFIXES
    )
    if method not in METHODS:  # a line that people copy into a shell holds nothing that a stranger wrote
        method = "METHOD"
    return f"accelerate launch -m hf_fer.cli train recipe.yaml --method {method}{needed} --output_dir RUN"


def _results_table(resolutions: Mapping[str, Mapping[str, Any]]) -> str:
    # Reports of earlier versions lack the last two.
    plain = {"nll": "NLL", "ece": "ECE", "brier": "Brier"}
    plain = {key: name for key, name in plain.items() if key != "brier" or _any_has(resolutions, "brier")}
    top2 = _any_has(resolutions, "top2_accuracy")
    shares = {"accuracy": "accuracy, %", "mean_class_accuracy": "mean class accuracy, %", "f1_macro": "macro F1, %"}
    head = ("resolution", *shares.values(), "challenge score", *plain.values(), *(["top-2 accuracy, %"] * top2))
    rows = []
    for factor, metrics in resolutions.items():
        score = f"{figure(metrics, 'challenge_score'):.4f}" + _interval(metrics, "challenge_score", 1, 4)
        rows.append(
            [
                _times(factor),
                *(percent(metrics, key) + _interval(metrics, key, 100, 2) for key in shares),
                score,
                *(f"{figure(metrics, key):.4f}" if key in metrics else NONE for key in plain),
                *([percent(metrics, "top2_accuracy") if "top2_accuracy" in metrics else NONE] * top2),
            ]
        )
    return table(head, rows)


def _interval(metrics: Mapping[str, Any], key: str, scale: float, digits: int) -> str:
    """The 95 % interval in brackets; of macro F1 and challenge score only where the report has it."""
    if key not in metrics["ci95"] and key in ("f1_macro", "challenge_score"):
        return ""
    low, high = (scale * finite(bound, key) for bound in metrics["ci95"][key])
    return f" ({low:.{digits}f}{TO}{high:.{digits}f})"


def _any_has(resolutions: Mapping[str, Mapping[str, Any]], key: str) -> bool:
    return any(key in metrics for metrics in resolutions.values())


def _per_class_table(per_class: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [escape(name), *(percent(row, key) for key in ("precision", "recall", "f1")), _whole(row["support"], "support")]
        for name, row in per_class.items()
    ]
    return table(("class", "precision, %", "recall, %", "F1, %", "test images"), rows)


def _hardware(hardware: Mapping[str, Any]) -> str:
    keys = ("device", "processor", "threads", "platform")
    return ", ".join(f"{key} {code(hardware[key])}" for key in keys if hardware.get(key)) or "not recorded"


def _latency(latency: Mapping[str, Any]) -> str:
    median, p90 = (f"{figure(latency, key):.2f} ms" for key in ("median_ms", "p90_ms"))
    calls = _whole(latency["calls"], "calls")
    where = f"{_hardware(latency)}, dtype {code(latency['dtype'])}"
    return f"{median} (median of {calls} calls; 90 % took at most {p90}), {where}"


def _duration(seconds: float) -> str:
    minutes = round(finite(seconds, "train_seconds") / 60)
    rounded = f" (about {minutes // 60} h {minutes % 60} min)" if minutes else ""
    return f"{round(seconds):,} s{rounded}"


def _public(recipe: Mapping[str, Any]) -> str:
    """The recipe as YAML, without tokens and with absolute paths cut down to their last part."""
    import yaml

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items() if key not in _SECRET_KEYS}
        if isinstance(value, list):
            return [clean(item) for item in value]
        return last_part(value) if isinstance(value, str) and _ABSOLUTE.match(value) else value

    text = yaml.safe_dump(clean(recipe), sort_keys=True, allow_unicode=True)
    if not text.replace("\n", "").isprintable():  # it would show something else than what it says
        text = yaml.safe_dump(clean(recipe), sort_keys=True)
    return text.rstrip()


def _times(factor: str) -> str:
    return f"{TIMES}{finite(float(factor), 'factor'):g}"


def _whole(value: Any, name: str) -> str:
    """A count, thousands apart."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**15:
        raise FerError(f"The {name} is {one_line(repr(value))}, not a count; use the files of a finished training run.")
    return f"{value:,}"


def _general(value: Any, name: str, scale: float = 1) -> str:
    return f"{scale * finite(value, name):g}"
